"""How much a server does in a second, measured in rounds. Pure.

A round begins when as much is in flight as may be, and is over when all of that has come back. What came back in it,
over its time, is the rate: whether the server works on one request after another or on all together, and whatever
comes back first. The time is passed in.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple


class Round(NamedTuple):
    """What a round showed: work per second, and the work that was in flight at its start."""

    rate: float
    in_flight: float


class Meter:
    """Measures the rate of one kind of requests at one server. Written by `Tuner`.

    Its state is the work of each request in flight, and the round that is going on.

    Attributes:
        in_flight: Work in flight.
    """

    def __init__(self) -> None:
        self.in_flight = 0.0
        self._least = 0.0, 0, 0.0
        self._count = 0  # requests that came back in the round
        self._numbers = itertools.count(1)
        self._open: dict[int, float] = {}  # work by number, for all that is in flight
        self._done: set[int] = set()  # of these, what succeeded
        self._share = 0.0
        self._first = 1  # number of the first request that was sent with the sizes of now
        self._last: float = 0  # of those that were in flight when the round began
        self._since: float | None = None
        self._at_start = 0.0  # work in flight, when it began
        self._work = 0.0  # that came back in it

    @property
    def is_on(self) -> bool:
        """Whether a round is going on."""
        return self._since is not None

    def at_least(self, seconds: float, requests: int, enough: float) -> None:
        """A shorter round goes on until what is in flight at its end has come back, too.

        Args:
            seconds: Of a round.
            requests: In it, too.
            enough: Seconds after which their number does not matter.
        """
        self._least = seconds, requests, enough

    def change(self, share: float) -> None:
        """The sizes were changed.

        Args:
            share: A round begins when so much of the work in flight, from 0 to 1, is in requests of the new sizes.
        """
        self._first, self._share = next(self._numbers), share
        self.stop()

    def stop(self) -> None:
        """What is going on tells nothing."""
        self._since = None

    def sent(self, work: float, now: float, *, all_taken: bool) -> int:
        """A request goes out; its number.

        Args:
            work: In it.
            now: The time.
            all_taken: Now as much is in flight as may be.
        """
        number = next(self._numbers)
        self._open[number] = work
        self.in_flight += work
        if all_taken and not self.is_on and self._is_new():
            self._since, self._last, self._work, self._count = now, number, 0.0, 0
            self._at_start = self.in_flight
        elif all_taken and self._last == math.inf:
            self._last = number
        return number

    def came_back(self, number: int) -> None:
        """A request succeeded; it still counts as in flight."""
        self._done.add(number)

    def left(self, number: int, now: float) -> Round | None:
        """A request is not in flight any more; its round, where it was the last one of it.

        One that brought nothing spoils the round.
        """
        work = self._open.pop(number, 0.0)
        self.in_flight = self.in_flight - work if self._open else 0.0
        if number not in self._done:
            self.stop()
        self._done.discard(number)
        self._work, self._count = self._work + work, self._count + 1
        if self._since is None or now <= self._since or min(self._open, default=math.inf) <= self._last:
            return None
        took, (least, requests, enough) = now - self._since, self._least
        if took < least or (self._count < requests and took < enough):
            self._last = math.inf  # until as much is in flight as may be
            return None
        rate = self._work / took
        self._since = None
        return Round(rate, self._at_start)

    def _is_new(self) -> bool:
        new = sum(work for number, work in list(self._open.items()) if number > self._first)
        return new >= self._share * self.in_flight
