"""A client's hold on its server, on one event loop: what both clients are made of.

Loaded at first use: with it come aiohttp and numpy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace

from embedwire._config import CLOSED, Kind, Settings
from embedwire._faults import Failed, Failure, to_error
from embedwire._limits import ServerInfo
from embedwire._origin import Origins
from embedwire._queue import Call, Future
from embedwire._retry import Fault
from embedwire._wire import Matrix
from embedwire.exceptions import RequestError, UsageError


class Engine:
    """Submits calls to the server of some settings.

    Args:
        settings: The client's arguments.
        origins: The servers in use on this loop, shared with other clients; None: this client's own.
    """

    def __init__(self, settings: Settings, origins: Origins | None = None) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._origins = origins or Origins()
        self._target = settings.target()
        self._origin = self._origins.acquire(self._target)
        self._calls: set[Call] = set()
        self._released = False

    def here(self) -> bool:
        """Whether this engine works on the running loop; False if its own loop is gone.

        Raises:
            UsageError: Its own loop is another one, and still open.
        """
        if self._pid != os.getpid():
            return False
        if self._loop is asyncio.get_running_loop():
            return True
        if self._loop.is_closed():
            return False
        raise UsageError(
            "this EmbeddingClient belongs to another event loop that is still open; use one client per loop, "
            "or SharedEmbeddingClient, which works from any loop and thread"
        )

    def submit(self, texts: list[str], kind: Kind, future: Future, offset: int | None = None) -> None:
        """Queues a call; ``future`` gets its matrix, or its error.

        Args:
            texts: Checked texts with their prompts, at least one.
            kind: Queries go first.
            future: Cancelling it withdraws the call.
            offset: Index of the first text in the caller's list, if they are a part of one.

        Raises:
            Overloaded: The queue is full and the client was told to say so.
        """
        settings, loop, dispatcher = self._settings, self._loop, self._origin.dispatcher
        call = dispatcher.submit(
            settings.form,
            texts,
            kind,
            future,
            deadline=None if settings.deadline is None else loop.time() + settings.deadline,
            max_queued=settings.max_queued,
            on_full=settings.on_full,
            offset=offset,
            normalize=settings.normalize,
        )
        self._calls.add(call)

        def done(future: Future) -> None:
            if future.cancelled():
                with contextlib.suppress(RuntimeError):  # the loop has ended, and the call with it
                    loop.call_soon_threadsafe(dispatcher.drop, call)
            self._calls.discard(call)

        future.add_done_callback(done)

    async def wait_ready(self, timeout: float) -> ServerInfo:
        """Waits until the server answers, and asks what it is.

        Raises:
            RequestError: It was not ready within ``timeout`` seconds, or will never be.
        """
        origin, form = self._origin, self._settings.form
        try:
            await asyncio.wait_for(self._meet(), timeout)
        except Failed as failed:
            raise self._error(failed.fault) from None
        except asyncio.TimeoutError:
            fault = origin.sender.not_ready()
            raise self._error(replace(fault, what=f"not ready within {timeout:g} s: {fault.what}")) from None
        except asyncio.CancelledError:
            if self._released:  # the client was closed meanwhile, which is not this task's cancellation
                raise UsageError(CLOSED) from None
            raise
        return origin.learned.info(form.model, form.dimensions)

    async def _meet(self) -> None:
        form, sender = self._settings.form, self._origin.sender
        await sender.wait_ready()
        if form.model is None:
            await sender.served_model(form)
        future: asyncio.Future[Matrix] = self._loop.create_future()
        self.submit(["ready"], "query", future)  # only a vector shows that it embeds, and how wide
        vectors = await future
        await sender.learn(form, "ready", vectors[0])

    def _error(self, fault: Fault) -> RequestError:
        return to_error(
            Failure(fault=fault, attempts=0), server=self._target.base_url, index=None, count=None
        )

    async def close(self) -> None:
        """Ends this client's calls and lets go of the server."""
        if self._released:
            return
        self._released = True
        self._origin.dispatcher.end(self._calls, error=UsageError(CLOSED))
        await self._origins.release(self._target)

    def abandon(self) -> None:
        """Lets go of the server without waiting: the client was dropped, or its loop is gone. From any thread."""
        if self._released or self._pid != os.getpid():
            return  # what a fork inherited is the parent's: it is never closed here
        self._released = True
        if self._loop.is_closed():
            self._origins.abandon(self._target)
        else:
            with contextlib.suppress(RuntimeError):  # it was closed in this moment
                self._loop.call_soon_threadsafe(self._origins.abandon, self._target)
