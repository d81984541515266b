"""A TCP proxy that does to the bytes of any server what a network would."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit

from embedwire.testing._connection import RESET_ON_CLOSE
from embedwire.testing._host import BACKLOG, HOST, Host

__all__ = ["Fault", "FaultProxy"]

Then: TypeAlias = Literal["close", "reset", "hang"]
T = TypeVar("T")

READ_SIZE = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to one request and its reply on their way. `Fault()`: nothing.

    Attributes:
        swallow: The request does not reach the server, and `then` follows at once.
        latency: Seconds by which the reply is late. Default 0.
        drip: Seconds between two pieces of the reply. Default None: it is passed on as it comes.
        piece: Bytes in such a piece. Default 1.
        cut: Pass on only so many bytes of the reply, its head included, and do `then`; one that has fewer is
            whole. Default None: pass on all.
        then: `"close"` the connection, `"reset"` it, or `"hang"`: keep it open, and never again pass on a byte
            of it in either direction. Default `"close"`.
    """

    swallow: bool = False
    latency: float = 0.0
    drip: float | None = None
    piece: int = 1
    cut: int | None = None
    then: Then = "close"

    @classmethod
    def hang_up(cls) -> Fault:
        """Close the connection in place of passing the request on."""
        return cls(swallow=True)

    @classmethod
    def reset(cls) -> Fault:
        """Reset the connection in place of passing the request on, as if it had been idle for too long."""
        return cls(swallow=True, then="reset")

    @classmethod
    def blackhole(cls) -> Fault:
        """Swallow the request, and whatever comes after it on its connection, and say nothing."""
        return cls(swallow=True, then="hang")


@dataclass(slots=True, eq=False)
class _Turn:
    """A request and its reply.

    Attributes:
        fault: What happens to them.
        answered: The first bytes of the reply are there, so what the client says next is another request.
        passed: Bytes of the reply passed on.
    """

    fault: Fault
    answered: bool = False
    passed: int = 0


class _Link:
    """A client's connection, and its twin to the server.

    Args:
        reader: From the client.
        writer: To the client.
        server: Host and port.
        begin: Called for each request; returns what happens to it.
        count: Called with the number of bytes of a reply that were passed on.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server: tuple[str, int],
        *,
        begin: Callable[[], Fault],
        count: Callable[[int], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._server = server
        self._begin = begin
        self._count = count
        self._turn = _Turn(Fault(), answered=True)
        self._orders: asyncio.Queue[Then] = asyncio.Queue()
        self._last_order: Then | None = None
        self.gone = asyncio.ensure_future(self._live())

    def end(self, then: Then) -> None:
        """End it: no byte is passed on from now on, and soon it is closed, reset or left to hang."""
        self._last_order = then
        self._orders.put_nowait(then)

    def drop(self) -> None:
        """Close it."""
        self.end("close")

    async def _live(self) -> None:
        then: Then = "close"
        try:
            then = await _first(self._orders.get(), self._relay())
            while then == "hang":
                then = await _first(self._orders.get(), self._swallow())
        except OSError:  # the server refuses or resets, or the client does
            then = "reset"
        finally:
            await _close(self._writer, reset=then == "reset")

    async def _relay(self) -> Then:
        reader, writer = await asyncio.open_connection(*self._server)
        for each in (self._writer, writer):
            each.transport.set_write_buffer_limits(0)  # so that `drain` waits until all is sent
        try:
            return await _first(self._pass_requests(writer), self._pass_replies(reader))
        finally:
            await _close(writer)

    async def _pass_requests(self, server: asyncio.StreamWriter) -> Then:
        while data := await self._reader.read(READ_SIZE):
            if self._last_order:
                return self._last_order
            if self._turn.answered:
                self._turn = _Turn(self._begin())
            if self._turn.fault.swallow:
                return self._turn.fault.then
            server.write(data)
            await server.drain()
        return "close"

    async def _pass_replies(self, server: asyncio.StreamReader) -> Then:
        while data := await server.read(READ_SIZE):
            turn, fault = self._turn, self._turn.fault
            turn.answered = True
            rest = data if fault.cut is None else data[: fault.cut - turn.passed]
            size = READ_SIZE if fault.drip is None else fault.piece
            for start in range(0, len(rest), size):
                await asyncio.sleep((fault.drip or 0) if turn.passed else fault.latency)
                if self._last_order:
                    return self._last_order
                piece = rest[start : start + size]
                turn.passed += len(piece)
                self._count(len(piece))
                self._writer.write(piece)
                await self._writer.drain()
            if turn.passed == fault.cut:
                return fault.then
        return "close"

    async def _swallow(self) -> Then:
        while await self._reader.read(READ_SIZE):
            pass
        return "close"


class FaultProxy(Host[_Link]):
    """A TCP proxy for tests: stands before any server, and passes bytes on until told otherwise.

    `async with` runs it on the current event loop, `with` on a thread that has a loop of its own. It listens
    on a free port of 127.0.0.1. `stop` (or `astop`) makes it cut all connections and refuse new ones, `start`
    (or `astart`) makes it come back on the same port. It may be used from any thread.

    It knows no protocol: a client that speaks begins a request if it is the first time, or if bytes of a reply
    came since. Each request meets a fault of its own: the next one that was queued by `inject`, else `fault`.

    Each connection of a client has one to the server. When one of the two ends, so does the other: the client's
    by a reset if the server reset its own or cannot be reached, else by being closed. A client that says no more
    (a half-closed connection) has left.

    Args:
        target: The server, such as `"http://127.0.0.1:8080"`; of another scheme than http or https, with its port.
        fault: What happens to every request; can be set later. Default: nothing.

    Attributes:
        requests: Requests that clients began, those that were swallowed included.
        passed: Bytes of replies that were passed on.
        connections: Connections ever accepted.
    """

    def __init__(self, target: str, fault: Fault | None = None) -> None:
        super().__init__()
        self.fault = fault or Fault()
        self.requests = 0
        self.passed = 0
        self._target = urlsplit(target)
        port = self._target.port or {"http": 80, "https": 443}.get(self._target.scheme)
        if not self._target.hostname or not port:
            raise ValueError(f"{target!r} is not the URL of a server, such as 'http://127.0.0.1:8080'")
        self._address = self._target.hostname, port
        self._faults: deque[Fault] = deque()

    @property
    def url(self) -> str:
        """The URL to use in place of the server's; known once it was started."""
        return self._target._replace(netloc=f"{HOST}:{self._port}").geturl()

    def inject(self, *faults: Fault) -> None:
        """Queue faults for the next requests, one each in order of arrival."""
        self._faults.extend(faults)

    def sever(self, then: Then = "close") -> None:
        """`"close"` or `"reset"` all open connections, idle ones too, or let them `"hang"`.

        Nothing that comes after this call passes through them. Those that end do so a moment later; where that
        matters, wait for `open_connections == 0`.
        """
        self._loop.call_soon_threadsafe(self._sever, then)

    def _sever(self, then: Then) -> None:
        for link in self._open:
            link.end(then)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, HOST, self._port, backlog=BACKLOG)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(reader, writer, self._address, begin=self._begin, count=self._count)
        link.gone.add_done_callback(lambda _: self._lost(link))
        self._opened(link)

    def _begin(self) -> Fault:
        fault = self._faults.popleft() if self._faults else self.fault
        self.requests += 1
        self._watch.look()
        return fault

    def _count(self, size: int) -> None:
        self.passed += size
        self._watch.look()

    def _record(self) -> str:
        return f"{self.requests} requests, passed on {self.passed} bytes of replies"


async def _first(*work: Awaitable[T]) -> T:
    """Return the result of whichever ends first; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _close(writer: asyncio.StreamWriter, *, reset: bool = False) -> None:
    """Close a connection, and return when it is closed."""
    with contextlib.suppress(OSError):  # it may be closed already, or broken
        if reset:
            link: socket.socket = writer.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()
        await writer.wait_closed()
