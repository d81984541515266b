"""How hard a server may be pushed now: fewer requests after trouble, a budget of repeats, a rate. Pure.

The time is passed in, in seconds of any clock that only goes forward.
"""

from __future__ import annotations

import bisect
import operator
from dataclasses import dataclass

from embedwire._config import RateLimit

# AWS's numbers: what a client has, and what a repeat costs it.
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
BUDGET = 500
TRANSIENT, THROTTLED = 14, 5
SHRINK = 0.7  # of the requests in flight, after trouble
MINUTE = 60.0


class Budget:
    """Repeats that a server is still worth: when most requests fail, repeating them only adds to the load."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = BUDGET

    def spend(self, cost: int) -> bool:
        """Pays for a repeat; False, and nothing is paid, where too little is left."""
        if cost > self.left:
            return False
        self.left -= cost
        return True

    def earn(self, amount: int = 1) -> None:
        """A request succeeded at its first attempt, or a repeat turned out to be no repeat."""
        self.left = min(BUDGET, self.left + amount)


class Window:
    """How many requests may be in flight after trouble: 0.7 of those that were, then one more per round.

    Attributes:
        allowed: The most in flight; None until there was trouble.
        in_flight: Requests on the wire now; one that pauses before a repeat is not.
    """

    __slots__ = ("_age", "_good", "allowed", "in_flight")

    def __init__(self) -> None:
        self.allowed: int | None = None
        self.in_flight = 0
        self._age = 0  # grows when the window shrinks
        self._good = 0  # successes since it last changed

    @property
    def full(self) -> bool:
        """Whether nothing should be sent now."""
        return self.allowed is not None and self.in_flight >= self.allowed

    def begin(self) -> int:
        """A request is sent; what comes back belongs to `end`."""
        self.in_flight += 1
        return self._age

    def end(self, begun: int, *, good: bool, overload: bool) -> None:
        """A request ended.

        Args:
            begun: What `begin` said.
            good: It succeeded.
            overload: It failed because the server has too much to do. Of all requests that were on the wire
                together, only the first such failure counts.
        """
        if overload and begun == self._age:
            crowd = min(self.in_flight, self.allowed or self.in_flight)
            self.allowed = max(1, int(crowd * SHRINK))
            self._age += 1
            self._good = 0
        elif good and self.allowed is not None and begun == self._age:
            self._good += 1
            if self._good >= self.allowed:
                self.allowed += 1
                self._good = 0
        self.in_flight -= 1


class LastMinute:
    """What was sent in the last 60 seconds, so that a `RateLimit` holds in every minute, whenever it begins.

    Requests get their moment in the order in which they ask for one, so none waits for ever.
    """

    __slots__ = ("_limit", "_sent", "_sums")

    def __init__(self, limit: RateLimit) -> None:
        self._limit = (limit.requests, limit.texts, limit.chars)
        self._sent: list[Sent] = []  # in order of time; some may lie ahead
        self._sums = [0, 0, 0]

    def reserve(self, texts: list[str], now: float) -> Sent:
        """The first moment, from ``now`` on, at which a request may be sent; it counts as sent then.

        One that is over the limit by itself gets a free minute.
        """
        amounts = 1, len(texts), sum(map(len, texts))
        while self._sent and self._sent[0].moment + MINUTE <= now:
            self.release(self._sent[0])
        moment = max(now, self._sent[-1].moment) if self._sent else now
        for kind, (most, needed) in enumerate(zip(self._limit, amounts, strict=True)):
            if most is None:
                continue
            over = self._sums[kind] + min(needed, most) - most
            for sent in self._sent:
                if over <= 0:
                    break
                over -= sent.amounts[kind]
                moment = max(moment, sent.moment + MINUTE)
        return self._add(Sent(moment, amounts))

    def note(self, texts: list[str], now: float) -> None:
        """A request is sent now, whatever the limit says."""
        self._add(Sent(now, (1, len(texts), sum(map(len, texts)))))

    def release(self, sent: Sent) -> None:
        """A reserved moment is not used, or long past."""
        if sent in self._sent:
            self._sent.remove(sent)
            self._sums = [total - amount for total, amount in zip(self._sums, sent.amounts, strict=True)]

    def _add(self, sent: Sent) -> Sent:
        bisect.insort(self._sent, sent, key=operator.attrgetter("moment"))
        self._sums = [total + amount for total, amount in zip(self._sums, sent.amounts, strict=True)]
        return sent


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A request: when, and its number of requests (1), texts and characters."""

    moment: float
    amounts: tuple[int, int, int]
