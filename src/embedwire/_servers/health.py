"""How one of several servers has done of late, beside the others, as Envoy finds its outliers. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

LAST = 10  # batches that are looked at
MOST_FAILED = 5  # of them
TIMES = 2  # as many as the best of the others has
FRESH = 10.0  # seconds for which it is believed how long a server takes


class Health:
    """How one server has done of late. Written by `_queue`.

    Its state is how its last batches ended, and how long its queries take.
    """

    __slots__ = ("_ends", "_seconds", "_seen")

    def __init__(self) -> None:
        self._ends: deque[bool] = deque(maxlen=LAST)
        self._seconds: float | None = None
        self._seen = 0.0

    @property
    def failed(self) -> int:
        """How many of the last batches failed for the server's reasons."""
        return len(self._ends) - sum(self._ends)

    def ended(self, *, well: bool) -> None:
        """A batch ended."""
        self._ends.append(well)

    @property
    def seconds(self) -> float | None:
        """That a query takes, as far as is known."""
        return self._seconds

    def is_old(self, now: float) -> bool:
        """Whether that was some time ago."""
        return self._seconds is not None and now - self._seen >= FRESH

    def begin_anew(self) -> None:
        """It was away: what was before says nothing."""
        self._ends.clear()
        self._seconds = None

    def answered(self, seconds: float, now: float) -> None:
        """A query was answered after so many seconds."""
        known = self._seconds is not None and now - self._seen < FRESH
        self._seconds = 0.7 * (self._seconds or 0) + 0.3 * seconds if known else seconds
        self._seen = now

    def expected(self, now: float, *, asked: bool) -> float:
        """Seconds that a query is expected to take; 0 where it should be tried.

        Args:
            now: The time.
            asked: Whether one is under way there, so that no query need be sent to find out.
        """
        if self._seconds is not None and now - self._seen < FRESH:
            return self._seconds
        if not asked:
            return 0.0
        return float("inf") if self._seconds is None else self._seconds


def is_outlier(health: Health, others: Iterable[Health]) -> bool:
    """Whether a server fails most of the time, and another one does not."""
    failed = health.failed
    return failed >= MOST_FAILED and any(TIMES * other.failed <= failed for other in others)


def is_slow(health: Health, others: Iterable[Health]) -> bool:
    """Whether a server takes much longer for a query than another one, as far as is known."""
    seconds = health.seconds
    known = [other.seconds for other in others if other.seconds is not None]
    return seconds is not None and any(TIMES * other < seconds for other in known)
