"""What happens to connections: names that vanish, replies broken at any byte, kept ones gone stale."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import trustme

from embedwire import BadReply, ConnectionFailed, RetryPolicy, Timeouts
from embedwire.testing import Answer, EmbeddingServer, is_vector_of, vector
from tests.helpers import numbered, right, simulated
from tests.server.certificates import certified, trusting
from tests.server.doors import client_of
from tests.server.names import Names

TEXTS = numbered(60)
ONCE_MORE = {"max_retries": RetryPolicy(attempts=2, base=0)}


@pytest.fixture
def server(here: EmbeddingServer) -> EmbeddingServer:
    """A server on the test's own loop, and on its clock."""
    return here


@pytest.mark.usefixtures("on_the_loops_clock")
class TestNames:
    """A name that nobody knows is a mistake; one that was known is a server that is being restarted."""

    async def test_unknown(self, names: Names) -> None:
        """A name that was never known is looked up once, and told to be checked."""
        names.known = False
        async with client_of("http://embedder.test:8080", batch_size=60) as client:
            with pytest.raises(ConnectionFailed, match=r"name.*after 1 request.*Check the host's name"):
                await client.embed(TEXTS)
        assert names.asked == ["embedder.test"]

    @simulated
    async def test_that_vanishes(self, names: Names) -> None:
        """A name that was known and vanishes, as a container's does, is waited for, and costs no attempt."""
        loop = asyncio.get_running_loop()
        async with (
            EmbeddingServer(close_after=1) as server,
            client_of(f"http://embedder.test:{server.port}", max_retries=0) as client,
        ):
            assert right(await client.embed(TEXTS[:5]), TEXTS[:5])
            names.known = False
            await asyncio.sleep(301)  # until the name is looked up again
            loop.call_later(6, setattr, names, "known", True)
            began = loop.time()
            assert right(await client.embed(TEXTS), TEXTS)
        assert 6 <= loop.time() - began < 9

    @simulated
    async def test_that_does_not_come_back(self, names: Names) -> None:
        """A name that stays away is given up after as long as a restart may take; the error says so, and the cure."""
        loop = asyncio.get_running_loop()
        async with EmbeddingServer(close_after=1) as server:
            url = f"http://embedder.test:{server.port}"
            async with client_of(url, timeout=Timeouts(restart=20)) as client:
                assert right(await client.embed(TEXTS[:5]), TEXTS[:5])
                names.known = False
                await asyncio.sleep(301)  # until the name is looked up again
                began = loop.time()
                with pytest.raises(
                    ConnectionFailed,
                    match=r"waited for 20 s \(.*restart=….*Check the host's name",
                ):
                    await client.embed(TEXTS)
        assert loop.time() - began == pytest.approx(20, abs=0.5)


def reply(texts: list[str], framing: str) -> bytes:
    """A right reply, byte by byte, that tells its end in one of HTTP's three ways."""
    rows = [{"index": index, "embedding": vector(text, 8)} for index, text in enumerate(texts)]
    body = json.dumps({"object": "list", "data": rows}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if framing == "chunked":
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:99], body[99:]))
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    return head + b"Connection: close\r\n\r\n" + body


def broken_replies(framing: str, step: int = 13) -> list[tuple[str, bytes]]:
    """Texts, and their replies up to every so-many-th byte, and all but the last ones."""
    texts = [f"text {number:02}" for number in range(99)]
    length = len(reply(texts[:1], framing)) - 9  # vectors differ a little in length
    ends = [*range(0, length, step), *range(-6, 0)]
    return [(text, reply([text], framing)[:end]) for text, end in zip(texts, ends, strict=False)]


class TestBrokenOff:
    """Wherever a reply breaks off, in the status line, a header, a chunk's length or a number, none of it is used."""

    @pytest.mark.parametrize("then", ["close", "reset"])
    @pytest.mark.parametrize("framing", ["length", "chunked", "close"])
    async def test_is_repeated(self, framing: str, then: Any, server: EmbeddingServer) -> None:
        """A reply that breaks off at any byte is asked for once more, and that one is the call's."""
        broken = broken_replies(framing)
        async with client_of(server.url, **ONCE_MORE) as client:
            for text, sent in broken:
                server.answer(Answer(raw=sent, then=then))
                assert is_vector_of(await client.embed_query(text), text)
        assert server.batches == [[text] for text, _ in broken for _ in "ab"]

    @pytest.mark.parametrize("then", ["close", "reset"])
    @pytest.mark.parametrize("framing", ["length", "chunked", "close"])
    async def test_is_an_error(self, framing: str, then: Any, server: EmbeddingServer) -> None:
        """A reply that breaks off at any byte, and is not to be repeated, is an error after one request."""
        for text, sent in broken_replies(framing):
            server.answer(Answer(raw=sent, then=then))
            async with client_of(server.url, max_retries=0) as client:
                with pytest.raises((ConnectionFailed, BadReply), match="after 1 request") as failed:
                    await client.embed([text])
            assert failed.value.completed is not None
            assert failed.value.completed.indexes == []

    @pytest.mark.parametrize("framing", ["length", "chunked", "close"])
    async def test_in_tls(self, framing: str, authority: trustme.CA) -> None:
        """An encrypted reply that is cut without a farewell, as an attacker could, is not taken for a whole one."""
        trust = trusting(authority)
        async with EmbeddingServer(ssl=certified(authority)) as server:
            for text, sent in broken_replies(framing, step=40):
                server.answer(Answer(raw=sent, then="reset"))
                async with client_of(server.url, ssl=trust, max_retries=0) as client:
                    with pytest.raises((ConnectionFailed, BadReply), match="after 1 request"):
                        await client.embed([text])


class TestClosing:
    """A server may close a connection when it likes."""

    @pytest.mark.parametrize("silently", [False, True], ids=["announced", "unsaid"])
    @pytest.mark.parametrize("every", [1, 2, 5])
    async def test_every_few_requests(
        self, every: int, silently: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A server that closes after every few requests, announced or not, costs no attempt and no vector."""
        async with (
            EmbeddingServer(close_after=every, silent_close=silently) as server,
            client_of(server.url, batch_size=1, concurrency=4, max_retries=0) as client,
        ):
            for round_ in "abc":
                texts = [f"{round_} {text}" for text in TEXTS]
                assert right(await client.embed(texts), texts)
        assert len(server.batches) == 3 * len(TEXTS)
        assert max(request.nth for request in server.requests) <= every
        assert "sending again" not in caplog.text

    async def test_all_at_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """Kept connections that all went stale while the loop was busy cost no attempt: each is replaced once."""
        caplog.set_level(logging.INFO, "embedwire")
        with EmbeddingServer() as server:
            async with client_of(server.url, batch_size=1, concurrency=8, max_retries=0) as client:
                with server.hold():
                    call = asyncio.ensure_future(client.embed(TEXTS))
                    await server.wait_for(lambda: server.in_flight == 8)
                await call
                for round_ in "abc":
                    texts = [f"{round_} {text}" for text in TEXTS]
                    before = server.connections
                    server.restart()  # on this loop's thread, so that the loop sees nothing of it
                    assert right(await client.embed(texts), texts)
                    assert server.connections > before
        assert "sending again" not in caplog.text
        assert "waiting" not in caplog.text


HALF_OPEN = """
    import asyncio, ctypes, fcntl, logging, socket, struct, sys

    NEW_USER, NEW_NET, GET_FLAGS, SET_FLAGS, UP = 0x10000000, 0x40000000, 0x8913, 0x8914, 1
    if ctypes.CDLL(None).unshare(NEW_USER | NEW_NET):
        sys.exit("not allowed")

    def network(up):
        with socket.socket() as any_socket:
            request = struct.pack("16sh14x", b"lo", 0)
            flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, GET_FLAGS, request))[1]
            flags = flags | UP if up else flags & ~UP
            fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", flags))

    try:
        network(up=True)
    except OSError:
        sys.exit("not allowed")
    from embedwire import EmbeddingClient, Timeouts
    from embedwire._http import sessions
    from embedwire.testing import EmbeddingServer, is_vector_of

    def impatient(address, make=sessions._socket):
        made = make(address)
        if made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT):  # 30 s are long for a test
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
        return made

    sessions._socket = impatient

    def notice(record):
        if "waiting until it is ready" in record.msg:
            print("noticed", flush=True)
            network(up=True)
        return True

    logging.getLogger("embedwire").addFilter(notice)
    logging.getLogger("embedwire").setLevel(logging.INFO)

    async def main():
        timeout = Timeouts(total=None, connect=30, sock_read=None)
        async with EmbeddingServer() as server:
            client = EmbeddingClient(server.url, model="m", encoding="float", timeout=timeout, max_retries=0)
            async with client:
                assert is_vector_of(await client.embed_query("before"), "before")
                network(up=False)
                assert is_vector_of(await client.embed_query("after"), "after")

    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has namespaces")
def test_a_network_that_goes_away(tmp_path: Path) -> None:
    """A peer that is gone without a word is found out without any timeout, and waited for; no attempt is lost."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(HALF_OPEN))
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    if done.stderr == "not allowed\n":
        pytest.skip("no namespaces for us here")
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == "noticed\n"
