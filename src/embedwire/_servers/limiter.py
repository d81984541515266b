"""What a visitor sent in the last minute, so that a `RateLimit` holds in every minute, whenever it begins.

The time is passed in, in seconds of a clock that only goes forward.
"""

from __future__ import annotations

import bisect
import operator
import threading
from dataclasses import dataclass

MINUTE = 60.0
REQUESTS, TEXTS, CHARS = 0, 1, 2  # what a limit counts


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A request: when, and its number of requests (1), texts and characters."""

    moment: float
    amounts: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Room:
    """What a limit lets through at the moment; None where it sets no limit of that kind."""

    texts: int | None = None
    chars: int | None = None


class Quota:
    """So many requests, texts or characters of one visitor in 60 seconds. Written by `RateLimiter`.

    All of a visitor's limits that name the same number share it, so that two spellings of one limit are one limit.
    Its state is what was sent in the last minute or is reserved ahead, in order of time, and when it was last used.
    """

    __slots__ = ("counts", "most", "sent", "total", "used")

    def __init__(self, counts: int, most: int) -> None:
        self.counts = counts
        self.most = most
        self.sent: list[Sent] = []
        self.total = 0
        self.used = 0.0

    def idle(self, now: float) -> bool:
        """Whether nobody used it for a minute."""
        self.forget(now)
        return not self.sent and self.used + MINUTE <= now

    def touch(self, now: float) -> None:
        """Somebody uses it."""
        self.used = now

    def forget(self, now: float) -> None:
        """Lets go of what is over a minute old."""
        while self.sent and self.sent[0].moment + MINUTE <= now:
            self.remove(self.sent[0])

    def moment(self, amounts: tuple[int, int, int], now: float) -> float:
        """The first moment at which so much may be sent, after all that asked before."""
        self.forget(now)
        moment = max(now, self.sent[-1].moment) if self.sent else now
        over = self.total + min(amounts[self.counts], self.most) - self.most
        for sent in self.sent:
            if over <= 0:
                break
            over -= sent.amounts[self.counts]
            moment = max(moment, sent.moment + MINUTE)
        return moment

    def add(self, sent: Sent) -> None:
        """Something is sent, or reserved."""
        bisect.insort(self.sent, sent, key=operator.attrgetter("moment"))
        self.total += sent.amounts[self.counts]

    def remove(self, sent: Sent) -> None:
        """Something is over a minute old, or was not sent."""
        if sent in self.sent:
            self.sent.remove(sent)
            self.total -= sent.amounts[self.counts]


class RateLimiter:
    """Holds one visitor to a `RateLimit`. It has no state of its own but its quotas.

    Requests get their moment in the order in which they ask for one, so none waits for ever. Loops in several threads
    may share a quota, so each step is under a lock.
    """

    def __init__(self, quotas: tuple[Quota, ...], lock: threading.RLock) -> None:
        self._quotas = quotas
        self._lock = lock

    def next_moment(self, now: float) -> float:
        """When one more request, of one short text, may be sent."""
        with self._lock:
            return self._moment((1, 1, 1), now)

    def room(self, now: float) -> Room:
        """How much one request may carry now, at least one text and one character."""
        left: dict[int, int] = {}
        with self._lock:
            for quota in self._quotas:
                quota.forget(now)
                left[quota.counts] = max(1, quota.most - quota.total)
        return Room(left.get(TEXTS), left.get(CHARS))

    def reserve(self, texts: list[str], now: float) -> Sent:
        """The first moment, from ``now`` on, at which a request may be sent; it counts as sent then.

        One that is over the limit by itself gets a free minute.
        """
        amounts = _amounts(texts)
        with self._lock:
            return self._add(Sent(self._moment(amounts, now), amounts))

    def note(self, texts: list[str], now: float) -> None:
        """A request is sent now, whatever the limit says."""
        with self._lock:
            self._add(Sent(now, _amounts(texts)))

    def release(self, sent: Sent) -> None:
        """A reserved moment is not used."""
        with self._lock:
            for quota in self._quotas:
                quota.remove(sent)

    def _moment(self, amounts: tuple[int, int, int], now: float) -> float:
        return max((quota.moment(amounts, now) for quota in self._quotas), default=now)

    def _add(self, sent: Sent) -> Sent:
        for quota in self._quotas:
            quota.add(sent)
        return sent


def _amounts(texts: list[str]) -> tuple[int, int, int]:
    return 1, len(texts), sum(map(len, texts))
