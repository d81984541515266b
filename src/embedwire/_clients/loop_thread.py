"""The one event loop thread of the process, on which everything shared runs.

No locks: whoever comes first has the thread, and a signal handler that embeds during the first use gets the same one.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, TypeVar

from embedwire._clients import fork
from embedwire._http.native import new_event_loop, new_future, new_lock, result, start_thread
from embedwire.exceptions import UsageError

T = TypeVar("T")

ENDED = "the process is ending, and embedwire's event loop with it; embed before that, or close the client"


class LoopThread:
    """An event loop in a daemon thread. Its state is whether it runs, and the futures that somebody waits for."""

    def __init__(self) -> None:
        self.loop = new_event_loop()
        self.ident: int | None = None
        self._pid = os.getpid()
        self._claim = new_lock()  # taken once, never waited for
        self._running = new_lock()  # held by the thread
        self._ending = False
        self._open: dict[Future[Any], None] = {}

    def begin(self) -> None:
        """Starts the thread, unless it runs; a second one that is started at the same moment ends at once."""
        if self.ident is None:
            try:
                start_thread(self._run, "embedwire")
            except RuntimeError:
                raise UsageError(ENDED) from None

    def watch(self, future: Future[Any]) -> None:
        """Fails a future if the loop ends before it does."""
        self._open[future] = None
        future.add_done_callback(self._open.pop)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs a coroutine on the loop; its result comes with the future, and cancelling that cancels it.

        Where the coroutine is cancelled by the end of the process, the future stays open without a word: only
        daemon threads still wait for it.
        """
        future: Future[T] = new_future()
        self.watch(future)

        def begin() -> None:
            task = self.loop.create_task(work)
            task.add_done_callback(end)
            future.add_done_callback(partial(cancel, task))

        def cancel(task: asyncio.Task[T], future: Future[T]) -> None:
            if future.cancelled():
                with contextlib.suppress(RuntimeError):  # the loop has just ended
                    self.loop.call_soon_threadsafe(task.cancel)

        def end(task: asyncio.Task[T]) -> None:
            if task.cancelled():
                return
            error = task.exception()
            with contextlib.suppress(InvalidStateError):  # nobody waits any more
                if error is None:
                    future.set_result(task.result())
                else:
                    future.set_exception(error)

        try:
            self.loop.call_soon_threadsafe(begin)
        except RuntimeError:
            work.close()
            raise UsageError(ENDED) from None
        return future

    def here(self) -> bool:
        """Whether this is the process that started the thread, not a forked child."""
        return self._pid == os.getpid()

    def ends(self) -> bool:
        """Whether it is over, or about to be."""
        return self._ending or self.loop.is_closed()

    def close(self) -> None:
        """Closes every connection and ends the thread."""
        if fork.engine_is_loaded() and self.ident is not None:
            with contextlib.suppress(Exception):
                result(self.start(self._close_all()), timeout=2)
        self._ending = True
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        if (
            self.ident is not None
            and self.ident != threading.get_ident()
            and self._running.acquire(timeout=2)
        ):
            self._running.release()

    async def _close_all(self) -> None:
        await fork.engine().origins_of(self.loop).close()

    def _run(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        self._running.acquire()
        self.ident = threading.get_ident()
        asyncio.set_event_loop(self.loop)
        try:
            while not self.ends():
                # What ends a program, such as the SystemExit of a log handler, ends one step of the loop here.
                with contextlib.suppress(BaseException):
                    self.loop.run_forever()
            with contextlib.suppress(RuntimeError):
                self.loop.run_until_complete(asyncio.sleep(0))  # lets transports that are closing end
        finally:
            if not self._ending:
                self._fail_open()
            self.loop.close()
            self._running.release()

    def _fail_open(self) -> None:
        """Nobody may wait for a loop that is gone."""
        for future in list(self._open):
            with contextlib.suppress(InvalidStateError):
                future.set_exception(
                    UsageError("embedwire's event loop was ended by something else; call again")
                )


_threads: dict[int, LoopThread] = {}  # of this process, by its id


def loop_thread() -> LoopThread:
    """The loop thread of this process, started at the first call.

    Raises:
        UsageError: The process is ending.
    """
    pid = os.getpid()
    thread = _threads.get(pid)
    if thread is not None and thread.loop.is_closed() and not sys.is_finalizing() and not _ended:
        if _threads.get(pid) is thread:  # it died, and nobody began a new one meanwhile
            _threads.pop(pid, None)
        thread = _threads.get(pid)
    if _ended or sys.is_finalizing():
        raise UsageError(ENDED)
    if thread is None:
        made = LoopThread()
        thread = _threads.setdefault(pid, made)
        if thread is not made:  # another thread, or a signal handler, was faster
            made.loop.close()
    thread.begin()
    return thread


def on_loop_thread() -> bool:
    """Whether the caller runs on the loop thread."""
    thread = _threads.get(os.getpid())
    return thread is not None and thread.ident == threading.get_ident()


_ended: list[bool] = []  # true once the process ends


def _end() -> None:
    """The process ends; the user's ``atexit`` handlers, registered after this package's import, ran before."""
    thread = _threads.get(os.getpid())
    if thread is not None:
        thread.close()
    _ended.append(True)


def _start_anew_in_child() -> None:
    """A forked child has no loop thread; the parent's loop is left alone, uncollected too."""
    fork.leak(dict(_threads))
    _threads.clear()


atexit.register(_end)
fork.in_child(_start_anew_in_child)
