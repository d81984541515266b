"""Work that blocks, off the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from embedwire._http.native import start_thread

T = TypeVar("T")


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Runs a function in a daemon thread of its own.

    Not in the loop's executor: its few threads are everybody's, so that look-ups of one dead zone would hold up other
    hosts; they are joined at the end of the process, and before it ends they take no more work.
    """
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

    try:
        start_thread(run, "embedwire-lookup")
    except RuntimeError:  # the interpreter is ending, and starts no more threads
        run()
    return await future
