"""The file of a cache: vectors by key, and of which model they are, in SQLite. All of it blocks."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from embedwire._settings.options import VectorCache

APPLICATION, VERSION = 0x656D6277, 1  # by which the file is known as a cache, and as one of this form
MANY = 500  # keys in one question
PAGE, LARGE_PAGE = 4096, 16384  # of the file, where it may not be, or be, large
LARGE = 2**24
WAL = 2**22  # bytes that wait to be moved into the file
EXTRA = 200  # bytes that a vector takes beside its numbers
MOST_DELETED = 4096  # vectors that are deleted at once beyond those that come

_TABLES = (
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY, vector BLOB NOT NULL)",
    # Apart from the vectors, so that a use is written down without them.
    "CREATE TABLE entries (key BLOB PRIMARY KEY, id INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX entries_by_use ON entries (used)",
    "CREATE TABLE models (place BLOB PRIMARY KEY, named TEXT NOT NULL, width INTEGER NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)


@dataclass(frozen=True, slots=True)
class Generation:
    """Of which model the vectors of a place in a cache are, as far as replies told.

    Attributes:
        named: The name that replies gave; "" where they gave none.
        width: Numbers in a vector.
    """

    named: str
    width: int


class NoCache(Exception):
    """The file is something else than a cache of this form."""


class CacheFile:
    """One connection to a cache's file. It has no state but that.

    Args:
        cache: The file, and how large it may be.
        busy: Seconds for which others are waited for that lock it.

    Raises:
        NoCache: The file is something else.
        sqlite3.Error: It cannot be read or written.
    """

    def __init__(self, cache: VectorCache, busy: float) -> None:
        most = cache.max_bytes
        page = PAGE if most < LARGE else LARGE_PAGE
        wal = min(WAL, most // 8)
        self._most = most
        self._sql = sqlite3.connect(
            os.fspath(cache.path), timeout=busy, isolation_level=None, check_same_thread=False
        )
        try:
            self._begin(page, busy)
            self._page = self._number("PRAGMA page_size")
            self._sql.execute("PRAGMA synchronous = NORMAL")
            self._sql.execute(f"PRAGMA wal_autocheckpoint = {max(8, wal // self._page)}")
            self._sql.execute(f"PRAGMA journal_size_limit = {wal}")
        except BaseException:
            self._sql.close()
            raise

    def close(self) -> None:
        """Lets go of the file."""
        self._sql.close()

    def generation(self, place: bytes) -> Generation | None:
        """Of which model the vectors of a place are; None where there are none."""
        row = self._sql.execute("SELECT named, width FROM models WHERE place = ?", (place,)).fetchone()
        return None if row is None else Generation(*row)

    def find(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The vectors that there are, by their keys."""
        found: dict[bytes, bytes] = {}
        for some in _slices(keys):
            question = (
                "SELECT key, vector FROM entries JOIN vectors USING (id) WHERE key IN "  # noqa: S608 - question marks
                + _marks(some)
            )
            found.update(self._sql.execute(question, some))
        return found

    @property
    def fills(self) -> bool:
        """Whether it is half full, so that soon it matters what was used."""
        return self._used() > self._limit // 2

    def write(
        self,
        models: Mapping[bytes, Generation],
        vectors: Mapping[bytes, bytes],
        used: Collection[bytes],
    ) -> None:
        """Puts vectors in, in the place of what was not used for longest where the file is full.

        Args:
            models: By place, of which model its vectors are from now on.
            vectors: By key.
            used: Keys of those that were taken.
        """
        now = time.time_ns() // 1000
        with self._transaction():
            self._sql.executemany("UPDATE entries SET used = ? WHERE key = ?", ((now, key) for key in used))
            self._sql.executemany(
                "INSERT OR REPLACE INTO models VALUES (?, ?, ?)",
                ((place, one.named, one.width) for place, one in models.items()),
            )
            self._put(vectors, now)
            self._delete_beyond()
        # What an earlier limit allowed, or many vectors at once took, is given back, a piece at a time.
        if self._number("PRAGMA page_count") * self._page > self._most:
            self._sql.executescript("PRAGMA incremental_vacuum(256)")  # execute would give back one page

    def _put(self, vectors: Mapping[bytes, bytes], now: int) -> None:
        known = self._ids(list(vectors))
        new = len(vectors) - len(known)
        last = self._number("SELECT ifnull(max(id), 0) FROM vectors")
        # Vectors of one width go exactly where others were, so that a full file has no holes.
        room = self._room_for(new, sum(map(len, vectors.values())))
        free = [] if room else self._delete_oldest(new)
        gone = set(free)
        ids = {key: number for key, number in known.items() if number not in gone}  # no two share one
        homeless = [key for key in vectors if key not in ids]
        free += range(last + 1, last + 1 + len(homeless) - len(free))
        ids |= zip(homeless, free, strict=True)
        self._sql.executemany(
            "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
            ((ids[key], vector) for key, vector in vectors.items()),
        )
        self._sql.executemany(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", ((key, ids[key], now) for key in vectors)
        )

    def _ids(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Where the vectors of keys are, of those that there are."""
        ids: dict[bytes, int] = {}
        for some in _slices(keys):
            question = f"SELECT key, id FROM entries WHERE key IN {_marks(some)}"  # noqa: S608 - question marks
            ids.update(self._sql.execute(question, some))
        return ids

    def _room_for(self, count: int, length: int) -> bool:
        return self._used() + length + EXTRA * count <= self._limit

    def _delete_beyond(self) -> None:
        """Deletes what is still too much, or a part of it."""
        deleted = 0
        while self._used() > self._limit and deleted < MOST_DELETED and self._delete_oldest(16):
            deleted += 16

    def _delete_oldest(self, count: int) -> list[int]:
        """Deletes what was not used for longest; the ids that are free now."""
        rows = self._sql.execute("SELECT key, id FROM entries ORDER BY used LIMIT ?", (count,)).fetchall()
        self._sql.executemany("DELETE FROM entries WHERE key = ?", ((key,) for key, _ in rows))
        self._sql.executemany("DELETE FROM vectors WHERE id = ?", ((number,) for _, number in rows))
        return [number for _, number in rows]

    @property
    def _limit(self) -> int:
        """Bytes that may be used, so that there is room for one more transaction."""
        return self._most - self._most // 8

    def _used(self) -> int:
        pages = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
        return pages * self._page

    def _number(self, question: str) -> int:
        number: int = self._sql.execute(question).fetchone()[0]
        return number

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._sql.execute("COMMIT")
        except BaseException:
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
            raise

    def _begin(self, page: int, busy: float) -> None:
        """Makes a new file a cache; one that is something else is left as it is."""
        if self._is_new():
            self._sql.execute(f"PRAGMA page_size = {page}")
            self._sql.execute("PRAGMA auto_vacuum = INCREMENTAL")
        until = time.monotonic() + busy
        while self._sql.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                self._sql.execute("PRAGMA journal_mode = WAL")
                break  # or where it stands, there is none
            except (
                sqlite3.OperationalError
            ):  # another process makes the file at this moment; SQLite does not wait
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
        if self._is_new():
            with self._transaction():
                for command in _TABLES if self._is_new() else ():
                    self._sql.execute(command)

    def _is_new(self) -> bool:
        """Whether the file is empty.

        Raises:
            NoCache: It is something else than a cache.
        """
        application, version = self._number("PRAGMA application_id"), self._number("PRAGMA user_version")
        if (application, version) == (APPLICATION, VERSION):
            return False
        if application == version == 0 and not self._number("SELECT count(*) FROM sqlite_master"):
            return True
        if application == APPLICATION:
            raise NoCache(f"it is a cache of another version of embedwire ({version}, not {VERSION})")
        raise NoCache("it is another program's database")


def _slices(keys: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    return (keys[at : at + MANY] for at in range(0, len(keys), MANY))


def _marks(keys: Sequence[bytes]) -> str:
    return f"({','.join('?' * len(keys))})"
