"""A cache as this process has it: one for all clients with the same file, which is read and written in threads.

What was found, or what came of a text, is the same whether it is written yet or not. Nothing here ever fails a call: a
file that cannot be used is told of once, and left alone for a while.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from embedwire._clients import fork
from embedwire._clients.cache_connection import Connection, end
from embedwire._clients.cache_file import EXTRA, Generation
from embedwire._http.native import new_lock, start_thread
from embedwire._http.records import Matrix
from embedwire._http.threads import Worker
from embedwire._servers.facts import same_model
from embedwire._settings.options import VectorCache

T = TypeVar("T")

READ, WRITE = 1.0, 5.0  # seconds for which others are waited for that lock it
SLICE = 1000  # texts that are looked for at once, so that a query need not wait for a million documents
SLICE_BYTES = 2**21  # that are written at once
BEHIND = 2**26  # bytes that may wait to be written, before those who bring more wait, too
USES = 1000  # uses that are written down together
LINGER = 1.0  # seconds for which a file stays open that no client has any more
MOST_WIDTH = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a cache has of some texts.

    Attributes:
        rows: Of those that it has.
        missing: Of the others.
        matrix: With a row for each text, of which only these are filled; None where it has none.
        generation: Of which model they are.
    """

    rows: list[int]
    missing: list[int]
    matrix: Matrix | None
    generation: Generation | None


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    place: bytes
    generation: Generation
    vectors: dict[bytes, bytes]
    size: int


def continues(generation: Generation, named: str | None, width: int) -> bool:
    """Whether vectors under a name, or under none, may be of the model that a place's vectors are of so far."""
    told = not named or (bool(generation.named) and same_model(generation.named, named))
    return told and width == generation.width


class Store:
    """One cache. Its state is its connections, who uses it, and what is not written yet."""

    def __init__(self, cache: VectorCache) -> None:
        self._reader, self._writer = Worker(), Worker()
        self._reads, self._writes = Connection(cache, READ), Connection(cache, WRITE)
        self._at_once = min(SLICE_BYTES, cache.max_bytes // 16)
        self._kept: deque[_Kept] = deque()
        self._vectors: dict[bytes, bytes] = {}  # the same, by key
        self._models: dict[bytes, Generation] = {}  # the same, by place
        self._used: deque[list[bytes]] = deque()
        self._uses = 0  # since they were written last
        self._come = self._gone = 0  # bytes to be written, and those that are
        self.users = 0
        self._lingers = False  # open a moment longer

    @property
    def connections(self) -> tuple[Connection, Connection]:
        """To the file."""
        return self._reads, self._writes

    async def look(self, place: bytes, texts: list[str], named: str | None) -> Found:
        """What there is of some texts.

        Args:
            place: All that decides a vector beside the text.
            texts: With their prompts.
            named: The name that the server's replies give by now; "" or None where nothing is known of that.
        """
        rows: list[int] = []
        missing: list[int] = []
        matrix: Matrix | None = None
        generation: Generation | None = None
        for start in range(0, len(texts), SLICE):
            some = texts[start : start + SLICE]
            if start == 0:
                generation, found, vectors = await self._reader.run(self._begin, place, named, some)
            elif generation is not None:
                found, vectors = await self._reader.run(self._find, place, generation, some)
            else:
                break
            there = {*found}
            missing += (start + row for row in range(len(some)) if row not in there)
            if found and matrix is None:
                matrix = np.empty((len(texts), vectors.shape[1]), dtype=np.float32)
            if found and matrix is not None:
                rows += (start + row for row in found)
                matrix[rows[-len(found) :]] = vectors
        return Found(rows, missing, matrix, generation)

    async def keep(self, place: bytes, named: str | None, texts: list[str], matrix: Matrix) -> None:
        """Puts vectors in; they are found from now on, and written soon.

        Args:
            place: All that decides a vector beside the text.
            named: The name that the replies gave.
            texts: With their prompts.
            matrix: Their vectors.
        """
        width = matrix.shape[1]
        generation = await self._reader.run(self._generation, place, None)
        if generation is None or not continues(generation, named, width):
            generation = Generation(named or "", width)
        rows = max(1, min(SLICE, self._at_once // (4 * width + EXTRA)))
        for start in range(0, len(texts), rows):
            some = texts[start : start + rows]
            await self._reader.run(self._take, place, generation, some, matrix[start : start + rows])
            self._writer.do(self._write)
            if self._come - self._gone > BEHIND:
                await self._writer.run(self._write)

    async def close(self) -> None:
        """One client has left: what it brought is written, and the file let go of where nobody has it any more."""
        self.users -= 1
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._writer.run(self.finish, not self.users), WRITE)

    def leave(self) -> None:
        """The same without waiting, from any thread."""
        self.users -= 1
        if not self.users and not self._lingers:
            self._lingers = True
            with contextlib.suppress(RuntimeError):  # the interpreter is ending
                start_thread(self._linger, "embedwire-cache")

    def finish(self, close: bool = True) -> None:
        """Writes what is left, and lets go of the file; it is opened again where it is needed."""
        self._write()
        for connection in self.connections if close else ():
            connection.close()

    def _linger(self) -> None:
        (pause := new_lock()).acquire()
        pause.acquire(timeout=LINGER)  # `sleep` may be a greenlet's
        self._lingers = False
        if not self.users:
            self._writer.do(self.finish)

    # In the thread that reads

    def _generation(self, place: bytes, named: str | None) -> Generation | None:
        """Of which model the vectors of a place are; None where that is another one than the server's by now."""
        generation = self._models.get(place) or self._reads.use(lambda file: file.generation(place))
        if generation is None or not 0 < generation.width <= MOST_WIDTH:
            return None
        return generation if continues(generation, named, generation.width) else None

    def _begin(
        self, place: bytes, named: str | None, texts: list[str]
    ) -> tuple[Generation | None, list[int], Matrix]:
        generation = self._generation(place, named)
        if generation is None:
            return None, [], np.empty((0, 0), dtype=np.float32)
        return generation, *self._find(place, generation, texts)

    def _find(self, place: bytes, generation: Generation, texts: list[str]) -> tuple[list[int], Matrix]:
        """The rows of the texts that there are, and their vectors."""
        keys = list(_keys(place, generation, texts))
        there = {key: vector for key in keys if (vector := self._vectors.get(key)) is not None}
        rest = [key for key in dict.fromkeys(keys) if key not in there]
        if rest:
            there |= self._reads.use(lambda file: file.find(rest)) or {}
        rows = [row for row, key in enumerate(keys) if _fits(there.get(key), generation)]
        vectors = b"".join(there[keys[row]] for row in rows)
        matrix = np.frombuffer(vectors, dtype="<f4").reshape(len(rows), generation.width)
        good = np.isfinite(matrix).all(axis=1)
        if not good.all():
            rows, matrix = [row for row, fine in zip(rows, good.tolist(), strict=True) if fine], matrix[good]
        fills = self._reads.use(lambda file: file.fills)
        if rows and fills:
            self._used.append([keys[row] for row in rows])
            self._uses += len(rows)
        if self._uses >= USES:
            self._uses = 0
            self._writer.do(self._write)
        return rows, matrix

    def _take(self, place: bytes, generation: Generation, texts: list[str], matrix: Matrix) -> None:
        plain = np.ascontiguousarray(matrix, dtype="<f4")
        vectors = {
            key: row.tobytes() for key, row in zip(_keys(place, generation, texts), plain, strict=True)
        }
        kept = _Kept(place, generation, vectors, plain.nbytes + EXTRA * len(vectors))
        self._vectors.update(vectors)
        self._models[place] = generation
        self._kept.append(kept)
        self._come += kept.size

    # In the thread that writes

    def _write(self) -> None:
        """Writes what waits; whether it went well or not, it waits no more."""
        while self._kept or self._used:
            used = [key for keys in _taken(self._used, len, USES) for key in keys]
            some = list(_taken(self._kept, lambda one: one.size, self._at_once))
            models = {one.place: one.generation for one in some}
            vectors = {key: vector for one in some for key, vector in one.vectors.items()}
            self._writes.use(lambda file: file.write(models, vectors, used))  # noqa: B023 - called at once
            for key, vector in vectors.items():
                if self._vectors.get(key) is vector:
                    del self._vectors[key]
            for place, generation in models.items():
                if self._models.get(place) is generation:
                    del self._models[place]
            self._gone += sum(one.size for one in some)


def place_of(*parts: str | int | bool | None) -> bytes:
    """All that decides a vector beside its text, as a hash."""
    return hashlib.blake2b(json.dumps(["embedwire", *parts]).encode(), digest_size=32).digest()


def _keys(place: bytes, generation: Generation, texts: Iterable[str]) -> Iterable[bytes]:
    """The key of each text: a hash, so that no text stands in the file."""
    begun = hashlib.blake2b(place + place_of(generation.named, generation.width), digest_size=32)
    for text in texts:
        key = begun.copy()
        key.update(text.encode())
        yield key.digest()


def _fits(vector: object, generation: Generation) -> bool:
    return isinstance(vector, bytes) and len(vector) == 4 * generation.width


def _taken(waiting: deque[T], size: Callable[[T], int], most: int) -> Iterable[T]:
    """What waited longest, up to so much of it, and at least one."""
    taken = 0
    with contextlib.suppress(IndexError):  # it is empty
        while taken < most:
            one = waiting.popleft()
            taken += size(one)
            yield one


_stores: dict[VectorCache, Store] = {}  # of this process
_held: list[Connection] = []  # over a fork


def store_of(cache: VectorCache) -> Store:
    """The store of a cache, for one more client."""
    if not _stores and (util := sys.modules.get("multiprocessing.util")) is not None:
        util.Finalize(None, _end, exitpriority=0)  # its processes end without `atexit`
    store = _stores.get(cache) or _stores.setdefault(cache, Store(cache))
    store.users += 1
    return store


def _hold() -> None:
    """Before a fork: no connection is open while it happens, nor in use."""
    for store in list(_stores.values()):
        for connection in store.connections:
            if connection.lock.acquire(timeout=2 * WRITE):
                connection.close_now()
                _held.append(connection)


def _go_on() -> None:
    while _held:
        _held.pop().lock.release()


def _start_anew_in_child() -> None:
    for store in _stores.values():
        for connection in store.connections:
            connection.inherit()
    fork.leak(dict(_stores))
    _stores.clear()
    _held.clear()


def _end() -> None:
    """The process ends."""
    for store in list(_stores.values()):
        store.finish()
    end()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_go_on, after_in_child=_start_anew_in_child)
