"""What a visitor sent in the last minute, so that a `RateLimit` holds in every minute, whenever it begins.

The time is passed in, in seconds of a clock that only goes forward.
"""

from __future__ import annotations

import bisect
import operator
import threading
from dataclasses import dataclass

from embedwire._settings.options import RateLimit

MINUTE = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A request: when, and its number of requests (1), texts and characters."""

    moment: float
    amounts: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Room:
    """What a limit lets through at the moment; None where it sets no limit of that kind."""

    texts: int | None
    chars: int | None


class Minute:
    """What one visitor sent to one server in the last 60 seconds, and has reserved.

    All limits of a visitor are held against the same record, so that two spellings of one limit are one limit.
    Requests get their moment in the order in which they ask for one, so none waits for ever. Loops in several threads
    may share it, so each step is under a lock. Written by `_http`, which reserves; `_queue` only looks.
    """

    __slots__ = ("_lock", "_sent", "_sums")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._sent: list[Sent] = []  # in order of time; some may lie ahead
        self._sums = [0, 0, 0]

    def idle(self, now: float) -> bool:
        """Whether nothing was sent for a minute."""
        with self._lock:
            self._forget(now)
            return not self._sent

    def next_moment(self, limit: RateLimit, now: float) -> float:
        """When one more request, of one short text, may be sent."""
        with self._lock:
            return self._moment(limit, (1, 1, 1), now)

    def room(self, limit: RateLimit, now: float) -> Room:
        """How much one request may carry now, at least one text and one character."""
        with self._lock:
            self._forget(now)
            texts, chars = (
                None if most is None else max(1, most - self._sums[kind])
                for kind, most in ((1, limit.texts), (2, limit.chars))
            )
            return Room(texts, chars)

    def reserve(self, limit: RateLimit, texts: list[str], now: float) -> Sent:
        """The first moment, from ``now`` on, at which a request may be sent; it counts as sent then.

        One that is over the limit by itself gets a free minute.
        """
        amounts = 1, len(texts), sum(map(len, texts))
        with self._lock:
            return self._add(Sent(self._moment(limit, amounts, now), amounts))

    def note(self, texts: list[str], now: float) -> None:
        """A request is sent now, whatever the limit says."""
        with self._lock:
            self._add(Sent(now, (1, len(texts), sum(map(len, texts)))))

    def release(self, sent: Sent) -> None:
        """A reserved moment is not used."""
        with self._lock:
            if sent in self._sent:
                self._remove(sent)

    def _moment(self, limit: RateLimit, amounts: tuple[int, int, int], now: float) -> float:
        self._forget(now)
        moment = max(now, self._sent[-1].moment) if self._sent else now
        limits = (limit.requests, limit.texts, limit.chars)
        for kind, (most, needed) in enumerate(zip(limits, amounts, strict=True)):
            if most is None:
                continue
            over = self._sums[kind] + min(needed, most) - most
            for sent in self._sent:
                if over <= 0:
                    break
                over -= sent.amounts[kind]
                moment = max(moment, sent.moment + MINUTE)
        return moment

    def _forget(self, now: float) -> None:
        while self._sent and self._sent[0].moment + MINUTE <= now:
            self._remove(self._sent[0])

    def _remove(self, sent: Sent) -> None:
        self._sent.remove(sent)
        self._sums = [total - amount for total, amount in zip(self._sums, sent.amounts, strict=True)]

    def _add(self, sent: Sent) -> Sent:
        bisect.insort(self._sent, sent, key=operator.attrgetter("moment"))
        self._sums = [total + amount for total, amount in zip(self._sums, sent.amounts, strict=True)]
        return sent
