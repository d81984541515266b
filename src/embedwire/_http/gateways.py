"""What a gateway answers in its server's place: it cannot reach the server, or had no answer in time. Pure."""

from __future__ import annotations

from dataclasses import replace

from embedwire._http.records import Action, Fault
from embedwire._http.verdicts import Context, Verdict
from embedwire._http.words import Said
from embedwire.exceptions import ServerUnavailable

# Whoever answers these in its server's place: nginx, HAProxy, a load balancer; 52x and 530 are Cloudflare's.
_UNREACHED = (502, 503, 521, 522, 523, 530)
_TOO_SLOW = (408, 504, 524)
GATEWAY = (*_UNREACHED, *_TOO_SLOW)
PAUSE = 3.0  # seconds before a repeat, where a gateway does not reach a server that says that it is ready
DIVISIONS = 3  # of texts that a gateway did not get through, each time into smaller parts
SLOW_DOWN = "Set rate_limit= to what the server allows, or send less at once (concurrency=)."
SMALLER = "Send smaller batches (batch_size=)"


def gateway_verdict(fault: Fault, words: Said, seen: Context) -> Verdict:
    """What stands in front of a server says that this cannot be reached, or did not answer in time."""
    status = fault.status
    if status == 503 and not words.page:  # of the server itself
        what = "the server is not available (503)"
        fault = replace(fault, error=ServerUnavailable, what=what, cure=SLOW_DOWN)
        return Verdict(action=Action.THROTTLE, fault=fault, overload=True)
    if status in _TOO_SLOW:
        return _too_slow(fault, seen)
    return _unreached(fault, seen)


def _too_slow(fault: Fault, seen: Context) -> Verdict:
    """A timeout, of the gateway: once more, in smaller parts, as long as there are any."""
    fault = replace(
        fault,
        error=ServerUnavailable,
        what=f"what stands in front of the server had no answer from it in time ({fault.status})",
        cure=f"{SMALLER}, or raise the timeout of the gateway.",
        harmful=True,
        timed_out=True,
    )
    smaller = not seen.lone and seen.timeouts < DIVISIONS
    found = seen.lone and seen.bisecting and seen.suspicious
    action = Action.SPLIT if smaller or found else Action.RETRY
    return _looked_at(Verdict(action=action, fault=fault, overload=True), seen, seen.timeouts)


def _unreached(fault: Fault, seen: Context) -> Verdict:
    """A restart, a text at which the server falls, or a request too large for it."""
    fault = replace(
        fault,
        error=ServerUnavailable,
        what=f"the server cannot be reached by what stands in front of it ({fault.status})",
        cure="The server may be down, or crash: see its log, and the gateway's.",
        harmful=True,
    )
    smaller = not seen.lone and 0 < seen.breaks <= DIVISIONS
    verdict = Verdict(action=Action.SPLIT if smaller else Action.RETRY, fault=fault, singly=seen.alive)
    return _looked_at(verdict, seen, seen.breaks)


def _looked_at(verdict: Verdict, seen: Context, before: int) -> Verdict:
    """The verdict that holds where the server is there; one that was seen before, and is not, is waited for."""
    if not seen.alive:
        return verdict
    struck, pause = before > 0 and seen.suspicious, PAUSE * 2**before
    # What was not alone is not blamed: another one may have brought the server down.
    alone = not before or not seen.lone or (seen.in_flight <= 1 and not seen.awaited)
    if_ready = verdict.action if alone else None
    return replace(verdict, action=Action.WAIT, if_ready=if_ready, struck=struck, pause=pause)


def instead_of(waiting: Verdict, *, was_gone: bool, sure: bool) -> Verdict | None:
    """What to do where a server that was waited for is ready; None: the same again.

    Args:
        waiting: The verdict that it is waited for.
        was_gone: It was seen not to be ready, in between.
        sure: It has ``/health``, and that says that it is ready.
    """
    # A gateway without `/health` says nothing of its server; smaller parts help all the same, where they may.
    there = sure or waiting.if_ready is Action.SPLIT
    if waiting.if_ready is None or not there or (was_gone and not waiting.struck):
        return None
    # Some gateways answer /health for a server that is gone; one that was seen to be back needs no pause.
    return replace(waiting, action=waiting.if_ready, pause=0.0 if was_gone else waiting.pause)
