"""Threads, locks and selectors as the interpreter has them, also where gevent or eventlet put others in their place.

A patched thread is a greenlet of the thread that started it: an event loop in one would be that thread's running loop,
and ``asyncio.run`` would fail there. A patched lock can't be waited for from another thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def original(module: str, name: str) -> Any:
    """What a module of the standard library had under a name before it was patched."""
    if gevent := sys.modules.get("gevent.monkey"):
        return gevent.get_original(module, name)
    if eventlet := sys.modules.get("eventlet.patcher"):
        return getattr(eventlet.original(module), name)
    return getattr(importlib.import_module(module), name)


def patched() -> bool:
    """Whether threads are greenlets in this process."""
    if gevent := sys.modules.get("gevent.monkey"):
        return bool(gevent.is_module_patched("threading"))
    eventlet = sys.modules.get("eventlet.patcher")
    return eventlet is not None and bool(eventlet.is_monkey_patched("thread"))


def start_thread(run: Callable[[], object], name: str) -> None:
    """Starts a daemon thread.

    Raises:
        RuntimeError: The interpreter is ending, and starts no more threads.
    """
    if patched():
        original("_thread", "start_new_thread")(run, ())
    else:
        threading.Thread(target=run, name=name, daemon=True).start()


def new_lock() -> threading.Lock:
    """A lock that any thread may wait for."""
    lock: threading.Lock = original("_thread", "allocate_lock")()
    return lock


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop for a thread of its own."""
    if not patched() or sys.platform == "win32":
        return asyncio.new_event_loop()
    if eventlet := sys.modules.get("eventlet.patcher"):
        select = "select", eventlet.original("select")
        return asyncio.SelectorEventLoop(eventlet.import_patched("selectors", select).DefaultSelector())
    return asyncio.SelectorEventLoop(original("selectors", "DefaultSelector")())


def new_future() -> concurrent.futures.Future[Any]:
    """A future that another thread may end, for `result`."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    if patched():
        # Who ends it may come upon one who just looks at it. There is no public way to a future with this lock.
        future._condition = threading.Condition(new_lock())  # noqa: SLF001
    return future


def result(future: concurrent.futures.Future[T], timeout: float | None = None) -> T:
    """The result of a `new_future`; while it waits, other threads, and so other greenlets, run.

    Raises:
        concurrent.futures.TimeoutError: It is not there after ``timeout`` seconds.
        BaseException: What the future ended in.
    """
    if not patched() or future.done() or sys.platform == "win32":  # where select takes no pipes
        return future.result(timeout)
    here, there = os.pipe()

    def tell(_: object) -> None:
        with contextlib.suppress(OSError):  # nobody waits any more
            os.write(there, b".")
        os.close(there)

    future.add_done_callback(tell)
    try:
        # The patched one, which waits for a file without a lock, and lets others run.
        importlib.import_module("select").select([here], [], [], timeout)
    finally:
        os.close(here)
    return future.result(0)
