"""Requests that were answered → a rate. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """A request: when it was sent and answered, in seconds, and the work in it."""

    begin: float
    end: float
    work: float


def rate(spans: Sequence[Span], since: float, until: float) -> float:
    """Work per second between two moments, at each of which as much was in flight as may be.

    A request that was under way at one of them counts with the part of its time that lies between. So it matters
    neither whether a server answers requests one by one or many at once, nor how many fit in between.
    """
    done = sum(
        span.work * (min(span.end, until) - max(span.begin, since)) / (span.end - span.begin)
        for span in spans
        if span.end > since and span.begin < until and span.end > span.begin
    )
    return done / (until - since)


def latency(spans: Sequence[Span]) -> float:
    """Seconds that half of the requests took at most."""
    return statistics.median(span.end - span.begin for span in spans)


def steady(marks: Sequence[tuple[float, float]], least: float) -> float | None:
    """Work per second of a stream, its beginning left out.

    Args:
        marks: When vectors came, and the work in their texts.
        least: Work that is left out at least: what was in flight at first.

    Returns:
        None where too little came after that.
    """
    before = 0.0
    for number, (moment, work) in enumerate(marks):
        before += work
        if before >= least:
            rest = [mark for mark in marks[number + 1 :] if mark[0] > moment]
            if not rest:
                return None
            return sum(work for _, work in rest) / (rest[-1][0] - moment)
    return None
