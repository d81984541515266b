"""Something that listens: its start and its end, on the current event loop or on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from embedwire.testing._gate import Condition, Watch

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BACKLOG", "HOST", "Host", "Link"]

HOST = "127.0.0.1"
BACKLOG = 1024


class Link(Protocol):
    """A connection that was accepted."""

    @property
    def gone(self) -> asyncio.Future[None]:
        """Is done when the connection is closed."""
        ...

    def drop(self) -> None:
        """Cut the connection now."""
        ...


L = TypeVar("L", bound=Link)


class Host(ABC, Generic[L]):
    """Listens on 127.0.0.1: in `async with` on the current event loop, in `with` on a thread that has its own.

    Attributes:
        connections: Connections ever accepted.
    """

    def __init__(self) -> None:
        self.connections = 0
        self._port = 0
        self._open: set[L] = set()
        self._watch = Watch()
        self._listener: asyncio.Server | None = None
        self._thread: threading.Thread | None = None

    @abstractmethod
    async def _listen(self) -> asyncio.Server:
        """Listen on `self._port`, 0 being any free one."""

    @abstractmethod
    def _record(self) -> str:
        """What was seen so far, such as `"3 requests"`."""

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the first start."""
        return self._port

    @property
    def open_connections(self) -> int:
        """Connections open now."""
        return len(self._open)

    async def wait_for(self, condition: Condition, timeout: float = 10.0) -> None:
        """Wait until `condition()` holds.

        It is called whenever the state changes, on the thread that listens.

        Raises:
            TimeoutError: It did not hold within `timeout` seconds of the running loop's clock.
        """
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._watch.until(condition)), timeout)
        except (TimeoutError, asyncio.TimeoutError):
            raise self._late(timeout) from None

    def wait(self, condition: Condition, timeout: float = 10.0) -> None:
        """Do the same as `wait_for`, where a thread of its own listens."""
        future = self._watch.until(condition)
        try:
            future.result(timeout)
        except (TimeoutError, FutureTimeoutError):
            future.cancel()
            raise self._late(timeout) from None

    # Its life

    async def __aenter__(self) -> Self:
        await self.astart()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.astop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def astart(self) -> None:
        """Listen, on the current event loop."""
        self._loop = asyncio.get_running_loop()
        self._listener = await self._listen()
        self._port = self._listener.sockets[0].getsockname()[1]

    async def astop(self) -> None:
        """Stop listening, and cut all connections; does nothing when it does not run."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        await self._stop_listening(listener)
        connections = list(self._open)
        for connection in connections:
            connection.drop()
        await asyncio.gather(*(connection.gone for connection in connections), return_exceptions=True)

    async def arestart(self) -> None:
        """Stop, and start on the same port."""
        await self.astop()
        await self.astart()

    def start(self) -> None:
        """Listen, on a new thread."""
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(started)), name=type(self).__name__, daemon=True
        )
        self._thread.start()
        started.result()

    def stop(self) -> None:
        """Do the same as `astop`, and join the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(self.astop(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._leave.set)
            thread.join()

    def restart(self) -> None:
        """Stop, and start on the same port."""
        self.stop()
        self.start()

    async def _stop_listening(self, listener: asyncio.Server) -> None:
        # Closed at once, asyncio would leak a socket that was accepted in this turn of the loop; so first stop
        # accepting (only selector loops have this gap, and readers), then let it become a connection.
        with contextlib.suppress(NotImplementedError):
            self._loop.remove_reader(listener.sockets[0].fileno())
        await asyncio.sleep(0)
        listener.close()
        await asyncio.sleep(0)

    async def _live(self, started: Future[None]) -> None:
        self._leave = asyncio.Event()
        try:
            await self.astart()
        except OSError as error:
            started.set_exception(error)
        else:
            started.set_result(None)
            await self._leave.wait()

    # Its connections

    def _opened(self, connection: L) -> int:
        """Take note of a new connection; returns its number."""
        self.connections += 1
        self._open.add(connection)
        if self._listener is None:  # accepted while it was being stopped
            connection.drop()
        self._watch.look()
        return self.connections

    def _lost(self, connection: L) -> None:
        """Take note that a connection is closed."""
        self._open.discard(connection)
        self._watch.look()

    def _late(self, timeout: float) -> TimeoutError:
        return TimeoutError(
            f"the condition did not hold within {timeout:g} s; {type(self).__name__} saw {self._record()} "
            f"on {self.connections} connections ({self.open_connections} open)"
        )
