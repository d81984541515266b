"""A client with fixed numbers at a model of a server, in simulated time."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.speed.models import Server

TURNAROUND = 0.001  # seconds from a reply to the next request at the server


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it.

    Attributes:
        seconds: Until the last text of the bulk.
        rate: Texts of the bulk per second.
        queries: Seconds of each query that was asked while there was bulk.
    """

    seconds: float
    rate: float
    queries: list[float]

    @property
    def p50(self) -> float:
        """Median seconds of a query."""
        return statistics.median(self.queries)


def run(
    server: Server,
    lengths: Sequence[int],
    *,
    batch: int,
    concurrency: int,
    query_every: float | None = None,
    query_length: int = 60,
    turnaround: float = TURNAROUND,
) -> Outcome:
    """All texts in batches, so many requests in flight; beside them a query now and then, which takes no turn.

    Args:
        server: A fresh one.
        lengths: Characters of each text.
        batch: Texts in a request.
        concurrency: Requests in flight.
        query_every: Seconds between two queries; None: no queries.
        query_length: Characters of a query.
        turnaround: Seconds from a reply to the next request.
    """
    parts = [list(lengths[start : start + batch]) for start in range(0, len(lengths), batch)]
    # Bulk has even numbers, queries have odd ones.
    arrivals = [
        (number * turnaround / 10, 2 * number, part) for number, part in enumerate(parts[:concurrency])
    ]
    todo = parts[: concurrency - 1 : -1]
    asked: dict[int, float] = {}
    took: list[float] = []
    numbers, left, end = len(arrivals), len(parts), 0.0
    if query_every is not None:
        arrivals.append((query_every / 2, 1, [query_length]))
    heapq.heapify(arrivals)
    while left:
        event = server.next_event()
        if arrivals and (event is None or arrivals[0][0] < event):
            now, name, texts = heapq.heappop(arrivals)
            if name % 2 and query_every is not None:
                asked[name] = now
                heapq.heappush(arrivals, (now + query_every, name + 2, [query_length]))
            if (status := server.arrive(now, name, texts)) != 200:
                raise ValueError(f"{len(texts)} texts: {status}")
            continue
        assert event is not None
        for name in server.advance(event):
            if name in asked:
                took.append(event - asked.pop(name))
                continue
            left, end = left - 1, event
            if todo:
                heapq.heappush(arrivals, (event + turnaround, 2 * numbers, todo.pop()))
                numbers += 1
    return Outcome(seconds=end, rate=len(lengths) / end, queries=took)
