"""A client at a model of a server, in simulated time: with fixed numbers, or with sizes that it finds itself."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.speed.models import Server

EVERY = 0.05  # seconds between two queries beside bulk
TURNAROUND = 0.001  # seconds from a reply to the next request at the server
PER_REQUEST, PER_TEXT = 0.0004, 0.00002  # seconds of the client's one thread, about as embedwire takes them


class Sizes(Protocol):
    """How many texts the requests of a client have, and how many of these are in flight."""

    def next(self, lengths: Sequence[int], start: int, in_flight: int) -> int:
        """Texts in the next request, of those left from ``start`` on; 0 while no more may be in flight."""

    def sent(self, name: int, lengths: Sequence[int], now: float) -> None:
        """A request goes out."""

    def done(self, name: int, now: float) -> None:
        """It is answered."""

    def query(self, now: float) -> None:
        """A query goes out beside them."""


@dataclass(frozen=True)
class Fixed:
    """Always the same numbers."""

    batch: int
    concurrency: int

    def next(self, lengths: Sequence[int], start: int, in_flight: int) -> int:
        """A full request, or the rest."""
        return min(self.batch, len(lengths) - start) if in_flight < self.concurrency else 0

    def sent(self, name: int, lengths: Sequence[int], now: float) -> None:
        """Nothing is learnt from it."""

    def done(self, name: int, now: float) -> None:
        """Nothing is learnt from it."""

    def query(self, now: float) -> None:
        """Nothing is learnt from it."""


@dataclass(kw_only=True)
class Outcome:
    """What came of it.

    Attributes:
        seconds: Until the last text of the bulk.
        rate: Texts of the bulk per second.
        queries: Seconds of each query that was answered while there was bulk.
    """

    seconds: float = 0.0
    rate: float = 0.0
    queries: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        """Median seconds of a query."""
        return statistics.median(self.queries)


class Simulation:
    """All texts in requests of the sizes that hold then; beside them a query now and then, which takes no turn.

    Args:
        server: A fresh one.
        lengths: Characters of each text.
        sizes: Of the requests.
        query_every: Seconds between two queries; None: no queries.
        query_length: Characters of a query.
        turnaround: Seconds from a reply to the next request, besides what the client's thread does.

    Attributes:
        free: When the client's one thread will be.
        turnaround: As passed.
    """

    def __init__(
        self,
        server: Server,
        lengths: Sequence[int],
        sizes: Sizes,
        *,
        query_every: float | None = None,
        query_length: int = 60,
        turnaround: float = TURNAROUND,
    ) -> None:
        self._server, self._lengths, self._sizes = server, lengths, sizes
        self._every, self._query, self.turnaround = query_every, [query_length], turnaround
        # Bulk has even names, queries have odd ones.
        self._arrivals: list[tuple[float, int, list[int]]] = []
        self._flying: dict[int, int] = {}  # texts of the requests that are not answered
        self._asked: dict[int, float] = {}
        self._next = self._names = 0
        self.free = 0.0
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Until the last text.

        Raises:
            ValueError: The server refuses such requests.
        """
        if self._every is not None:
            heapq.heappush(self._arrivals, (self._every / 2, 1, self._query))
        self._send(0.0)
        while self._flying:
            event = self._server.next_event()
            if self._arrivals and (event is None or self._arrivals[0][0] < event):
                self._arrive(*heapq.heappop(self._arrivals))
                continue
            assert event is not None
            for name in self._server.advance(event):
                self._answered(name, event)
        self._outcome.rate = len(self._lengths) / self._outcome.seconds
        return self._outcome

    def _arrive(self, now: float, name: int, texts: list[int]) -> None:
        if name % 2 and self._every is not None:
            self._asked[name] = now
            heapq.heappush(self._arrivals, (now + self._every, name + 2, self._query))
            self._sizes.query(now)
        if (status := self._server.arrive(now, name, texts)) != 200:
            raise ValueError(f"{len(texts)} texts: {status}")

    def _answered(self, name: int, now: float) -> None:
        if name in self._asked:
            self._outcome.queries.append(now - self._asked.pop(name))
            return
        self._outcome.seconds = self.read_at(now, self._flying.pop(name))
        self._sizes.done(name, now)
        self._send(self._outcome.seconds)

    def _send(self, now: float) -> None:
        """As many requests as may be in flight."""
        while self._next < len(self._lengths):
            size = self._sizes.next(self._lengths, self._next, len(self._flying))
            if not size:
                return
            texts = list(self._lengths[self._next : self._next + size])
            self._next, self._names = self._next + size, self._names + 2
            self._flying[self._names] = size
            leaves, arrives = self.sent_at(now, size)
            self._sizes.sent(self._names, texts, leaves)
            heapq.heappush(self._arrivals, (arrives, self._names, texts))

    def sent_at(self, now: float, size: int) -> tuple[float, float]:
        """When a request of so many texts leaves, and when it arrives."""
        if self._outcome.seconds:
            return self.free, self.free + self.turnaround
        self.free += work(size) / 2  # the first ones, which answer no reply
        return self.free, self.free

    def read_at(self, now: float, size: int) -> float:
        """When the reply for so many texts has been read."""
        self.free = max(self.free, now) + work(size)
        return self.free


def work(texts: int) -> float:
    """Seconds of the client's thread for a request and its reply."""
    return PER_REQUEST + PER_TEXT * texts


def run(
    server: Server,
    lengths: Sequence[int],
    *,
    batch: int,
    concurrency: int,
    query_every: float | None = None,
    turnaround: float = TURNAROUND,
) -> Outcome:
    """All texts in batches, so many requests in flight; see `Simulation`."""
    sizes = Fixed(batch, concurrency)
    return Simulation(server, lengths, sizes, query_every=query_every, turnaround=turnaround).run()
