"""The records of the queue: calls, the distinct texts they wait for, batches on their way, and lanes.

A lane holds the waiting texts of one form; it forms batches, and decides nothing else.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import operator
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from embedwire._config import BatchLimits, Form, Kind
from embedwire._faults import Failure
from embedwire._limits import Learned, batch_limits
from embedwire._tune import Tuner
from embedwire._wire import Matrix, normalized
from embedwire.exceptions import Completed

Future = asyncio.Future[Matrix] | concurrent.futures.Future[Matrix]


class Call:
    """One caller's texts on their way into one matrix."""

    __slots__ = (
        "count",
        "cursor",
        "deadline",
        "done",
        "failures",
        "future",
        "items",
        "kind",
        "lane",
        "left",
        "matrix",
        "normalize",
        "offset",
        "texts",
        "timer",
    )

    def __init__(
        self,
        lane: Lane,
        texts: list[str],
        kind: Kind,
        future: Future,
        deadline: float | None = None,
        offset: int | None = None,
        normalize: bool = False,
    ) -> None:
        self.lane = lane
        self.texts = texts
        self.count = len(texts)
        self.kind = kind
        self.future = future
        self.deadline = deadline
        self.offset = offset  # index of the first text in the caller's list, where these are a part of one
        self.normalize = normalize
        self.timer: asyncio.TimerHandle | None = None
        self.items: list[Item] = []  # one per text that is in the queue so far, the same one for equal texts
        self.cursor = 0  # the first text that may still wait
        self.left = self.count
        self.matrix: Matrix | None = None
        self.done = bytearray(self.count)
        self.failures: dict[int, Failure] = {}

    def index(self, row: int) -> int:
        """Index of a text in the caller's list."""
        return row + (self.offset or 0)

    def waiting(self, now: float) -> Iterator[Item]:
        """The texts that nobody has sent yet, in order; none once the deadline has passed."""
        if self.deadline is not None and self.deadline <= now:
            return
        while self.cursor < len(self.items):
            item = self.items[self.cursor]
            if item.batch is None and not item.over:
                yield item
                if item.batch is None:
                    return
            self.cursor += 1

    def make_room(self, width: int) -> bool:
        """Makes the matrix, before anything is delivered; False where it is there and has another width."""
        if self.matrix is None:
            self.matrix = np.empty((self.count, width), dtype=np.float32)
        return bool(self.matrix.shape[1] == width)

    def put(self, rows: list[int], vectors: Matrix) -> None:
        """Takes the vectors of some texts."""
        assert self.matrix is not None  # noqa: S101 - there is room
        first, count = rows[0], len(rows)
        if rows[-1] - first == count - 1 and all(map(operator.lt, rows, rows[1:])):  # in a row: one copy
            self.matrix[first : first + count] = vectors
            self.done[first : first + count] = b"\x01" * count
        else:
            self.matrix[rows] = vectors
            for row in rows:
                self.done[row] = 1
        self.left -= count

    def next_open(self) -> int:
        """The first text that has neither vector nor failure."""
        return next((row for row in range(self.count) if not self.done[row] and row not in self.failures), 0)

    def fail(self, row: int, failure: Failure) -> None:
        """Takes note that text ``row`` gets no vector."""
        self.failures[row] = failure
        self.left -= 1

    def result(self) -> Matrix:
        """All vectors, as the caller wants them."""
        assert self.matrix is not None  # noqa: S101 - every row was put
        return self._final(self.matrix)

    def completed(self) -> Completed:
        """What is done so far."""
        if self.matrix is None:
            return Completed([], np.empty((0, 0), dtype=np.float32))
        indexes = np.flatnonzero(np.frombuffer(self.done, dtype=np.uint8))
        return Completed([self.index(row) for row in indexes.tolist()], self._final(self.matrix[indexes]))

    def _final(self, matrix: Matrix) -> Matrix:
        return normalized(matrix) if self.normalize else matrix


class Item:
    """One distinct text on its way to the server, and the rows of the calls that want its vector."""

    __slots__ = ("batch", "over", "owners", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.owners: list[tuple[Call, int]] = []
        self.batch: Batch | None = None  # set from the moment that it leaves the queue
        self.over = False  # delivered, failed or given up by all


@dataclass(slots=True)
class Trail:
    """What happened so far to the texts of one request.

    Attributes:
        sent: Requests sent for them.
        timeouts: How many of those ran into a timeout.
        last_failure: Hash of the last failing reply.
        bisecting: They were part of a larger request that failed like that, and the text at fault is searched for.
    """

    sent: int = 0
    timeouts: int = 0
    last_failure: int | None = None
    bisecting: bool = False


@dataclass(eq=False, slots=True)
class Whole:
    """A batch that failed and was sent again in parts. If every part succeeds, its size was the reason."""

    reason: Literal[
        "chars", "texts", "maybe"
    ]  # what was refused; "maybe": it failed, for what may have passed
    parts: int
    texts: int = 0  # of its largest part
    chars: int = 0


@dataclass(eq=False, repr=False, slots=True)  # no repr: it would show texts
class Batch:
    """Texts that travel in one request, and what happened to them so far."""

    lane: Lane
    kind: Kind
    items: list[Item] = field(default_factory=list)
    trail: Trail = field(default_factory=Trail)
    live: int = 0  # items that somebody still wants
    task: asyncio.Task[None] | None = None
    whole: Whole | None = None  # the refused batch that this one is a part of
    round: int = -1  # of the tuner
    began: float = 0.0  # loop time

    def add(self, item: Item) -> None:
        """Takes a wanted text in."""
        self.items.append(item)
        self.live += 1
        item.batch = self

    def part(self, items: list[Item], whole: Whole | None, *, bisecting: bool) -> Batch:
        """A part of this batch, to be sent on its own, that remembers what happened so far."""
        part = Batch(self.lane, self.kind, trail=replace(self.trail, bisecting=bisecting), whole=whole)
        for item in items:
            part.add(item)
        return part

    @property
    def texts(self) -> list[str]:
        """The texts, in the order of the request."""
        return [item.text for item in self.items]

    def until(self) -> float | None:
        """The last of its callers' deadlines, in loop time; None if somebody waits without one."""
        last = 0.0
        for item in self.items:
            for call, _ in item.owners:
                if call.deadline is None:
                    return None
                last = max(last, call.deadline)
        return last


@dataclass(eq=False, repr=False, slots=True)
class Lane:
    """The waiting texts of one form: only these may share a request."""

    form: Form
    learned: Learned
    items: dict[str, Item] = field(default_factory=dict)  # waiting or in flight, by text
    calls: dict[Kind, OrderedDict[Call, None]] = field(
        default_factory=lambda: {"query": OrderedDict(), "document": OrderedDict()}
    )
    parts: dict[Kind, deque[Batch]] = field(default_factory=lambda: {"query": deque(), "document": deque()})
    in_flight: int = 0
    width: int | None = None
    tuners: dict[Kind, Tuner] = field(init=False)
    delivered: int = 0  # texts
    curious: bool = True  # there may be something to ask the server
    refused: int = 0  # texts refused alone since the last success

    def __post_init__(self) -> None:
        self.tuners = {kind: Tuner(self.form, self.learned, kind) for kind in self.calls}

    @property
    def busy(self) -> bool:
        """Whether anything waits or is on its way."""
        return bool(self.in_flight or any(self.parts.values()) or any(self.calls.values()))

    def forget(self, item: Item) -> None:
        """This text neither waits nor travels any more."""
        item.over = True
        if self.items.get(item.text) is item:
            del self.items[item.text]

    def take(self, kind: Kind, now: float) -> Batch | None:
        """The next batch of a kind: a part of one that failed, or as many waiting texts as one request carries.

        The next call's texts go first, then it is another call's turn.
        """
        parts = self.parts[kind]
        while parts:
            part = parts.popleft()
            if part.live:
                return part
        if not self.calls[kind]:
            return None
        batch = Batch(self, kind)
        self.fill(batch, now)
        return batch if batch.items else None

    def fill(self, batch: Batch, now: float) -> None:
        """Moves waiting texts into a batch, as many as it can carry."""
        calls = self.calls[batch.kind]
        limits = batch_limits(self.form, self.learned, batch.kind)
        if limits.texts is not None and len(batch.items) >= limits.texts:
            return
        for _ in range(len(calls)):
            call = next(iter(calls))
            full = self._fill(batch, call, limits, now)
            if call.cursor < call.count:
                calls.move_to_end(call)
            else:
                del calls[call]
            if full:
                break

    def _fill(self, batch: Batch, call: Call, limits: BatchLimits, now: float) -> bool:
        """Moves a call's waiting texts into a batch; True once it can carry no more."""
        chars = sum(len(item.text) for item in batch.items) if limits.chars is not None else 0
        for item in call.waiting(now):
            if limits.chars is not None:
                chars += len(item.text)
                if batch.items and chars > limits.chars:
                    return True
            batch.add(item)
            if len(batch.items) == limits.texts:
                call.cursor += 1
                return True
        return False
