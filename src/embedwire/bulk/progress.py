"""How far a run is, in words. Pure."""

from __future__ import annotations

from collections import deque

from embedwire.bulk.records import Estimate, Progress, Report

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


def words(progress: Progress) -> list[str]:
    """What is to be said, the most important first."""
    if progress.phase == "waiting":
        return ["waiting for the server"]
    if progress.phase == "skipping":
        return ["finding the place where the last run ended"]
    said = [] if progress.fraction is None else [f"{progress.fraction:.0%}"]
    said.append(f"{progress.rows:,} rows")
    if progress.phase == "done":
        return said
    if progress.left is not None:
        said.append(f"{clock(progress.left)} left")
    said.append(f"{progress.rate:,.0f} rows/s")
    if progress.rejects:
        said.append(f"{progress.rejects:,} rejected")
    if progress.tokens is not None:
        said.append(f"{short(progress.tokens)} tokens")
    if progress.cached:
        said.append(f"{short(progress.cached)} from the cache")
    if progress.repeats:
        said.append(f"{short(progress.repeats)} repeats")
    return said


def fitting(said: list[str], width: int) -> str:
    """As much of it as a line has room for, and at least a part of the first."""
    line = said[0]
    for one in said[1:]:
        if len(line) + 2 + len(one) > width:
            break
        line += f"  {one}"
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


def clock(seconds: float) -> str:
    """Seconds as ``1:05`` or ``2:03:04``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short(number: int) -> str:
    """A number as ``950``, ``12.3k`` or ``4.5M``."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(number)


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
