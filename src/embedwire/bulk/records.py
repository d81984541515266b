"""What the parts of a bulk run hand to each other. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from embedwire._clients.words import clock, short
from embedwire._queue.usage import Usage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector: TypeAlias = NDArray[np.float32]

Dtype: TypeAlias = Literal["float32", "float16", "int8", "binary"]
InputFormat: TypeAlias = Literal["jsonl", "csv", "tsv", "parquet", "text"]
OutputFormat: TypeAlias = Literal["parquet", "jsonl", "npy"]
VECTOR = "embedding"  # the column of vectors
ROW = "row"  # the column of row numbers, where no column of the input tells the rows apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Columns of the input.

    Attributes:
        text: What is embedded.
        id: What tells rows apart; None: the number of the row.
        keep: What else goes into the output.
    """

    text: str
    id: str | None
    keep: tuple[str, ...]

    @property
    def carried(self) -> tuple[str, ...]:
        """Those that go from the input into the output, each once."""
        return tuple(dict.fromkeys([*([] if self.id is None else [self.id]), *self.keep]))

    @property
    def all(self) -> tuple[str, ...]:
        """Those that are needed, each once."""
        return tuple(dict.fromkeys([self.text, *self.carried]))

    @property
    def numbered(self) -> bool:
        """Whether the number of each row goes into the output."""
        return self.id is None and ROW not in self.keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something that rows are read from.

    Attributes:
        name: As messages show it.
        path: The file; None for stdin and for rows of the caller.
        format: What is in it.
        packed: How it is compressed.
        size: In bytes, when the run began.
        changed: When it was last changed, in nanoseconds.
    """

    name: str
    path: Path | None = None
    format: InputFormat = "jsonl"
    packed: Literal["gz", "zst"] | None = None
    size: int = 0
    changed: int = 0

    @property
    def unit(self) -> str:
        """What a place in it is called."""
        return "row" if self.format == "parquet" else "line"

    def identity(self) -> dict[str, Any]:
        """By what it is known again: its name without folders, its size and its time."""
        if self.path is None:
            return {"name": self.name}
        return {"name": self.path.name, "size": self.size, "changed": self.changed}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """Rows that were read together.

    Attributes:
        source: Where from.
        lines: The line (or row, from 1) on which each begins.
        texts: Of each; None where there is no text that could be embedded.
        problems: Why not, by index in the chunk.
        carried: Of each, the columns that go into the output: dicts, or an Arrow record batch.
        read: Bytes that were read up to its end; of rows of the caller, rows.
        start: The same up to its beginning.
    """

    source: Source
    lines: Sequence[int]
    texts: Sequence[str | None]
    problems: dict[int, str]
    carried: Any
    read: int
    start: int = 0

    def place(self, index: int) -> str:
        """Where a row is, for messages."""
        return f"{self.source.name}, {self.source.unit} {self.lines[index]}"


class Row(NamedTuple):
    """One row of the input: its number, from 0 over all files, and where it is in its chunk."""

    number: int
    chunk: Chunk
    at: int

    @property
    def text(self) -> str | None:
        """What is to be embedded, where there is something."""
        return self.chunk.texts[self.at]

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return self.chunk.place(self.at)

    @property
    def read(self) -> float:
        """About how much of the input had been read at its end."""
        chunk = self.chunk
        return chunk.start + (chunk.read - chunk.start) * (self.at + 1) / len(chunk.texts)


class Done(NamedTuple):
    """A row, and its vector or why it has none."""

    row: Row
    vector: Vector | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far an output is.

    Attributes:
        next: Number of the first row of the input that is not in it, nor rejected.
        rows: In it.
        rejects: That got no vector.
        digest: Of the texts before ``next``.
        width: Numbers of a vector as it came; 0 before the first one.
    """

    next: int = 0
    rows: int = 0
    rejects: int = 0
    digest: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RayEngine:
    """A Ray cluster, in whose tasks a run embeds.

    Attributes:
        address: Of the cluster, as ``ray.init`` takes it; ``"auto"`` for the one on this machine. None: the one that
            this process is connected to, or that ``RAY_ADDRESS`` names; else one is started here, and ended with the
            run.
        workers: Most tasks at a time, each of which takes a CPU; ``concurrency`` and ``rate_limit`` of the client are
            shared out among them. Default: one for each CPU of the cluster, and no more than there is to share out.
    """

    address: str | None = None
    workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        phase: ``"waiting"`` for the server, ``"skipping"`` what an earlier run did, ``"embedding"`` or ``"done"``.
        rows: In the output so far, those of earlier runs included.
        resumed: Those of earlier runs.
        rejects: Rows that got no vector.
        repeats: Rows of this run whose text it had embedded before.
        cached: Texts of this run whose vector came from the client's cache.
        rate: Rows per second lately.
        tokens: That the server counted in this run; None where it tells none.
        fraction: Of the input that is done, 0 to 1; None where its size is not known.
        seconds: Since this run began.
        left: Seconds that the rest will take; None where nothing tells.
    """

    phase: Literal["waiting", "skipping", "embedding", "done"]
    rows: int = 0
    resumed: int = 0
    rejects: int = 0
    repeats: int = 0
    cached: int = 0
    rate: float = 0.0
    tokens: int | None = None
    fraction: float | None = None
    seconds: float = 0.0
    left: float | None = None

    @property
    def ended(self) -> bool:
        """Whether all is done."""
        return self.phase == "done"

    def words(self) -> list[str]:
        """What is to be said, the most important first."""
        if self.phase == "waiting":
            return ["waiting for the server"]
        if self.phase == "skipping":
            return ["finding the place where the last run ended"]
        said = [] if self.fraction is None else [f"{self.fraction:.0%}"]
        said.append(f"{self.rows:,} rows")
        if self.phase == "done":
            return said
        if self.left is not None:
            said.append(f"{clock(self.left)} left")
        said.append(f"{self.rate:,.0f} rows/s")
        if self.rejects:
            said.append(f"{self.rejects:,} rejected")
        if self.tokens is not None:
            said.append(f"{short(self.tokens)} tokens")
        if self.cached:
            said.append(f"{short(self.cached)} from the cache")
        if self.repeats:
            said.append(f"{short(self.repeats)} repeats")
        return said


Show: TypeAlias = Callable[[Progress], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did.

    Attributes:
        rows: In the output, those of earlier runs included.
        resumed: Those of earlier runs.
        rejects: Rows without a vector, those of earlier runs included.
        repeats: Rows of this run whose text it had embedded before; they cost no request.
        seconds: That this run took.
        usage: What this run had embedded, and what that took.
        files: The output's.
    """

    rows: int
    resumed: int
    rejects: int
    repeats: int
    seconds: float
    usage: Usage
    files: tuple[Path, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run would do.

    Attributes:
        rows: In the input.
        characters: In their texts, prompts not included.
        bad: Rows that have no text that could be embedded.
        first_bad: The first of them, and why; None where there is none.
        sampled: Texts that were embedded to guess the time.
        seconds: That the run would take, by these; None where nothing could be embedded.
    """

    rows: int
    characters: int
    bad: int
    first_bad: str | None
    sampled: int
    seconds: float | None
