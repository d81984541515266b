"""Work that blocks, off the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from embedwire._http.native import new_lock, start_thread

T = TypeVar("T")

MOMENT = 0.5  # seconds for which a thread waits for more work


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Runs a function in a daemon thread of its own.

    Not in the loop's executor: its few threads are everybody's, so that look-ups of one dead zone would hold up other
    hosts; they are joined at the end of the process, and before it ends they take no more work.
    """
    run, future = _delivered(function, *args)
    try:
        start_thread(run, "embedwire-lookup")
    except RuntimeError:  # the interpreter is ending, and starts no more threads
        run()
    return await future


class Worker:
    """Does one thing after another in a daemon thread, which ends when there was nothing to do for a moment.

    Its state is what waits, and whether the thread lives, and is idle.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self._lock = new_lock()  # held for a moment
        self._more = new_lock()  # held until there is more to do
        self._more.acquire()
        self._lives = self._idle = False

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """What a function returns, or raises."""
        run, future = _delivered(function, *args)
        self.do(run)
        return await future

    def do(self, work: Callable[[], object]) -> None:
        """Has something done that raises nothing, from any thread."""
        with self._lock:
            self._waiting.append(work)
            if self._idle:
                self._idle = False
                self._more.release()
            if self._lives:
                return
            self._lives = True
        try:
            start_thread(self._work, "embedwire-cache")
        except RuntimeError:  # the interpreter is ending, and starts no more threads
            self._work()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Callable[[], object] | None:
        """What is to be done next; None where nothing came for a moment."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle = True
        told = self._more.acquire(timeout=MOMENT)
        with self._lock:
            if self._idle:
                self._idle = self._lives = False
                return None
            if not told:  # until just now
                self._more.acquire()
            return self._waiting.popleft()


def _delivered(function: Callable[..., T], *args: Any) -> tuple[Callable[[], None], asyncio.Future[T]]:
    """A function whose result, or error, comes with a future on the running loop, whichever thread calls it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # without an error there is one
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = function(*args)
        except Exception as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is over
            loop.call_soon_threadsafe(deliver, result, error)

    return run, future
