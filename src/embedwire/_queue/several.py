"""A batch's way to one of several servers, and back: its vectors count where all servers have one model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from embedwire._http.ready import seen
from embedwire._http.records import Action, Fault, Job, Refused, Vectors
from embedwire._queue.hedging import Hedges, hedged
from embedwire._queue.meeting import AGREE, Meeting, asked
from embedwire._queue.pool import Member, Pool
from embedwire._queue.records import Batch
from embedwire._servers.agreement import difference, other_name
from embedwire._servers.health import FRESH
from embedwire._servers.slots import Slot
from embedwire.exceptions import AuthenticationFailed, BadReply

HOLDS = 0.5  # seconds in which no server is stopped and started again with another model


class Several:
    """Sends the batches of one pool. Its state is the servers that are compared again, as they may be others by now.

    Args:
        meeting: Sees to the servers of the pool.
    """

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        self.pool = pool = meeting.pool
        self._rechecks: dict[Member, asyncio.Task[Fault | None]] = {}
        self._measuring: dict[Member, asyncio.Task[Any]] = {}
        self._hedges = None if pool.hedge is None else Hedges(pool.hedge)

    async def vectors(self, batch: Batch, job: Job) -> Vectors:
        """The vectors of a batch, of the model that all servers in use have.

        Raises:
            Refused: There are none.
        """
        member, slot = batch.member, batch.slot
        assert member is not None and slot is not None  # noqa: S101, PT018 - it was started
        self._recheck(member)
        before = self.pool.epochs()
        first = member.route.visitor.send(job, slot, batch.reserved)
        try:
            if self._hedges is not None and batch.kind == "query":
                member, vectors = await hedged(batch, job, first, self._hedges, self._failed)
            else:
                vectors = await first
        except Refused as refused:
            self._failed(member, batch, refused)
            raise
        except Exception as error:  # of the user's own key function, at this server perhaps
            if not batch.elsewhere():
                raise
            moved = Refused(Action.ELSEWHERE, raised(error, member.route.server), batch.history)
            self._failed(member, batch, moved)
            raise moved from None
        self.pool.went_well(member, batch.kind, vectors.seconds, asyncio.get_running_loop().time())
        if batch.doubted is not None:
            self._blame(batch.doubted[0], batch, replace(batch.doubted[1], of_text=False))
        self._measure(batch)
        if (checking := self._recheck(member)) is not None:
            slot.give_back()
            if (fault := await asyncio.shield(checking)) is not None:
                raise self._unused(batch, vectors, fault)
        if (fault := self._of_another(member, vectors, before)) is not None:
            raise self._unused(batch, vectors, fault)
        self._pay(batch)
        batch.member = member
        return vectors

    def _failed(self, member: Member, batch: Batch, refused: Refused) -> None:
        """A server failed a batch; whether it is to blame for texts that it refuses, another one will show."""
        if refused.action is not Action.SPLIT or refused.fault.harmful:
            held_off = refused.history.throttled > batch.history.throttled
            self._blame(member, batch, refused.fault, held_off=held_off)

    def _blame(self, member: Member, batch: Batch, fault: Fault, *, held_off: bool = False) -> None:
        self.pool.failed(member, fault, held_off=held_off)
        if not member.in_use:
            batch.lane.hand_over()
        self.meeting.tend()

    def _pay(self, batch: Batch) -> None:
        """The next callers pay for the comparisons that were made meanwhile."""
        if self.pool.unpaid and (callers := batch.callers()):
            for call in callers:
                call.ledger.compared(self.pool.unpaid / len(callers))
            self.pool.unpaid = 0

    def _of_another(
        self, member: Member, vectors: Vectors, before: dict[Member, tuple[int, int]]
    ) -> Fault | None:
        """Why vectors may not be used: the server has another model by now, or they are of another one themselves.

        Args:
            member: The server.
            vectors: They.
            before: Of each server what it was when they were asked for.
        """
        pool, route = self.pool, member.route
        if self.pool.epochs()[member] != before[member]:
            what = "the server was found to have another model, and these vectors were asked for before that"
            return _exchanged(route.server, what)
        name = route.visitor.screened(vectors.model)
        if not other_name(name, pool.agreed.reference, pool.terms):
            return None
        fault = _exchanged(route.server, f"vectors of another model: {name!r}")
        pool.failed(member, fault, held_off=False)
        self.meeting.tend()
        return fault

    def _unused(self, batch: Batch, vectors: Vectors, fault: Fault) -> Refused:
        """Vectors came that are not used: their texts go elsewhere while there are attempts left."""
        history = replace(batch.history, sent=vectors.sent, failures=batch.history.failures + 1)
        spent = history.failures >= self.pool.form.retry.attempts
        return Refused(Action.GIVE_UP if spent else Action.ELSEWHERE, fault, history)

    def tasks(self) -> list[asyncio.Task[Any]]:
        """What is under way."""
        return [*self.meeting.tasks(), *self._rechecks.values(), *self._measuring.values()]

    def close_now(self) -> None:
        """Ends what is under way, without waiting for it."""
        self.meeting.close_now()
        for task in (*self._rechecks.values(), *self._measuring.values()):
            task.cancel()

    def _measure(self, batch: Batch) -> None:
        """A server that was slow is asked how long it takes by now, so that no caller has to wait for that."""
        now = asyncio.get_running_loop().time()
        for member in self.pool.in_use if batch.kind == "query" else ():
            old = member.health.is_old(now) and now - member.asked >= FRESH
            if old and member not in self._measuring and self.pool.is_slow(member):
                member.asked = now
                task = self._measuring[member] = asyncio.ensure_future(asked(member, self.pool))
                task.add_done_callback(seen)
                task.add_done_callback(partial(self._measured, member))

    def _measured(self, member: Member, _: object) -> None:
        del self._measuring[member]

    def _recheck(self, member: Member) -> asyncio.Task[Fault | None] | None:
        """Compares a server again that may be another one by now; None where all is well."""
        task = self._rechecks.get(member)
        if task is None and _may_be_another(member, self.pool):
            task = self._rechecks[member] = asyncio.ensure_future(self._compared_again(member))
            task.add_done_callback(seen)
        return task

    async def _compared_again(self, member: Member) -> Fault | None:
        now = member.route.visitor.seen()
        try:
            heard, _ = await asked(member, self.pool)
        finally:
            self._rechecks.pop(member, None)
        if isinstance(heard, Exception):
            raise heard
        if isinstance(heard, Fault):
            self.pool.failed(member, heard, held_off=False)
            self.meeting.tend()
            return heard
        reference = self.pool.agreed.reference
        why = "" if reference is None else difference(heard, reference, self.pool.terms)
        member.seen, member.number = now, self.pool.agreed.number
        if not why:
            return None
        if member.in_use:
            self.pool.turn(member, "not met", why)
            self.meeting.compare(member, heard, now)
        else:
            member.doubts += 1
        return _exchanged(member.route.server, f"the server has another model than before: {why}")


def _may_be_another(member: Member, pool: Pool) -> bool:
    """Whether a server's connections were lost, it names other software, or the others have another model by now.

    Also after a pause in which this client let them go: nothing else would show a restart. Where they end as announced,
    after each reply even, it is compared again now and then.
    """
    visitor, (restarts, compared) = member.route.visitor, member.restarts
    if member.seen != visitor.seen() or member.number != pool.agreed.number:
        return True
    return visitor.restarts != restarts and asyncio.get_running_loop().time() > compared + HOLDS


def _exchanged(server: str, what: str) -> Fault:
    return Fault(error=BadReply, what=what, cure=AGREE, exchanged=True, server=server)


def raised(error: Exception, server: str) -> Fault:
    """The fault of a server at which a function of the user's raised something, of which nothing may be repeated."""
    what = f"{type(error).__name__} was raised by a function that was passed for it"
    return Fault(
        error=AuthenticationFailed, what=what, cure="See that function.", of_server=True, server=server
    )


class Everyone:
    """Those of all pools of several servers. Its state is which there are."""

    def __init__(
        self, back: Callable[[Pool, Member], None], fail: Callable[[Pool, Fault | Exception, int], None]
    ) -> None:
        self._back = back
        self._fail = fail
        self._all: dict[Pool, Several] = {}

    def of(self, pool: Pool) -> Several:
        """That of a pool."""
        several = self._all.get(pool)
        if several is None:
            meeting = Meeting(pool, partial(self._back, pool), self._fail)
            several = self._all[pool] = Several(meeting)
        return several

    def begin(self, pool: Pool) -> None:
        """There is work for a pool."""
        if pool.several:
            self.of(pool).meeting.begin()

    def rest(self, pool: Pool) -> None:
        """There is no work for a pool."""
        if pool in self._all:
            self._all[pool].meeting.rest()

    async def vectors(self, batch: Batch, job: Job, slot: Slot) -> Vectors:
        """The vectors of a batch in its slot.

        Raises:
            Refused: There are none.
        """
        if batch.lane.pool.several:
            return await self.of(batch.lane.pool).vectors(batch, job)
        return await batch.route.visitor.send(job, slot, batch.reserved)

    def tasks(self, pools: Iterable[Pool]) -> list[asyncio.Task[Any]]:
        """What is under way for some pools."""
        return [task for pool in pools if pool in self._all for task in self._all[pool].tasks()]

    def leave(self, pools: Iterable[Pool]) -> None:
        """Sees no more to servers that nobody uses any more."""
        for pool in pools:
            if pool in self._all:
                self._all.pop(pool).close_now()

    def close_now(self) -> None:
        """Sees to none any more."""
        self.leave(list(self._all))
