"""A lane: the waiting texts of one form. It forms batches, and decides nothing else."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

from embedwire._events.heard import Heard
from embedwire._http.attempt import LONGEST_SAMPLE
from embedwire._http.discovery import LEARN_FROM
from embedwire._queue.pool import Member, Pool, Route
from embedwire._queue.records import ROWS, Batch, Call, Item
from embedwire._servers.sizes import Limits, least
from embedwire._servers.tuner import PER_TEXT
from embedwire._settings.options import Kind

KINDS: tuple[Kind, ...] = ("query", "document")
QUERIES_UNDER_WAY = 4  # that a lane may have in any case, so that a query need not wait for others' pauses


class Lane:
    """The waiting texts of one form: only these may share a request. It exists while it has work.

    Its state is the texts that wait or travel, the calls and the parts of failed batches that wait, and the batches
    under way: on the wire, or pausing before a repeat. Written by `dispatcher`.

    Attributes:
        successes: Batches that went well.
        refused: Texts refused alone since then.
        trying: One text alone is sent to see whether the server takes any; all else waits.
        watched: A call whose client has hooks is, or was, in it.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        # What waits or travels; a number where only one call wants a text that waits: which call and which row that is.
        self.items: dict[str, Item | int] = {}
        self._numbered: dict[int, Call] = {}
        self._numbers = 0
        self.calls: dict[Kind, OrderedDict[Call, None]] = {kind: OrderedDict() for kind in KINDS}
        self.parts: dict[Kind, deque[Batch]] = {kind: deque() for kind in KINDS}
        self.under_way: dict[Kind, set[Batch]] = {kind: set() for kind in KINDS}
        self.successes = 0
        self.refused = 0
        self.trying = self.watched = False

    @property
    def busy(self) -> bool:
        """Whether anything waits or is under way."""
        return any(
            self.under_way[kind] or self.calls[kind] or any(part.wanted for part in self.parts[kind])
            for kind in KINDS
        )

    def full(self, kind: Kind, member: Member) -> bool:
        """Whether a server has so many batches that no more should be formed: what pauses has left the wire."""
        if self.trying:
            return self.on_the_wire()
        wish, under_way = member.route.sizes.wish(), member.under_way[kind]
        return under_way >= (max(QUERIES_UNDER_WAY, wish.all) if kind == "query" else wish.documents)

    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return [batch.task for batch in chain(*self.under_way.values()) if batch.task is not None]

    def hand_over(self, back: Member | None = None) -> None:
        """What waits for a server that is out of use goes to another; what failed at one that is back may go there."""
        for batch in chain(*self.under_way.values(), *self.parts.values()):
            batch.avoid -= {back}
            waits = batch.slot is not None and not batch.slot.held and batch.route.visitor.ready.is_awaited
            task = batch.task if waits and batch.member not in self.pool.in_use else None
            if task is not None and task is not asyncio.current_task():
                batch.moved = True
                task.cancel()

    def on_the_wire(self, but: Batch | None = None) -> bool:
        """Whether another batch is on the wire now."""
        batches = (batch for under_way in self.under_way.values() for batch in under_way if batch is not but)
        return any(batch.slot is not None and batch.slot.held for batch in batches)

    def closed_until(self, route: Route, now: float) -> float:
        """The moment at which the user's rate limit lets the next request through; ``now`` if at once."""
        rate = route.form.rate
        return now if rate is None else max(now, route.visitor.limiter(rate).next_moment(now))

    def rest(self, kind: Kind, *, over: bool = False) -> None:
        """Where there is a slot and nothing for it, or no work at all, no size can be measured now."""
        for member in () if self.calls[kind] else self.pool.members:
            sizes = member.route.sizes
            if sizes.are_measured(kind) and (over or member.route.slots.free(kind)):
                sizes.rest(kind)

    def enter(self, call: Call, most: int) -> None:
        """Puts a call's next texts into the queue."""
        start, items, known = len(call.items), call.items, self.items
        if not start:
            call.number = self._numbers = self._numbers + 1
            self._numbered[call.number] = call
            self.watched = self.watched or call.heard is not None
        for place, text in enumerate(call.texts[start : start + most], call.number * ROWS + start):
            there = known.setdefault(text, place)
            items.append(None if there is place else self._join(call, place, text, there))

    def _join(self, call: Call, place: int, text: str, there: Item | int) -> Item | None:
        """What a call waits for whose text is known; None where it is alone with it all the same."""
        row = place % ROWS
        item = self.item(self._numbered[there // ROWS], there % ROWS) if isinstance(there, int) else there
        if not item.takes(call.kind):
            self.items[text] = place
            return None
        item.owners.append((call, row))
        item.wanted += 1
        return item

    def item(self, call: Call, row: int) -> Item:
        """The item of a call's text that is in the queue."""
        item = call.items[row]
        if item is None:
            item = call.items[row] = Item(call, row)
            if self.items.get(item.text) == call.number * ROWS + row:
                self.items[item.text] = item
        return item

    def withdraw(self, call: Call, row: int) -> None:
        """A text that waits for one call alone leaves the queue."""
        text = call.texts[row]
        if self.items.get(text) == call.number * ROWS + row:
            del self.items[text]

    def leave(self, call: Call) -> None:
        """A call has no text in the queue any more."""
        self._numbered.pop(call.number, None)

    def forget(self, item: Item) -> None:
        """This text neither waits nor travels any more: it has its vector, it failed, or nobody wants it."""
        item.wanted = 0
        item.owners.clear()
        if self.items.get(item.text) is item:
            del self.items[item.text]

    def take(self, kind: Kind, now: float, places: int, member: Member) -> Batch | None:
        """The next batch of a kind: a part of one that failed, or as many waiting texts as one request carries.

        The next call's texts go first, then it is another call's turn.

        Args:
            kind: Of the texts.
            now: The time.
            places: Requests that may be sent now, this one included; few texts are spread over them.
            member: The server that it goes to.
        """
        if (part := self._part(kind, member, now)) is not None:
            return part
        if not self.calls[kind]:
            return None
        batch = Batch(self, kind, since=self.successes, member=member)
        self._fill(batch, now, places)
        return batch if batch.items else None

    def strict(self, kind: Kind) -> float:
        """The first moment at which a failed batch may go to any server."""
        return min((part.strict for part in self.parts[kind]), default=0.0)

    def _part(self, kind: Kind, member: Member, now: float) -> Batch | None:
        """The first part of a failed batch that may go to a server."""
        parts = self.parts[kind]
        while parts and not parts[0].wanted:
            parts.popleft()
        for place, part in enumerate(parts):
            if part.wanted and (part.strict <= now or self.pool.may(member, part.avoid)):
                del parts[place]
                part.member = member
                return part
        return None

    def has_room(self, batch: Batch, text: int = LONGEST_SAMPLE) -> bool:
        """Whether one more text, of so many characters, would be within what the user and the server allow."""
        texts, chars = _most_texts(batch.route), batch.route.sizes.limits(batch.kind).chars
        return (texts is None or len(batch.items) < texts) and (chars is None or batch.chars + text <= chars)

    def _with_room(self, limits: Limits, call: Call, route: Route) -> Limits:
        """Limits of a batch that has room for one text more, where the call that is next has many left."""
        most = _most_texts(route)
        if most is None or most < 2 or limits.texts is None or limits.texts < most:
            return limits
        if call.count - call.cursor < LEARN_FROM:
            return limits
        return replace(limits, texts=most - 1)

    def _fill(self, batch: Batch, now: float, places: int) -> None:
        """Moves waiting texts into a batch, as many as it can carry."""
        route, calls = batch.route, self.calls[batch.kind]
        limits = _limits(route, batch.kind, now)
        if batch.kind == "document" and route.visitor.wants_room(route.form, route.model):
            limits = self._with_room(limits, next(iter(calls)), route)
        share = None if route.form.rate is not None else _share(calls, limits, places)
        load, full = _Load(limits if share is None else replace(limits, texts=share)), False
        for _ in range(len(calls)):
            call = next(iter(calls))
            full = self._move(batch, call, load, now)
            if call.cursor == call.count:
                del calls[call]
            elif call.total is not None:  # a stream's piece keeps its turn, so that they end one by one
                calls.move_to_end(call)
            if full:
                break
        batch.full = full and share is None and bool(calls)
        route.sizes.sizing.sent(len(batch.items), batch.chars)

    def _move(self, batch: Batch, call: Call, load: _Load, now: float) -> bool:
        """Moves a call's waiting texts into a batch; True once it can carry no more.

        A text that travels alone is put aside, to be sent next, so that it does not make the batch a small one.
        """
        aside = 0
        for item in call.waiting(now):
            if aside < len(batch.items) and load.sends_alone(item.text):
                part = Batch(self, batch.kind, since=self.successes)
                part.add(item)
                self.parts[batch.kind].append(part)
                aside += 1
                continue
            if not load.takes(item.text):
                return True
            batch.add(item)
            if load.full:
                call.cursor += 1
                return True
        return False


def heard_by(batch: Batch) -> dict[Heard, None]:
    """The callers of a batch whose clients have hooks."""
    return {call.heard: None for call in batch.callers() if call.heard is not None}


def _most_texts(route: Route) -> int | None:
    """What the user and the server allow in one request, whatever is the best for now."""
    fixed = route.form.batch
    return least(route.sizes.sizing.texts_allowed, fixed.texts if fixed else None)


def _limits(route: Route, kind: Kind, now: float) -> Limits:
    limits, rate = route.sizes.limits(kind), route.form.rate
    if rate is None:
        return limits
    room = route.visitor.limiter(rate).room(now)
    return replace(limits, texts=least(limits.texts, room.texts), chars=least(limits.chars, room.chars))


def _share(calls: Iterable[Call], limits: Limits, places: int) -> int | None:
    """Texts for one of several places, where what waits would leave some of them empty; else None.

    Only where the sizes are to be found: a number of the user's is obeyed.
    """
    if limits.work is None or limits.texts is None or places < 2:
        return None
    waiting, enough = 0, limits.texts * places
    for call in calls:
        waiting += call.count - call.cursor
        if waiting >= enough:
            return None
    return min(limits.texts, max(limits.share, -(-waiting // places)))


class _Load:
    """What a batch carries so far. Written by `Lane`."""

    __slots__ = ("_alone", "_chars", "_limits", "_texts", "_work")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._texts = self._chars = 0
        self._work = 0.0
        self._alone = False

    @property
    def full(self) -> bool:
        """Whether there is room for no other text, however short."""
        return self._alone or self._texts == self._limits.texts

    def sends_alone(self, text: str) -> bool:
        """Whether a text may be too long for the server, so that a refusal should cost no other text a request."""
        return self._limits.alone is not None and len(text) >= self._limits.alone

    def takes(self, text: str) -> bool:
        """Takes a text in, where it fits; the first one always does."""
        limits, chars, work = self._limits, self._chars + len(text), self._work + len(text) + PER_TEXT
        alone = self.sends_alone(text)
        if self._texts:
            if alone or (limits.chars is not None and chars > limits.chars):
                return False
            if limits.work is not None and self._texts >= limits.free and work > limits.work:
                return False
        self._texts, self._chars, self._work, self._alone = self._texts + 1, chars, work, alone
        return True
