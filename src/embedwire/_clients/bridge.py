"""From any thread to the loop thread and back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from embedwire._clients import fork
from embedwire._clients.first_use import too_late
from embedwire._clients.loop_thread import LoopThread, loop_thread, on_loop_thread
from embedwire._clients.progress import Watch
from embedwire._events.audience import Ear
from embedwire._http.native import new_future, result
from embedwire._queue.usage import Ledger
from embedwire._settings.options import Kind
from embedwire._settings.settings import CLOSED, Settings
from embedwire.exceptions import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedwire._clients.engine import Engine

    Vectors = NDArray[np.float32]

T = TypeVar("T")


class Bridge:
    """A shared client's engine on the loop thread. Its state is the engine, which only that thread touches."""

    def __init__(self, settings: Settings, ledger: Ledger, ears: tuple[Ear, ...]) -> None:
        self.settings = settings
        self._ears = ears
        self._ledger = ledger
        self._closed = False
        self._thread: LoopThread | None = None  # that has, or will have, the engine
        self._engine: Engine | None = None

    def submit(
        self,
        texts: list[str],
        kind: Kind,
        *,
        begun: float,
        offset: int | None = None,
        ledger: Ledger | None = None,
        watch: Watch | None = None,
    ) -> concurrent.futures.Future[Vectors]:
        """Queues a call, from any thread; see `Engine.submit`."""
        thread = self.thread()
        future: concurrent.futures.Future[Vectors] = new_future()
        thread.watch(future)

        def begin() -> None:
            if future.cancelled():
                return
            try:
                self.engine().submit(
                    texts, kind, future, begun=begun, offset=offset, ledger=ledger, watch=watch
                )
            except Exception as error:  # it belongs to the caller, not to the loop
                with contextlib.suppress(concurrent.futures.InvalidStateError):
                    # Without this frame, which still runs while the caller looks at the traceback.
                    future.set_exception(error.with_traceback(None))

        # Without arguments: asyncio's debug log shows those of slow callbacks.
        try:
            thread.loop.call_soon_threadsafe(begin)
        except RuntimeError:  # it was closed in this moment
            raise UsageError(CLOSED) from None
        return future

    def start(self, work: Callable[[Engine], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        """Runs something with the engine on the loop thread."""
        thread = self.thread()

        async def run() -> T:
            return await work(self.engine())

        return thread.start(run())

    def wait_watched(self, future: concurrent.futures.Future[T], watch: Watch | None) -> T:
        """Waits for a future in this thread, where it is looked at how far its call is."""
        if watch is None:
            return self.wait(future)
        limit, begun = self._first_limit(), time.monotonic()
        try:
            while not future.done() and (limit is None or time.monotonic() < begun + limit):
                with contextlib.suppress(Exception):  # `wait` raises it, if it is the call's own
                    result(future, watch.every)
                if not future.done():
                    watch.look()
            vectors = self.wait(future)
            watch.look(ended=True)
            return vectors
        except BaseException:
            future.cancel()
            raise
        finally:
            watch.close()

    def wait(self, future: concurrent.futures.Future[T]) -> T:
        """Waits for a future in this thread."""
        try:
            return result(future, self._first_limit())
        except concurrent.futures.TimeoutError:
            if not future.cancel():
                return result(future)  # it ended in this moment, or the error is its own
            raise too_late(self.settings) from None
        except BaseException:
            future.cancel()  # an interrupt: what nobody waits for is not sent
            raise

    async def wait_async(self, future: concurrent.futures.Future[T]) -> T:
        """Waits for a future on the running loop."""
        limit = self._first_limit()
        if limit is None:
            return await asyncio.wrap_future(future)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), limit)
        except asyncio.TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # it ended in this moment, or the error is its own
            raise too_late(self.settings) from None

    def check_waiter(self) -> None:
        """Raises UsageError on the loop thread, where waiting would never end."""
        if on_loop_thread():
            raise UsageError(
                "a sync method was called on embedwire's own loop thread; use its async twin there"
            )

    def thread(self) -> LoopThread:
        """The loop thread of this process."""
        if self._closed:
            raise UsageError(CLOSED)
        self._thread = loop_thread()
        return self._thread

    def engine(self) -> Engine:
        """The engine, on the loop thread; a forked child's thread gets one of its own."""
        if self._closed:
            raise UsageError(CLOSED)
        if self._engine is None or not self._engine.here():
            self._engine = fork.engine().Engine(self.settings, self._ledger, self._ears)
        return self._engine

    def close(self) -> concurrent.futures.Future[None] | None:
        """Closes the client, from any thread; None where there is nothing to wait for."""
        self._closed = True
        thread = self._thread
        if thread is None or not thread.here() or thread.ends():
            return None
        with contextlib.suppress(UsageError):  # the process ends in this moment
            return thread.start(self._close())
        return None

    def close_now(self) -> None:
        """The client was dropped. From any thread, the garbage collector's too."""
        self._closed = True
        if self._thread is not None and self._thread.here():
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._thread.loop.call_soon_threadsafe(self._let_go)

    def _first_limit(self) -> float | None:
        """Seconds to wait for the first use of the process, in which the loop's own timers do not run yet."""
        return None if fork.engine_is_loaded() else self.settings.deadline

    async def _close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None and engine.here():
            await engine.close()

    def _let_go(self) -> None:
        if self._engine is not None:
            self._engine.close_now()
