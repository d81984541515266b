"""A query that takes long goes to a second server too: the first answer counts, the other request is cancelled."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from embedwire._http.records import Job, Vectors
from embedwire._queue.pool import Member, Pool
from embedwire._queue.records import Batch
from embedwire._settings.servers import Hedge

EARNED = 0.05  # of a second request, with each query: at most one in twenty
MOST = 10.0  # second requests in a row
LAST = 2**8  # queries whose seconds are looked at
ENOUGH = 20  # before that it is not known what is long

Answer = tuple[Member, Vectors]


class Hedges:
    """When a query has taken long, and whether one more request may be sent for it. Written by `_queue`.

    Its state is how long the last queries took, and the requests that were earned.
    """

    def __init__(self, hedge: Hedge) -> None:
        self._hedge = hedge
        self._seconds: deque[float] = deque(maxlen=LAST)
        self._earned = 0.0

    def after(self) -> float | None:
        """Seconds after which a query goes to a second server; None: not at all."""
        self._earned = min(MOST, self._earned + EARNED)
        if self._hedge.seconds is not None:
            return self._hedge.seconds
        if len(self._seconds) < ENOUGH:
            return None
        return sorted(self._seconds)[int(self._hedge.share * len(self._seconds))]

    def answered(self, seconds: float) -> None:
        """A query was answered, by one server or two."""
        self._seconds.append(seconds)

    def spend(self) -> bool:
        """Pays for a second request; False where it would be too many."""
        if self._earned < 1:
            return False
        self._earned -= 1
        return True


async def hedged(batch: Batch, job: Job, first: Coroutine[Any, Any, Vectors], hedges: Hedges) -> Answer:
    """The vectors of a batch of queries, and who gave them.

    Args:
        batch: It, in its slot.
        job: The same.
        first: The request in that slot.
        hedges: Whether there may be a second one.

    Raises:
        Refused: Neither server gave any.
    """
    now, after = asyncio.get_running_loop().time, hedges.after()
    begun, mine, second = now(), batch.member, _Second(batch, job)
    assert mine is not None and batch.slot is not None  # noqa: S101, PT018 - it was started
    if after is None:
        vectors, member = await first, mine
    else:
        is_first, vectors = await _raced(first, lambda: second.begin(hedges), after)
        member = mine if is_first else second.member or mine
        batch.hedges = second.sent if is_first else batch.slot.sent
    hedges.answered(now() - begun)
    return member, vectors


class _Second:
    """The same texts at a second server. Its state is which one that is, and the requests sent there."""

    def __init__(self, batch: Batch, job: Job) -> None:
        self._batch = batch
        self._job = job
        self.member: Member | None = None
        self.sent = 0

    def begin(self, hedges: Hedges) -> Coroutine[Any, Any, Vectors] | None:
        """Sends them, where a server has a place for them."""
        member = _another(self._batch, self._batch.lane.pool)
        if member is None or not hedges.spend():
            return None
        self.member, self._batch.hedges = member, 1
        member.under_way["query"] += 1
        return self._send(member)

    async def _send(self, member: Member) -> Vectors:
        visitor, slot = member.route.visitor, member.route.slots.take("query")
        job = replace(self._job, model=member.route.model, elsewhere=lambda: True)
        reserved = visitor.reserve(job)
        try:
            return await visitor.send(job, slot, reserved)
        finally:
            self.sent = self._batch.hedges = slot.sent
            member.under_way["query"] -= 1
            visitor.release(job.form, reserved, sent=slot.sent)
            slot.give_back()


def _another(batch: Batch, pool: Pool) -> Member | None:
    free = {
        one.route.slots: places
        for one in pool.members
        if (places := one.route.slots.free("query")) and one is not batch.member and one not in batch.avoid
    }
    return next(iter(pool.next("query", free, asyncio.get_running_loop().time())), None)


async def _raced(
    first: Coroutine[Any, Any, Vectors],
    second: Callable[[], Coroutine[Any, Any, Vectors] | None],
    after: float,
) -> tuple[bool, Vectors]:
    """What the first of two gives, and whether that is the one that began first; where both fail, how that one did."""
    tasks = [asyncio.ensure_future(first)]
    try:
        pending = set((await asyncio.wait(tasks, timeout=after))[1])
        if pending and (other := second()) is not None:
            tasks.append(asyncio.ensure_future(other))
            pending.add(tasks[1])
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            good = [task for task in tasks if task in done and task.exception() is None]
            if good:
                return good[0] is tasks[0], good[0].result()
        return True, tasks[0].result()  # or raises
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
