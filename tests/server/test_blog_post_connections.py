"""What the blog post's client promised of connections: one session, the connector's settings, three timeouts.

In the order that the post made them; `test_blog_post_calls` goes on. The singleton in FastAPI's lifespan is
`examples/fastapi_app.py`, which `tests/tools/test_examples.py` runs.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from embedwire import (
    BadReply,
    ConnectionFailed,
    EmbeddingClient,
    RequestTimeout,
    RetryPolicy,
    ServerRefused,
    Timeouts,
)
from embedwire._http import sessions
from embedwire.testing import Answer, EmbeddingServer, Gate, is_vector_of
from tests.helpers import numbered, right, simulated
from tests.server.doors import own
from tests.server.names import Names

TEXTS = numbered(23)
KEY = "sk-never-to-be-seen"
SECRET = "The patient is called Kim"


@pytest.fixture
def server(here: EmbeddingServer) -> EmbeddingServer:
    """A server on the test's own loop, and on its clock."""
    return here


class TestSession:
    """One session for the life of the application."""

    async def test_is_kept_over_calls(self, server: EmbeddingServer) -> None:
        """Session kept over calls: ten calls, one after another, travel on one connection."""
        async with own(server) as client:
            for text in TEXTS[:10]:
                assert is_vector_of(await client.embed_query(text), text)
        assert server.connections == 1
        assert [request.nth for request in server.requests] == list(range(1, 11))

    async def test_keeps_as_many_connections_as_requests_in_flight(self, server: EmbeddingServer) -> None:
        """Session kept over calls: calls with many batches open no more connections than travel at once."""
        async with own(server, batch_size=1, concurrency=4) as client:
            for _ in range(3):
                assert right(await client.embed(TEXTS), TEXTS)
        assert server.connections <= 4
        assert len(server.batches) == 3 * len(TEXTS)

    async def test_is_new_after_a_connection_error(
        self, server: EmbeddingServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Session renewed after a connection error: the repeat, and all after it, travel on a new one."""
        caplog.set_level(logging.INFO, "embedwire")
        async with own(server, max_retries=RetryPolicy(base=0)) as client:
            await client.embed_query("first")
            server.answer(Answer(body=b"{}", cut=1, then="reset"))
            assert is_vector_of(await client.embed_query("second"), "second")
            await client.embed_query("third")
        assert [request.connection for request in server.requests] == [1, 1, 2, 2]
        sessions = [record for record in caplog.records if "new session" in record.message]
        assert len(sessions) == 2

    async def test_a_new_one_leaves_the_others_requests_alone(self, server: EmbeddingServer) -> None:
        """Session renewed after a connection error: requests on their way on the old one arrive."""
        gate = Gate()
        async with own(server, max_retries=RetryPolicy(base=0)) as client:
            server.answer(Answer.hold(gate))
            held = asyncio.create_task(client.embed_query("held"))
            await server.wait_for(lambda: server.in_flight == 1)
            server.answer(Answer.reset())
            assert is_vector_of(await client.embed_query("reset"), "reset")
            gate.open()
            assert is_vector_of(await held, "held")
        assert len(server.requests) == 3
        assert server.aborted == []

    async def test_survives_a_restart_of_the_server(self, server: EmbeddingServer) -> None:
        """Session renewed after a connection error: a restarted server is simply used again."""
        async with own(server) as client:
            await client.embed(TEXTS)
            await server.arestart()
            assert right(await client.embed(TEXTS), TEXTS)

    async def test_a_stale_connection_costs_no_attempt(self, server: EmbeddingServer) -> None:
        """Session renewed after a connection error: one that was stale already costs no attempt, but only once."""
        async with own(server, max_retries=0) as client:
            await client.embed_query("first")
            server.answer(Answer.hang_up())
            assert is_vector_of(await client.embed_query("second"), "second")
            assert server.batches == [["first"], ["second"], ["second"]]
            server.answer(Answer.hang_up(), Answer.hang_up())
            with pytest.raises(ConnectionFailed):
                await client.embed_query("third")
        assert len(server.batches) == 5

    async def test_a_connection_has_its_limit(self) -> None:
        """Session renewed after a connection error: a server may close a connection after any request, unsaid."""
        async with (
            EmbeddingServer(close_after=2, silent_close=True) as server,
            own(server, max_retries=0) as client,
        ):
            for text in TEXTS:
                assert is_vector_of(await client.embed_query(text), text)
        assert server.batches == [[text] for text in TEXTS]

    async def test_async_with_closes_it(
        self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`async with`: at its end no connection is left, after an error too."""
        monkeypatch.setattr(sessions, "KEEP_ALIVE", 3600)  # so that only a close closes one
        async with own(server) as client:
            await client.embed(TEXTS)
            assert server.open_connections > 0
        await server.wait_for(lambda: server.open_connections == 0)

        async def fail() -> None:
            async with own(server) as client:
                await client.embed(TEXTS)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        await server.wait_for(lambda: server.open_connections == 0)


@pytest.fixture
def any_name(names: Names) -> list[str]:
    """Let every name lead to this machine; gives the names that were looked up."""
    return names.asked


class TestConnector:
    """The connector's settings."""

    @simulated
    @pytest.mark.usefixtures("on_the_loops_clock")
    async def test_keeps_idle_connections_for_less_than_5_s(self) -> None:
        """Connector, keep-alive: an idle connection is used again before the server closes it, never after."""
        async with EmbeddingServer(idle_timeout=5) as server, own(server, max_retries=0) as client:
            await client.embed_query("a")
            await asyncio.sleep(3.5)
            await client.embed_query("b")
            assert server.connections == 1
            await asyncio.sleep(60)
            await client.embed_query("c")
            assert server.connections == 2
            assert server.batches == [["a"], ["b"], ["c"]]

    @simulated
    @pytest.mark.usefixtures("on_the_loops_clock")
    async def test_gives_up_idle_connections_before_the_server_does(self, server: EmbeddingServer) -> None:
        """Connector, keep-alive: after 4.5 s a connection is not used again, though the server kept it."""
        async with own(server) as client:
            await client.embed_query("a")
            await asyncio.sleep(4.5)
            await client.embed_query("b")
        assert [request.connection for request in server.requests] == [1, 2]

    @simulated
    @pytest.mark.usefixtures("on_the_loops_clock")
    async def test_looks_a_name_up_once_in_300_s(self, any_name: list[str]) -> None:
        """Connector, DNS cache: a name is looked up again after 300 s, not with each connection."""
        async with EmbeddingServer(close_after=1) as server:
            url = f"http://embedder.test:{server.port}"
            async with EmbeddingClient(url, model="m", encoding="float") as client:
                for pause in (0, 100, 195):
                    await asyncio.sleep(pause)
                    await client.embed_query("a")
                assert server.connections == 3
                assert any_name == ["embedder.test"]
                await asyncio.sleep(10)
                await client.embed_query("a")
        assert any_name == ["embedder.test"] * 2

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_follows_no_redirect(self, status: int, server: EmbeddingServer) -> None:
        """Connector, no redirects: neither texts nor key ever reach another origin; the error says so."""
        async with EmbeddingServer() as elsewhere:
            server.script = lambda _: Answer.redirect(elsewhere.url + "/v1/embeddings", status)
            for model in ("m", None):
                async with own(server, model=model, api_key=KEY) as client:
                    with pytest.raises(
                        ServerRefused, match=r"redirects to http.*final URL into base_url"
                    ) as failed:
                        await client.embed([SECRET])
                    assert failed.value.status == status
        assert elsewhere.connections == 0
        assert len(server.requests) == 2

    async def test_sends_no_cookies_back(self, any_name: list[str]) -> None:
        """Connector, no cookies: what the server sets is never sent back."""
        async with EmbeddingServer(headers={"Set-Cookie": "session=1; Path=/"}) as server:
            async with EmbeddingClient(f"http://embedder.test:{server.port}", model="m") as client:
                await client.embed_query("a")
                await client.embed_query("b")
            assert len(server.requests) == 2
            assert not any("cookie" in request.headers for request in server.requests)

    async def test_asks_for_uncompressed_replies(self, server: EmbeddingServer) -> None:
        """Connector, identity encoding: it is asked for, and a compressed reply is unpacked under the byte cap."""
        async with own(server) as client:
            await client.embed_query("a")
            assert server.requests[0].headers["accept-encoding"] == "identity"
            bomb = Answer(body=gzip.compress(bytes(10**8)), headers={"Content-Encoding": "gzip"})
            server.answer(bomb)
            with pytest.raises(BadReply, match="larger than the cap"):
                await client.embed_query("b")
        assert len(server.requests) == 2

    async def test_finds_out_when_the_other_side_is_gone(
        self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Connector, TCP keepalive: it is on for each connection, and answers in less than a minute."""
        made: list[socket.socket] = []
        make = sessions._socket

        def remember(address: Any) -> socket.socket:
            made.append(make(address))
            return made[-1]

        monkeypatch.setattr(sessions, "_socket", remember)
        async with own(server) as client:
            await client.embed_query("a")
            assert len(made) == server.connections == 1
            assert made[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
            if hasattr(socket, "TCP_KEEPIDLE") and hasattr(socket, "TCP_KEEPCNT"):
                idle, interval, count = (
                    made[0].getsockopt(socket.IPPROTO_TCP, option)
                    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                )
                assert 0 < idle + interval * count < 60
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert 0 < made[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) < 60_000

    async def test_the_pool_holds_nothing_back(self, server: EmbeddingServer) -> None:
        """Connector, limits: as many requests travel as `concurrency` allows, above aiohttp's own 100 too."""
        async with own(server, batch_size=1, concurrency=120) as client:
            with server.hold():
                calls = asyncio.gather(*(client.embed([f"text {number}"]) for number in range(150)))
                await server.wait_for(lambda: server.in_flight == 120)
            await calls
        assert server.peak_in_flight == 120


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """The port of a server that takes connections and never says a word, not even of TLS."""
    left = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()
        left.set()

    listener = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
        await left.wait()
    finally:
        listener.close()
        await listener.wait_closed()


class TestTimeouts:
    """The three timeouts told apart."""

    @simulated
    async def test_total(self, server: EmbeddingServer) -> None:
        """Three timeouts, total: a reply that drips for ever ends after `total`; the error names it."""
        clock = asyncio.get_running_loop().time
        server.answer(Answer(drip=1))
        timeout = Timeouts(total=7, connect=100, sock_read=100)
        async with own(server, timeout=timeout, max_retries=0) as client:
            began = clock()
            with pytest.raises(RequestTimeout, match="no complete reply within the total timeout"):
                await client.embed_query("a")
        assert 7 <= clock() - began < 8.1

    @simulated
    @pytest.mark.parametrize("answer", [Answer.hang(), Answer(cut=3, then="hang")])
    async def test_sock_read(self, answer: Answer, server: EmbeddingServer) -> None:
        """Three timeouts, sock_read: silence, before or in a reply, ends after it; the error names it."""
        clock = asyncio.get_running_loop().time
        server.answer(answer)
        timeout = Timeouts(total=100, connect=100, sock_read=7)
        async with own(server, timeout=timeout, max_retries=0) as client:
            began = clock()
            with pytest.raises(RequestTimeout, match="silence for longer than the sock_read timeout"):
                await client.embed_query("a")
        assert 7 <= clock() - began < 8.1

    @simulated
    async def test_a_slow_reply_is_not_silent(self, server: EmbeddingServer) -> None:
        """Three timeouts, sock_read: a slow reply that keeps coming is no silence."""
        server.answer(Answer(drip=3, piece=40))
        async with own(server, timeout=Timeouts(total=None, sock_read=4), max_retries=0) as client:
            assert is_vector_of(await client.embed_query("a"), "a")

    @simulated
    async def test_connect(self) -> None:
        """Three timeouts, connect: a server that takes no connection is given up after it; the error names it."""
        clock = asyncio.get_running_loop().time
        timeout = Timeouts(total=100, connect=7, sock_read=100)
        async with silent_server() as port:
            url = f"https://127.0.0.1:{port}"
            async with EmbeddingClient(url, model="m", timeout=timeout, max_retries=0, ssl=False) as client:
                began = clock()
                with pytest.raises(ConnectionFailed, match="no connection within the connect timeout"):
                    await client.embed_query("a")
        assert 7 <= clock() - began < 8.1

    @simulated
    async def test_a_number_is_the_total(self, server: EmbeddingServer) -> None:
        """Three timeouts: `timeout=7` is the total, and the other two stay as they are."""
        server.answer(Answer(drip=1))
        async with own(server, timeout=7, max_retries=0) as client:
            with pytest.raises(RequestTimeout, match="total"):
                await client.embed_query("a")

    @simulated
    async def test_is_retried(self, server: EmbeddingServer) -> None:
        """Timeout retried: the next attempt's vectors are the call's."""
        server.answer(Answer.hang())
        async with own(server, timeout=Timeouts(sock_read=7)) as client:
            assert is_vector_of(await client.embed_query("a"), "a")
        assert server.batches == [["a"], ["a"]]

    @simulated
    async def test_is_retried_smaller(self, server: EmbeddingServer) -> None:
        """Timeout retried: a batch that took too long is sent again in parts."""
        server.answer(Answer.hang())
        async with own(server, timeout=Timeouts(sock_read=7), batch_size=4, concurrency=1) as client:
            assert right(await client.embed(TEXTS[:4]), TEXTS[:4])
        assert server.batches == [TEXTS[:4], TEXTS[:2], TEXTS[2:4]]
