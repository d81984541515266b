"""One request, until it succeeded or is known to be in vain: send, read, judge, pause, send again.

The only loop that repeats. It knows no queue, no call and no text: it gets functions that make a body and read a reply.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from embedwire._events.audience import tell
from embedwire._http.failures import judge
from embedwire._http.gateways import GATEWAY, instead_of
from embedwire._http.pressure import held_off, holds_off_all, leave_behind, pause_all, push_less
from embedwire._http.ready import Ready
from embedwire._http.records import STRICT, Action, Fault, History, Refused, never
from embedwire._http.refusing import LARGE_TEXTS, refusal
from embedwire._http.repeats import Held, Stop, moves, next_step, noted
from embedwire._http.reply import ContractBroken
from embedwire._http.request import Done, Request, watched
from embedwire._http.statuses import NO_SERVER, PROXY_ASKS
from embedwire._http.steps import in_turns
from embedwire._http.threads import in_thread
from embedwire._http.transport import Transport
from embedwire._http.turns import Turns, rested
from embedwire._http.verdicts import Context, Unusable, Verdict
from embedwire._http.wire import Broken, Reply
from embedwire._http.words import said
from embedwire._servers.facts import ModelFacts, ServerFacts
from embedwire._servers.pace import TRANSIENT
from embedwire._servers.sizes import max_reply
from embedwire._settings.address import Target
from embedwire.events import RequestRepeated

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wait:
    """For a server that is not ready: since when, in loop time, and how long before it is asked again."""

    since: float = 0.0
    pause: float = 0.0


NO_WAIT = Wait()
PAUSE_LEAST, PAUSE_MOST = 1.0, 15.0  # seconds, where a server says that it is ready and then is not


class Exchange:
    """Sends requests of one visitor to one server, on one loop. It has no state of its own.

    Args:
        target: The server and who asks.
        transport: The network.
        server: What is known of the server; written here: alive, forgotten.
        ready: Waits for the server.
        turns: Lets requests wait until they may be sent.
        rand: A number in 0..1.
    """

    def __init__(
        self,
        target: Target,
        transport: Transport,
        server: ServerFacts,
        ready: Ready,
        turns: Turns,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._target = target
        self._url = target.base_url
        self._transport = transport
        self._server = server
        self._ready = ready
        self._turns = turns
        self._rand = rand

    async def run(self, request: Request[T], model: ModelFacts) -> Done[T]:
        """Sends a request as often as it makes sense.

        Raises:
            Refused: It is in vain; without any word of the server that repeats a text or a key.
        """
        history, last = request.history, None
        resent, paid = False, 0
        wait, begun = NO_WAIT, asyncio.get_running_loop().time()
        # A query asks all the same: somebody waits for it, and there are few.
        if request.slot is not None and request.kind == "document" and self._turns.held(request.form, model):
            await self._turn(request, model, begun)
        while True:
            await self._hold(request, model, begun)
            once = partial(self._once, request, last, history, resent, model)
            answer = await (once() if request.watching is None else watched(request, once))
            if isinstance(answer, Done):
                if request.slot is not None:
                    model.succeeded(answer.seconds, at_once=history.failures == request.history.failures)
                return answer
            last = answer
            if answer.action is Action.WAIT:
                answer, wait = await self._outlast(answer, noted(history, answer), request, model, wait)
            history = noted(history, answer)
            if answer.action is Action.RESEND:
                resent = True
                self._turns.note(request.form, request.texts)
            elif answer.action is not Action.WAIT:
                wait = NO_WAIT
                paid = await self._repeat(answer, history, request, model, paid)
                await self._turn(request, model, begun)

    async def _once(
        self,
        request: Request[T],
        last: Verdict | None,
        history: History,
        resent: bool,
        model: ModelFacts,
        headers: Mapping[str, str] | None = None,
    ) -> Done[T] | Verdict:
        """Sends a request, and reads the reply or judges what went wrong."""
        form, slot, now = request.form, request.slot, asyncio.get_running_loop().time
        body = request.encode(last)
        begun = now()
        if slot is not None:
            slot.sent += 1
        try:
            outcome: Reply | Broken | Unusable = await self._transport.request(
                request.method, request.url, body, form.timeouts, max_reply(form, len(request.texts)), headers
            )
        except asyncio.CancelledError:
            leave_behind(slot, self._server, now() - begun, model.seconds)
            raise
        if isinstance(outcome, Reply):
            # What stands in front of a server may answer for one that nobody ever saw.
            self._server.alive = self._server.alive or outcome.status not in (*GATEWAY, PROXY_ASKS)
            answer = await _read(request, outcome)
            if not isinstance(answer, (Reply, Unusable)):
                if slot is not None:
                    slot.succeeded()
                seconds, status = now() - begun, outcome.status
                return Done(result=answer, status=status, seconds=seconds, sent=history.sent + 1)
            outcome = answer
        mark = _fingerprint(outcome)
        seen = replace(
            _context(request, self._target, history, mark),
            alive=self._server.alive,
            accepted=model.seconds is not None,
            resent=resent,
            awaited=self._ready.is_awaited,
        )
        verdict = await _judged(outcome, seen)
        if slot is not None:
            push_less(slot, verdict)
        if verdict.fault.timed_out:
            leave_behind(slot, self._server, now() - begun, model.seconds)
        return replace(verdict, mark=mark)

    async def _repeat(
        self, answer: Verdict, history: History, request: Request[T], model: ModelFacts, paid: int
    ) -> int:
        """Pauses, off the wire, before the next attempt; what that cost.

        Raises:
            Refused: There will be none.
        """
        await self._move(answer, history, request, model)
        now, retry, until = asyncio.get_running_loop().time, request.form.retry, request.until()
        left = None if until is None else until - now()
        throttled = answer.action is Action.THROTTLE
        alone = request.crowd <= 1
        held = held_off(model, request.form, now(), alone=alone) if throttled else Held()
        step = next_step(
            answer, history, retry, model.repeats, paid=paid, left=left, held=held, rand=self._rand
        )
        if isinstance(step, Stop):
            raise await self._refused(step.action, step.fault, history, request)
        _tell(self._url, request, answer.fault, step.pause, None if throttled else history.failures + 1)
        holds_off = throttled and holds_off_all(answer.fault, alone=alone)
        if holds_off:
            model.throttle.pause(step.pause, now())
        pause = step.pause
        if pause > STRICT and request.elsewhere is not never:  # another server may be free by then
            await rested(request.slot, STRICT)
            await self._move(answer, history, request, model)
            pause -= STRICT
        if not holds_off or not self._turns.held(request.form, model):
            await rested(request.slot, pause)  # else it waits in line with the others
        return step.paid

    async def _move(self, answer: Verdict, history: History, request: Request[T], model: ModelFacts) -> None:
        """Where another server is asked at once, this one is left in peace for as long as it wants.

        Raises:
            Refused: One is.
        """
        if not request.elsewhere() or not moves(answer, history, request.form.retry):
            return
        fault, now = answer.fault, asyncio.get_running_loop().time()
        if answer.action not in (Action.WAIT, Action.THROTTLE) and not model.repeats.spend(TRANSIENT):
            return
        if answer.action is Action.THROTTLE:
            alone = request.crowd <= 1
            pause_all(model, request.form, fault, now, alone=alone, rand=self._rand)
        elif answer.action is Action.WAIT:
            self._server.forget()
            fault = replace(fault, absent=True)
        raise await self._refused(Action.ELSEWHERE, fault, history, request)

    async def _turn(self, request: Request[T], model: ModelFacts, since: float) -> None:
        await self._turns.wait(request.form, request.texts, request.kind, request.slot, model, since)

    async def _hold(self, request: Request[T], model: ModelFacts, since: float) -> None:
        """Documents are not sent to a server that others wait for: it would fail, and they might be blamed for it."""
        if request.slot is not None and request.kind == "document" and self._ready.is_awaited:
            request.slot.give_back()
            if request.elsewhere():
                why_not = replace(self._ready.why_not(), absent=True)
                raise Refused(Action.ELSEWHERE, why_not, request.history)
            await self._ready.others(request.until)
            await self._turn(request, model, since)

    async def _outlast(
        self, answer: Verdict, history: History, request: Request[T], model: ModelFacts, wait: Wait
    ) -> tuple[Verdict, Wait]:
        """Waits off the wire until the server is ready.

        Args:
            answer: How it showed that it is not.
            history: Of the texts.
            request: What waits.
            model: Of it.
            wait: What was waited for it already, where it said before that it is ready, and was not.

        Returns:
            The answer, with what to do instead where the server was ready all the time; and the wait so far.

        Raises:
            Refused: It took too long.
        """
        await self._move(answer, history, request, model)
        self._server.forget()
        begun = wait.since or asyncio.get_running_loop().time()
        await rested(request.slot, wait.pause)
        ended = await self._ready.outlast(answer.fault, request.form.timeouts, request.until, begun)
        if ended.why_not is not None:
            raise await self._refused(Action.GIVE_UP, ended.why_not, history, request)
        if instead := instead_of(answer, was_gone=ended.was_gone, sure=ended.is_sure):
            if instead.action is Action.SPLIT:
                await asyncio.sleep(instead.pause)
            return instead, NO_WAIT
        await self._turns.take(request.form, request.texts, request.kind, request.slot)
        return answer, Wait(begun, min(PAUSE_MOST, wait.pause * 2 or PAUSE_LEAST))

    async def _refused(self, action: Action, fault: Fault, history: History, request: Request[T]) -> Refused:
        return await refusal(action, fault, history, [*self._transport.secrets(), *request.texts])


def _tell(url: str, request: Request[Any], fault: Fault, pause: float, attempt: int | None) -> None:
    """Says that a request is sent again, and why."""
    again = RequestRepeated(
        server=url,
        why=fault.what,
        error=fault.error.__name__,
        status=fault.status,
        pause=pause,
        attempt=attempt,
        attempts=request.form.retry.attempts,
    )
    tell(again, () if request.watching is None else request.watching.ears())


async def _read(request: Request[T], reply: Reply) -> T | Reply | Unusable:
    """What a success holds, or what is wrong with it; any other reply as it is."""
    if not 200 <= reply.status < 300:
        return reply
    try:
        return await in_turns(request.read(reply))
    except ContractBroken as broken:
        told = said(reply.body)
        if told.page:
            return Unusable(what="a web page instead of vectors", cure=NO_SERVER, said=told)
        return Unusable(
            what=str(broken), cure=broken.cure, position=broken.position, cut=broken.cut, said=told
        )


async def _judged(outcome: Reply | Broken | Unusable, seen: Context) -> Verdict:
    if not isinstance(outcome, Broken) and sum(map(len, seen.texts)) > LARGE_TEXTS:
        return await in_thread(judge, outcome, seen)
    return judge(outcome, seen)


def _context(request: Request[Any], target: Target, history: History, mark: int | None) -> Context:
    return Context(
        failures=history.failures,
        timeouts=history.timeouts,
        breaks=history.breaks,
        same=mark is not None and history.last == mark,
        in_flight=request.crowd,
        lone=len(request.texts) <= 1,
        bisecting=history.bisecting,
        suspicious=request.suspicious(),
        key=target.api_key is not None or bool(target.headers),
        tls=target.base_url.startswith("https:"),
        texts=request.texts,
    )


def _fingerprint(outcome: Reply | Broken | Unusable) -> int | None:
    return hash((outcome.status, outcome.body)) if isinstance(outcome, Reply) else None
