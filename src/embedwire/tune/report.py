"""A sweep as text for people, and as JSON for machines. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, NamedTuple, TypeAlias

import orjson

from embedwire._version import __version__
from embedwire.tune.choosing import (
    WILD,
    Best,
    automatic_is_as_good,
    automatic_lags,
    best,
    middle,
    noise,
)
from embedwire.tune.pasting import settings
from embedwire.tune.records import Cell, Grid, Outcome, Sample, Taken, words

FOUND, ERROR, TOO_LITTLE = 0, 1, 3  # exit codes
LEAST_WIDTH, MOST_WIDTH = 20, 110
TWICE = 2
NOTHING = 0.005  # a part that is not worth a word
RESTLESS = 0.07  # samples of the same sizes that differ by more say that something else goes on
MARKS = {"refused": "x", "slow": "slow", "failed": "x", "cap": "-"}

Style: TypeAlias = Literal["", "best", "current", "faint"]


class Piece(NamedTuple):
    """A part of a line, and how it is shown."""

    text: str
    style: Style = ""


def number(rate: float) -> str:
    """A rate in at most five characters."""
    if rate >= 9_999.5:
        return f"{rate / 1000:.1f}k" if rate < 99_950 else f"{rate / 1000:.0f}k"
    return f"{rate:,.0f}" if rate >= 9.95 else f"{rate:.1f}"


def seconds(value: float) -> str:
    """A time as ``12 ms`` or ``1.3 s``."""
    return f"{1000 * value:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


def percent(part: float) -> str:
    """A part as ``3 %``."""
    return f"{100 * abs(part):.2g} %" if abs(part) < 0.0995 else f"{100 * abs(part):.0f} %"


# The map


def table(grid: Grid, taken: Taken, width: int, current: Cell | None = None) -> list[list[Piece]]:
    """The rates by both sizes, as lines; where there is no room for a table, the fastest ones in a list."""
    found = best(taken)
    room = max(6, *(len(str(size)) + 2 for size in grid.requests))
    if 8 + room * len(grid.requests) > width:
        return _list(taken, found, current)
    head = [[Piece(f"{'texts in':>8}{'  requests in flight'[: width - 8]}", "faint")]]
    sizes = "".join(f"{size:>{room}}" for size in grid.requests)
    lines = [*head, [Piece(f"{'request':>8}{sizes}", "faint")]]
    for batch in grid.batches:
        row = [Piece(f"{batch:>8}", "faint")]
        for requests in grid.requests:
            text, style = _entry(Cell(batch, requests), taken, found, current)
            row.append(Piece(f"{text:>{room}}", style))
        lines.append(row)
    return lines


def _entry(cell: Cell, taken: Taken, found: Best | None, current: Cell | None) -> Piece:
    samples = taken.cells.get(cell)
    if samples:
        rate = number(middle(samples))
        if found is not None and cell == found.cell:
            return Piece(f"*{rate}", "best")
        return Piece(rate, "current" if cell == current else "")
    if cell == current:
        return Piece("?", "current")
    return Piece(MARKS[taken.ends[cell].reason] if cell in taken.ends else ".", "faint")


def _list(taken: Taken, found: Best | None, current: Cell | None) -> list[list[Piece]]:
    fastest = sorted(taken.cells, key=lambda cell: -middle(taken.cells[cell]))[:6]
    lines = [[Piece(f"{cell!s:>9}"), _padded(_entry(cell, taken, found, None), 7)] for cell in fastest]
    return [*lines, *([[Piece(f"{current!s:>9}"), Piece(f"{'?':>7}", "current")]] if current else [])]


def _padded(piece: Piece, width: int) -> Piece:
    return Piece(f"{piece.text:>{width}}", piece.style)


def plain(lines: Sequence[Sequence[Piece]]) -> list[str]:
    """Lines without their styles."""
    return ["".join(piece.text for piece in line).rstrip() for line in lines]


# In words


def server(outcome: Outcome) -> str:
    """What was measured."""
    info = outcome.info
    if info is None:
        return outcome.url
    said = [info.software or "", f"model {info.model}" if info.model else ""]
    if info.slots is not None:
        said.append(f"{info.slots} slot{'s' * (info.slots != 1)}")
    return f"{outcome.url}: {', '.join(filter(None, said))}"


def texts(outcome: Outcome) -> str:
    """What was sent."""
    told = outcome.texts
    said = f"{told.count:,} texts, {told.characters:,.0f} characters on average: {told.source}"
    parts = [said]
    if told.skipped:
        rows = "1 row" if told.skipped == 1 else f"{told.skipped:,} rows"
        parts.append(f"{rows} had no text, or one that was there before")
    if told.refused:
        parts.append(f"{told.refused:,} more are left out, as the model does not take them (too long)")
    if told.passes:
        parts.append(
            "they were too few, and were sent again with a number in front, so that none is sent twice"
        )
    return "; ".join(parts) + "."


def end(outcome: Outcome, width: int) -> str:
    """All that is said at the end."""
    width = max(LEAST_WIDTH, min(width, MOST_WIDTH))
    paragraphs = [server(outcome), texts(outcome)]
    parts = [_filled(one, width) for one in paragraphs]
    if outcome.taken.cells:
        parts += ["", "Texts per second:", "", *plain(table(outcome.grid, outcome.taken, width)), ""]
        legend = [*_legend(outcome)]
        parts += [_filled(one, width) for one in legend]
        parts += ["", *(_filled(one, width) for one in verdict(outcome))]
        found = best(outcome.taken)
        if found is not None and outcome.complete:
            for name, code in settings(outcome, found.cell):
                parts += ["", f"{name}:", "", textwrap.indent(code, "    ")]
    return "\n".join(parts)


def _filled(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False)


def _legend(outcome: Outcome) -> Iterator[str]:
    if outcome.grid.why:
        yield f"Not more, as {outcome.grid.why}."
    yield "* best    . not tried: it would only have waited longer, or there was no time for it"
    told: dict[str, str] = {}
    for cell, ending in outcome.taken.ends.items():
        told.setdefault(ending.what, f"{MARKS[ending.reason]} {words(cell)}: {ending.what}")
    yield from told.values()


def verdict(outcome: Outcome) -> Iterator[str]:
    """The best sizes, and how far the automatic ones are from them; or that nothing can be told."""
    taken = outcome.taken
    found = best(taken)
    if outcome.error is not None:
        yield f"It ended early: {outcome.error}"
    if found is None:
        return
    restless = noise(taken) or 0.0
    if restless > WILD:
        yield (
            f"Nothing can be told: the same sizes differed by {percent(restless)} from one time to the next. Something "
            "else goes on at the server, or here; try again when it is over."
        )
        return
    if not outcome.complete:
        many = f"{len(taken.cells)} pair{'s' * (len(taken.cells) != 1)} of sizes"
        fastest = f"could be measured, and the fastest so far is {found.fastest}."
        if outcome.error is not None:
            yield f"That is too early to tell which sizes are best: {many} {fastest}"
            return
        yield (
            f"{outcome.seconds:.3g} s were not enough to tell which sizes are best: {many} {fastest} Give it longer: "
            f"--seconds {2 * max(30, round(outcome.budget))}."
        )
        return
    samples = taken.cells[found.cell]
    yield f"Best: {words(found.cell)}: {_rate(samples)}{_waits(samples)}."
    more = middle(taken.cells[found.fastest]) / middle(samples) - 1
    if more >= NOTHING:
        yield (
            f"The fastest was {found.fastest}, by {percent(more)}: up to {percent(found.tolerance)} counts as equal, "
            f"and the best has less in flight ({found.cell.in_flight} texts instead of {found.fastest.in_flight})."
        )
    if restless > RESTLESS:
        yield (
            f"The same sizes differed by {percent(restless)} from one time to the next: something else goes on at the "
            "server, or here. Smaller differences than that tell nothing."
        )
    yield from _automatic(taken, found)


def _automatic(taken: Taken, found: Best) -> Iterator[str]:
    rate = middle(taken.cells[found.cell])
    lag = automatic_lags(taken, found)
    if taken.start is not None:
        yield (
            f"Automatic sizes from the start: {number(taken.start.rate)} texts/s in the first "
            f"{seconds(taken.start.seconds)}, {_beside(1 - taken.start.rate / rate)}."
        )
    elif taken.without:
        yield "The automatic sizes got no vectors in the time that others took; embedwire doctor may tell why."
    if lag is None:
        yield "To paste:"
    else:
        sizes = "" if taken.found is None else f" ({taken.found} at the end)"
        yield f"Automatic sizes, warmed up{sizes}: {_rate(taken.automatic)}, {_beside(lag)}."
        if automatic_is_as_good(taken, found):
            yield "So there is nothing to set: leave out batch_size and concurrency. If you want fixed numbers:"
        else:
            faster = 1 / (1 - lag)
            gain = (
                f"makes it {faster:.1f} times as fast" if faster >= TWICE else f"gains {percent(faster - 1)}"
            )
            yield f"Setting them {gain}. To paste:"


def _beside(lag: float) -> str:
    if abs(lag) < NOTHING:
        return "as fast as the best"
    return f"{percent(lag)} {'less' if lag > 0 else 'more'} than the best"


def _rate(samples: Sequence[Sample]) -> str:
    rates = [sample.rate for sample in samples]
    if len(rates) == 1:
        return f"{number(rates[0])} texts/s, measured once"
    spread = f"{number(min(rates))} to {number(max(rates))} in {len(rates)} measurements"
    return f"{number(middle(samples))} texts/s ({spread})"


def _waits(samples: Sequence[Sample]) -> str:
    waits = [sample.latency for sample in samples if sample.latency is not None]
    return f"; a request takes {seconds(sorted(waits)[len(waits) // 2])}" if waits else ""


def exit_code(outcome: Outcome) -> int:
    """0 where the best sizes were found, 1 where something ended it, 3 where there was too little to tell."""
    if outcome.error is not None:
        return ERROR
    return FOUND if outcome.complete else TOO_LITTLE


# For machines


def as_json(outcome: Outcome) -> str:
    """The whole sweep as one JSON object."""
    return orjson.dumps(facts(outcome), option=orjson.OPT_INDENT_2).decode()


def facts(outcome: Outcome) -> dict[str, Any]:
    """What `as_json` says."""
    info, taken = outcome.info, outcome.taken
    of_server = ("software", "model", "dimensions", "slots")
    found = best(taken) if outcome.complete else None
    return {
        "embedwire": __version__,
        "exit_code": exit_code(outcome),
        "url": outcome.url,
        **{name: getattr(info, name, None) for name in of_server},
        "texts": asdict(outcome.texts),
        "seconds": round(outcome.seconds, 3),
        "budget": outcome.budget,
        "error": outcome.error,
        "complete": outcome.complete,
        "best": found and _cell(found.cell, taken),
        "fastest": found and _cell(found.fastest, taken),
        "equal_within": found and round(found.tolerance, 4),
        "automatic": _automatic_facts(taken, found),
        "settings": {} if found is None else dict(settings(outcome, found.cell)),
        "cells": [_cell(cell, taken) for cell in sorted(taken.cells)],
        "ended": [
            {"batch_size": cell.batch, "concurrency": cell.requests, **asdict(ending)}
            for cell, ending in taken.ends.items()
        ],
    }


def _automatic_facts(taken: Taken, found: Best | None) -> dict[str, Any]:
    return {
        "batch_size": taken.found and taken.found.batch,
        "concurrency": taken.found and taken.found.requests,
        "from_the_start": taken.start and _sample(taken.start),
        "warmed_up": [_sample(sample) for sample in taken.automatic],
        "slower_by": found and automatic_lags(taken, found),
        "as_good": None if found is None else automatic_is_as_good(taken, found),
    }


def _cell(cell: Cell, taken: Taken) -> dict[str, Any]:
    samples = taken.cells[cell]
    return {
        "batch_size": cell.batch,
        "concurrency": cell.requests,
        "rate": round(middle(samples), 3),
        "samples": [_sample(sample) for sample in samples],
    }


def _sample(sample: Sample) -> dict[str, Any]:
    return {name: round(value, 4) for name, value in asdict(sample).items() if value is not None}
