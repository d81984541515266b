"""Every promise of the blog post's client, in the order that the post made them.

The singleton in FastAPI's lifespan is `examples/fastapi_app.py`, which `tests/test_examples.py` runs.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from embedwire import (
    AuthenticationFailed,
    BadReply,
    ConnectionFailed,
    EmbeddingClient,
    RequestError,
    RequestTimeout,
    RetryPolicy,
    ServerRefused,
    ServerUnavailable,
    TextRefused,
    Timeouts,
    _transport,
)
from embedwire.testing import Answer, EmbeddingServer, Gate, is_vector_of

simulated = pytest.mark.looptime
TEXTS = [f"text {number}" for number in range(23)]
KEY = "sk-never-to-be-seen"
SECRET = "The patient is called Kim"


def right(rows: list[list[float]], texts: list[str]) -> bool:
    """Whether each text has its own vector."""
    return len(rows) == len(texts) and all(map(is_vector_of, rows, texts))


@pytest.fixture
async def server() -> AsyncIterator[EmbeddingServer]:
    """A server on the test's own loop, and on its clock."""
    async with EmbeddingServer() as server:
        yield server


def client_of(server: EmbeddingServer, **arguments: Any) -> EmbeddingClient:
    """A client that asks for nothing but vectors."""
    return EmbeddingClient(server.url, **{"model": "m", "encoding": "float", **arguments})


@pytest.fixture
def on_the_loops_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let aiohttp's pool and DNS cache, which read the clock by themselves, live in simulated time too."""
    monkeypatch.setattr("aiohttp.connector.monotonic", lambda: asyncio.get_running_loop().time())


class TestSession:
    """One session for the life of the application."""

    async def test_is_kept_over_calls(self, server: EmbeddingServer) -> None:
        """Session kept over calls: ten calls, one after another, travel on one connection."""
        async with client_of(server) as client:
            for text in TEXTS[:10]:
                assert is_vector_of(await client.embed_query(text), text)
        assert server.connections == 1
        assert [request.nth for request in server.requests] == list(range(1, 11))

    async def test_keeps_as_many_connections_as_requests_in_flight(self, server: EmbeddingServer) -> None:
        """Session kept over calls: calls with many batches open no more connections than travel at once."""
        async with client_of(server, batch_size=1, concurrency=4) as client:
            for _ in range(3):
                assert right(await client.embed(TEXTS), TEXTS)
        assert server.connections <= 4
        assert len(server.batches) == 3 * len(TEXTS)

    async def test_is_new_after_a_connection_error(
        self, server: EmbeddingServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Session renewed after a connection error: the repeat, and all after it, travel on a new one."""
        caplog.set_level(logging.INFO, "embedwire")
        async with client_of(server, max_retries=RetryPolicy(base=0)) as client:
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
        async with client_of(server, max_retries=RetryPolicy(base=0)) as client:
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
        async with client_of(server) as client:
            await client.embed(TEXTS)
            await server.arestart()
            assert right(await client.embed(TEXTS), TEXTS)

    async def test_a_stale_connection_costs_no_attempt(self, server: EmbeddingServer) -> None:
        """Session renewed after a connection error: one that was stale already costs no attempt, but only once."""
        async with client_of(server, max_retries=0) as client:
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
            client_of(server, max_retries=0) as client,
        ):
            for text in TEXTS:
                assert is_vector_of(await client.embed_query(text), text)
        assert server.batches == [[text] for text in TEXTS]

    async def test_async_with_closes_it(
        self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`async with`: at its end no connection is left, after an error too."""
        monkeypatch.setattr(_transport, "KEEP_ALIVE", 3600)  # so that only a close closes one
        async with client_of(server) as client:
            await client.embed(TEXTS)
            assert server.open_connections > 0
        await server.wait_for(lambda: server.open_connections == 0)

        async def fail() -> None:
            async with client_of(server) as client:
                await client.embed(TEXTS)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        await server.wait_for(lambda: server.open_connections == 0)


class Resolver(AbstractResolver):
    """Knows one address for every name, and notes what it is asked."""

    def __init__(self, asked: list[str]) -> None:
        self.asked = asked

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """Answer as DNS would."""
        self.asked.append(host)
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        """Have nothing to close."""


@pytest.fixture
def any_name(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every name lead to this machine; gives the names that were looked up."""
    asked: list[str] = []
    monkeypatch.setattr("aiohttp.connector.DefaultResolver", lambda **_: Resolver(asked))
    return asked


class TestConnector:
    """The connector's settings."""

    @simulated
    @pytest.mark.usefixtures("on_the_loops_clock")
    async def test_keeps_idle_connections_for_less_than_5_s(self) -> None:
        """Connector, keep-alive: an idle connection is used again before the server closes it, never after."""
        async with EmbeddingServer(idle_timeout=5) as server, client_of(server, max_retries=0) as client:
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
        async with client_of(server) as client:
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
                async with client_of(server, model=model, api_key=KEY) as client:
                    with pytest.raises(
                        ServerRefused, match=r"redirects elsewhere.*final URL into base_url"
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
        """Connector, identity encoding: it is asked for, and a compressed reply is refused unread."""
        async with client_of(server) as client:
            await client.embed_query("a")
            assert server.requests[0].headers["accept-encoding"] == "identity"
            bomb = Answer(body=gzip.compress(bytes(10**6)), headers={"Content-Encoding": "gzip"})
            server.answer(bomb)
            with pytest.raises(BadReply, match="compressed"):
                await client.embed_query("b")
        assert len(server.requests) == 2

    async def test_finds_out_when_the_other_side_is_gone(
        self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Connector, TCP keepalive: it is on for each connection, and answers in less than a minute."""
        made: list[socket.socket] = []
        make = _transport._socket

        def remember(address: Any) -> socket.socket:
            made.append(make(address))
            return made[-1]

        monkeypatch.setattr(_transport, "_socket", remember)
        async with client_of(server) as client:
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
        async with client_of(server, batch_size=1, concurrency=120) as client:
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
        async with client_of(server, timeout=timeout, max_retries=0) as client:
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
        async with client_of(server, timeout=timeout, max_retries=0) as client:
            began = clock()
            with pytest.raises(RequestTimeout, match="silence for longer than the sock_read timeout"):
                await client.embed_query("a")
        assert 7 <= clock() - began < 8.1

    @simulated
    async def test_a_slow_reply_is_not_silent(self, server: EmbeddingServer) -> None:
        """Three timeouts, sock_read: a slow reply that keeps coming is no silence."""
        server.answer(Answer(drip=3, piece=40))
        async with client_of(server, timeout=Timeouts(total=None, sock_read=4), max_retries=0) as client:
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
        async with client_of(server, timeout=7, max_retries=0) as client:
            with pytest.raises(RequestTimeout, match="total"):
                await client.embed_query("a")

    @simulated
    async def test_is_retried(self, server: EmbeddingServer) -> None:
        """Timeout retried: the next attempt's vectors are the call's."""
        server.answer(Answer.hang())
        async with client_of(server, timeout=Timeouts(sock_read=7)) as client:
            assert is_vector_of(await client.embed_query("a"), "a")
        assert server.batches == [["a"], ["a"]]

    @simulated
    async def test_is_retried_smaller(self, server: EmbeddingServer) -> None:
        """Timeout retried: a batch that took too long is sent again in parts."""
        server.answer(Answer.hang())
        async with client_of(server, timeout=Timeouts(sock_read=7), batch_size=4, concurrency=1) as client:
            assert right(await client.embed(TEXTS[:4]), TEXTS[:4])
        assert server.batches == [TEXTS[:4], TEXTS[:2], TEXTS[2:4]]


class TestBatches:
    """Small batches, several at once."""

    async def test_are_of_five(self, server: EmbeddingServer) -> None:
        """Batches of five: unless told otherwise, no more than five texts travel in a request."""
        async with client_of(server) as client:
            assert right(await client.embed(TEXTS[:12]), TEXTS[:12])
        assert sorted(map(len, server.batches)) == [2, 5, 5]

    @pytest.mark.parametrize("size", [1, 4, 23, 100])
    async def test_are_of_the_size_asked_for(self, size: int, server: EmbeddingServer) -> None:
        """Batches of five: another number is kept exactly, and the last batch has the rest."""
        async with client_of(server, batch_size=size) as client:
            assert right(await client.embed(TEXTS), TEXTS)
        sizes = sorted(map(len, server.batches), reverse=True)
        whole, rest = divmod(len(TEXTS), size)
        assert sizes == [size] * whole + [rest] * (rest > 0)

    async def test_travel_at_once(self, server: EmbeddingServer) -> None:
        """Bounded concurrency: batches travel side by side, never one after another, and never more."""
        async with client_of(server, concurrency=4) as client:
            with server.hold():
                call = asyncio.create_task(client.embed(TEXTS))
                await server.wait_for(lambda: server.in_flight == 4)
            assert right(await call, TEXTS)
        assert server.peak_in_flight == 4

    async def test_travel_at_once_by_default(self, server: EmbeddingServer) -> None:
        """Bounded concurrency: it is on without being asked for."""
        async with client_of(server) as client:
            with server.hold():
                call = asyncio.create_task(client.embed([f"text {number}" for number in range(100)]))
                await server.wait_for(lambda: server.in_flight >= 4)
            await call
        assert server.peak_in_flight <= 8

    async def test_the_bound_holds_for_all_calls(self, server: EmbeddingServer) -> None:
        """Bounded concurrency: the bound is per client, over all its calls."""
        async with client_of(server, concurrency=3, batch_size=2) as client:
            with server.hold():
                calls = asyncio.gather(
                    *(client.embed([f"{call} {text}" for text in TEXTS]) for call in "abc")
                )
                await server.wait_for(lambda: server.in_flight == 3)
            for call, rows in zip("abc", await calls, strict=True):
                assert right(rows, [f"{call} {text}" for text in TEXTS])
        assert server.peak_in_flight == 3


class TestRetries:
    """What passes is tried again, after a while; what does not is not."""

    @simulated
    @pytest.mark.parametrize("answer", [Answer.error(502, "no"), Answer.hang_up(), Answer.reset()])
    async def test_back_off_is_1_2_4(self, answer: Answer, server: EmbeddingServer) -> None:
        """Back-off 1-2-4: `RetryPolicy(base=1, jitter=False)` waits exactly that between four attempts."""
        server.answer(answer, answer, answer)
        policy = RetryPolicy(attempts=4, base=1, jitter=False)
        async with client_of(server, max_retries=policy) as client:
            assert is_vector_of(await client.embed_query("a"), "a")
        first, *others = [request.at for request in server.requests]
        assert [at - first for at in others] == pytest.approx([1, 3, 7], abs=0.1)

    @simulated
    async def test_what_the_server_asks_for_is_waited_for(self, server: EmbeddingServer) -> None:
        """Back-off: a Retry-After takes the place of the pause."""
        server.answer(Answer.throttled(5))
        async with client_of(server, max_retries=RetryPolicy(jitter=False)) as client:
            assert is_vector_of(await client.embed_query("a"), "a")
        first, second = (request.at for request in server.requests)
        assert second - first == pytest.approx(5, abs=0.1)

    @simulated
    @pytest.mark.parametrize(
        ("asked", "arguments"),
        [
            (61, {}),
            (5, {"max_retries": RetryPolicy(retry_after_cap=4)}),
            (30, {"deadline": 10}),
        ],
    )
    async def test_what_takes_too_long_is_not_waited_for(
        self, asked: float, arguments: dict[str, Any], server: EmbeddingServer
    ) -> None:
        """Back-off: a Retry-After above its cap, or after the deadline, fails at once and is on the error."""
        clock = asyncio.get_running_loop().time
        server.answer(Answer.throttled(asked))
        async with client_of(server, **arguments) as client:
            began = clock()
            with pytest.raises(ServerUnavailable, match="after 1 request") as failed:
                await client.embed_query("a")
        assert clock() - began < 1
        assert (failed.value.retry_after, failed.value.status) == (asked, 429)
        assert len(server.requests) == 1

    async def test_three_attempts_by_default(self, server: EmbeddingServer) -> None:
        """Back-off: there are 3 attempts, then the last error with their number."""
        server.answer(*[Answer.error(502, "no")] * 9)
        async with client_of(server) as client:
            with pytest.raises(RequestError, match="after 3 requests") as failed:
                await client.embed_query("a")
        assert failed.value.attempts == len(server.requests) == 3

    async def test_the_last_error_is_raised(self, server: EmbeddingServer) -> None:
        """Back-off: what the caller sees is what happened last, not what happened first."""
        server.answer(Answer.error(502, "no"), Answer.error(504, "no"), Answer.hang_up())
        async with client_of(server) as client:
            with pytest.raises(ConnectionFailed):
                await client.embed_query("a")

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (Answer.error(400, "no", error_type="invalid_request_error"), TextRefused),
            (Answer.error(401, "Invalid API Key", error_type="authentication_error"), AuthenticationFailed),
            (Answer.error(403, "no"), AuthenticationFailed),
            (Answer.error(404, "File Not Found", error_type="not_found_error"), ServerRefused),
            (Answer.error(405, "no"), ServerRefused),
            (
                Answer.error(501, "Start it with `--embeddings`", error_type="not_supported_error"),
                ServerRefused,
            ),
            (Answer.too_large(600, 512), TextRefused),
            (Answer.exceed_context(600, 512), TextRefused),
            (Answer(raw=b"SSH-2.0-OpenSSH_9\r\n"), BadReply),
        ],
    )
    async def test_other_errors_are_raised_at_once(
        self, answer: Answer, error: type[RequestError], server: EmbeddingServer
    ) -> None:
        """Other errors raised at once: what will never work is sent exactly once."""
        server.answer(answer)
        async with client_of(server) as client:
            with pytest.raises(error, match="after 1 request") as failed:
                await client.embed_query("a")
            assert type(failed.value) is error
            assert failed.value.status == answer.status
            assert len(server.requests) == 1
            assert is_vector_of(await client.embed_query("a"), "a")

    @pytest.mark.parametrize("status", [401, 403, 404])
    async def test_a_batch_too(self, status: int, server: EmbeddingServer) -> None:
        """Other errors raised at once: a whole batch that is refused for its request is not split either."""
        server.answer(Answer.error(status, "no"))
        async with client_of(server, batch_size=23) as client:
            with pytest.raises(RequestError):
                await client.embed(TEXTS)
        assert len(server.requests) == 1


class TestPayload:
    """What is sent is what the post's client sent."""

    async def test_is_input_model_and_encoding(self, server: EmbeddingServer) -> None:
        """Payload: `input`, `model` and `encoding_format` as JSON to /v1/embeddings, and nothing else."""
        async with client_of(server, model="my-model") as client:
            await client.embed(["one", "둘"])
        (request,) = server.requests
        assert (request.method, request.path) == ("POST", "/v1/embeddings")
        assert request.json == {"input": ["one", "둘"], "model": "my-model", "encoding_format": "float"}
        assert request.headers["content-type"] == "application/json"

    async def test_has_dimensions_only_when_asked(self) -> None:
        """Payload: `dimensions` is in it when asked for."""
        async with EmbeddingServer(honours_dimensions=True) as server:
            async with client_of(server, dimensions=4) as client:
                assert len(await client.embed_query("a")) == 4
            assert server.requests[0].json["dimensions"] == 4

    async def test_has_the_model_that_the_server_serves(self) -> None:
        """Payload: without `model=`, it is the one that the server lists, asked for once."""
        async with EmbeddingServer(model="the-only-one") as server:
            async with client_of(server, model=None) as client:
                await asyncio.gather(client.embed(TEXTS), client.embed_query("a"))
                await client.embed_query("b")
            paths = [request.path for request in server.requests]
            assert paths.count("/v1/models") == 1
            assert paths[0] == "/v1/models"
            assert {request.json["model"] for request in server.requests if request.embeds} == {
                "the-only-one"
            }

    @pytest.mark.parametrize(
        "answer",
        [
            Answer.error(404, "Not Found"),
            Answer.error(501, "no"),
            Answer(body={"object": "list", "data": []}),
        ],
    )
    async def test_has_no_model_where_the_server_lists_none(
        self, answer: Answer, server: EmbeddingServer
    ) -> None:
        """Payload: where the server lists no model, `model` is left out; it is not null."""
        server.script = lambda request: answer if request.path == "/v1/models" else None
        async with client_of(server, model=None) as client:
            assert is_vector_of(await client.embed_query("a"), "a")
            await client.embed_query("b")
        assert [request.path for request in server.requests].count("/v1/models") == 1
        assert server.requests[1].json == {"input": ["a"], "encoding_format": "float"}

    async def test_asks_which_of_several_models(self, server: EmbeddingServer) -> None:
        """Payload: with several models to choose from, none is guessed."""
        listed = Answer(body={"data": [{"id": "chat"}, {"id": "embed"}]})
        server.script = lambda request: listed if request.path == "/v1/models" else None
        async with client_of(server, model=None) as client:
            with pytest.raises(ServerRefused, match=r"2 models, among them 'chat', 'embed'.*Pass model="):
                await client.embed_query("a")
        assert server.batches == []


class TestReplies:
    """A reply that is not what was asked for is an error."""

    @pytest.mark.parametrize(
        ("answer", "what"),
        [
            (Answer.mutate(lambda reply: {"object": "list", "model": "m"}), "without a list called data"),
            (Answer.mutate(lambda reply: {**reply, "data": None}), "without a list called data"),
            (Answer(body=[[1.0, 2.0]]), "no JSON object"),
        ],
    )
    async def test_without_data(self, answer: Answer, what: str, server: EmbeddingServer) -> None:
        """`data` missing: a reply without it is a BadReply that says so, and is not asked for again."""
        server.answer(answer)
        async with client_of(server) as client:
            with pytest.raises(BadReply, match=what) as failed:
                await client.embed(["a", "b"])
        assert failed.value.status == 200
        assert failed.value.completed is not None
        assert failed.value.completed.indexes == []
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            (lambda data: data[:-1], "3 vectors for 4 texts"),
            (lambda data: data[1:], "3 vectors for 4 texts"),
            (lambda data: data + data[:1], "5 vectors for 4 texts"),
            (lambda data: [], "0 vectors for 4 texts"),
        ],
    )
    async def test_of_another_count(self, change: Any, what: str, server: EmbeddingServer) -> None:
        """Count mismatch: one vector too few or too many is a BadReply, and none of them is used."""
        server.answer(Answer.items(change))
        async with client_of(server) as client:
            with pytest.raises(BadReply, match=what):
                await client.embed(TEXTS[:4])
            assert right(await client.embed(TEXTS[:4]), TEXTS[:4])

    async def test_of_another_order(self, server: EmbeddingServer) -> None:
        """Count mismatch's worse twin: the right count in another order gives each text its own vector."""
        server.answer(*[Answer.items(lambda data: data[::-1])] * 9)
        async with client_of(server) as client:
            assert right(await client.embed(TEXTS), TEXTS)


class TestLog:
    """Each level has its purpose."""

    @pytest.fixture
    def log(self, caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
        """Everything that anybody logs; in the end, no key and no text is in it."""
        caplog.set_level(logging.DEBUG)
        yield caplog
        messages = [record.getMessage() for record in caplog.get_records("call")]
        assert messages
        assert not any(KEY in message or SECRET[:12] in message for message in messages)

    def of_level(self, log: pytest.LogCaptureFixture, level: int) -> list[str]:
        """Our own messages of a level."""
        ours = [record for record in log.records if record.name == "embedwire"]
        return [record.getMessage() for record in ours if record.levelno == level]

    async def test_levels(self, log: pytest.LogCaptureFixture, server: EmbeddingServer) -> None:
        """Log levels: DEBUG for each batch, INFO for a new session, WARNING for a retry; no text, no key."""
        echo = Answer.error(502, f"out of memory at {SECRET!r} of {KEY}")
        server.answer(echo)
        async with client_of(server, api_key=KEY, max_retries=RetryPolicy(base=0)) as client:
            await client.embed([f"{SECRET} {number}" for number in range(12)])
        debug, info, warning = (
            self.of_level(log, level) for level in (logging.DEBUG, logging.INFO, logging.WARNING)
        )
        assert sorted(message.split(" texts")[0] for message in debug) == [
            "sending 2",
            "sending 5",
            "sending 5",
        ]
        assert [server.url in message and "new session" in message for message in info] == [True]
        assert len(warning) == 1
        assert "502" in warning[0]
        assert "attempt 2 of 3" in warning[0]
        assert self.of_level(log, logging.ERROR) == []

    async def test_an_error_is_raised_not_logged(
        self, log: pytest.LogCaptureFixture, server: EmbeddingServer
    ) -> None:
        """Log levels: what is raised is not logged as well, and says no more than the log would."""
        server.script = lambda request: Answer.error(
            400, f"cannot embed {orjson.dumps(request.texts).decode()}, {request.headers['authorization']}"
        )
        async with client_of(server, api_key=KEY) as client:
            with pytest.raises(TextRefused, match="withheld") as failed:
                await client.embed_query(SECRET)
        assert KEY not in str(failed.value)
        assert SECRET[:12] not in str(failed.value)
        assert self.of_level(log, logging.WARNING) + self.of_level(log, logging.ERROR) == []

    @simulated
    async def test_a_warning_for_each_repeat(
        self, log: pytest.LogCaptureFixture, server: EmbeddingServer
    ) -> None:
        """Log levels: each repeat after a failure is a WARNING that says why and when."""
        server.answer(Answer.error(502, "no"), Answer.throttled(3))
        async with client_of(server, max_retries=RetryPolicy(base=2, jitter=False)) as client:
            await client.embed_query("a")
        first, second = self.of_level(log, logging.WARNING)
        assert "502" in first
        assert "sending again in 2.00 s (attempt 2 of 3)" in first
        assert "429" in second
        assert "sending again in 3.00 s (attempt 3 of 3)" in second

    async def test_a_vector_of_zeros_is_a_warning(
        self, log: pytest.LogCaptureFixture, server: EmbeddingServer
    ) -> None:
        """Log levels: a vector of zeros only is delivered, with a WARNING."""
        server.answer(Answer.vectors(lambda rows: [[0.0] * 8, *rows[1:]]))
        async with client_of(server) as client:
            rows = await client.embed(["a", "b"])
        assert rows[0] == [0.0] * 8
        assert is_vector_of(rows[1], "b")
        assert ["zeros" in message for message in self.of_level(log, logging.WARNING)] == [True]
