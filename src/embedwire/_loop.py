"""The one event loop thread of the process, on which everything shared runs."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, TypeVar

from embedwire._origin import Origins

T = TypeVar("T")


class LoopThread:
    """An event loop in a daemon thread, and the servers in use on it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.origins = Origins()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="embedwire", daemon=True)
        self._thread.start()
        self.ident = self._thread.ident

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs a coroutine on the loop; its result comes with the future, and cancelling that cancels it.

        Where the coroutine is cancelled by the end of the process, the future stays open without a word: only
        daemon threads still wait for it.
        """
        future: Future[T] = Future()

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

        self.loop.call_soon_threadsafe(begin)
        return future

    def here(self) -> bool:
        """Whether this is the process that started the thread, not a forked child."""
        return self._pid == os.getpid()

    def stop(self) -> None:
        """Closes every connection and ends the thread."""
        with contextlib.suppress(Exception):
            self.start(self.origins.close()).result(timeout=2)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=2)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(asyncio.sleep(0))  # lets transports that are closing end
            self.loop.close()


_current: LoopThread | None = None
_lock = threading.Lock()


def loop_thread() -> LoopThread:
    """The loop thread of this process, started at the first call."""
    global _current
    with _lock:
        if _current is None:
            _current = LoopThread()
        return _current


def on_loop_thread() -> bool:
    """Whether the caller runs on the loop thread."""
    return _current is not None and _current.ident == threading.get_ident()


def _stop() -> None:
    if _current is not None:
        _current.stop()


def _start_anew_in_child() -> None:
    """A forked child has no loop thread; the parent's loop is left alone, uncollected too."""
    global _current, _lock
    if _current is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_current))
    _current, _lock = None, threading.Lock()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_in_child)
