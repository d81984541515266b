"""Several servers meet: each is compared before its vectors count, set aside where it fails, and taken back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from embedwire._http.ready import seen
from embedwire._http.records import Fault, Job, Refused
from embedwire._queue.pool import Member, Pool
from embedwire._servers.agreement import SENTENCE, Sample, Terms, difference, elected
from embedwire.events import Noticed, ServerTakenBack
from embedwire.exceptions import ServerRefused

WAIT = 1.0  # seconds for which the first server that answers waits for the others
PAUSE_LEAST, PAUSE_MOST = 0.1, 2.0  # seconds between two looks at a server that was set aside
LEFT_LEAST, LEFT_MOST = 2.0, 60.0  # the same, of one that has another model, or refuses all
SILENT = (
    5.0  # seconds after which a server that says nothing is asked once more: the first may have been lost
)
REST = 10.0  # seconds without work after which nobody is asked any more
AGREE = "Check that all serve one and the same model; for a quantised twin pass same_model=0.98, say."


async def asked(member: Member, pool: Pool) -> tuple[Sample | Fault | Exception, int]:
    """What a server makes of the sentence, or why there is nothing; and the requests that it took."""
    route = member.compared
    slot = await route.slots.get("query")
    slot.spare()  # one sentence does not show what the server can take
    job = Job(
        form=route.form,
        model=route.model,
        kind="query",
        texts=[SENTENCE],
        # It is waited for only where there is no other.
        elsewhere=lambda: member.state in ("set aside", "left out") or pool.other(than={member}),
    )
    reserved = route.visitor.reserve(job)
    try:
        vectors = await route.visitor.send(job, slot, reserved)
    except Refused as refused:
        return replace(refused.fault, server=route.server), slot.sent
    except Exception as error:  # of the user's own key function
        return error, slot.sent
    finally:
        pool.unpaid += slot.sent
        route.visitor.release(route.form, reserved, sent=slot.sent)
        slot.give_back()
    now = asyncio.get_running_loop().time()
    member.health.answered(vectors.seconds, now)
    member.restarts = route.visitor.restarts, now
    name = route.visitor.screened(vectors.model or vectors.asked)
    return Sample(route.server, name, vectors.matrix[0].tolist()), slot.sent


async def _paused(member: Member, last: float) -> float:
    """Waits before a server is asked again; how long that is, where it was so long before."""
    out = member.state == "left out"
    least, most = (LEFT_LEAST, LEFT_MOST) if out else (PAUSE_LEAST, PAUSE_MOST)
    pause = max(member.pause, min(most, max(least, last * 2)))
    if out:
        member.pause = pause
    until = member.asked + pause * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
    await asyncio.sleep(max(0.0, until - asyncio.get_running_loop().time()))
    return pause


async def _heard(member: Member, pool: Pool) -> tuple[Sample | Fault | Exception | None, int]:
    """What a server says to the sentence; None: it is not there yet.

    While no other is in use, one that is silent is asked once more.
    """
    if member.state != "not met":
        try:
            if not await member.route.visitor.ready.look():
                return None, 0
        except Exception as error:  # of the user's own key function
            return error, 0
    asking = [asyncio.ensure_future(asked(member, pool))]
    try:
        if not (await asyncio.wait(asking, timeout=SILENT))[0] and not pool.in_use:
            asking.append(asyncio.ensure_future(asked(member, pool)))
        done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


class Meeting:
    """Sees to it that all servers of a pool that are in use have one model, and are well.

    Its state is what is under way with those that are not in use, and what they said in this round.

    Args:
        pool: The servers.
        back: Called with each server that is in use from now on.
        fail: Called with the reason where none is, and how many requests it took to find out.
    """

    def __init__(
        self,
        pool: Pool,
        back: Callable[[Member], None],
        fail: Callable[[Pool, Fault | Exception, int], None],
    ) -> None:
        self.pool = pool
        self._back = back
        self._fail = fail
        self._tasks: dict[Member, asyncio.Task[None]] = {}
        self._samples: dict[Member, Sample] = {}
        self._failures: dict[Member, Fault | Exception] = {}
        self._told: dict[Member, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._sent = 0

    def begin(self) -> None:
        """There is work: where no server is in use, all of them are asked at once."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        meets = any(one in self._tasks or one in self._samples for one in self._strangers())
        if not self.pool.in_use and not meets:
            self.close_now()
            self._failures, self._sent = {}, 0
            for member in self.pool.members:
                self.pool.turn(member, "not met")
        self._reconsider()  # another form of requests may have found that all have another model

    def tend(self) -> None:
        """Sees to every server that is not in use."""
        for member in self.pool.members:
            if member.in_use or member in self._tasks or member in self._samples:
                continue
            if member.state != "not met" and self._told.get(member) != member.state:
                self._tell(member)
                member.relapsed(asyncio.get_running_loop().time())
            task = self._tasks[member] = asyncio.ensure_future(self._bring_in(member))
            task.add_done_callback(partial(self._ended, member))
            task.add_done_callback(seen)

    def rest(self) -> None:
        """There is no work: nobody waits for a server, and soon none is asked any more."""
        if not self.pool.in_use:
            self.close_now()
        elif self._resting is None:
            self._resting = asyncio.get_running_loop().call_later(REST, self.close_now)

    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return list(self._tasks.values())

    def close_now(self) -> None:
        """Ends what is under way, without waiting for it."""
        for timer in (self._timer, self._resting):
            if timer is not None:
                timer.cancel()
        self._timer = self._resting = None
        for task in self.tasks():
            task.cancel()
        self._tasks, self._samples = {}, {}

    def _strangers(self) -> list[Member]:
        return [one for one in self.pool.members if one.state == "not met"]

    def _ended(self, member: Member, task: asyncio.Task[None]) -> None:
        if self._tasks.get(member) is task:
            del self._tasks[member]

    async def _bring_in(self, member: Member) -> None:
        """Asks a server, again and again, until it can be compared with the others."""
        pause = 0.0
        while not member.in_use and member not in self._samples:
            if member.state != "not met":
                pause = await _paused(member, pause)
            now = member.route.visitor.seen()
            heard, sent = await _heard(member, self.pool)
            self._sent += sent
            member.asked = asyncio.get_running_loop().time()
            if isinstance(heard, Sample):
                self.compare(member, heard, now)
            elif heard is not None:
                self._not_there(member, heard)

    def compare(self, member: Member, sample: Sample, connections: tuple[int, int]) -> None:
        """Takes a server in that is like the others; where there are none yet, it waits for them a little."""
        pool = self.pool
        member.seen = connections
        if pool.agreed.reference is not None:
            why = difference(sample, pool.agreed.reference, pool.terms)
            if not why:
                self._take_in(member)
                if self._samples:  # of servers that waited for it, as they have another model
                    self._elect()
                return
            if pool.in_use:
                self._leave_out(member, why)
                return
        self._samples[member] = sample
        self._reconsider()
        self._elect_if_all_are_heard()
        if self._samples and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WAIT, self._elect)

    def _not_there(self, member: Member, heard: Fault | Exception) -> None:
        reason = heard.what if isinstance(heard, Fault) else f"{type(heard).__name__} was raised"
        own = isinstance(heard, Fault) and _is_permanent(heard)
        self._failures[member] = heard
        if member.state == "not met" or (own and member.state == "set aside"):
            was_met = member.state == "not met"
            self.pool.turn(member, "left out" if own else "set aside", reason)
            if self._told.get(member) != "left out":
                self._tell(member)
            if was_met:
                self._elect_if_all_are_heard()

    def _tell(self, member: Member) -> None:
        self._told[member] = member.state
        self.pool.tell_aside(member, member.reason)

    def _elect_if_all_are_heard(self) -> None:
        if any(one not in self._samples for one in self._strangers()) or self.pool.in_use:
            return
        if self._samples:
            self._elect()
        else:
            self._fail(self.pool, _nobody(self.pool, self._failures), self._sent)

    def _elect(self) -> None:
        """Decides which servers are used, of those that answered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pool, samples = self.pool, self._samples
        if (left := _patience(pool, samples)) > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._elect)
            return
        self._samples = {}
        if not pool.in_use and not _known(pool, samples):
            chosen = elected(list(samples.values()), pool.terms)
            if not chosen:
                self._none_agree(samples)
                return
            if pool.agreed.reference is not None:
                what = (
                    "the servers have another model by now; what was embedded before must be embedded again"
                )
                pool.tell(Noticed(server=pool.servers, level="warning", what=what))
            pool.agreed.reference = chosen[0]
            pool.agreed.number += 1
        alike = _known(pool, samples)
        for member, sample in samples.items():
            if member in alike:
                self._take_in(member)
            elif (reference := pool.agreed.reference) is not None:
                self._leave_out(member, difference(sample, reference, pool.terms))
        self._reconsider()

    def _reconsider(self) -> None:
        """Asks those at once that were left out beside another model than the one that is known now."""
        for member in self.pool.members:
            stale = 0 < member.number != self.pool.agreed.number and member not in self._samples
            if stale and member.state == "left out":
                member.number = self.pool.agreed.number
                self.pool.turn(member, "not met")
                if (task := self._tasks.pop(member, None)) is not None:
                    task.cancel()
        self.tend()

    def _none_agree(self, samples: dict[Member, Sample]) -> None:
        reasons = _reasons(samples, self.pool.terms)
        for member, why in reasons.items():
            self.pool.turn(member, "left out", why)
        self._fail(self.pool, _disagreement(samples, reasons), self._sent)

    def _take_in(self, member: Member) -> None:
        came_back = self._told.pop(member, None)
        member.health.begin_anew()
        member.back = asyncio.get_running_loop().time()
        member.on_trial = came_back is not None
        self.pool.turn(member, "in use")
        if came_back is not None:
            self.pool.tell(ServerTakenBack(server=member.route.server))
        for other in self.pool.in_use:
            ready = other.route.visitor.ready
            if other is not member and ready.is_awaited:  # the last one was waited for
                self.pool.turn(other, "set aside", ready.why_not().what)
        self._back(member)
        self.tend()

    def _leave_out(self, member: Member, why: str) -> None:
        self.pool.turn(member, "left out", why)
        member.number = self.pool.agreed.number
        if self._told.get(member) != "left out":
            self._told[member] = "left out"
            self.pool.tell_aside(member, f"it has {why}. {AGREE}")


def _reasons(samples: dict[Member, Sample], terms: Terms) -> dict[Member, str]:
    """What speaks against each server, beside the first one or, for that, the second."""
    first, second, *_ = samples.values()
    return {
        member: difference(sample, second if sample is first else first, terms)
        for member, sample in samples.items()
    }


def _disagreement(samples: dict[Member, Sample], reasons: dict[Member, str]) -> Fault:
    told = [f"{samples[member].server} has {why}" for member, why in list(reasons.items())[1:] if why]
    what = f"the servers do not have the same model: {'; '.join(told)}"
    return Fault(error=ServerRefused, what=what, cure=AGREE, of_server=True)


def _is_permanent(fault: Fault) -> bool:
    """Whether a server that refuses the sentence will go on to do so."""
    return not fault.absent and (fault.of_one_server or fault.is_refusal)


def _patience(pool: Pool, samples: dict[Member, Sample]) -> float:
    """Seconds for which a server is waited for that may be back with the model that is known, where none has it."""
    if pool.in_use or pool.agreed.reference is None or _known(pool, samples):
        return 0.0
    away = [one for one in pool.members if one not in samples and one.state != "left out"]
    since = max((one.away or 0.0 for one in away), default=0.0)
    return since + pool.form.timeouts.restart - asyncio.get_running_loop().time() if away else 0.0


def _known(pool: Pool, samples: dict[Member, Sample]) -> set[Member]:
    """The servers that have the model which is known."""
    reference = pool.agreed.reference
    if reference is None:
        return set()
    return {one for one, sample in samples.items() if not difference(sample, reference, pool.terms)}


def _nobody(pool: Pool, failures: dict[Member, Fault | Exception]) -> Fault | Exception:
    """Why no server is in use: what the first one says, and in short what the others do."""
    first = next(iter(failures[one] for one in pool.members if one in failures))
    if not isinstance(first, Fault):
        return first
    reasons = "; ".join(dict.fromkeys(one.reason for one in pool.members))
    return replace(first, what=f"no server is in use ({reasons})", server="")
