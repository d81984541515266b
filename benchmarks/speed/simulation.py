"""A client with fixed numbers at a model of a server, in simulated time."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.speed.models import Server

TURNAROUND = 0.001  # seconds from a reply to the next request at the server
PER_REQUEST, PER_TEXT = 0.0004, 0.00002  # seconds of the client's one thread, about as embedwire takes them


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it.

    Attributes:
        seconds: Until the last text of the bulk.
        rate: Texts of the bulk per second.
        queries: Seconds of each query that was answered while there was bulk.
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
        turnaround: Seconds from a reply to the next request, besides what the client's thread does.

    Raises:
        ValueError: The server refuses such requests.
    """
    parts = [list(lengths[start : start + batch]) for start in range(0, len(lengths), batch)]
    work = [PER_REQUEST + PER_TEXT * len(part) for part in parts]
    # Bulk has even numbers, queries have odd ones.
    free = 0.0  # when the client's thread will be
    arrivals: list[tuple[float, int, list[int]]] = []
    for number, part in enumerate(parts[:concurrency]):
        free += work[number] / 2
        arrivals.append((free, 2 * number, part))
    sent, left, end = len(arrivals), len(parts), 0.0
    if query_every is not None:
        arrivals.append((query_every / 2, 1, [query_length]))
    heapq.heapify(arrivals)
    asked: dict[int, float] = {}
    took: list[float] = []
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
            free = max(free, event) + work[name // 2]
            left, end = left - 1, free
            if sent < len(parts):
                heapq.heappush(arrivals, (free + turnaround, 2 * sent, parts[sent]))
                sent += 1
    return Outcome(seconds=end, rate=len(lengths) / end, queries=took)
