"""The proxy that breaks connections: what it passes, harms and refuses; seen through raw sockets and urllib."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import urllib.error
from collections.abc import AsyncIterator, Iterator
from typing import Literal

import pytest

from embedwire.testing import Answer, EmbeddingServer, Fault, FaultProxy, Gate, is_vector_of
from tests.helpers import right, simulated
from tests.tools import peers

LINE = b"a line\n"


@contextlib.asynccontextmanager
async def plain_server(greeting: bytes = b"") -> AsyncIterator[str]:
    """The URL of a server of no protocol: it greets, and answers each line with ``12345``."""
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(greeting)
            while await reader.readline():
                writer.write(b"12345")
        writer.close()

    server = await asyncio.start_server(
        lambda *connection: serving.append(asyncio.create_task(serve(*connection))), "127.0.0.1", 0
    )
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.gather(*serving)


@contextlib.asynccontextmanager
async def connected(
    proxy: FaultProxy,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A raw connection to the proxy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def line_to_plain_server(
    fault: Fault | None = None, greeting: bytes = b""
) -> AsyncIterator[tuple[FaultProxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A raw connection through a proxy to a `plain_server`."""
    async with (
        plain_server(greeting) as url,
        FaultProxy(url, fault) as proxy,
        connected(proxy) as (reader, writer),
    ):
        yield proxy, reader, writer


def call(proxy: FaultProxy, texts: list[str]) -> list[list[float]]:
    """The vectors that urllib gets."""
    return [item["embedding"] for item in peers.call(proxy, texts)["data"]]


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """A proxy and the server behind it, each on a thread of its own."""
    with EmbeddingServer() as server, FaultProxy(server.url) as proxy:
        yield proxy


class TestPassing:
    """Untold, the proxy changes nothing."""

    def test_passes_every_byte(self) -> None:
        """A large request and its large reply arrive whole, and are counted."""
        texts = [f"{number} " + "word " * 50_000 for number in range(4)]
        with EmbeddingServer(dimensions=10_000) as server, FaultProxy(server.url) as proxy:
            rows = call(proxy, texts)
            assert server.batches == [texts]
            assert (proxy.requests, proxy.connections) == (1, 1)
            assert proxy.passed > 100_000
            proxy.wait(lambda: proxy.open_connections == 0)
        assert right(rows, texts)

    async def test_counts_a_request_when_the_client_speaks_after_a_reply(self) -> None:
        """A request may come in pieces; the next one begins after bytes of a reply."""
        async with line_to_plain_server() as (proxy, reader, writer):
            for _ in range(3):
                for byte in LINE:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0)
                assert await reader.readexactly(5) == b"12345"
            assert (proxy.requests, proxy.passed, proxy.connections) == (3, 15, 1)

    async def test_a_server_may_speak_first(self) -> None:
        """What comes before any request passes unharmed, whatever the fault."""
        async with line_to_plain_server(Fault.hang_up(), greeting=b"hello") as (proxy, reader, writer):
            assert await reader.readexactly(5) == b"hello"
            assert proxy.requests == 0
            writer.write(LINE)
            assert await reader.read() == b""

    @pytest.mark.parametrize("answer", [Answer.hang_up(), Answer.reset()])
    async def test_passes_on_how_the_server_ends(self, answer: Answer) -> None:
        """A server that closes a connection closes the client's, and a reset is a reset."""
        async with (
            EmbeddingServer(script=lambda _: answer) as server,
            FaultProxy(server.url) as proxy,
            connected(proxy) as (reader, writer),
        ):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(ConnectionResetError) if answer.then == "reset" else contextlib.nullcontext():
                assert await reader.read() == b""

    async def test_passes_on_that_the_client_left(self) -> None:
        """A server learns that the client is gone, as it would without the proxy."""
        async with EmbeddingServer(script=lambda _: Answer.hang()) as server, FaultProxy(server.url) as proxy:
            async with connected(proxy) as (_, writer):
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                await server.wait_for(lambda: len(server.requests) == 1)
            await server.wait_for(lambda: len(server.aborted) == 1)
            await proxy.wait_for(lambda: proxy.open_connections == 0)

    async def test_a_server_that_is_not_there_resets(self) -> None:
        """A connection that leads nowhere is reset."""
        server = EmbeddingServer()
        await server.astart()
        await server.astop()
        async with FaultProxy(server.url) as proxy, connected(proxy) as (reader, _):
            with pytest.raises(ConnectionResetError):
                await reader.read()

    async def test_has_a_url_to_use_in_place_of_the_servers(self) -> None:
        """Scheme, path and query stay; host and port are the proxy's."""
        async with FaultProxy("https://example.org/v1?a=b") as proxy:
            assert proxy.url == f"https://127.0.0.1:{proxy.port}/v1?a=b"

    @pytest.mark.parametrize("target", ["", "127.0.0.1:8080", "tcp://127.0.0.1", "http://"])
    def test_wants_a_url(self, target: str) -> None:
        """What has no host or port is refused when the proxy is made."""
        with pytest.raises(ValueError, match="http://127"):
            FaultProxy(target)


class TestFaults:
    """A test decides what happens to each request and its reply."""

    @pytest.mark.parametrize(
        ("fault", "passed"),
        [
            (Fault.hang_up(), b""),
            (Fault(cut=0), b""),
            (Fault(cut=3), b"123"),
            (Fault(cut=5), b"12345"),
            (Fault(cut=3, drip=0.0), b"123"),
        ],
    )
    async def test_cuts(self, fault: Fault, passed: bytes) -> None:
        """So many bytes of the reply arrive, and then a polite end."""
        async with line_to_plain_server(fault) as (proxy, reader, writer):
            writer.write(LINE)
            assert await reader.read() == passed
            assert proxy.passed == len(passed)

    @pytest.mark.parametrize("fault", [Fault.reset(), Fault(cut=0, then="reset"), Fault(cut=3, then="reset")])
    async def test_resets(self, fault: Fault) -> None:
        """A reset is no polite end."""
        async with line_to_plain_server(fault) as (_, reader, writer):
            writer.write(LINE)
            with pytest.raises(ConnectionResetError):
                await reader.read()

    async def test_a_short_reply_passes_whole(self) -> None:
        """What is shorter than the cut is not harmed, and each reply is measured on its own."""
        async with line_to_plain_server(Fault(cut=6)) as (_, reader, writer):
            for _ in range(3):
                writer.write(LINE)
                assert await reader.readexactly(5) == b"12345"

    @pytest.mark.parametrize(
        ("fault", "reached"), [(Fault.hang_up(), 0), (Fault.reset(), 0), (Fault(cut=0), 1)]
    )
    async def test_what_is_swallowed_does_not_reach_the_server(self, fault: Fault, reached: int) -> None:
        """A server sees the requests whose replies are cut, and none of those that were swallowed."""
        async with (
            EmbeddingServer() as server,
            FaultProxy(server.url, fault) as proxy,
            connected(proxy) as (reader, writer),
        ):
            writer.write(b"GET /health HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            assert (proxy.requests, len(server.requests)) == (1, reached)

    @simulated
    @pytest.mark.parametrize(
        ("fault", "seconds"),
        [
            (Fault(latency=3600), 3600),
            (Fault(drip=1), 4),
            (Fault(drip=1, piece=2), 2),
            (Fault(latency=60, drip=1, piece=3), 61),
        ],
    )
    async def test_takes_its_time(self, fault: Fault, seconds: int) -> None:
        """Replies are late or come in drips, on the loop's clock, each anew."""
        clock = asyncio.get_running_loop().time
        async with line_to_plain_server(fault) as (_, reader, writer):
            for _ in range(2):
                began = clock()
                writer.write(LINE)
                assert await reader.readexactly(5) == b"12345"
                assert seconds <= clock() - began < seconds + 1

    @simulated
    @pytest.mark.parametrize("fault", [Fault.blackhole(), Fault(cut=3, then="hang")])
    async def test_hangs(self, fault: Fault) -> None:
        """A connection can go silent for good while others work."""
        async with line_to_plain_server() as (proxy, reader, writer):
            proxy.inject(fault)
            writer.write(LINE)
            assert await reader.readexactly(fault.cut or 0) == b"123"[: fault.cut or 0]
            for _ in range(2):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(1), 3600)
                writer.write(LINE)
            async with connected(proxy) as (other, to_other):
                to_other.write(LINE)
                assert await other.readexactly(5) == b"12345"
                assert (proxy.requests, proxy.open_connections) == (2, 2)

    async def test_faults_are_used_up_in_order(self) -> None:
        """Queued faults go to the next requests, one each; `fault` is for all others, and can change."""
        async with line_to_plain_server(Fault(cut=4)) as (proxy, reader, writer):
            proxy.inject(Fault(), Fault(latency=0.01))
            for _ in range(2):
                writer.write(LINE)
                assert await reader.readexactly(5) == b"12345"
            proxy.fault = Fault(cut=2)
            writer.write(LINE)
            assert await reader.read() == b"12"

    @pytest.mark.parametrize("then", ["close", "reset"])
    async def test_ends_idle_connections(self, then: Literal["close", "reset"]) -> None:
        """Connections can be ended without any request; new ones work."""
        async with line_to_plain_server() as (proxy, reader, _):
            await proxy.wait_for(lambda: proxy.open_connections == 1)
            proxy.sever(then)
            with pytest.raises(ConnectionResetError) if then == "reset" else contextlib.nullcontext():
                assert await reader.read() == b""
            await proxy.wait_for(lambda: proxy.open_connections == 0)
            async with connected(proxy) as (other, writer):
                writer.write(LINE)
                assert await other.readexactly(5) == b"12345"

    @simulated
    async def test_lets_idle_connections_hang(self) -> None:
        """Connections can become half-open, and be ended later."""
        async with line_to_plain_server() as (proxy, reader, writer):
            await proxy.wait_for(lambda: proxy.open_connections == 1)
            proxy.sever("hang")
            writer.write(LINE)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(1), 3600)
            assert (proxy.requests, proxy.open_connections) == (0, 1)
            proxy.sever()
            assert await reader.read() == b""


class TestLife:
    """It refuses, comes back, and ends cleanly."""

    def test_refuses_and_comes_back(self, proxy: FaultProxy) -> None:
        """Stopped, it cuts connections and refuses new ones; started, it is where it was."""
        url = proxy.url
        call(proxy, ["a"])
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as stale:
            proxy.wait(lambda: proxy.connections == 2)
            proxy.stop()
            assert stale.recv(1) == b""
        with pytest.raises(urllib.error.URLError, match="refused"):
            call(proxy, ["b"])
        proxy.start()
        assert is_vector_of(call(proxy, ["c"])[0], "c")
        assert (proxy.url, proxy.requests) == (url, 2)

    def test_cuts_a_connection_made_at_that_moment(self, proxy: FaultProxy) -> None:
        """No connection survives a stop, not even one that was just being accepted."""
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as newest:
                proxy.restart()
                with contextlib.suppress(ConnectionResetError):
                    assert newest.recv(1) == b""

    @simulated
    async def test_waiting_is_bounded(self) -> None:
        """Waiting in vain is a TimeoutError that tells what the proxy saw."""
        async with FaultProxy("http://127.0.0.1:1") as proxy:
            with pytest.raises(TimeoutError, match=r"FaultProxy saw 0 requests.* on 0 connections"):
                await proxy.wait_for(lambda: False)

    async def test_leaves_no_task_behind(self) -> None:
        """Stopped on the test's loop in the middle of everything, it leaves no task; twice is harmless."""
        tasks = asyncio.all_tasks()
        async with EmbeddingServer(script=lambda _: Answer.hold(Gate())) as server:
            async with FaultProxy(server.url) as proxy, contextlib.AsyncExitStack() as peers:
                proxy.inject(Fault.blackhole(), Fault(latency=3600))
                for _ in range(4):
                    _, writer = await peers.enter_async_context(connected(proxy))
                    writer.write(b"GET / HTTP/1.1\r\n\r\n")
                await proxy.wait_for(lambda: proxy.requests == 4)
                await proxy.astop()
                await proxy.astop()
                assert proxy.open_connections == 0
            await server.wait_for(lambda: server.open_connections == 0)
        assert asyncio.all_tasks() == tasks

    def test_leaves_nothing_behind(self) -> None:
        """Stopped in the middle of everything, it leaves no thread, socket or warning."""
        threads = threading.active_count()
        with EmbeddingServer() as server, FaultProxy(server.url) as proxy:
            proxy.inject(Fault.blackhole(), Fault(latency=3600), Fault(drip=3600), Fault(cut=3, then="hang"))
            peers = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(6)]
            for peer in peers[:5]:
                peer.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            proxy.wait(lambda: proxy.requests == 5 and proxy.open_connections == 6)
        for peer in peers:
            peer.close()
        assert threading.active_count() == threads
        assert proxy.open_connections == 0
        gc.collect()
