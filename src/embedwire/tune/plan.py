"""Which sizes are measured next. Pure.

Few cells far apart come first, least in flight first; then the neighbours of the best ones; then the best ones again,
by turns with the automatic sizes; then what is left of the map, while there is time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embedwire._servers.bounds import START
from embedwire._servers.kinds import ServerKind, Told
from embedwire.tune.choosing import best, is_certain, middle, near
from embedwire.tune.records import Cell, Grid, Move, Taken

APART = 3  # steps between the cells that come first
LEADING = 0.05  # neighbours are measured of cells that are slower than the best by no more than this part
IN_QUESTION = 0.07  # likewise, cells are measured again
FINALISTS = 4
THRICE, MOST = 3, 5  # samples of a finalist, and where there is time
REACH = 8  # times the least in flight that is as good as the best, beyond which nothing is tried
GAIN = 0.03  # what four times as much in flight must gain, or more is not tried
ROUNDS = 2.5  # that a measurement takes, beside its piece: the first, the last, and some luck
PIECES, LEAST_PIECE, MOST_PIECE = 50, 0.1, 3.0  # of the time, over which a rate is taken; seconds
RESERVE = 0.3  # of the time, for measuring the best ones again
TURNS, FEWEST = 4, 60  # texts for the automatic sizes: times what is in flight, and at least
WARM = 1.2  # times what they should take
SHARE = 6  # a measurement may take a part of the time so large


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """The time there is, in seconds.

    Attributes:
        whole: For the sweep.
        left: Of it.
        reserve: That is kept for measuring the best ones again.
        piece: Over which a rate is taken.
    """

    whole: float
    left: float
    reserve: float
    piece: float

    @classmethod
    def of(cls, whole: float, left: float) -> Time:
        """Of so many seconds, so many of which are left."""
        piece = min(MOST_PIECE, max(LEAST_PIECE, whole / PIECES))
        return cls(whole=whole, left=left, reserve=RESERVE * whole, piece=piece)


def grid_of(batch: int, requests: int, kind: ServerKind | None, told: Told) -> Grid:
    """What may be tried: powers of two up to the limits, and these themselves.

    Args:
        batch: The user's limit.
        requests: The user's limit.
        kind: The server's software; None where it is not known.
        told: What it says of itself.
    """
    why: list[str] = []
    if told.max_texts is not None and told.max_texts < batch:
        batch = told.max_texts
        why.append(f"the server takes {batch} texts in a request")
    if kind is not None and kind.spare_threads is not None:
        most = START["document"].requests if told.slots is None else told.slots + kind.spare_threads
        if most < requests:
            requests = most
            slots = "" if told.slots is None else f" for {told.slots} slot{'s' * (told.slots != 1)}"
            why.append(f"{kind.name} serves {most} requests at a time{slots}")
    return Grid(batches=_steps(batch), requests=_steps(requests), why="; ".join(why))


def _steps(most: int) -> tuple[int, ...]:
    return (*(2**power for power in range(most.bit_length()) if 2**power < most), most)


def next_move(grid: Grid, taken: Taken, time: Time) -> Move:
    """What is measured next; None where nothing is left that would tell anything in the time that is left."""
    room = time.left - time.reserve if taken.cells else time.left
    for cells in (first(grid), around(grid, taken)):
        if (cell := _next(cells, grid, taken, time, room)) is not None:
            return cell
    if (move := _again(taken, time, THRICE)) is not None:
        return move
    if (cell := _next(rest(grid, taken), grid, taken, time, time.left)) is not None:
        return cell
    return _again(taken, time, MOST)


def complete(grid: Grid, taken: Taken) -> bool:
    """Whether what was measured is enough for a verdict: the best ones more than once, and all that are beside them."""
    found = best(taken)
    if found is None or not is_certain(taken, found):
        return False
    beside = (
        cell
        for cell in grid.cells()
        if min(grid.apart(cell, one) for one in (found.cell, found.fastest)) == 1
    )
    return not any(allowed(cell, grid, taken) for cell in beside)


def first(grid: Grid) -> list[Cell]:
    """Cells that are far apart, the corners among them, least in flight first."""
    batches, requests = _spread(grid.batches), _spread(grid.requests)
    return [cell for cell in grid.cells() if cell.batch in batches and cell.requests in requests]


def _spread(sizes: Sequence[int]) -> set[int]:
    return {*sizes[::APART], sizes[-1]}


def around(grid: Grid, taken: Taken) -> list[Cell]:
    """The neighbours of the cells that lead, least in flight first."""
    leaders = near(taken, taken.cells, LEADING)
    return [cell for cell in grid.cells() if any(grid.apart(cell, leader) == 1 for leader in leaders)]


def rest(grid: Grid, taken: Taken) -> list[Cell]:
    """All cells, those near the best first."""
    found = best(taken)
    return [] if found is None else sorted(grid.cells(), key=lambda cell: grid.apart(cell, found.cell))


def finalists(taken: Taken) -> list[Cell]:
    """The fastest, and those with least in flight of the ones that are about as fast."""
    close = near(taken, taken.cells, IN_QUESTION)
    ranked = sorted(close, key=lambda cell: -middle(taken.cells[cell]))[:1]
    ranked += [cell for cell in sorted(close, key=lambda cell: cell.in_flight) if cell not in ranked]
    return ranked[:FINALISTS]


def allowed(cell: Cell, grid: Grid, taken: Taken) -> bool:
    """Whether a cell may be measured for the first time: the server takes it, and it may be worth it."""
    if cell in taken.cells or any(end.within(cell) for end in taken.ends):
        return False
    found = best(taken)
    if found is None:
        return cell.in_flight == 1
    return cell.in_flight <= REACH * found.cell.in_flight and not _in_vain(cell, taken)


def _in_vain(cell: Cell, taken: Taken) -> bool:
    """Whether more would only wait: four times as much brought nothing before, or more took something away."""
    for smaller in (
        [one for one in taken.cells if one.batch == cell.batch and one.requests < cell.requests],
        [one for one in taken.cells if one.requests == cell.requests and one.batch < cell.batch],
    ):
        row = sorted(smaller, key=lambda one: one.in_flight)
        if not row:
            continue
        last = middle(taken.cells[row[-1]])
        little = [one for one in row[:-1] if 4 * one.in_flight <= row[-1].in_flight]
        if any(last <= (1 + GAIN) * middle(taken.cells[one]) for one in little):
            return True
        if any(last <= (1 - IN_QUESTION) * middle(taken.cells[one]) for one in row[:-1]):
            return True
    return False


def cost(cell: Cell, taken: Taken, piece: float) -> float:
    """Seconds that a measurement takes, at most, as far as can be told."""
    waits = []
    for one, samples in taken.cells.items():
        if (one.within(cell) or cell.within(one)) and (seconds := one.in_flight / middle(samples)):
            waits.append(seconds * max(1.0, cell.in_flight / one.in_flight))
    return piece + ROUNDS * min(waits, default=0.0)


def automatic_texts(taken: Taken, piece: float) -> int:
    """Texts on which the automatic sizes are measured: for two pieces of time, or four times what is in flight."""
    in_flight = 1 if taken.found is None else taken.found.in_flight
    return max(TURNS * in_flight, round(2 * piece * rate_of_automatic(taken)), FEWEST)


def rate_of_automatic(taken: Taken) -> float:
    """Texts per second that the automatic sizes should have; 0 where nothing is known."""
    if taken.automatic:
        return middle(taken.automatic)
    return max((middle(samples) for samples in taken.cells.values()), default=0.0)


def _next(cells: Iterable[Cell], grid: Grid, taken: Taken, time: Time, room: float) -> Cell | None:
    """The first that may be measured, and for which there is time."""
    for cell in cells:
        if allowed(cell, grid, taken):
            seconds = cost(cell, taken, time.piece)
            if seconds <= room and (not taken.cells or seconds <= time.whole / SHARE):
                return cell
    return None


def _again(taken: Taken, time: Time, most: int) -> Move:
    """The finalist with the fewest samples, or the automatic sizes, by turns."""
    turns: list[tuple[int, Move, float]] = [
        (len(taken.cells[cell]), cell, cost(cell, taken, time.piece)) for cell in finalists(taken)
    ]
    if turns and not taken.without:
        seconds = WARM * automatic_texts(taken, time.piece) / (rate_of_automatic(taken) or 1.0)
        turns.insert(0, (len(taken.automatic) + 1, "automatic", seconds))
    affordable = [turn for turn in turns if turn[0] < most and turn[2] <= time.left]
    return min(affordable, key=lambda turn: turn[0])[1] if affordable else None
