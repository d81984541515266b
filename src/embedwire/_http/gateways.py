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
PAUSE = 2.0  # seconds before a repeat, where a gateway does not reach a server that says that it is ready
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
    others_go_on = before > 0 and seen.suspicious
    if not seen.alive or others_go_on:
        return verdict
    pause = PAUSE * 2**before
    return replace(verdict, action=Action.WAIT, if_ready=verdict.action, pause=pause)
