"""The async doors run on asyncio, and say so elsewhere."""

from __future__ import annotations

import asyncio
import contextlib

from embedwire.exceptions import UsageError


def check_asyncio() -> None:
    """Raises UsageError where no task of asyncio runs: trio's, say, cannot wait for asyncio's futures."""
    with contextlib.suppress(RuntimeError):  # no loop at all
        if asyncio.current_task() is not None:
            return
    raise UsageError(
        "embedwire's async methods need asyncio, and no asyncio task is running here; under trio call a sync method of "
        "SharedEmbeddingClient, or of an adapter, in a thread: await trio.to_thread.run_sync(client.embed, texts)"
    )
