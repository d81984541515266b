"""A query that takes long goes to a second server too: the first answer counts, the other request is cancelled."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from embedwire._http.records import Job, Refused, Vectors
from embedwire._queue.pool import Member, Pool
from embedwire._queue.records import Batch
from embedwire._servers.slots import Slot
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


async def hedged(
    batch: Batch,
    job: Job,
    first: Coroutine[Any, Any, Vectors],
    hedges: Hedges,
    failed: Callable[[Member, Batch, Refused], None],
) -> Answer:
    """The vectors of a batch of queries, and who gave them.

    Args:
        batch: It, in its slot.
        job: The same.
        first: The request in that slot.
        hedges: Whether there may be a second one.
        failed: Called with a server that failed, but for the first where both did.

    Raises:
        Refused: Neither server gave any; how the first one failed.
    """
    now, after = asyncio.get_running_loop().time, hedges.after()
    begun, mine, second = now(), batch.member, _Second(batch, job)
    assert mine is not None and batch.slot is not None  # noqa: S101, PT018 - it was started
    if after is None:
        member, vectors = mine, await first
    else:
        tasks = [asyncio.ensure_future(first)]
        try:
            good = await _raced(tasks, lambda: second.begin(hedges), after)
            second.spare(batch.slot)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for loser, end in zip((mine, second.member), ends, strict=False):
            if loser is not None and isinstance(end, Refused) and end is not good.exception():
                failed(loser, batch, end)
                batch.avoids(loser)
        vectors = good.result()  # or raises
        member = mine if good is tasks[0] else second.member or mine
        batch.hedges = second.sent if good is tasks[0] else batch.slot.sent
    hedges.answered(now() - begun)
    return member, vectors


class _Second:
    """The same texts at a second server. Its state is which one that is, and its slot."""

    def __init__(self, batch: Batch, job: Job) -> None:
        self._batch = batch
        self._job = job
        self.slot: Slot | None = None
        self.member: Member | None = None

    @property
    def sent(self) -> int:
        """Requests sent there."""
        return 0 if self.slot is None else self.slot.sent

    def spare(self, first: Slot) -> None:
        """One of both is given up since the other was quicker."""
        for slot in (first, self.slot):
            if slot is not None:
                slot.spare()

    def begin(self, hedges: Hedges) -> asyncio.Task[Vectors] | None:
        """Sends them, where a server has a place for them."""
        member = _another(self._batch, self._batch.lane.pool)
        if member is None or not hedges.spend():
            return None
        visitor, slot = member.route.visitor, member.route.slots.take("query")
        job = replace(self._job, model=member.route.model, elsewhere=lambda: True)
        reserved = visitor.reserve(job)
        self.member, self.slot, self._batch.hedges = member, slot, 1
        member.under_way["query"] += 1

        def over(_: object) -> None:
            self._batch.hedges = slot.sent
            member.under_way["query"] -= 1
            visitor.release(job.form, reserved, sent=slot.sent)
            slot.give_back()

        task = asyncio.ensure_future(visitor.send(job, slot, reserved))
        task.add_done_callback(over)  # also where it was cancelled before it began
        return task


def _another(batch: Batch, pool: Pool) -> Member | None:
    free = {
        one.route.slots: places
        for one in pool.members
        if (places := one.route.slots.free("query")) and one is not batch.member and one not in batch.avoid
    }
    return next(iter(pool.next("query", free, asyncio.get_running_loop().time())), None)


async def _raced(
    tasks: list[asyncio.Task[Vectors]], second: Callable[[], asyncio.Task[Vectors] | None], after: float
) -> asyncio.Task[Vectors]:
    """The first of two that ends well, the second of which is begun late; where both fail, the one that began first."""
    pending = set((await asyncio.wait(tasks, timeout=after))[1])
    if pending and (other := second()) is not None:
        tasks.append(other)
        pending.add(other)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        good = [task for task in tasks if task in done and task.exception() is None]
        if good:
            return good[0]
    return tasks[0]
