"""Who is sent next: texts of all calls wait here, and a batch forms when a slot is free.

Queries go before bulk, bulk calls take turns, equal texts travel once. There are no timers but the calls' deadlines and
the next moment at which a server takes a request, and no locks: everything runs on the loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial

from embedwire._http.embed import Visitor
from embedwire._http.records import Job, Refused
from embedwire._queue.calls import Calls, Steps
from embedwire._queue.lane import KINDS, Lane
from embedwire._queue.outcomes import deliver, refuse
from embedwire._queue.records import Batch, Call, Future, Route
from embedwire._queue.usage import Ledger
from embedwire._servers.slots import Slots
from embedwire._settings.options import Kind
from embedwire.exceptions import Overloaded, UsageError

BULK_EVERY = 4  # after so many batches of queries in a row, one of the bulk that waits goes first


class Dispatcher:
    """Gives each free slot of a server to whoever is next, all visitors of that server together.

    Its state is the lanes that have work, in the order of their turns, and the timer that looks again.

    Args:
        slots: How many requests may be in flight.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._lanes: OrderedDict[Route, Lane] = OrderedDict()
        self._calls = Calls(self._look, self._leave)
        self._queries_in_a_row = 0
        self._alarm = _Alarm(self._look)
        slots.on_free.append(self._look)

    @property
    def queued(self) -> int:
        """Texts that wait or are on their way."""
        return sum(self._calls.texts.values())

    def submit(
        self,
        route: Route,
        texts: list[str],
        kind: Kind,
        future: Future,
        *,
        deadline: float | None,
        max_queued: int,
        offset: int | None = None,
        normalize: bool = False,
        ledger: Ledger | None = None,
    ) -> Call:
        """Queues a call; its matrix, or its error, comes with ``future``.

        Args:
            route: Where the texts go.
            texts: At least one, prompts included.
            kind: Queries go first.
            future: Gets a float32 matrix of shape ``(len(texts), dimensions)`` or an exception.
            deadline: In loop time.
            max_queued: The most texts that may wait at this server; a call that meets an empty queue always may.
            offset: Index of the first text in the caller's list, if these are a part of one.
            normalize: Bring each vector to unit length.
            ledger: Adds up what the caller's client had embedded.

        Raises:
            Overloaded: There is no room.
        """
        if not self._calls.has_room(kind, len(texts), max_queued):
            raise Overloaded(
                f"{self._calls.texts[kind]} texts wait for {route.server}, and {len(texts)} more "
                f"would go over max_queued={max_queued}. Send fewer at once, or raise max_queued=."
            )
        if not self._slots.in_flight:
            route.visitor.wake()
        lane = self._lanes.get(route)
        if lane is None:
            lane = self._lanes[route] = Lane(route)
            route.slots.enlist(lane, lane.wish)
        call = Call(
            lane, texts, kind, future, deadline=deadline, offset=offset, normalize=normalize, ledger=ledger
        )
        self._calls.begin(call)
        self._look()
        return call

    def cancel(self, call: Call) -> None:
        """A caller is gone."""
        self._calls.cancel(call)
        self._look()

    async def fail(self, calls: Iterable[Call], error: Exception) -> None:
        """Ends some calls with an error, each with its own."""
        await _take(self._calls.fail(calls, error))
        self._look()

    async def close(self, visitor: Visitor) -> None:
        """Cancels what a visitor has under way, and waits until it has let go of its connections."""
        tasks = [
            batch.task
            for route, lane in self._lanes.items()
            if route.visitor is visitor
            for batches in lane.under_way.values()
            for batch in batches
            if batch.task is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Looks no more: the last visitor leaves. Each of its clients ends its own calls, which may still be open."""
        self._alarm.stop()
        if self._look in self._slots.on_free:
            self._slots.on_free.remove(self._look)

    def close_now(self) -> None:
        """Looks no more, and tells nobody: the process ends."""
        self._calls.close_now()
        self.stop()

    def _leave(self, lane: Lane) -> None:
        """A lane that has no work is forgotten, and its users' wishes with it."""
        if not lane.busy and self._lanes.get(lane.route) is lane:
            del self._lanes[lane.route]
            lane.route.slots.dismiss(lane)
            lane.rest()

    def _look(self) -> None:
        """Gives every free slot to whoever is next: a repeat that waits, or a new batch."""
        while self._lanes and self._start_next():
            pass

    def _start_next(self) -> bool:
        now = asyncio.get_running_loop().time()
        for kind in reversed(KINDS) if self._queries_in_a_row >= BULK_EVERY else KINDS:
            places = self._slots.free(kind)
            if places and (self._slots.resume(kind) or self._form(kind, now, places)):
                self._queries_in_a_row = self._queries_in_a_row + 1 if kind == "query" else 0
                return True
            if places:
                for lane in self._lanes.values():
                    lane.rest(kind)
        return False

    def _form(self, kind: Kind, now: float, places: int) -> bool:
        """Starts the next batch of a kind, where one may be sent; lanes take turns."""
        for route, lane in list(self._lanes.items()):
            if not (lane.calls[kind] or lane.parts[kind]) or lane.full(kind):
                continue
            moment = lane.closed_until(now)
            if moment > now:
                self._alarm.set(moment)
                continue
            batch = lane.take(kind, now, places)
            if batch is not None:
                self._lanes.move_to_end(route)
                self._start(batch, now, places)
                return True
        return False

    def _start(self, batch: Batch, now: float, places: int) -> None:
        """Sends a batch, in one of so many places that are free."""
        lane, loop = batch.lane, asyncio.get_running_loop()
        batch.slot = self._slots.take(batch.kind)
        all_taken = batch.full and (places == 1 or lane.closed_until(now) > now)
        sizes, window = lane.route.sizes, self._slots.window
        if batch.whole is not None:
            sizes.parted(batch.kind)
        batch.number = sizes.sent(batch.kind, batch.work, now, all_taken=all_taken, window=window)
        lane.under_way[batch.kind].add(batch)
        job = Job(
            form=lane.route.form,
            model=lane.route.model,
            kind=batch.kind,
            texts=batch.texts,
            waiting=self.queued - len(batch.items),
            spare=not batch.history.sent and lane.has_room(batch),
            until=batch.until,
            suspicious=batch.suspicious,
            history=batch.history,
        )
        batch.reserved = lane.route.visitor.reserve(job)
        batch.task = loop.create_task(self._send(batch, job))
        batch.task.add_done_callback(partial(self._over, batch))

    async def _send(self, batch: Batch, job: Job) -> None:
        assert batch.slot is not None  # noqa: S101 - it was started
        try:
            vectors = await batch.lane.route.visitor.send(job, batch.slot, batch.reserved)
        except Refused as refused:
            steps = refuse(batch, refused, self._calls)
        except Exception as error:
            # Of the user's own key function, or no memory: no caller may wait for ever.
            steps = self._calls.fail(batch.callers(), error)
        else:
            steps = deliver(batch, vectors, self._calls)
        batch.over, batch.task = True, None  # the end of its callers is not its own
        await _take(steps)

    def _over(self, batch: Batch, task: asyncio.Task[None]) -> None:
        """A batch is over; also where its task was cancelled before it began. None of its callers stays behind."""
        lane = batch.lane
        batch.over = True
        lane.under_way[batch.kind].discard(batch)
        left = {call for item in batch.items if item.batch is batch for call, _ in item.rows()}
        left.update(call for call in batch.owed if call.open)
        if left and task.cancelled():  # nobody here asked for it: the loop is ending
            for call in left:
                self._calls.cancel(call)
        elif left:
            for _ in self._calls.fail(left, _broke(task.exception())):
                pass
        batch.items.clear()  # which lead back to it: only the garbage collector would find them
        lane.route.visitor.release(lane.route.form, batch.reserved, sent=batch.sent)
        try:
            lane.route.sizes.tuners[batch.kind].left(batch.number, asyncio.get_running_loop().time())
        finally:
            self._leave(lane)
            if batch.slot is not None and batch.slot.held:
                batch.slot.give_back()  # which looks
            else:
                self._look()


async def _take(steps: Steps) -> None:
    """Takes all steps, with room for others between them; also where this is cancelled: nobody may be forgotten."""
    try:
        for _ in steps:
            await asyncio.sleep(0)
    finally:
        for _ in steps:
            pass


class _Alarm:
    """Looks again at the earliest moment that it was set to. Its state is the timer."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._timer: asyncio.TimerHandle | None = None

    def set(self, moment: float) -> None:
        """There is something to look at, in loop time."""
        if self._timer is None or self._timer.when() > moment:
            self.stop()
            self._timer = asyncio.get_running_loop().call_at(moment, self._ring)

    def stop(self) -> None:
        """There is nothing to look at."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._look()


def _broke(error: BaseException | None) -> Exception:
    """What broke a batch that should have ended in vectors or a refusal: no memory, a log handler that exits."""
    if isinstance(error, Exception):
        return error
    name = "nothing" if error is None else type(error).__name__
    return UsageError(
        f"{name} was raised on embedwire's event loop, by a log handler or a function passed in"
    )
