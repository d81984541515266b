"""What a visitor sent of late, so that a `RateLimit` holds in every minute, whenever it begins, and without bursts.

The time is passed in, in seconds of a clock that only goes forward.
"""

from __future__ import annotations

import bisect
import operator
import threading
from dataclasses import dataclass

SECOND, MINUTE = 1.0, 60.0  # in which a limit counts
REQUESTS, TEXTS, CHARS = 0, 1, 2  # what a limit counts
# A server counts what arrives, and one request may be on its way for longer than the next.
MARGIN, MARGIN_MOST = 0.05, 0.1  # of each wait, and in seconds


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


@dataclass(frozen=True, slots=True)
class Limit:
    """One number of a `RateLimit`: so many (``most``) of something (``counts``) in so many seconds (``window``)."""

    counts: int
    most: int
    window: float


class Quota:
    """One limit of one visitor. Written by `RateLimiter`.

    Requests are spread over its window: each is followed by as much of the window as it took of the limit, so that one
    request after a rest goes at once, and no burst does. Since requests differ in size, what the whole window had is
    counted too.

    All of a visitor's limits that name the same number share it, so that two spellings of one limit are one limit.
    Its state is what was sent in the last window or is reserved ahead, in order of time, when it is open for the next
    request, and when it was last used.
    """

    __slots__ = ("limit", "opens", "sent", "total", "used", "window")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.window = _with_margin(limit.window)
        self.sent: list[Sent] = []
        self.total = 0
        self.opens = 0.0
        self.used = 0.0

    def idle(self, now: float) -> bool:
        """Whether nobody used it for a minute."""
        self.forget(now)
        return not self.sent and self.used + MINUTE <= now

    def touch(self, now: float) -> None:
        """Somebody uses it."""
        self.used = now

    def forget(self, now: float) -> None:
        """Lets go of what is over a window old."""
        while self.sent and self.sent[0].moment + self.window <= now:
            self.total -= self.sent.pop(0).amounts[self.limit.counts]

    def moment(self, amounts: tuple[int, int, int], now: float) -> float:
        """The first moment at which so much may be sent, after all that asked before."""
        self.forget(now)
        moment = max(now, self.opens)
        over = self.total + self._counted(amounts) - self.limit.most
        for sent in self.sent:
            if over <= 0:
                break
            over -= sent.amounts[self.limit.counts]
            moment = max(moment, sent.moment + self.window)
        return moment

    def add(self, sent: Sent) -> None:
        """Something is sent, or reserved."""
        bisect.insort(self.sent, sent, key=operator.attrgetter("moment"))
        self.total += sent.amounts[self.limit.counts]
        self.opens = max(self.opens, self._opens_after(sent))

    def remove(self, sent: Sent) -> None:
        """Something was not sent after all."""
        if sent in self.sent:
            self.sent.remove(sent)
            self.total -= sent.amounts[self.limit.counts]
            self.opens = max(map(self._opens_after, self.sent), default=0.0)

    def _opens_after(self, sent: Sent) -> float:
        share = self._counted(sent.amounts) / self.limit.most
        return sent.moment + _with_margin(share * self.limit.window)

    def _counted(self, amounts: tuple[int, int, int]) -> int:
        """What is over the limit by itself takes all of a window."""
        return min(amounts[self.limit.counts], self.limit.most)


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
                left[quota.limit.counts] = max(1, quota.limit.most - quota.total)
        return Room(left.get(TEXTS), left.get(CHARS))

    def reserve(self, texts: list[str], now: float) -> Sent:
        """The first moment, from ``now`` on, at which a request may be sent; it counts as sent then.

        One that is over the limit by itself gets a free window.
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


def _with_margin(seconds: float) -> float:
    return seconds + min(seconds * MARGIN, MARGIN_MOST)
