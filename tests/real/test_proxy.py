"""Broken connections: the proxy that makes them, and what both clients make of them before a real llama.cpp."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import random
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from embedwire import (
    ConnectionFailed,
    DeadlineExceeded,
    EmbeddingClient,
    RequestError,
    RequestTimeout,
    SharedEmbeddingClient,
    Timeouts,
)
from embedwire.testing import Answer, EmbeddingServer, Fault, FaultProxy, Gate, is_vector_of

if TYPE_CHECKING:
    from tests.conftest import Truth

simulated = pytest.mark.looptime
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
    """Ask for embeddings with urllib."""
    body = json.dumps({"input": texts}).encode()
    with urllib.request.urlopen(f"{proxy.url}/v1/embeddings", body, timeout=10) as reply:
        return [item["embedding"] for item in json.load(reply)["data"]]


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
        assert all(is_vector_of(row, text) for row, text in zip(rows, texts, strict=True))

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


# What follows is what the clients do, before a real server.

Embed = Callable[[list[str]], Awaitable[list[list[float]]]]
Right = Callable[[Any, list[str]], None]
PLAIN: dict[str, Any] = {"model": "m", "encoding": "float", "batch_size": 5, "concurrency": 4}
MANY = [f"text {number}" for number in range(300)]
# Bytes. A reply to five texts has about 40,000.
IN_THE_FIRST_LINE, IN_THE_HEAD, IN_THE_BODY = 8, 100, 2000
CUTS = [
    Fault.hang_up(),
    Fault.reset(),
    *(Fault(cut=cut) for cut in (0, IN_THE_FIRST_LINE, IN_THE_HEAD, IN_THE_BODY)),
    *(Fault(cut=cut, then="reset") for cut in (0, IN_THE_BODY)),
]


@contextlib.asynccontextmanager
async def own(url: str, **options: Any) -> AsyncIterator[Embed]:
    """The door of an `EmbeddingClient` that asks for nothing but vectors."""
    async with EmbeddingClient(url, **{**PLAIN, **options}) as client:
        yield client.embed


@contextlib.asynccontextmanager
async def shared(url: str, **options: Any) -> AsyncIterator[Embed]:
    """The sync door of a `SharedEmbeddingClient`, likewise."""
    async with SharedEmbeddingClient(url, **{**PLAIN, **options}) as client:
        yield lambda texts: asyncio.to_thread(client.embed, texts)


both_clients = pytest.mark.parametrize("client", [own, shared])


@pytest.fixture
async def way(llama: str) -> AsyncIterator[FaultProxy]:
    """A proxy on the test's loop, before a llama.cpp with one slot."""
    async with FaultProxy(llama) as way:
        yield way


@pytest.fixture
def few(sentences: list[str]) -> list[str]:
    """12 different texts, so three requests."""
    return sentences[:12]


@pytest.fixture
def right(llama: str, truth: Truth) -> Right:
    """Fails unless the vectors are those of the texts, in their order."""
    return lambda rows, texts: truth.check(rows, llama, texts)


def check_error(error: RequestError, texts: list[str], right: Right) -> list[int]:
    """Fail unless the error names a text without a vector, and has right ones; returns the indexes of those."""
    assert error.index is not None
    assert f"texts[{error.index}] of {len(texts)}" in str(error)
    assert error.completed is not None
    done = error.completed.indexes
    assert error.index not in done
    if done:
        right(error.completed.vectors, [texts[index] for index in done])
    return done


@contextlib.contextmanager
def said(words: str) -> Iterator[Gate]:
    """A gate that opens when a client logs these words."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                gate.open()

    gate, listener, logger = Gate(), Listener(), logging.getLogger("embedwire")
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield gate
    finally:
        logger.setLevel(level)
        logger.removeHandler(listener)


@both_clients
class TestSlowWays:
    """A slow way is no failure until the time is up."""

    @pytest.mark.parametrize("fault", [Fault(latency=0.05), Fault(drip=0.005, piece=4096)])
    async def test_is_waited_for(
        self, fault: Fault, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """Late and dripping replies are read to the end, and not asked for again."""
        way.fault = fault
        async with client(way.url) as embed:
            right(await embed(few), few)
        assert way.requests == 3

    @pytest.mark.parametrize(
        ("fault", "timeouts"),
        [
            (Fault(drip=0.05, piece=64), Timeouts(total=0.2)),
            (Fault.blackhole(), Timeouts(total=0.2)),
            (Fault.blackhole(), Timeouts(sock_read=0.2)),
            (Fault(cut=IN_THE_BODY, then="hang"), Timeouts(sock_read=0.2)),
        ],
    )
    async def test_is_given_up_in_time(
        self, fault: Fault, timeouts: Timeouts, client: Any, way: FaultProxy
    ) -> None:
        """A reply that does not end in time is a RequestTimeout, after two requests for a single text."""
        way.fault = fault
        async with client(way.url, timeout=timeouts) as embed:
            with pytest.raises(RequestTimeout, match=r"texts\[0\] of 1, after 2 requests") as failure:
                await embed(["a text"])
        assert (failure.value.attempts, way.requests) == (2, 2)

    async def test_what_was_lost_is_sent_again(
        self, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """A batch that vanished is sent again in halves after its timeout, and all is right."""
        way.inject(Fault.blackhole())
        async with client(way.url, timeout=Timeouts(sock_read=1)) as embed:
            right(await embed(few), few)
        assert way.requests == 3 + 2

    async def test_has_no_more_time_than_the_deadline(
        self, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """Where the way ends in a hole, the deadline ends the call, and what came before is kept."""
        way.inject(Fault())
        way.fault = Fault.blackhole()
        async with client(way.url, deadline=0.8) as embed:
            with pytest.raises(DeadlineExceeded) as failure:
                await embed(few)
        assert len(check_error(failure.value, few, right)) == 5


@both_clients
class TestBrokenWays:
    """A broken connection is a passing failure, a few times."""

    @pytest.mark.parametrize("fault", CUTS)
    async def test_once(
        self, fault: Fault, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """A reply that breaks off anywhere, or never begins, is asked for again, and all is right."""
        way.inject(fault)
        async with client(way.url) as embed:
            right(await embed(few), few)
        assert way.requests == 3 + 1

    async def test_at_the_last_byte(self, client: Any, way: FaultProxy, right: Right) -> None:
        """A reply without its last byte is no reply."""
        async with client(way.url) as embed:
            await embed(["a text"])
            way.inject(Fault(cut=way.passed - 1))
            right(await embed(["a text"]), ["a text"])
        assert way.requests == 3

    @pytest.mark.parametrize(
        "fault",
        [Fault.hang_up(), Fault.reset(), Fault(cut=IN_THE_HEAD), Fault(cut=IN_THE_BODY, then="reset")],
    )
    async def test_always(
        self, fault: Fault, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """A way that is always broken is a ConnectionFailed after three requests, and names a text."""
        way.fault = fault
        async with client(way.url) as embed:
            with pytest.raises(ConnectionFailed, match="after 3 requests") as failure:
                await embed(few)
        assert (failure.value.attempts, check_error(failure.value, few, right)) == (3, [])
        assert way.requests <= 3 * 3

    async def test_what_came_before_is_kept(
        self, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """The vectors that came before the way broke for good are in the error."""
        way.inject(Fault())
        way.fault = Fault(cut=IN_THE_BODY)
        async with client(way.url) as embed:
            with pytest.raises(ConnectionFailed) as failure:
                await embed(few)
        assert len(check_error(failure.value, few, right)) == 5

    async def test_a_restart_is_waited_for(self, client: Any, way: FaultProxy, right: Right) -> None:
        """A server that is away for a while in the middle of a large job costs no vector."""
        async with client(way.url) as embed:
            with said("waiting until it is ready") as waiting:
                asking = asyncio.create_task(embed(MANY))
                await way.wait_for(lambda: way.requests == 20)
                await way.astop()
                await waiting.wait()
                await way.astart()
            right(await asking, MANY)


@both_clients
class TestIdleConnections:
    """What happens to a connection while nobody uses it fails nobody."""

    @pytest.mark.parametrize("then", ["close", "reset"])
    async def test_that_ended_are_not_used(
        self, then: Any, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """Connections that end between two calls cost the second one no request, nor an attempt."""
        async with client(way.url, max_retries=0) as embed:
            await embed(few)
            way.sever(then)
            await way.wait_for(lambda: way.open_connections == 0)
            right(await embed(few), few)
        assert way.requests == 3 + 3

    @pytest.mark.parametrize("fault", [Fault.hang_up(), Fault.reset()])
    async def test_that_end_at_the_next_request_cost_no_attempt(
        self, fault: Fault, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """Where each kept connection turns out to be stale, its request is sent again, free of charge."""
        async with client(way.url, max_retries=0) as embed:
            await embed(few)
            kept = way.open_connections
            way.inject(*[fault] * kept)
            right(await embed(few), few)
        assert way.requests == 3 + kept + 3

    async def test_that_went_silent_are_left(
        self, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """After a timeout on a half-open connection the next request takes another one."""
        async with client(way.url, concurrency=1, timeout=Timeouts(sock_read=0.5)) as embed:
            await embed(few)
            way.sever("hang")
            right(await embed(["a text"]), ["a text"])
        assert (way.requests, way.connections) == (3 + 1, 2)


@both_clients
class TestAnyWay:
    """Whatever happens, a vector is right or missing."""

    @pytest.mark.parametrize(
        ("server", "tolerance", "harm"), [("llama", 1e-6, 0.2), ("llama", 1e-6, 0.6), ("llama4", 2e-3, 0.4)]
    )
    async def test_gives_right_vectors_or_none(
        self,
        server: str,
        tolerance: float,
        harm: float,
        client: Any,
        corpus: list[str],
        truth: Truth,
        request: pytest.FixtureRequest,
    ) -> None:
        """Faults of all kinds, alone and together, leave no wrong vector: neither in a reply nor in an error."""

        def right(rows: Any, texts: list[str]) -> None:
            np.testing.assert_allclose(np.array(rows), truth(url, texts), rtol=0, atol=tolerance)

        url: str = request.getfixturevalue(server)
        texts, dice = [text for text in corpus if len(text) < 50][:200], random.Random(20261122)
        auto = {"model": None, "encoding": "auto", "batch_size": "auto", "concurrency": "auto"}
        async with FaultProxy(url) as way, client(way.url, timeout=Timeouts(sock_read=0.3), **auto) as embed:
            way.inject(*(anything(dice) if dice.random() < harm else Fault() for _ in range(200)))
            try:
                rows = await embed(texts)
            except RequestError as error:
                check_error(error, texts, right)
            else:
                right(rows, texts)


def anything(dice: random.Random) -> Fault:
    """Any mixture of faults, at any byte of the reply."""
    endings: list[Any] = ["close", "close", "close", "reset", "reset", "reset", "hang"]
    return Fault(
        swallow=dice.random() < 0.2,
        latency=dice.choice([0, 0.02]),
        drip=dice.choice([None, 0.001]),
        piece=8192,
        cut=dice.choice([None, dice.randrange(500), dice.randrange(50_000)]),
        then=dice.choice(endings),
    )
