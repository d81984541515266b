"""Requests that were answered → a rate. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import accumulate
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


def steady(marks: Sequence[tuple[float, float]], flying: float) -> float | None:
    """Work per second of a stream, its beginning and its end left out, when less was in flight.

    Args:
        marks: When vectors came, and the work in their texts.
        flying: Work that was in flight: so much is left out at both ends.

    Returns:
        None where nothing lies between.
    """
    sums = list(accumulate(work for _, work in marks))
    if not sums:
        return None
    since = next((moment for (moment, _), done in zip(marks, sums, strict=True) if done >= flying), math.inf)
    until = next(moment for (moment, _), done in zip(marks, sums, strict=True) if done >= sums[-1] - flying)
    if until <= since:
        return None
    return sum(work for moment, work in marks if since < moment <= until) / (until - since)
