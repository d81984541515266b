"""A client's hold on its server, on one event loop: what both clients are made of.

Loaded at first use: with it come aiohttp and numpy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from embedwire._clients.caching import Asked, Caching
from embedwire._clients.fitting import Fitting, fit_or_hand_on, hand_on_from
from embedwire._clients.mailbox import drained
from embedwire._clients.origin import Unused, leave, origins_of
from embedwire._clients.progress import Watch
from embedwire._clients.readiness import until_ready
from embedwire._events.audience import Ear
from embedwire._events.heard import Heard
from embedwire._http.records import Matrix
from embedwire._queue.records import Call, Future, Part
from embedwire._queue.usage import Ledger
from embedwire._servers.known import ServerInfo, servers_info
from embedwire._settings.options import KINDS, Kind
from embedwire._settings.settings import CLOSED, Settings
from embedwire.exceptions import RequestError, UsageError

OTHER_LOOP = (
    "this EmbeddingClient belongs to another event loop that is still open; use one client per loop, "
    "or SharedEmbeddingClient, which works from any loop and thread"
)


class Engine:
    """Submits calls to the server of some settings.

    Its state is the client's calls, what fits their long texts or looks into the cache, and whether it is closed.

    Args:
        settings: The client's arguments.
        ledger: Adds up what it has embedded.
        ears: Of its hooks.
    """

    def __init__(self, settings: Settings, ledger: Ledger, ears: tuple[Ear, ...] = ()) -> None:
        self._settings = settings
        self._ledger = ledger
        self._ears = ears
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._origins = origins_of(self._loop)
        self._group = self._origins.acquire(settings, ears)
        self._pools = {kind: self._group.pool(settings.form_of(kind), settings.form) for kind in KINDS}
        self._calls: dict[Future, Call] = {}
        self._fittings: set[asyncio.Task[Matrix]] = set()
        self._lookups: set[asyncio.Task[Matrix]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._released = False
        self._caching: Caching | None = None
        if settings.cache is not None:
            self._caching = Caching(settings, self._pools, self._embed, lambda: self._released)

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
        raise UsageError(OTHER_LOOP)

    def submit(
        self,
        texts: list[str],
        kind: Kind,
        future: Future,
        *,
        begun: float,
        offset: int | None = None,
        ledger: Ledger | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Queues a call; ``future`` gets its matrix, or its error. What a cache has is not sent.

        Args:
            texts: Checked texts with their prompts, at least one.
            kind: Queries go first.
            future: Cancelling it withdraws the call.
            begun: When the caller called, by `time.monotonic`: the deadline counts from then.
            offset: Index of the first text in the caller's list, if they are a part of one.
            ledger: Adds up what this call takes; None: the client's.
            watch: Looks how far it is.

        Raises:
            Overloaded: The queue is full.
        """
        part = None if offset is None else Part(range(offset, offset + len(texts)))
        served = self._pools[kind].members[0].route.model.served
        heard = _heard_of(self._settings, self._ears, texts, kind, begun, served) if self._ears else None
        asked = Asked(begun, part, ledger or self._ledger, watch=watch, heard=heard)
        if self._caching is None:
            self._send(texts, kind, future, asked)
        else:
            task = self._loop.create_task(self._caching.run(texts, kind, asked))
            hand_on_from(task, future, self._lookups, heard)

    async def _embed(self, texts: list[str], kind: Kind, asked: Asked) -> Matrix:
        """The vectors of a call, whatever a cache has."""
        if self._released:
            raise UsageError(CLOSED)
        future: asyncio.Future[Matrix] = self._loop.create_future()
        self._send(texts, kind, future, asked)
        return await future

    def _send(self, texts: list[str], kind: Kind, future: Future, asked: Asked) -> None:
        """Queues a call. Too long texts are fitted, where the user wants it."""
        if self._settings.too_long == "raise":
            self._submit(texts, kind, future, self._settings.max_queued, asked)
            return
        whole: asyncio.Future[Matrix] = self._loop.create_future()
        self._submit(texts, kind, whole, self._settings.max_queued, asked)

        def run(error: RequestError) -> Coroutine[Any, Any, Matrix]:
            return self._fitting(texts, kind, asked).run(error)

        fit_or_hand_on(whole, future, run, self._fittings, None if self._caching else asked.heard)

    def _fitting(self, texts: list[str], kind: Kind, asked: Asked) -> Fitting:
        settings = self._settings

        async def embed(text: str, index: int) -> Matrix:
            if self._released:
                raise UsageError(CLOSED)
            future: asyncio.Future[Matrix] = self._loop.create_future()
            part = replace(asked, part=Part((index,)), watch=None)
            self._submit([text], kind, future, sys.maxsize, part)  # its text was let in before
            vector: Matrix = (await future)[0]
            return vector

        return Fitting(
            settings.too_long,
            embed,
            texts=texts,
            part=asked.part,
            prompt=settings.prompts.query if kind == "query" else settings.prompts.document,
            lengths=self._pools[kind].members[0].route.sizes.sizing.lengths,
            ledger=asked.ledger,
            server=settings.fleet.names,
            tell=self._group.audience.tell,
        )

    def _submit(self, texts: list[str], kind: Kind, future: Future, max_queued: int, asked: Asked) -> None:
        settings, loop, dispatcher = self._settings, self._loop, self._group.dispatcher
        deadline = None
        if settings.deadline is not None:
            deadline = loop.time() + settings.deadline - (time.monotonic() - asked.begun)
        call = dispatcher.submit(
            self._pools[kind],
            texts,
            kind,
            future,
            deadline=deadline,
            max_queued=max_queued,
            part=asked.part,
            normalize=settings.normalize,
            ledger=asked.ledger,
            heard=asked.heard,
        )
        self._calls[future] = call
        asked.made(call)
        # Which does not hold the call: only the garbage collector would free the two.
        future.add_done_callback(self._done)

    def _done(self, future: Future) -> None:
        """A call is over, from any thread; one whose caller is gone is withdrawn."""
        call = self._calls.pop(future)
        if future.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the call with it
                self._loop.call_soon_threadsafe(self._group.dispatcher.cancel, call)

    async def wait_ready(self, timeout: float, *, embeds: bool = True) -> ServerInfo:
        """Waits until a server answers, and asks what it is; where there are several, until they were compared.

        Args:
            timeout: Seconds, at most.
            embeds: Whether words are embedded; else it is only asked for its model, where none is named.

        Raises:
            RequestError: It was not ready within ``timeout`` seconds, or will never be.
        """
        settings, group = self._settings, self._group

        asked = Asked(time.monotonic(), None, self._ledger)
        embed = partial(self._embed, ["ready"], asked=asked) if embeds else None
        try:
            await until_ready(settings, group, self._pools["document"], timeout, embed)
        except asyncio.CancelledError:
            if self._released:  # the client was closed meanwhile, which is not this task's cancellation
                raise UsageError(CLOSED) from None
            raise
        return servers_info(group.fleet.targets, group.terms, settings.form, settings.query_form)

    async def close(self) -> None:
        """Ends this client's calls and lets go of the server; once begun, whoever cancels the wait for it."""
        if not self._released:
            self._released = True
            unused = self._origins.release(self._group, self._ears)
            leave(self._loop)
            self._closing = asyncio.create_task(self._end(unused))
        if self._closing is not None:
            await asyncio.shield(self._closing)
        await drained(self._ears)

    async def _end(self, unused: Unused) -> None:
        try:
            await self._group.dispatcher.fail(list(self._calls.values()), UsageError(CLOSED))
            for task in self._lookups:
                task.cancel()
            # Each fitting ends as its parts did.
            await asyncio.gather(*self._fittings, *self._lookups, return_exceptions=True)
            if self._caching is not None:
                await self._caching.close()
            await unused.close()
        finally:
            unused.close_now()
            unused.stop()

    def close_now(self) -> None:
        """Lets go of the server without waiting: the client was dropped, or its loop is gone. From any thread."""
        if self._released or self._pid != os.getpid():
            return  # what a fork inherited is the parent's: it is never closed here
        self._released = True
        if self._loop.is_closed():
            self._let_go()
        else:
            with contextlib.suppress(RuntimeError):  # it was closed in this moment
                self._loop.call_soon_threadsafe(self._let_go)

    def _let_go(self) -> None:
        self._origins.release(self._group, self._ears).close_now()
        leave(self._loop)
        if self._caching is not None:
            self._caching.leave()


def _heard_of(
    settings: Settings, ears: tuple[Ear, ...], texts: list[str], kind: Kind, begun: float, model: str | None
) -> Heard:
    """What tells hooks of a call, which embeds with this model where the user named none."""
    form = settings.form_of(kind)
    return Heard(
        ears,
        begun=begun,
        server=settings.fleet.names,
        model=form.model or model,
        kind=kind,
        texts=texts,
        dimensions=form.dimensions,
        parts=settings.too_long != "raise" or settings.cache is not None,
    )
