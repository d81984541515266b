"""Whether a request that went wrong is sent again: attempts, patience, the deadline, the budget of repeats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from embedwire._http.backoff import delay
from embedwire._http.records import Action, Fault, History
from embedwire._http.verdicts import Verdict
from embedwire._servers.pace import TRANSIENT, Budget
from embedwire._settings.options import RetryPolicy

MOST_THROTTLED = 50  # refusals of one request while others are taken: it will never be its turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """How a server that has too much to do holds off the requests of a model.

    Attributes:
        row: Refusals in a row.
        seconds: Since the first of them.
        most: Seconds for which that is put up with; None: for ever.
    """

    row: int = 1
    seconds: float = 0.0
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """Once more, after so many seconds; so much was paid for it."""

    pause: float
    paid: int


@dataclass(frozen=True, slots=True)
class Stop:
    """No more: SPLIT or GIVE_UP, and what to say."""

    action: Action
    fault: Fault


def noted(history: History, verdict: Verdict) -> History:
    """The history with what just happened."""
    fault = verdict.fault
    # What was refused for its size or its text was no attempt at what is sent in parts; nor what a gateway answered.
    gated = verdict.if_ready is not None
    divided = verdict.action is Action.SPLIT and (gated or (not fault.harmful and fault.status != 500))
    counts = verdict.action not in (Action.WAIT, Action.RESEND, Action.THROTTLE) and not divided
    timed_out = fault.timed_out
    broke = not timed_out and (fault.harmful or (fault.status or 0) >= 500)
    return replace(
        history,
        sent=history.sent + 1,
        failures=history.failures + counts,
        throttled=history.throttled + (verdict.action is Action.THROTTLE),
        timeouts=history.timeouts + timed_out,
        breaks=history.breaks + (broke and (counts or gated)),
        last=verdict.mark,
    )


def moves(verdict: Verdict, history: History, retry: RetryPolicy) -> bool:
    """Whether a failure is worth another server at once, where there is one.

    Args:
        verdict: Of the failure.
        history: This failure included.
        retry: The user's numbers.
    """
    if verdict.action is Action.WAIT:
        return True
    if verdict.action is Action.THROTTLE:
        return retry.attempts > 1
    passing = verdict.action is Action.RETRY or verdict.fault.timed_out
    return passing and history.failures < retry.attempts


def next_step(
    verdict: Verdict,
    history: History,
    retry: RetryPolicy,
    budget: Budget,
    *,
    paid: int,
    left: float | None,
    held: Held,
    rand: Callable[[], float],
) -> Again | Stop:
    """What follows on a failure.

    Args:
        verdict: Of the failure.
        history: This failure included.
        retry: The user's numbers.
        budget: Pays for a repeat.
        paid: What the last repeat cost.
        left: Seconds until nobody wants the answer; None: somebody always does.
        held: How the server holds off all requests of the model.
        rand: A number in 0..1.
    """
    action, fault = verdict.action, verdict.fault
    over = history.failures >= retry.attempts
    if action is Action.SPLIT:
        return _split(fault, history, budget, paid=paid, over=over)
    if action is Action.THROTTLE:
        return _throttled(fault, history, retry, left=left, held=held, rand=rand)
    if over or action is not Action.RETRY:
        return _in_vain(fault, history, over=over)
    pause = max(verdict.pause, delay(retry, action, history.failures, fault.retry_after, rand))
    if problem := _too_late(pause, fault, retry, left):
        return Stop(Action.GIVE_UP, replace(fault, what=fault.what + problem))
    if not budget.spend(TRANSIENT):  # a 500 may be one text's fault all the same
        return Stop(Action.SPLIT if fault.status == 500 else Action.GIVE_UP, _poor(fault))
    return Again(pause, paid=TRANSIENT)


def _throttled(
    fault: Fault,
    history: History,
    retry: RetryPolicy,
    *,
    left: float | None,
    held: Held,
    rand: Callable[[], float],
) -> Again | Stop:
    """Again, however often, for as long as it is put up with: it is no attempt, and costs nothing."""
    if retry.attempts == 1:
        return Stop(Action.GIVE_UP, fault)
    if history.throttled >= MOST_THROTTLED or (held.most is not None and held.seconds > held.most):
        return Stop(Action.GIVE_UP, replace(fault, what=f"{fault.what}, for {held.seconds:.0f} s"))
    pause = delay(retry, Action.THROTTLE, held.row, fault.retry_after, rand)
    if problem := _too_late(pause, fault, retry, left):
        return Stop(Action.GIVE_UP, replace(fault, what=fault.what + problem))
    return Again(pause, paid=0)


def _in_vain(fault: Fault, history: History, *, over: bool) -> Stop:
    """A failure that outlasted its repeats is no text's fault, but where that text was searched for."""
    search = over and history.bisecting and (fault.harmful or fault.status == 500)
    return Stop(Action.SPLIT if search else Action.GIVE_UP, fault)


def _split(fault: Fault, history: History, budget: Budget, *, paid: int, over: bool) -> Stop:
    if fault.timed_out and over and not history.bisecting:
        return Stop(Action.GIVE_UP, fault)
    if not fault.harmful:
        budget.earn(paid)  # what was repeated is permanent, which costs nobody else his repeats
    elif not budget.spend(TRANSIENT):
        return Stop(Action.GIVE_UP, _poor(fault))
    return Stop(Action.SPLIT, fault)


def _poor(fault: Fault) -> Fault:
    what = f"{fault.what}, and too many other requests failed for a repeat to be worth it"
    return replace(fault, what=what)


def _too_late(pause: float, fault: Fault, retry: RetryPolicy, left: float | None) -> str:
    """Why a repeat would come too late, for the user's patience with the server or for the deadline; "" if not."""
    asked = f", and asks to wait {fault.retry_after:g} s" if fault.retry_after else ""
    if fault.retry_after is not None and fault.retry_after > retry.retry_after_cap:
        return f"{asked}, more than retry_after_cap={retry.retry_after_cap:g}"
    if left is not None and pause >= left:
        return f"{asked}, and a repeat would come after the deadline"
    return ""
