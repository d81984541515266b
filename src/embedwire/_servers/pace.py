"""How hard a server may be pushed: fewer requests after trouble, a budget of repeats. Pure."""

from __future__ import annotations

# AWS's numbers: what a client has, and what a repeat costs it.
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
BUDGET = 500
TRANSIENT, THROTTLED = 14, 5
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
