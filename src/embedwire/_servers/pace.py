"""How hard a server may be pushed: fewer requests after trouble, a budget of repeats, a common pause. Pure."""

from __future__ import annotations

# AWS's numbers: what a client has, and what a repeat costs it. Where the server has too much to do, a repeat costs
# nothing: `Throttle` protects it.
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
BUDGET = 500
TRANSIENT = 14
SHRINK = 0.7  # of the requests in flight, after trouble


class Budget:
    """Repeats that a model is still worth: when most requests fail, repeating them only adds to the load.

    Written by `_http`. Its state is `left`, the points that are left.
    """

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
    """How many requests may be in flight after trouble: AIMD, 0.7 of those that were, then one more per round.

    Written by `_servers.slots`. Its state is the number allowed, and what it takes to change it next.

    Attributes:
        allowed: The most in flight; None until there was trouble.
        age: Grows when the window shrinks; a request remembers the age at which it was sent.
    """

    __slots__ = ("_good", "age", "allowed")

    def __init__(self) -> None:
        self.allowed: int | None = None
        self.age = 0
        self._good = 0  # successes since it last changed

    def overload(self, sent_at: int, in_flight: int, *, most: int | None = None) -> None:
        """A request failed because the server has too much to do.

        Of all requests that were on the wire together, only the first such failure counts.

        Args:
            sent_at: The age when it was sent.
            in_flight: Requests on the wire now, this one included.
            most: How many may be from now on; None: 0.7 of those that were.
        """
        if sent_at != self.age:
            return
        crowd = min(in_flight, self.allowed or in_flight)
        self.allowed = max(1, int(crowd * SHRINK)) if most is None else most
        self.age += 1
        self._good = 0

    def success(self, sent_at: int) -> None:
        """A request that was sent at some age succeeded: a round of successes allows one more."""
        if self.allowed is None or sent_at != self.age:
            return
        self._good += 1
        if self._good >= self.allowed:
            self.allowed += 1
            self._good = 0


class Throttle:
    """How a server holds off one model's requests: they pause together, and one of them at a time finds out more.

    A refusal among others on the wire is overload, which the window is for: only that request pauses. One that was
    refused alone, or with the time to wait, came too early, and so would all others.

    Written by `_http`. Its state is the refusals since the last success, and when the pause ends.

    Attributes:
        row: Pauses in a row, without a success.
        since: When the first refusal came.
        until: When the pause ends.
    """

    __slots__ = ("_last", "row", "since", "until")

    def __init__(self) -> None:
        self.row = 0
        self.since = self.until = 0.0
        self._last: float | None = None  # refusal since the last success

    def refused(self, now: float, *, alone: bool, most: float | None) -> None:
        """A request was refused.

        Args:
            now: The time.
            alone: No other was on the wire.
            most: Seconds after which an older refusal has nothing to do with this one; None: it always has.
        """
        if self._last is None or (most is not None and now - self._last > most):
            self.row, self.since = 0, now
        self._last = now
        if alone and now >= self.until:  # else it was sent before the pause began
            self.row += 1

    def pause(self, seconds: float, now: float) -> None:
        """Nothing more is sent for so long."""
        self.until = max(self.until, now + seconds)

    def accepted(self) -> None:
        """A request was taken."""
        self.row, self._last = 0, None
