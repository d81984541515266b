"""How fast a run is, and what it did, in words. Pure."""

from __future__ import annotations

from collections import deque

from embedwire._clients.words import clock
from embedwire.bulk.records import Estimate, Report

LATELY = 10.0  # seconds over which a rate is taken


class Pace:
    """How fast it goes. Its state is what was seen in the last seconds: moments, rows and how much of the input."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, float]] = deque()

    def see(self, now: float, rows: int, fraction: float | None) -> None:
        """So much is done."""
        self._seen.append((now, rows, fraction or 0.0))
        while len(self._seen) > 2 and now - self._seen[1][0] >= LATELY:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Rows per second."""
        seconds = self._seen[-1][0] - self._seen[0][0] if self._seen else 0.0
        return (self._seen[-1][1] - self._seen[0][1]) / seconds if seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds until all is done; None where nothing tells."""
        if not self._seen:
            return None
        (since, _, before), (now, _, fraction) = self._seen[0], self._seen[-1]
        return (1 - fraction) * (now - since) / (fraction - before) if fraction > before else None


def summary(report: Report, out: str, rejects: str | None) -> str:
    """What a run did, in a line."""
    new = report.rows - report.resumed
    parts = [f"{report.rows:,} rows in {out}"]
    if report.resumed:
        parts.append(f"{new:,} of them in this run")
    if report.rejects:
        parts.append(f"{report.rejects:,} rejected{f' (see {rejects})' if rejects else ''}")
    if report.repeats:
        parts.append(f"{report.repeats:,} repeats of a text")
    if report.usage.cached:
        parts.append(f"{report.usage.cached:,} from the cache")
    if report.usage.tokens is not None:
        parts.append(f"{report.usage.tokens:,} tokens")
    rate = f" ({new / report.seconds:,.0f} rows/s)" if report.seconds > 0 else ""
    return f"{', '.join(parts)}; {report.usage.requests:,.0f} requests in {clock(report.seconds)}{rate}"


def outlook(estimate: Estimate) -> str:
    """What a run would do, in lines."""
    lines = [f"{estimate.rows:,} rows, {estimate.characters:,} characters"]
    if estimate.bad:
        lines.append(f"{estimate.bad:,} rows could not be embedded, the first: {estimate.first_bad}")
    if estimate.seconds is not None:
        lines.append(f"about {clock(estimate.seconds)}, by the first {estimate.sampled} texts")
    return "\n".join(lines)
