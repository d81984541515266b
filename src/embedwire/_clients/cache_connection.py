"""A connection to a cache's file that fails nobody: what goes wrong is told once, and the file is left alone then."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from embedwire._clients.cache_file import CacheFile
from embedwire._http.native import new_lock
from embedwire._settings.options import VectorCache

logger = logging.getLogger("embedwire")
T = TypeVar("T")

REST = 30.0  # seconds for which a file that failed is left alone


class Connection:
    """The file, opened when it is needed. Its state is the open file, and until when it is left alone.

    Args:
        cache: The file.
        busy: Seconds for which others are waited for that lock it.
    """

    def __init__(self, cache: VectorCache, busy: float) -> None:
        self._cache, self._busy = cache, busy
        self.lock = new_lock()  # held while it is used, and over a fork
        self._file: CacheFile | None = None
        self._rests_until = 0.0

    def use(self, work: Callable[[CacheFile], T]) -> T | None:
        """What comes of some work with the file; None where it failed."""
        if time.monotonic() < self._rests_until or self._cache.path in _inherited or _ended:
            return None
        with self.lock:
            try:
                if self._file is None:
                    self._file = CacheFile(self._cache, self._busy)
                return work(self._file)
            except Exception as error:  # whatever it is, the call goes on
                self._rests_until = time.monotonic() + REST
                self.close_now()
                self._tell(error)
                return None

    def close(self) -> None:
        """Lets go of the file."""
        with self.lock:
            self.close_now()

    def close_now(self) -> None:
        """The same for who has the lock."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):
                file.close()

    def inherit(self) -> None:
        """In a forked child: where the parent had it open, this process cannot, as SQLite would take its locks."""
        if self._file is not None:
            _inherited.add(self._cache.path)

    def _tell(self, error: Exception) -> None:
        if self._cache.path not in _told:
            _told.add(self._cache.path)
            logger.warning(
                "the cache %s cannot be used, and calls go on without it: %s", self._cache.path, error
            )


def end() -> None:
    """The process ends: no file is opened any more."""
    _ended.append(True)


_inherited: set[object] = set()  # paths of files that were open when this process was forked
_told: set[object] = set()  # paths of files that could not be used
_ended: list[bool] = []  # true once the process ends
