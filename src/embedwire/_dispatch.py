"""Who is sent next: texts of all calls wait here, and a batch forms when a slot is free.

One dispatcher belongs to one server and one event loop; nothing here knows HTTP. Queries go before bulk, bulk
calls take turns, equal texts travel once, each vector goes straight into the rows of the calls that want it.
There are no timers but the calls' deadlines and those of rate limits, and no locks: everything runs on the loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Literal

from embedwire._config import Form, Kind, OnFull, RateLimit
from embedwire._faults import Failed, Failure, to_error
from embedwire._limits import DEFAULT_CONCURRENCY, Learned, concurrency, least
from embedwire._pace import Sent, Window
from embedwire._queue import Batch, Call, Future, Item, Lane, Whole
from embedwire._retry import Action, Fault
from embedwire._wire import Matrix
from embedwire.exceptions import (
    BadReply,
    DeadlineExceeded,
    Overloaded,
    RequestError,
    ServerRefused,
    TextRefused,
    UsageError,
)

BULK_EVERY = 4  # after so many batches of queries in a row, one of the bulk that waits goes first
LEARN_FROM = 50  # texts that wait, or are done, before it pays to ask the server what it is
REFUSED_IN_A_ROW = 16  # texts refused alone, one after another: then it is the server, not the texts
REFUSED_AT_FIRST = 4  # the same, before any text was accepted
_REASONS: dict[int, Literal["chars", "texts", "maybe"]] = {
    400: "texts",
    413: "chars",
    422: "texts",
    500: "maybe",
}
SLICE = 2000  # texts that enter the queue in one go: about 5 ms


class Dispatcher:
    """Sends the texts of every call to one server, never more requests at a time than it should get.

    Args:
        server: Base URL, for messages.
        send: Sends one batch and returns its vectors in order, or raises `Failed`.
        learn: Asks the server what it is, with a text and its vector, and says if that is all; never fails.
        learned: What is known about the server.
        window: How many requests the server can take now.
    """

    def __init__(
        self,
        server: str,
        send: Callable[[Batch], Awaitable[Matrix]],
        learn: Callable[[Form, str, Matrix], Awaitable[bool]],
        learned: Learned,
        window: Window,
    ) -> None:
        self._server = server
        self._send = send
        self._learn = learn
        self._learned = learned
        self._window = window
        # One batch of each rate limit may wait for its moment; no other of that limit overtakes it.
        self._parked: dict[RateLimit, tuple[Batch, Sent]] = {}
        self._wake: asyncio.TimerHandle | None = None
        self._lanes: dict[Form, Lane] = {}
        self._turns: OrderedDict[Lane, None] = OrderedDict()  # lanes with work
        self._calls: set[Call] = set()
        # Calls for which there is no room yet, with their max_queued. Queries never wait behind documents.
        self._lobby: dict[Kind, OrderedDict[Call, int]] = {"query": OrderedDict(), "document": OrderedDict()}
        self._batches: set[Batch] = set()
        self._queries_in_a_row = 0
        # Texts of admitted calls that are not finished.
        self._queued: dict[Kind, int] = {"query": 0, "document": 0}

    @property
    def queued(self) -> int:
        """Texts that wait or are on their way."""
        return sum(self._queued.values())

    @property
    def in_flight(self) -> int:
        """Requests on their way, those that pause before a repeat included."""
        return len(self._batches)

    def submit(
        self,
        form: Form,
        texts: list[str],
        kind: Kind,
        future: Future,
        *,
        deadline: float | None,
        max_queued: int,
        on_full: OnFull,
        offset: int | None = None,
        normalize: bool = False,
    ) -> Call:
        """Queues a call; its matrix, or its error, comes with ``future``.

        Args:
            form: What its requests look like.
            texts: At least one, prompts included.
            kind: Queries go first.
            future: Gets a float32 matrix of shape ``(len(texts), dimensions)`` or an exception.
            deadline: In loop time.
            max_queued: The most texts that may wait at this server; a call that meets an empty queue always may.
            on_full: Whether a call waits for room, or fails.
            offset: Index of the first text in the caller's list, if these are a part of one.
            normalize: Bring each vector to unit length.

        Raises:
            Overloaded: There is no room, and ``on_full`` is ``"raise"``.
        """
        full = bool(self._lobby[kind]) or not self._has_room(kind, len(texts), max_queued)
        if full and on_full == "raise":
            raise Overloaded(
                f"{self._queued[kind]} texts wait for {self._server}, and {len(texts)} more would go over "
                f"max_queued={max_queued}. Send fewer at once, raise max_queued=, or pass on_full='wait'."
            )
        call = Call(self._lane(form), texts, kind, future, deadline, offset, normalize)
        self._calls.add(call)
        if deadline is not None:
            call.timer = asyncio.get_running_loop().call_at(deadline, self._expire, call)
        if full:
            self._lobby[kind][call] = max_queued
        else:
            self._admit(call)
            self._pump()
        return call

    def _lane(self, form: Form) -> Lane:
        """The waiting texts of a form."""
        lane = self._lanes.get(form)
        if lane is None:
            lane = self._lanes[form] = Lane(form, self._learned)
        return lane

    def drop(self, call: Call) -> None:
        """Forgets a call whose caller is gone: what only it wanted is not sent, or not waited for."""
        if call in self._calls:
            self._leave(call)
            self._pump()

    def end(self, calls: Iterable[Call] | None = None, *, error: Exception | None) -> None:
        """Ends some calls, or all: with an error, each with its own, or, without one, as cancelled."""
        for call in list(self._calls if calls is None else calls):
            if call in self._calls:
                self._leave(call)
                _resolve(call.future, error=error)
                error = error and _another(error)
        self._pump()

    def vanish(self) -> None:
        """Forgets every call without a word: the process ends, and only daemon threads still wait."""
        for call in list(self._calls):
            self._leave(call)

    async def settle(self) -> None:
        """Cancels what is on its way, and waits until it has let go of its connections."""
        self.sleep()
        tasks = [batch.task for batch in self._batches if batch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Calls come and go.

    def _has_room(self, kind: Kind, texts: int, max_queued: int) -> bool:
        return self._queued[kind] == 0 or self._queued[kind] + texts <= max_queued

    def _admit(self, call: Call) -> None:
        self._queued[call.kind] += call.count
        call.lane.calls[call.kind][call] = None
        self._turns[call.lane] = None
        self._enter(call)

    def _enter(self, call: Call) -> None:
        """Puts a call's next texts into the queue; a slice at a time, so that a million do not stop the loop."""
        known, start = call.lane.items, len(call.items)
        for row, text in enumerate(call.texts[start : start + SLICE], start):
            item = known.get(text)
            if item is None:
                item = known[text] = Item(text)
            elif not item.owners and item.batch is not None:  # given up, but still on its way
                item.batch.live += 1
            item.owners.append((call, row))
            call.items.append(item)
        if len(call.items) < call.count:
            asyncio.get_running_loop().call_soon(self._enter_more, call)

    def _enter_more(self, call: Call) -> None:
        if call in self._calls:
            self._enter(call)
            self._pump()

    def _admit_from_lobby(self) -> None:
        for kind, lobby in self._lobby.items():
            while lobby:
                call, max_queued = next(iter(lobby.items()))
                if not self._has_room(kind, call.count, max_queued):
                    break
                del lobby[call]
                self._admit(call)

    def _leave(self, call: Call) -> None:
        self._calls.discard(call)
        if call.timer is not None:
            call.timer.cancel()
        if self._lobby[call.kind].pop(call, None) is None:
            self._queued[call.kind] -= call.left
        call.lane.calls[call.kind].pop(call, None)
        items, call.items, call.texts = call.items, [], []
        for item in dict.fromkeys(items):
            if item.owners:
                item.owners = [pair for pair in item.owners if pair[0] is not call]
                if not item.owners:
                    self._unwanted(item, call.lane)

    def _unwanted(self, item: Item, lane: Lane) -> None:
        batch = item.batch
        if batch is None:
            lane.forget(item)
            return
        batch.live -= 1
        if not batch.live:
            for other in batch.items:
                lane.forget(other)
            if batch.task is not None:
                batch.task.cancel()

    def _finish(self, call: Call) -> None:
        """Every text of the call is done."""
        if call.failures:
            self._conclude(call, None)
        else:
            self._leave(call)
            try:
                matrix = call.result()
            except MemoryError as error:
                _resolve(call.future, error=error)
            else:
                _resolve(call.future, matrix)

    def _abort(self, call: Call, row: int, failure: Failure) -> None:
        """Ends a call at a failure that is not one text's own."""
        if call in self._calls:
            self._conclude(call, self._error(call, row, failure))

    def _conclude(self, call: Call, error: RequestError | None) -> None:
        """Ends a call with an error, by default its first text's own; what was done goes along with it."""
        self._leave(call)
        own = {row: self._error(call, row, failure) for row, failure in sorted(call.failures.items())}
        error = error or next(iter(own.values()))
        error.failures = {call.index(row): one for row, one in own.items()}
        with contextlib.suppress(MemoryError):  # the error counts more
            error.completed = call.completed()
        _resolve(call.future, error=error)

    def _error(self, call: Call, row: int, failure: Failure) -> RequestError:
        count = None if call.offset is not None else call.count
        return to_error(failure, server=self._server, index=call.index(row), count=count)

    def _expire(self, call: Call) -> None:
        fault = Fault(
            error=DeadlineExceeded,
            what=f"the deadline passed with {call.left} of {call.count} texts left",
            cure="Raise deadline=, or send less at once; what was done is in the error's `completed`.",
        )
        sent = max((item.batch.trail.sent for item in call.items if item.batch), default=0)
        self._abort(call, call.next_open(), Failure(fault=fault, attempts=sent))
        self._pump()

    # Batches form and come back.

    def _pump(self) -> None:
        """Starts a batch for every free slot."""
        self._admit_from_lobby()
        loop = asyncio.get_running_loop()
        while self.in_flight < self._slots():
            batch = self._next(loop.time())
            if batch is None:
                for lane in self._lanes.values():
                    for kind, calls in lane.calls.items():
                        if not calls:
                            lane.tuners[kind].idle()
                return
            batch.began = loop.time()
            full = not batch.trail.sent and bool(batch.lane.calls[batch.kind])
            batch.round = batch.lane.tuners[batch.kind].sent(batch.began, full=full)
            self._batches.add(batch)
            self._turns.setdefault(batch.lane)
            batch.lane.in_flight += 1
            batch.task = loop.create_task(self._run(batch))
            batch.task.add_done_callback(partial(self._free, batch))

    def _slots(self) -> int:
        """The smallest wish among those who have work here, or less where the server had trouble with that."""
        wishes = (
            concurrency(lane.form, self._learned)
            for lane in self._turns
            if lane.in_flight or (lane.busy and lane.form.rate not in self._parked)
        )
        return min(min(wishes, default=DEFAULT_CONCURRENCY), self._window.allowed or sys.maxsize)

    def _next(self, now: float) -> Batch | None:
        batch = self._unparked(now)
        if batch is not None:
            return batch
        for lane in [lane for lane in self._turns if not lane.busy]:
            del self._turns[lane]
        order: tuple[Kind, ...] = ("query", "document")
        if self._queries_in_a_row >= BULK_EVERY:
            order = ("document", "query")
        for kind in order:
            for lane in self._turns:
                batch = None if lane.form.rate in self._parked else lane.take(kind, now)
                if batch is not None and self._may_go(batch, now):
                    self._queries_in_a_row = self._queries_in_a_row + 1 if kind == "query" else 0
                    self._turns.move_to_end(lane)
                    return batch
        return None

    def _may_go(self, batch: Batch, now: float) -> bool:
        """Whether the rate limit lets a batch go now; else it is parked until its moment."""
        rate = batch.lane.form.rate
        if rate is None:
            return True
        sent = self._learned.minute(rate).reserve(batch.texts, now)
        if sent.moment <= now:
            return True
        self._parked[rate] = batch, sent
        self._set_alarm(now)
        return False

    def _set_alarm(self, now: float) -> None:
        """Looks again when the next moment comes; a batch whose moment is past waits for a slot."""
        self.sleep()
        moments = [sent.moment for _, sent in self._parked.values() if sent.moment > now]
        if moments:
            self._wake = asyncio.get_running_loop().call_at(min(moments), self._pump)

    def _unparked(self, now: float) -> Batch | None:
        """A batch whose moment has come; by then more texts may wait that it can carry."""
        for rate, (batch, sent) in list(self._parked.items()):
            wish = concurrency(batch.lane.form, self._learned)
            if batch.live and (sent.moment > now or self.in_flight >= wish):
                self._set_alarm(now)
                continue
            del self._parked[rate]
            self._set_alarm(now)
            if not batch.live:  # nobody wants it any more
                self._learned.minute(rate).release(sent)
                continue
            before = len(batch.items)
            if not batch.trail.sent:
                batch.lane.fill(batch, now)
            if len(batch.items) > before:
                self._learned.minute(rate).release(sent)
                if not self._may_go(batch, now):
                    continue
            return batch
        return None

    def sleep(self) -> None:
        """Does not look again at what is parked."""
        if self._wake is not None:
            self._wake.cancel()

    async def _run(self, batch: Batch) -> None:
        try:
            matrix = await self._send(batch)
            self._deliver(batch, matrix)
        except Failed as failed:
            self._fail(batch, failed)
        except Exception as error:
            # Of the user's own key function, or no memory: no caller may wait for ever.
            self.end(_callers(batch), error=error)
        else:
            lane = batch.lane
            if lane.curious and (self.queued >= LEARN_FROM or lane.delivered >= LEARN_FROM):
                # The slot is kept for the questions: they count as a request.
                lane.curious = not await self._learn(lane.form, batch.items[0].text, matrix[0])

    def _free(self, batch: Batch, task: asyncio.Task[None]) -> None:
        """The slot is free; also where the task was cancelled before it began."""
        self._batches.discard(batch)
        batch.lane.in_flight -= 1
        if task.cancelled() and batch.live:  # nobody here asked for it: the loop is ending
            self.end(error=None)
        self._pump()

    def _deliver(self, batch: Batch, matrix: Matrix) -> None:
        lane, width = batch.lane, matrix.shape[1]
        for call in _callers(batch):
            if not call.make_room(width):
                self._abort(call, call.next_open(), _other_width(call, width, batch.trail.sent))
        lane.delivered += len(batch.items)
        lane.refused, batch.live = 0, 0
        self._learn_size(batch)
        now, chars = asyncio.get_running_loop().time(), sum(len(item.text) for item in batch.items)
        lane.tuners[batch.kind].done(batch.round, chars, len(batch.items), now - batch.began, now)
        everything = list(range(len(matrix)))
        wanted: dict[Call, tuple[list[int], list[int]]] = {}  # rows of the call, rows of the matrix
        for position, item in enumerate(batch.items):
            lane.forget(item)
            for call, row in item.owners:
                rows, positions = wanted.setdefault(call, ([], []))
                rows.append(row)
                positions.append(position)
            item.owners = []
        for call, (rows, positions) in wanted.items():
            call.put(rows, matrix if positions == everything else matrix[positions])
            self._count_down(call, len(rows))

    def _count_down(self, call: Call, texts: int) -> None:
        self._queued[call.kind] -= texts
        if not call.left:
            self._finish(call)

    def _fail(self, batch: Batch, failed: Failed) -> None:
        fault = failed.fault
        if fault.max_texts is not None and fault.max_texts < len(batch.items):
            self._learned.max_texts = least(fault.max_texts, self._learned.max_texts)
        if batch.whole is not None:
            batch.whole.parts = 0  # never all of them now: its size was not the only reason
        if failed.action is Action.SPLIT and len(batch.items) > 1:
            self._split(batch, fault)
        elif failed.action is Action.SPLIT and not self._refuses_everything(batch.lane, fault):
            self._fail_text(batch.items[0], Failure(fault=fault, attempts=failed.attempts), batch.lane)
        elif fault.error is BadReply and len(groups := _by_caller(batch)) > 1:
            self._put_back(
                batch, groups, None, bisecting=False
            )  # so that it fails only whose texts are at fault
        else:
            if failed.action is Action.SPLIT:
                fault = replace(
                    fault,
                    error=ServerRefused if fault.error is TextRefused else fault.error,
                    what=f"the server refuses one text after another; last, {fault.what}",
                )
            failure = Failure(fault=fault, attempts=failed.attempts)
            for item in batch.items:
                for call, row in list(item.owners):
                    self._abort(call, row, failure)

    def _fail_text(self, item: Item, failure: Failure, lane: Lane) -> None:
        lane.forget(item)
        owners, item.owners = item.owners, []
        for call, row in owners:
            call.fail(row, failure)
            self._count_down(call, 1)

    def _refuses_everything(self, lane: Lane, fault: Fault) -> bool:
        """Whether it is the server, not this text: else a wrong setting would cost a request for every text."""
        if fault.of_text:
            return False
        lane.refused += 1
        return lane.refused >= (REFUSED_IN_A_ROW if lane.delivered else REFUSED_AT_FIRST)

    def _split(self, batch: Batch, fault: Fault) -> None:
        """Puts the batch back in parts: by the cap that the server named, else in halves."""
        wanted = []
        for item in batch.items:
            if item.owners:
                wanted.append(item)
            else:
                batch.lane.forget(item)
        suspect = None if fault.position is None else batch.items[fault.position]
        if suspect in wanted:
            parts = [[item for item in wanted if item is not suspect], [suspect]]
        else:
            size = max(1, min(fault.max_texts or len(wanted), (len(wanted) + 1) // 2))
            parts = [wanted[at : at + size] for at in range(0, len(wanted), size)]
        whole = None
        if not fault.of_text and fault.position is None:
            batch.lane.tuners[batch.kind].trouble(len(batch.items))
            # Only what happened to all that was sent, for no reason that was named, may be due to its size.
            reason = _REASONS.get(fault.status or 0)
            if reason is not None and fault.max_texts is None and len(wanted) == len(batch.items):
                whole = Whole(reason=reason, parts=len(parts))
        self._put_back(batch, parts, whole, bisecting=not fault.of_text)

    def _put_back(
        self, batch: Batch, parts: list[list[Item]], whole: Whole | None, *, bisecting: bool
    ) -> None:
        """In front of all else that waits: one failure is got to the bottom of before the next."""
        for part in reversed(parts):
            if part:
                batch.lane.parts[batch.kind].appendleft(batch.part(part, whole, bisecting=bisecting))

    def _learn_size(self, batch: Batch) -> None:
        """Where all parts of a refused batch were taken, what it was refused for was its size."""
        whole = batch.whole
        if whole is None or not whole.parts:
            return
        whole.parts -= 1
        whole.texts = max(whole.texts, len(batch.items))
        whole.chars = max(whole.chars, sum(len(item.text) for item in batch.items))
        if whole.parts:
            return
        if whole.reason == "chars":
            self._learned.max_chars = least(whole.chars, self._learned.max_chars)
        elif whole.reason == "texts":
            self._learned.max_texts = least(whole.texts, self._learned.max_texts)
        else:
            batch.lane.tuners[batch.kind].cap(whole.texts)


def _callers(batch: Batch) -> set[Call]:
    return {call for item in batch.items for call, _ in item.owners}


def _by_caller(batch: Batch) -> list[list[Item]]:
    """The texts that somebody still wants, by the first call that does."""
    groups: dict[Call, list[Item]] = {}
    for item in batch.items:
        if item.owners:
            groups.setdefault(item.owners[0][0], []).append(item)
    return list(groups.values())


def _other_width(call: Call, width: int, attempts: int) -> Failure:
    assert call.matrix is not None  # noqa: S101 - it has a width
    what = f"vectors of {width} numbers where this call's first ones have {call.matrix.shape[1]}"
    cure = "The model was exchanged meanwhile; embed everything again."
    return Failure(fault=Fault(error=BadReply, what=what, cure=cure), attempts=attempts)


def _another(error: Exception) -> Exception:
    """The same error once more: no two callers share one, as each adds its own frames to the traceback."""
    try:
        return copy.copy(error).with_traceback(None)
    except Exception:  # of a class that cannot be copied
        return UsageError(f"a function of the caller's raised {type(error).__name__}")


def _resolve(future: Future, matrix: Matrix | None = None, error: BaseException | None = None) -> None:
    """Ends a future; one whose caller has gone in this very moment is left alone."""
    try:
        if error is not None:
            future.set_exception(error)
        elif matrix is not None:
            future.set_result(matrix)
        else:
            future.cancel()
    except (asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
        pass
