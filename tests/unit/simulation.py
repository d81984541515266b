"""A client whose sizes find themselves, or are fixed, at a model of a server, in simulated time."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.speed.models import Server
from benchmarks.speed.simulation import PER_REQUEST, PER_TEXT, TURNAROUND
from embedwire._servers import tuner as tuning
from embedwire._servers.steps import START, Bounds, Sizes
from embedwire._servers.tuner import Found, Tuner

QUERY = 60  # characters


def tuner(slots: int | None = None) -> Tuner:
    """One at a server that tells so many slots, or none."""
    if slots is None:
        return Tuner("document", lambda: Bounds(known=True), None, list[Found]().append)
    bounds = Bounds(known=True, slots=slots, requests=slots + 4)
    return Tuner("document", lambda: bounds, None, list[Found]().append)


@dataclass
class Outcome:
    """Seconds until the last text, those of each query beside, and the most texts that were in flight."""

    seconds: float = 0.0
    queries: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def p50(self) -> float:
        """Median seconds of a query."""
        return statistics.median(self.queries)


class Simulation:
    """One job at a server.

    Args:
        server: A fresh one.
        lengths: Characters of each text.
        sizes: Fixed ones, or what finds them.
        every: Seconds between two queries; None: no queries.
    """

    def __init__(
        self, server: Server, lengths: Sequence[int], sizes: Sizes | Tuner, every: float | None = None
    ) -> None:
        self.server, self.lengths, self.sizes, self.every = server, lengths, sizes, every
        self.outcome = Outcome()
        self.next = self.done = self.names = 0
        self.free = 0.0  # when the client's one thread will be
        self.flying: dict[int, tuple[int, list[int], float]] = {}  # number of the tuner, texts, sent at
        self.asked: dict[int, float] = {}
        self.arrivals: list[tuple[float, int, list[int]]] = []  # queries have odd names

    def run(self) -> Outcome:
        """Until the last text."""
        if self.every is not None:
            heapq.heappush(self.arrivals, (self.every / 2, 1, [QUERY]))
        self._send(0.0)
        while self.done < len(self.lengths):
            event = self.server.next_event()
            if self.arrivals and (event is None or self.arrivals[0][0] < event):
                self._arrive(*heapq.heappop(self.arrivals))
                continue
            assert event is not None
            for name in self.server.advance(event):
                self._back(name, event)
        return self.outcome

    def _arrive(self, now: float, name: int, texts: list[int]) -> None:
        if name % 2 and self.every is not None:
            self.asked[name] = now
            heapq.heappush(self.arrivals, (now + self.every, name + 2, texts))
            if isinstance(self.sizes, Tuner):
                self.sizes.query(now)
        assert self.server.arrive(now, name, texts) == 200

    def _back(self, name: int, now: float) -> None:
        if name in self.asked:
            self.outcome.queries.append(now - self.asked.pop(name))
            return
        number, texts, sent = self.flying.pop(name)
        self.done += len(texts)
        self.outcome.seconds = now
        if isinstance(self.sizes, Tuner):
            self.sizes.done(number, work(texts), now - sent)
            self.sizes.left(number, now)
        self._send(now)

    def _send(self, now: float) -> None:
        while (left := len(self.lengths) - self.next) and len(self.flying) < self._now().requests:
            sizes, places = self._now(), self._now().requests - len(self.flying)
            size, full = sizes.texts, left > sizes.texts
            if isinstance(self.sizes, Tuner) and places > 1 and left < size * places:
                size, full = max(min(START["document"].texts, size), -(-left // places)), False
            texts = list(self.lengths[self.next : self.next + size])
            self.next, self.names = self.next + len(texts), self.names + 2
            self.free = max(self.free, now) + PER_REQUEST + PER_TEXT * len(texts)
            number = 0
            if isinstance(self.sizes, Tuner):
                number = self.sizes.sent(
                    self, work(texts), self.free, all_taken=full and places == 1, allowed=None
                )
            self.flying[self.names] = number, texts, self.free
            heapq.heappush(self.arrivals, (self.free + TURNAROUND, self.names, texts))
            flying = sum(len(texts) for _, texts, _ in self.flying.values())
            self.outcome.peak = max(self.outcome.peak, flying)

    def _now(self) -> Sizes:
        return self.sizes.sizes if isinstance(self.sizes, Tuner) else self.sizes


def work(texts: list[int]) -> int:
    """As the tuner counts it."""
    return sum(texts) + tuning.PER_TEXT * len(texts)
