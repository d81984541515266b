"""Samples → the best sizes, and how far the automatic ones are from them. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embedwire.tune.records import Cell, Sample, Taken

EQUAL, MOST_EQUAL = 0.03, 0.10  # rates that differ by no more than this part are called equal
DOUBT = 1.5  # standard deviations of a single sample, that medians of three may differ by
WILD = 0.25  # samples of the same sizes that differ by more tell nothing
SURE = 2  # samples of a cell, before it can be called the best


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best sizes.

    Attributes:
        cell: That with least in flight of those that are as fast as the fastest.
        fastest: The fastest; often the same.
        tolerance: The part by which rates may differ and be called equal.
        sure: Whether both were measured more than once.
    """

    cell: Cell
    fastest: Cell
    tolerance: float
    sure: bool


def middle(samples: Sequence[Sample]) -> float:
    """The rate that is believed: the median."""
    return statistics.median(sample.rate for sample in samples)


def noise(taken: Taken) -> float | None:
    """By what part samples of the same sizes differ, as a standard deviation; None where none was repeated."""
    squares, free = 0.0, 0
    for samples in filter(lambda samples: len(samples) > 1, taken.cells.values()):
        mean = statistics.fmean(sample.rate for sample in samples)
        squares += sum((sample.rate / mean - 1) ** 2 for sample in samples)
        free += len(samples) - 1
    return math.sqrt(squares / free) if free else None


def tolerance(taken: Taken) -> float:
    """The part by which rates may differ and be called equal: 3 %, or more where samples differ by more."""
    return min(MOST_EQUAL, max(EQUAL, DOUBT * (noise(taken) or 0.0)))


def best(taken: Taken) -> Best | None:
    """The best sizes so far: of cells that were measured again, where there are some; None where there is no cell."""
    sure = [cell for cell, samples in taken.cells.items() if len(samples) >= SURE]
    among = sure or list(taken.cells)
    if not among:
        return None
    fastest = max(among, key=lambda cell: middle(taken.cells[cell]))
    within = tolerance(taken)
    as_fast = near(taken, among, within)
    cell = min(as_fast, key=lambda cell: (cell.in_flight, -middle(taken.cells[cell])))
    return Best(cell=cell, fastest=fastest, tolerance=within, sure=bool(sure))


def is_certain(taken: Taken, best: Best) -> bool:
    """Whether what was measured speaks for the best, and nothing against it.

    It was measured more than once, as the fastest was; no others seemed clearly faster, and were not looked at again;
    and samples of the same sizes do not differ so much that they tell nothing.
    """
    most = (1 + best.tolerance) * middle(taken.cells[best.fastest])
    faster = any(middle(samples) > most for samples in taken.cells.values())
    return best.sure and not faster and (noise(taken) or 0.0) <= WILD


def near(taken: Taken, among: Iterable[Cell], within: float) -> list[Cell]:
    """Those that are slower than the fastest of them by no more than a part."""
    rates = {cell: middle(taken.cells[cell]) for cell in among}
    least = (1 - within) * max(rates.values(), default=0.0)
    return [cell for cell, rate in rates.items() if rate >= least]


def automatic_lags(taken: Taken, best: Best) -> float | None:
    """By what part the automatic sizes, warmed up, are slower than the best; negative where they are faster."""
    if not taken.automatic:
        return None
    return 1 - middle(taken.automatic) / middle(taken.cells[best.cell])


def automatic_is_as_good(taken: Taken, best: Best) -> bool:
    """Whether there is nothing to be gained by setting sizes."""
    lag = automatic_lags(taken, best)
    return lag is not None and lag <= best.tolerance
