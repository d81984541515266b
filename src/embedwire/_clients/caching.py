"""A call of a client with a cache: what is there is taken from it, the rest is sent, and what comes is put in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from embedwire._clients.cache import Found, continues, place_of, store_of
from embedwire._clients.progress import Watch
from embedwire._clients.served import Served
from embedwire._clients.shortening import off_loop
from embedwire._events.heard import Heard
from embedwire._http.records import Matrix
from embedwire._queue.pool import Pool
from embedwire._queue.records import Call, Part
from embedwire._queue.usage import Ledger
from embedwire._servers.facts import same_model
from embedwire._settings.options import Kind
from embedwire._settings.settings import CLOSED, Settings
from embedwire.exceptions import Completed, RequestError, UsageError

LEAST = 0.1  # seconds for which vectors are kept in any case, also past the deadline


@dataclass(frozen=True, slots=True)
class Asked:
    """How a caller asked.

    Attributes:
        begun: When, by `time.monotonic`.
        part: Where the texts stand in his list; None: they are all of it.
        ledger: Where it is counted.
        calls: Gets the calls that are made of it.
        watch: Looks how far it is.
        heard: Tells hooks of it; None where there are none.
    """

    begun: float
    part: Part | None
    ledger: Ledger
    calls: list[Call] | None = None
    watch: Watch | None = None
    heard: Heard | None = None

    def made(self, call: Call) -> None:
        """A call was made of it."""
        if self.calls is not None:
            self.calls.append(call)
        if self.watch is not None:
            self.watch.calls.append(call)


class Caching:
    """The calls of one client with a cache. It has no state of its own.

    A hit counts only beside vectors of its own model: where the replies to the rest of a call name another one, or have
    another width, the whole call is sent.

    Args:
        settings: Of the client.
        pools: Its servers.
        send: Has texts embedded, whatever the cache has.
        is_closed: Whether the client was closed.
    """

    def __init__(
        self,
        settings: Settings,
        pools: Mapping[Kind, Pool],
        send: Callable[[list[str], Kind, Asked], Awaitable[Matrix]],
        is_closed: Callable[[], bool],
    ) -> None:
        assert settings.cache is not None  # noqa: S101 - there is one
        self._settings = settings
        self._pools = pools
        self._send = send
        self._is_closed = is_closed
        self._store = store_of(settings.cache)
        self._served = Served(settings, pools)

    async def run(self, texts: list[str], kind: Kind, asked: Asked) -> Matrix:
        """The vectors of a call.

        Args:
            texts: With their prompts, at least one.
            kind: Queries or documents.
            asked: How the caller asked.

        Raises:
            RequestError: A text got no vector, or the server did not tell its model.
            Overloaded: The queue is full.
            UsageError: The client was closed meanwhile.
        """
        try:
            matrix = await self._run(texts, kind, asked)
        except asyncio.CancelledError:
            if not self._is_closed():
                raise
        if self._is_closed():
            raise UsageError(CLOSED)
        return matrix

    async def _run(self, texts: list[str], kind: Kind, asked: Asked) -> Matrix:
        pieces = asked.part is not None and asked.part.count is None
        model = await self._served.model(kind, asked.begun, pieces=pieces)
        if model is None:
            return await self._send(texts, kind, asked)
        left = self._served.left(asked.begun)
        look = self._store.look(self._place(kind, model), texts, self._served.named(kind))
        try:
            found = await asyncio.wait_for(look, left and left / 2)
        except asyncio.TimeoutError:  # a locked file, or a slow disk: the rest is for the server
            return await self._send(texts, kind, asked)
        if found.matrix is None:
            return await self._fresh(texts, kind, replace(asked, calls=[]), model)
        if asked.watch is not None:
            asked.watch.cached = len(found.rows)
        if found.missing:
            matrix = await self._completed(found, texts, kind, replace(asked, calls=[]), model)
            if matrix is None:
                if asked.watch is not None:
                    asked.watch.begin_anew()
                return await self._fresh(texts, kind, replace(asked, calls=[]), model)
        asked.ledger.cached += len(found.rows)
        return found.matrix

    async def close(self) -> None:
        """Waits until what came is written."""
        await self._store.close()

    def leave(self) -> None:
        """Lets go of the cache without waiting, from any thread."""
        self._store.leave()

    async def _completed(
        self, found: Found, texts: list[str], kind: Kind, asked: Asked, model: str
    ) -> Matrix | None:
        """The vectors of a call of which the cache has some; None where these are of another model by now."""
        missing, part = found.missing, asked.part or Part(range(len(texts)), len(texts))
        few, indexes = await off_loop(
            len(missing), lambda: ([texts[row] for row in missing], [part.indexes[row] for row in missing])
        )
        rest = replace(asked, part=Part(indexes, part.count))
        try:
            vectors = await self._fresh(few, kind, rest, model)
        except RequestError as error:
            done, failures = await _outcome(error, len(missing))
            width = done.vectors.shape[1] if done is not None and done.indexes else None
            if self._belongs(found, kind, asked, model, width):
                asked.ledger.cached += len(found.rows)
                error.set_outcome(lambda: _with_hits(done, found, part), lambda: failures)
            raise
        if not self._belongs(found, kind, asked, model, vectors.shape[1]):
            return None
        matrix = found.matrix
        assert matrix is not None  # noqa: S101 - there are hits
        await off_loop(len(missing), lambda: matrix.__setitem__(missing, vectors))
        return matrix

    async def _fresh(self, texts: list[str], kind: Kind, asked: Asked, model: str) -> Matrix:
        """The vectors of texts that are sent; those that came are kept, also where others failed."""
        try:
            vectors = await self._send(texts, kind, asked)
        except RequestError as error:
            done, _ = await _outcome(error, len(texts))
            if done is not None and done.indexes:
                indexes = range(len(texts)) if asked.part is None else asked.part.indexes
                rows = {index: row for row, index in enumerate(indexes)}
                some = [texts[rows[index]] for index in done.indexes]
                await self._keep(some, done.vectors, kind, asked, model)
            raise
        await self._keep(texts, vectors, kind, asked, model)
        return vectors

    async def _keep(self, texts: list[str], vectors: Matrix, kind: Kind, asked: Asked, model: str) -> None:
        """Puts vectors into the cache under the model that they are of; not where there may have been two."""
        told, left = _told(asked.calls or ()), self._served.left(asked.begun)
        if told is None:
            return
        if self._settings.form.model is None:
            if self._pools[kind].several:
                if await self._served.asked(kind, left) != model:
                    return
            else:
                model = told[1] or model
        keep = self._store.keep(self._place(kind, model), told[0], texts, vectors)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(keep, None if left is None else max(left, LEAST))

    def _belongs(self, found: Found, kind: Kind, asked: Asked, model: str, width: int | None) -> bool:
        """Whether what was found is of the model that the rest of its call is of."""
        told, generation = _told(asked.calls or ()), found.generation
        if told is None or generation is None:
            return False
        named = told[0] or self._served.named(kind)
        one_model = self._pools[kind].several or same_model(told[1], model)
        return one_model and continues(generation, named, width or generation.width)

    def _place(self, kind: Kind, model: str) -> bytes:
        """All that decides a vector beside its text."""
        settings = self._settings
        prompt = settings.prompts.query if kind == "query" else settings.prompts.document
        form = settings.form_of(kind)
        return place_of(
            model, form.dimensions, settings.normalize, kind, prompt, form.extra, settings.too_long
        )


async def _outcome(error: RequestError, texts: int) -> tuple[Completed | None, dict[int, RequestError]]:
    """What a call of so many texts had done before it failed, and what failed."""
    return await off_loop(texts, lambda: (error.completed, error.failures))


def _told(calls: Sequence[Call]) -> tuple[str | None, str | None] | None:
    """The model that replies named, and the one that requests did; None where there were two."""
    named = asked = None
    for call in calls:
        if not (same_model(named, call.models[0]) and same_model(asked, call.models[1])):
            return None
        named, asked = named or call.models[0], asked or call.models[1]
    return named, asked


def _with_hits(done: Completed | None, found: Found, part: Part) -> Completed:
    """What a call had done, with what was found in the cache."""
    assert found.matrix is not None  # noqa: S101 - there are hits
    hits = [part.indexes[row] for row in found.rows]
    fresh = [] if done is None else done.indexes
    indexes = sorted([*hits, *fresh])
    matrix = np.empty((len(indexes), found.matrix.shape[1]), dtype=np.float32)
    matrix[np.searchsorted(indexes, hits)] = found.matrix[found.rows]
    if fresh and done is not None:
        matrix[np.searchsorted(indexes, fresh)] = done.vectors
    return Completed(indexes, matrix)
