"""What the parts of a sweep hand to each other. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from embedwire._servers.known import ServerInfo

Reason: TypeAlias = Literal["refused", "slow", "failed", "cap"]


class Cell(NamedTuple):
    """Two sizes: most texts in a request, and most requests in flight."""

    batch: int
    requests: int

    @property
    def in_flight(self) -> int:
        """Texts in flight."""
        return self.batch * self.requests

    def __str__(self) -> str:
        return f"{self.batch} x {self.requests}"

    def within(self, other: Cell) -> bool:
        """Whether neither size is larger than the other's."""
        return self.batch <= other.batch and self.requests <= other.requests


def words(cell: Cell) -> str:
    """Two sizes in words."""
    return f"{cell.batch} text{'s' * (cell.batch != 1)} in a request, {cell.requests} in flight"


Move: TypeAlias = Cell | Literal["automatic"] | None  # what is measured next


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement.

    Attributes:
        rate: Texts per second, as many as if all were of the average length.
        latency: Seconds that a request took, the median; None where requests of several sizes went out.
        seconds: Over which the rate was taken.
        texts: That were embedded for it.
    """

    rate: float
    latency: float | None
    seconds: float
    texts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why nothing larger is tried.

    Attributes:
        reason: The server refused, took too long, failed, or takes no more texts in a request.
        what: In words.
    """

    reason: Reason
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The sizes that may be tried.

    Attributes:
        batches: Texts in a request, ascending.
        requests: Requests in flight, ascending.
        why: What set the limits, in words; "" for the user's.
    """

    batches: tuple[int, ...]
    requests: tuple[int, ...]
    why: str = ""

    def cells(self) -> list[Cell]:
        """All, least in flight first."""
        cells = (Cell(batch, requests) for batch in self.batches for requests in self.requests)
        return sorted(cells, key=lambda cell: (cell.in_flight, cell.requests))

    def apart(self, one: Cell, other: Cell) -> int:
        """Steps between two cells; along both sizes at once they count once."""
        across = abs(self.batches.index(one.batch) - self.batches.index(other.batch))
        return max(across, abs(self.requests.index(one.requests) - self.requests.index(other.requests)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was measured so far.

    Attributes:
        cells: Samples of each cell.
        ends: Cells beyond which nothing is tried.
        automatic: Samples of the automatic sizes, warmed up.
        start: The automatic sizes from the start; None where that could not be measured.
        found: The automatic sizes as they were last.
        without: Whether the automatic sizes, warmed up, got too few vectors, and are measured no more.
    """

    cells: Mapping[Cell, tuple[Sample, ...]] = field(default_factory=dict)
    ends: Mapping[Cell, Ending] = field(default_factory=dict)
    automatic: tuple[Sample, ...] = ()
    start: Sample | None = None
    found: Cell | None = None
    without: bool = False

    def measured(self, cell: Cell, sample: Sample) -> Taken:
        """With one more sample."""
        return replace(self, cells={**self.cells, cell: (*self.cells.get(cell, ()), sample)})

    def ended(self, cell: Cell, ending: Ending) -> Taken:
        """Neither a cell is tried nor anything beyond it; what was measured there counts no more."""
        cells = {one: samples for one, samples in self.cells.items() if not cell.within(one)}
        return replace(self, cells=cells, ends={**self.ends, cell: ending})


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What was sent.

    Attributes:
        source: Where the texts are from, in words.
        count: How many there are, none of them twice.
        characters: That they have on average.
        skipped: Rows without a text to embed: null, blank, broken, or there before.
        refused: Texts that the model does not take, and that were left out.
        passes: How often all of them had been sent, when more were wanted; from the second time on with a number in
            front.
    """

    source: str
    count: int
    characters: float
    skipped: int = 0
    refused: int = 0
    passes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A sweep, whole or broken off.

    Attributes:
        url: As messages show it.
        info: What the server told of itself; None where nothing is known.
        grid: What might have been tried.
        taken: What was measured.
        texts: What was sent.
        seconds: That it took.
        budget: That it might have taken.
        complete: Whether time was enough for all that a verdict needs.
        error: What ended it early; None where nothing did.
        arguments: Of the clients, beside URL, model and sizes, that the user passed.
    """

    url: str
    info: ServerInfo | None
    grid: Grid
    taken: Taken
    texts: Texts
    seconds: float
    budget: float
    complete: bool
    error: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How far a sweep is.

    Attributes:
        phase: What is done just now, in words.
        grid: What may be tried; None while that is not known.
        taken: What was measured.
        current: The cell that is measured now.
        end: When the time is over, by `time.monotonic`.
    """

    phase: str
    grid: Grid | None
    taken: Taken
    current: Cell | None
    end: float
