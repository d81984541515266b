"""Sizes that find themselves, as the benchmarks' simulation takes them."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.speed.simulation import Simulation, work
from embedwire._servers.bounds import START, Bounds
from embedwire._servers.tried import Found
from embedwire._servers.tuner import PER_TEXT, Tuner


class WorkFirst(Simulation):
    """One in which the client's thread does its part of the work before a request leaves, and not at the reply."""

    def sent_at(self, now: float, size: int) -> tuple[float, float]:
        """After its work."""
        self.free = max(self.free, now) + work(size)
        return self.free, self.free + self.turnaround

    def read_at(self, now: float, size: int) -> float:
        """At once."""
        return now


class Tuned:
    """What a tuner finds at a server; few texts are spread, as a lane does it.

    Args:
        slots: That the server tells; None: it tells none.

    Attributes:
        tuner: It.
        peak: The most texts that were in flight.
    """

    def __init__(self, slots: int | None) -> None:
        bounds = Bounds(known=True)
        if slots is not None:
            bounds = Bounds(known=True, slots=slots, requests=slots + 4)
        self.tuner = Tuner("document", lambda: bounds, None, list[Found]().append)
        self.peak = 0
        self._flying: dict[int, tuple[int, int, int, float]] = {}  # number, texts, work, sent at
        self._full = False  # the request that is next

    def next(self, lengths: Sequence[int], start: int, in_flight: int) -> int:
        """As many texts as hold now, or a share of few, and no more work than a request may carry."""
        sizes, left = self.tuner.sizes, len(lengths) - start
        places = sizes.requests - in_flight
        if places <= 0:
            return 0
        free = min(START["document"].texts, sizes.texts)
        spread = places > 1 and left < sizes.texts * places
        most = min(left, max(self.tuner.share, -(-left // places)) if spread else sizes.texts)
        texts, todo = 0, 0
        for length in lengths[start : start + most]:
            todo += length + PER_TEXT
            if texts >= free and todo > self.tuner.load.most:
                break
            texts += 1
        self._full = places == 1 and left > texts and not spread
        return texts

    def sent(self, name: int, lengths: Sequence[int], now: float) -> None:
        """The tuner hears of it."""
        todo = sum(lengths) + PER_TEXT * len(lengths)
        number = self.tuner.sent(self, todo, now, all_taken=self._full, allowed=None)
        self._flying[name] = number, len(lengths), todo, now
        self.peak = max(self.peak, sum(texts for _, texts, _, _ in self._flying.values()))

    def done(self, name: int, now: float) -> None:
        """The tuner hears of it."""
        number, _, todo, sent = self._flying.pop(name)
        self.tuner.done(number, todo, now - sent)
        self.tuner.left(number, now)

    def query(self, now: float) -> None:
        """The tuner hears of it."""
        self.tuner.query(now)
