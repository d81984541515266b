"""What a failure means for how hard the server is pushed: fewer requests in flight, a pause, work left behind."""

from __future__ import annotations

from collections.abc import Callable

from embedwire._http.backoff import delay
from embedwire._http.records import Action, Fault
from embedwire._http.repeats import Held
from embedwire._http.verdicts import Verdict
from embedwire._servers.facts import ModelFacts, ServerFacts
from embedwire._servers.slots import Slot
from embedwire._settings.settings import Form


def held_off(model: ModelFacts, form: Form, now: float, *, alone: bool) -> Held:
    """The server has too much to do: how long that has been so."""
    throttle, most = model.throttle, form.timeouts.total
    throttle.refused(now, alone=alone, most=most)
    return Held(row=max(1, throttle.row), seconds=now - throttle.since, most=most)


def holds_off_all(fault: Fault, *, alone: bool) -> bool:
    """Whether a refusal is meant for all requests of the model."""
    return alone or bool(fault.retry_after)


def pause_all(
    model: ModelFacts, form: Form, fault: Fault, now: float, *, alone: bool, rand: Callable[[], float]
) -> None:
    """The server holds off all requests of the model, where one struck it alone or it says for how long."""
    held = held_off(model, form, now, alone=alone)
    if holds_off_all(fault, alone=alone):
        model.throttle.pause(delay(form.retry, Action.THROTTLE, held.row, fault.retry_after, rand), now)


def push_less(slot: Slot, verdict: Verdict) -> None:
    """Fewer requests in flight, where it was too many, or where one of them brought the server down."""
    if verdict.singly:
        slot.brought_down()
    elif verdict.overload:
        slot.overloaded()


def leave_behind(slot: Slot | None, server: ServerFacts, elapsed: float, usual: float | None) -> None:
    """Nobody waits for what is on the wire any more; most servers go on with it, and it is in flight till then."""
    if slot is not None and not server.drops_work:
        slot.give_up(elapsed, usual)
