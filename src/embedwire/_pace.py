"""How hard a server may be pushed now: fewer requests after trouble, a budget of repeats, a rate. Pure.

The time is passed in, in seconds of any clock that only goes forward.
"""

from __future__ import annotations

from collections import deque

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
    """What was sent in the last 60 seconds, so that a `RateLimit` holds in every minute, whenever it begins."""

    __slots__ = ("_sent", "_sums")

    def __init__(self) -> None:
        self._sent: deque[tuple[float, tuple[int, int, int]]] = deque()  # requests, texts, characters
        self._sums = [0, 0, 0]

    def wait(self, limit: RateLimit, texts: list[str], now: float) -> float:
        """Seconds until a request may be sent, 0 for now; one over the limit by itself waits for a free minute."""
        while self._sent and self._sent[0][0] + MINUTE <= now:
            _, gone = self._sent.popleft()
            self._sums = [total - amount for total, amount in zip(self._sums, gone, strict=True)]
        moment = now
        most = (limit.requests, limit.texts, limit.chars)
        for kind, (cap, needed) in enumerate(zip(most, _amounts(texts), strict=True)):
            if cap is None:
                continue
            over = self._sums[kind] + min(needed, cap) - cap
            for sent, amounts in self._sent:
                if over <= 0:
                    break
                over -= amounts[kind]
                moment = max(moment, sent + MINUTE)
        return moment - now

    def note(self, texts: list[str], now: float) -> None:
        """A request is sent now."""
        amounts = _amounts(texts)
        self._sent.append((now, amounts))
        self._sums = [total + amount for total, amount in zip(self._sums, amounts, strict=True)]


def _amounts(texts: list[str]) -> tuple[int, int, int]:
    return 1, len(texts), sum(map(len, texts))
