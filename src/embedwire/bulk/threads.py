"""A coroutine for callers without a loop, also where one is running in their thread, as in a notebook."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_here(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs it to its end, in this thread or, where that has a running loop, in one of its own.

    What it raises is raised here; Ctrl-C cancels it, and is raised when it is over.
    """
    if not _is_running():
        return asyncio.run(work())
    outcome: list[T] = []
    errors: list[BaseException] = []
    loop = asyncio.new_event_loop()

    def run() -> None:
        try:
            task = loop.create_task(work())
            tasks.append(task)
            outcome.append(loop.run_until_complete(task))
        except BaseException as error:  # it belongs to the caller
            errors.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    tasks: list[asyncio.Task[T]] = []
    thread = threading.Thread(target=run, name="embedwire-bulk")
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
        thread.join()
        raise
    if errors:
        raise errors[0]
    return outcome[0]


def _is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
