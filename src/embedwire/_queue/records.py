"""The records of the queue: calls, the distinct texts they wait for, and batches. Written by this room alone."""

from __future__ import annotations

import asyncio
import concurrent.futures
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from embedwire._events.heard import Heard
from embedwire._http.records import NEW, STRICT, Fault, History, Matrix
from embedwire._http.vectors import normalized
from embedwire._queue.pool import Member, Route
from embedwire._queue.usage import Ledger
from embedwire._servers.facts import same_model
from embedwire._servers.limiter import Sent
from embedwire._servers.slots import Slot
from embedwire._servers.tuner import PER_TEXT
from embedwire._settings.options import Kind
from embedwire.exceptions import Completed

if TYPE_CHECKING:
    from embedwire._queue.lane import Lane

Future: TypeAlias = asyncio.Future[Matrix] | concurrent.futures.Future[Matrix]

OPEN, DONE, FAILED = 0, 1, 2  # states of a row

ROWS = 2**32  # more than a call can have


@dataclass(frozen=True, slots=True)
class Part:
    """Where texts stand that are only a part of their caller's list.

    Attributes:
        indexes: Of each; ascending.
        count: Texts in the whole list; None: nobody knows, as of a stream.
    """

    indexes: Sequence[int]
    count: int | None = None


class Call:
    """One caller's texts on their way into one matrix.

    Its state is the rows: which are done, how many are left, and what went wrong with those that failed.
    """

    __slots__ = (
        "count",
        "cursor",
        "deadline",
        "faults",
        "future",
        "heard",
        "items",
        "kind",
        "lane",
        "ledger",
        "left",
        "matrix",
        "models",
        "normalize",
        "number",
        "open",
        "part",
        "rows",
        "texts",
        "timer",
    )

    def __init__(
        self,
        lane: Lane,
        texts: list[str],
        kind: Kind,
        future: Future,
        *,
        deadline: float | None = None,
        part: Part | None = None,
        normalize: bool = False,
        ledger: Ledger | None = None,
        heard: Heard | None = None,
    ) -> None:
        self.lane = lane
        self.texts = texts
        self.count = len(texts)
        self.kind: Kind = kind
        self.future = future
        self.deadline = deadline
        self.part = part  # where they stand in the caller's list; None: they are all of it
        self.normalize = normalize
        self.ledger = Ledger() if ledger is None else ledger
        self.heard = heard  # None where its client has no hooks
        self.timer: asyncio.TimerHandle | None = None
        self.open = True  # until it is over
        self.number = 0  # among those that ever were in its lane
        # One per text that is in the queue so far, the same one for equal texts; None where the row is done, and where
        # only this call wants a text that waits: a hundred thousand objects would keep the garbage collector busy.
        self.items: list[Item | None] = []
        self.cursor = 0  # the first text that may still wait
        self.left = self.count
        self.matrix: Matrix | None = None
        self.models: tuple[str | None, str | None] = None, None  # that the replies, and the requests, name
        self.rows = bytearray(self.count)  # of OPEN, DONE, FAILED
        self.faults: dict[int, tuple[Fault, int]] = {}  # by row, with the requests that were sent for it

    def index(self, row: int) -> int:
        """Index of a text in the caller's list."""
        return row if self.part is None else self.part.indexes[row]

    @property
    def total(self) -> int | None:
        """Texts in the caller's list; None where nobody knows, as of a stream's piece."""
        return self.count if self.part is None else self.part.count

    def waiting(self, now: float) -> Iterator[Item]:
        """The texts that nobody has sent yet, in order; none once the deadline has passed."""
        if self.deadline is not None and self.deadline <= now:
            return
        while self.cursor < len(self.items):
            if self.rows[self.cursor] == OPEN:
                item = self.lane.item(self, self.cursor)
                if item.batch is None:
                    yield item
                    if item.batch is None:
                        return
            self.cursor += 1

    def make_room(self, width: int) -> bool:
        """Makes the matrix, before anything is delivered; False where it is there and has another width."""
        if self.matrix is None:
            self.matrix = np.empty((self.count, width), dtype=np.float32)
        return bool(self.matrix.shape[1] == width)

    def of_one_model(self, models: tuple[str | None, str | None]) -> bool:
        """Whether vectors of these models may be of the one that this call's first ones are of."""
        known = self.models
        self.models = known[0] or models[0], known[1] or models[1]
        return all(map(same_model, known, models))

    def put(self, rows: list[int], vectors: Matrix) -> None:
        """Takes the vectors of some texts, as the caller wants them."""
        assert self.matrix is not None  # noqa: S101 - there is room
        if self.normalize:
            vectors = normalized(vectors)
        first, count = rows[0], len(rows)
        if rows[-1] - first == count - 1 and all(map(operator.lt, rows, rows[1:])):  # in a row: one copy
            self.matrix[first : first + count] = vectors
            self.rows[first : first + count] = b"\x01" * count
            self.items[first : first + count] = [None] * count
        else:
            self.matrix[rows] = vectors
            for row in rows:
                self.rows[row] = DONE
                self.items[row] = None
        self.left -= count

    def next_open(self) -> int:
        """The first text that has neither vector nor fault."""
        return max(0, self.rows.find(OPEN))

    def fail(self, row: int, fault: Fault, sent: int) -> None:
        """Takes note that text ``row`` gets no vector."""
        self.faults[row] = fault, sent
        self.rows[row] = FAILED
        self.items[row] = None
        self.left -= 1

    def completed(self) -> Completed:
        """What is done so far."""
        if self.matrix is None:
            return Completed([], np.empty((0, 0), dtype=np.float32))
        rows = np.flatnonzero(np.frombuffer(self.rows, dtype=np.uint8) == DONE)
        return Completed([self.index(row) for row in rows.tolist()], self.matrix[rows])


class Item:
    """One distinct text that is sent, or that several want, and the rows of the calls that want its vector.

    Its state is who wants it, and the batch that it left the queue in. The rows of calls that are over stay in
    ``owners`` and are passed over; ``wanted`` counts them until they were given up, a slice at a time.
    """

    __slots__ = ("batch", "kind", "owners", "text", "wanted")

    def __init__(self, call: Call, row: int) -> None:
        self.text = call.texts[row]
        self.kind: Kind = call.kind  # of the call that came with it
        self.owners = [(call, row)]
        self.wanted = 1
        self.batch: Batch | None = None  # set from the moment that it leaves the queue

    def takes(self, kind: Kind) -> bool:
        """Whether one more call, of this kind, may wait for its vector.

        A query does not wait for a document's request, nor is its text kept for one.
        """
        if self.batch is None:
            return kind == "query" or self.kind == "document"
        return not self.batch.over and (kind == "document" or self.batch.kind == "query")

    def rows(self) -> Iterator[tuple[Call, int]]:
        """The rows of open calls that want it."""
        return ((call, row) for call, row in self.owners if call.open)


@dataclass(eq=False, slots=True)
class Whole:
    """A batch that failed and was sent again in parts. If every part succeeds, its size was the reason.

    Attributes:
        of: What there may have been too much of.
        parts: Parts that did not succeed yet; 0 where one failed, too.
        texts: Texts in the largest part that succeeded.
        chars: Characters in it.
    """

    of: Literal["texts", "chars"]
    parts: int
    texts: int = 0
    chars: int = 0


@dataclass(eq=False, repr=False, slots=True)  # no repr: it would show texts
class Batch:
    """Texts that travel in one request.

    Attributes:
        lane: Where they waited.
        kind: Queries or documents.
        items: The texts, in the order of the request.
        chars: Characters in them.
        history: What happened to them before.
        since: Successes of the lane when they were sent first.
        wanted: Texts in it that somebody still wants.
        whole: The refused batch that this one is a part of.
        trial: Its one text is to show whether the server takes any.
        task: What sends it now.
        slot: Its place on the wire.
        full: It has as many texts as the sizes allow, and more wait.
        number: Of the tuner.
        reserved: Its moment under a rate limit.
        over: It has come back; nobody joins its texts any more.
        owed: Callers whose vectors have come and who were not told yet.
        member: The server that it goes to.
        avoid: Servers at which its texts failed.
        strict: The moment until which they go to none of those, if there is another.
        doubted: The server that refused its one text, and how; another one is asked whether it does, too.
        hedges: Requests sent for it beside those of its own slot.
        moved: It is taken from a server that it waits for, to go to another one.
    """

    lane: Lane
    kind: Kind
    items: list[Item] = field(default_factory=list)
    chars: int = 0
    history: History = NEW
    since: int = 0
    wanted: int = 0
    whole: Whole | None = None
    trial: bool = False
    task: asyncio.Task[None] | None = None
    slot: Slot | None = None
    full: bool = False
    number: int = 0
    reserved: Sent | None = None
    over: bool = False
    owed: dict[Call, Any] = field(default_factory=dict)
    member: Member | None = None
    avoid: frozenset[Member] = frozenset()
    strict: float = 0.0
    doubted: tuple[Member, Fault] | None = None
    hedges: int = 0
    moved: bool = False

    @property
    def route(self) -> Route:
        """The way to the server that it goes to."""
        assert self.member is not None  # noqa: S101 - it was taken for one
        return self.member.route

    def elsewhere(self) -> bool:
        """Whether another server, at which its texts did not just fail, would take it."""
        avoid = self.avoid if self.strict > asyncio.get_running_loop().time() else ()
        return self.lane.pool.other(than={self.member, *avoid})

    def avoids(self, member: Member) -> None:
        """Its texts failed at a server: for a moment they go to no such one."""
        self.avoid |= {member}
        self.strict = asyncio.get_running_loop().time() + STRICT

    def add(self, item: Item) -> None:
        """Takes a wanted text in."""
        self.items.append(item)
        self.chars += len(item.text)
        self.wanted += 1
        item.batch = self

    @property
    def texts(self) -> list[str]:
        """The texts, in the order of the request."""
        return [item.text for item in self.items]

    @property
    def work(self) -> int:
        """What it takes a server to do it, in characters."""
        return self.chars + PER_TEXT * len(self.items)

    @property
    def sent(self) -> int:
        """Requests sent for these texts so far."""
        return self.history.sent + (self.slot.sent if self.slot is not None else 0) + self.hedges

    def callers(self) -> dict[Call, int]:
        """The open calls that want a text of it, each with the first row that does."""
        callers: dict[Call, int] = {}
        for item in self.items:
            for call, row in item.rows():
                callers.setdefault(call, row)
        return callers

    def left(self) -> set[Call]:
        """The open calls that still wait for it."""
        left = {call for item in self.items if item.batch is self for call, _ in item.rows()}
        return left | {call for call in self.owed if call.open}

    def until(self) -> float | None:
        """The last of its callers' deadlines, in loop time; None if somebody waits without one."""
        last = 0.0
        for call in self.callers():
            if call.deadline is None:
                return None
            last = max(last, call.deadline)
        return last

    def spare(self) -> bool:
        """Whether it may carry one text more, which shows what base64 carries."""
        return not self.history.sent and self.lane.has_room(self)

    def suspicious(self) -> bool:
        """Whether a failure that strikes again may be one text's: several calls share it, or others went well."""
        return self.lane.successes > self.since or len(self.callers()) > 1
