"""Who is sent next: texts of all calls wait here, and a batch forms when a slot is free.

Queries go before bulk, bulk calls take turns, equal texts travel once. There are no timers but the calls' deadlines and
the next moment at which a server takes a request, and no locks: everything runs on the loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from functools import partial

from embedwire._events.heard import Heard
from embedwire._http.records import Job, Refused, never, nobody
from embedwire._queue.calls import Calls, Steps
from embedwire._queue.lane import KINDS, Lane, heard_by
from embedwire._queue.outcomes import deliver, refuse, take_back
from embedwire._queue.pool import Member, Pool
from embedwire._queue.records import Batch, Call, Future, Part
from embedwire._queue.several import Everyone
from embedwire._queue.usage import Ledger
from embedwire._servers.slots import Slots
from embedwire._settings.options import Kind

MOST_AT_ONCE = 8  # batches that are started before others on the loop get their turn: a few milliseconds
BULK_EVERY = 4  # after so many batches of queries in a row, one of the bulk that waits goes first


class Dispatcher:
    """Gives each free slot of one or several servers to whoever is next, all visitors of these servers together.

    Its state is the lanes that have work, in the order of their turns, what sees to servers of which there are
    several, and the timer that looks again.

    Args:
        slots: How many requests may be in flight, at each server.
    """

    def __init__(self, *slots: Slots) -> None:
        self._slots = slots
        self._lanes: OrderedDict[Pool, Lane] = OrderedDict()
        self._calls = Calls(self._look, self._leave)
        self._several = Everyone(self._taken_in, self._calls.fail_pool)
        self._queries_in_a_row = 0
        self._alarm = _Alarm(self._look)
        for one in slots:
            one.on_free.append(self._look)

    @property
    def queued(self) -> int:
        """Texts that wait or are on their way."""
        return sum(self._calls.texts.values())

    def submit(
        self,
        pool: Pool,
        texts: list[str],
        kind: Kind,
        future: Future,
        *,
        deadline: float | None,
        max_queued: int,
        part: Part | None = None,
        normalize: bool = False,
        ledger: Ledger | None = None,
        heard: Heard | None = None,
    ) -> Call:
        """Queues a call; its matrix, or its error, comes with ``future``.

        Args:
            pool: Where the texts go.
            texts: At least one, prompts included.
            kind: Queries go first.
            future: Gets a float32 matrix of shape ``(len(texts), dimensions)`` or an exception.
            deadline: In loop time.
            max_queued: The most texts that may wait in this queue; a call that meets an empty queue always may.
            part: Where they stand in the caller's list, if they are a part of one.
            normalize: Bring each vector to unit length.
            ledger: Adds up what the caller's client had embedded.
            heard: Tells its hooks; None where it has none.

        Raises:
            Overloaded: There is no room.
        """
        self._calls.check_room(kind, len(texts), max_queued, pool, heard)
        pool.wake()
        lane = self._lanes.get(pool)
        if lane is None:
            lane = self._lanes[pool] = Lane(pool)
            pool.enlist(lane)
        call = Call(
            lane,
            texts,
            kind,
            future,
            deadline=deadline,
            part=part,
            normalize=normalize,
            ledger=ledger,
            heard=heard,
        )
        self._calls.begin(call)
        self._several.begin(pool)
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

    async def close(self, pools: Collection[Pool]) -> None:
        """Cancels what is under way to servers that nobody uses any more, and waits until connections are let go of."""
        lanes = [self._lanes[pool] for pool in pools if pool in self._lanes]
        tasks = [*self._several.tasks(pools), *(task for lane in lanes for task in lane.tasks())]
        self._several.leave(pools)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def has(self, pool: Pool) -> bool:
        """Whether there is work for these servers."""
        return pool in self._lanes

    def leave(self, pools: Iterable[Pool]) -> None:
        """Sees no more to servers that nobody uses any more."""
        self._several.leave(pools)

    def stop(self) -> None:
        """Looks no more: the last visitor leaves. Each of its clients ends its own calls, which may still be open."""
        self._alarm.stop()
        self._several.close_now()
        for slots in self._slots:
            if self._look in slots.on_free:
                slots.on_free.remove(self._look)

    def close_now(self) -> None:
        """Looks no more, and tells nobody: the process ends."""
        self._calls.close_now()
        self.stop()

    def _leave(self, lane: Lane) -> None:
        """A lane that has no work is forgotten, and its users' wishes with it."""
        if not lane.busy and self._lanes.get(lane.pool) is lane:
            del self._lanes[lane.pool]
            lane.pool.dismiss(lane)
            self._several.rest(lane.pool)
            for kind in KINDS:
                lane.rest(kind, over=True)

    def _taken_in(self, pool: Pool, member: Member) -> None:
        """A server is in use from now on."""
        if pool in self._lanes:
            self._lanes[pool].hand_over(back=member)
        self._look()

    def _look(self) -> None:
        """Gives every free slot to whoever is next: a repeat that waits, or a new batch; many after one another."""
        for _ in range(MOST_AT_ONCE):
            if not (self._lanes and self._start_next()):
                return
        self._alarm.set(asyncio.get_running_loop().time())

    def _start_next(self) -> bool:
        now = asyncio.get_running_loop().time()
        for kind in reversed(KINDS) if self._queries_in_a_row >= BULK_EVERY else KINDS:
            if _waits(kind, self._lanes.values(), self._slots):
                free = {slots: places for slots in self._slots if (places := slots.free(kind))}
                if free and (any(slots.resume(kind) for slots in free) or self._form(kind, now, free)):
                    self._queries_in_a_row = self._queries_in_a_row + 1 if kind == "query" else 0
                    return True
            for lane in self._lanes.values():
                lane.rest(kind)
        return False

    def _form(self, kind: Kind, now: float, free: dict[Slots, int]) -> bool:
        """Starts the next batch of a kind, where one may be sent; lanes take turns."""
        for pool, lane in list(self._lanes.items()):
            if not (lane.calls[kind] or lane.parts[kind]):
                continue
            members = pool.next(kind, free, now)
            if pool.several:
                self._alarm.set_next(lane.strict(kind), *pool.pauses, now=now)
            for member in members:
                if lane.full(kind, member):
                    continue
                moment = lane.closed_until(member.route, now)
                if moment > now:
                    self._alarm.set(moment)
                    continue
                batch = lane.take(kind, now, sum(free[one.route.slots] for one in members), member)
                if batch is not None:
                    self._lanes.move_to_end(pool)
                    self._start(batch, member, now, free[member.route.slots])
                    return True
        return False

    def _start(self, batch: Batch, member: Member, now: float, places: int) -> None:
        """Sends a batch to a server, in one of so many places that are free there."""
        lane, route, loop = batch.lane, member.route, asyncio.get_running_loop()
        batch.slot = route.slots.take(batch.kind)
        member.under_way[batch.kind] += 1
        batch.number = _number(batch, now, places)
        lane.under_way[batch.kind].add(batch)
        job = _job(batch, self.queued - len(batch.items))
        batch.reserved = route.visitor.reserve(job)
        batch.task = loop.create_task(self._send(batch, job))
        batch.task.add_done_callback(partial(self._over, batch, member))

    async def _send(self, batch: Batch, job: Job) -> None:
        steps = await _outcome(batch, job, self._several, self._calls)
        batch.over, batch.task = True, None  # the end of its callers is not its own
        await _take(steps)

    def _over(self, batch: Batch, member: Member, task: asyncio.Task[None]) -> None:
        """A batch is over; also where its task was cancelled before it began. None of its callers stays behind."""
        lane, route = batch.lane, member.route
        batch.over = True
        lane.under_way[batch.kind].discard(batch)
        member.under_way[batch.kind] -= 1
        self._calls.end(batch.left(), task)
        batch.items.clear()  # which lead back to it: only the garbage collector would find them
        route.visitor.release(route.form, batch.reserved, sent=batch.sent)
        try:
            route.sizes.tuners[batch.kind].left(batch.number, asyncio.get_running_loop().time())
        finally:
            self._leave(lane)
            if batch.slot is not None and batch.slot.held:
                batch.slot.give_back()  # which looks
            else:
                self._look()


def _waits(kind: Kind, lanes: Iterable[Lane], slots: Iterable[Slots]) -> bool:
    """Whether there is anything to start: a text, or a repeat."""
    for lane in lanes:
        if lane.calls[kind] or lane.parts[kind]:
            return True
    return any(one.waits(kind) for one in slots)


def _number(batch: Batch, now: float, places: int) -> int:
    """Tells the sizes of a batch that is sent; its number there."""
    lane, route = batch.lane, batch.route
    if batch.whole is not None:
        route.sizes.parted(batch.kind)
    all_taken = batch.full and (places == 1 or lane.closed_until(route, now) > now)
    return route.sizes.sent(batch.kind, batch.work, now, all_taken=all_taken, window=route.slots.window)


def _job(batch: Batch, waiting: int) -> Job:
    lane, route = batch.lane, batch.route
    return Job(
        form=route.form,
        model=route.model,
        kind=batch.kind,
        texts=batch.texts,
        waiting=waiting,
        spare=batch.spare,
        until=batch.until,
        suspicious=batch.suspicious,
        history=batch.history,
        elsewhere=batch.elsewhere if lane.pool.several else never,
        callers=partial(heard_by, batch) if lane.watched else nobody,
    )


async def _outcome(batch: Batch, job: Job, several: Everyone, calls: Calls) -> Steps:
    """Sends a batch; what is to be done with what came of it."""
    assert batch.slot is not None  # noqa: S101 - it was started
    try:
        vectors = await several.vectors(batch, job, batch.slot)
    except asyncio.CancelledError:
        if not batch.moved:
            raise
        take_back(batch)
        return iter(())
    except Refused as refused:
        return refuse(batch, refused, calls)
    except Exception as error:
        # Of the user's own key function, or no memory: no caller may wait for ever.
        return calls.fail(batch.callers(), error)
    return deliver(batch, vectors, calls)


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

    def set_next(self, *moments: float, now: float) -> None:
        """There is something to look at: at the first of these that is still to come."""
        if later := [moment for moment in moments if moment > now]:
            self.set(min(later))

    def stop(self) -> None:
        """There is nothing to look at."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._look()
