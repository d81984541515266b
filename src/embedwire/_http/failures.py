"""What went wrong → what to do about it: a break by its rule, a reply by its words and its status. Pure.

`judge` is the only door. What differs between servers is asked of `_servers.kinds`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from embedwire._http.records import Action, Fault
from embedwire._http.statuses import PROXY_CURE, again, by_words, give_up, status_verdict
from embedwire._http.verdicts import Context, Unusable, Verdict
from embedwire._http.wire import Break, Broken, Reply
from embedwire.exceptions import (
    BadReply,
    ConnectionFailed,
    RequestError,
    RequestTimeout,
    ServerRefused,
)


def judge(outcome: Broken | Reply | Unusable, seen: Context) -> Verdict:
    """What went wrong, and what was seen before → what to do."""
    if isinstance(outcome, Broken):
        return _broken(outcome, seen)
    if isinstance(outcome, Unusable):
        return _unusable(outcome, seen)
    return status_verdict(outcome, seen)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a break means: for a server that has answered before, and for a stranger."""

    error: type[RequestError]
    cure: str
    alive: Action
    stranger: Action


CROWD = 2  # requests on the wire; where one of more than these is reset, there may be too many
_CONNECT = "Check that the server runs and that host and port are right."
_SCHEME = "Check http against https, and the port."
_CRASH = "The server may have crashed or run out of memory; see its log."
_SLOW = "Send smaller batches (batch_size=), fewer at once (concurrency=), or raise timeout=."
_NOT_THERE = "Check that base_url is an embedding server."

_BREAKS = {
    # A server that answered before and is gone is being restarted, and a container loses its name, too.
    Break.NAME: _Rule(ConnectionFailed, "Check the host's name.", Action.WAIT, Action.GIVE_UP),
    Break.LOOKUP: _Rule(ConnectionFailed, "Check the name server of this machine.", Action.WAIT, Action.WAIT),
    Break.REFUSED: _Rule(ConnectionFailed, _CONNECT, Action.WAIT, Action.RETRY),
    # TCP itself has tried several times by then.
    Break.CONNECT_TIMEOUT: _Rule(
        ConnectionFailed, f"{_CONNECT} A firewall may drop the packets.", Action.RETRY, Action.GIVE_UP
    ),
    Break.TLS: _Rule(
        ConnectionFailed,
        "Check http against https, and the host's name; for a private authority pass ssl='path of its CA file'.",
        Action.GIVE_UP,
        Action.GIVE_UP,
    ),
    Break.PLAIN: _Rule(
        ConnectionFailed,
        "Check http against https: the server may speak plain http; then put http:// into base_url.",
        Action.GIVE_UP,
        Action.GIVE_UP,
    ),
    Break.PROXY: _Rule(
        ConnectionFailed, "Check proxy=, and that the proxy runs.", Action.RETRY, Action.RETRY
    ),
    Break.CLOSED: _Rule(ConnectionFailed, _CRASH, Action.RETRY, Action.RETRY),
    Break.CUT: _Rule(ConnectionFailed, _CRASH, Action.RETRY, Action.RETRY),
    # The server goes on computing: once more, and smaller.
    Break.READ_TIMEOUT: _Rule(RequestTimeout, _SLOW, Action.SPLIT, Action.SPLIT),
    Break.TOTAL_TIMEOUT: _Rule(RequestTimeout, _SLOW, Action.SPLIT, Action.SPLIT),
    Break.NOT_HTTP: _Rule(BadReply, _SCHEME, Action.GIVE_UP, Action.GIVE_UP),
    Break.TOO_LARGE: _Rule(
        BadReply,
        "Check that base_url is an embedding server, or raise max_reply_bytes=.",
        Action.GIVE_UP,
        Action.GIVE_UP,
    ),
    Break.COMPRESSED: _Rule(BadReply, _NOT_THERE, Action.GIVE_UP, Action.GIVE_UP),
    Break.OTHER: _Rule(
        ConnectionFailed, "Please report it, with the name in brackets.", Action.GIVE_UP, Action.GIVE_UP
    ),
}
_BROKE_OFF = (Break.CLOSED, Break.CUT)
_TIMED_OUT = (Break.READ_TIMEOUT, Break.TOTAL_TIMEOUT)
_ABSENT = (Break.NAME, Break.LOOKUP, Break.REFUSED, Break.CONNECT_TIMEOUT)


def _broken(broken: Broken, seen: Context) -> Verdict:
    how, rule = broken.how, _BREAKS[broken.how]
    fault = Fault(
        error=rule.error,
        what=how.value + (f" ({broken.detail})" if broken.detail else ""),
        cure=_cure(broken, rule.cure, seen),
        harmful=how in _BROKE_OFF or how in _TIMED_OUT,
        timed_out=how in _TIMED_OUT,
        status=broken.status,
        absent=how in _ABSENT,
    )
    # A stale connection, or one with something left over on it, says nothing about the server.
    if broken.reused and not seen.resent and how in (Break.CLOSED, Break.NOT_HTTP):
        return Verdict(action=Action.RESEND, fault=fault)
    if broken.status is not None:
        return _of_proxy(fault, broken.status)
    if how in _BROKE_OFF:
        return Verdict(action=again(seen), fault=fault, overload=seen.in_flight > CROWD, singly=seen.alive)
    if how in _TIMED_OUT:
        return Verdict(action=_after_timeout(seen), fault=fault, overload=True)
    return Verdict(action=rule.alive if seen.alive else rule.stranger, fault=fault)


def _cure(broken: Broken, usual: str, seen: Context) -> str:
    """What to do about it: a server that never answered may not be what the URL says that it is."""
    if seen.alive:
        return usual
    if broken.how in _BROKE_OFF:
        return f"{_SCHEME} {usual}"
    # Without a word of the system's the connection was made, and closed in the handshake.
    in_handshake = broken.how is Break.CONNECT_TIMEOUT or (broken.how is Break.REFUSED and not broken.detail)
    if seen.tls and in_handshake:
        return f"The server may speak plain http: then put http:// into base_url. {_CONNECT}"
    return usual


def _of_proxy(fault: Fault, status: int) -> Verdict:
    """The proxy answers itself: it did not connect to the server."""
    if status == 407:
        what, cure = "the proxy asks for a user and a password (407)", PROXY_CURE
        return give_up(replace(fault, error=ServerRefused, what=what, cure=cure))
    fault = replace(fault, what=f"the proxy did not connect to the server ({status})")
    if status < 500:
        return give_up(replace(fault, cure="Ask who runs the proxy whether it lets through to this server."))
    return Verdict(
        action=Action.RETRY, fault=replace(fault, cure="See the proxy's log; the server may be down.")
    )


def _after_timeout(seen: Context) -> Action:
    """Once more, in halves; after that only to find the text at fault."""
    if seen.timeouts == 0:
        return Action.RETRY if seen.lone else Action.SPLIT
    if seen.bisecting and seen.suspicious:
        return Action.SPLIT
    return Action.GIVE_UP


def _unusable(reply: Unusable, seen: Context) -> Verdict:
    told = reply.said
    if told.error and not told.page:
        verdict = by_words(told.code or 200, {}, told, seen)
        if told.code is not None or verdict.action is not Action.GIVE_UP:
            return verdict
    fault = Fault(
        error=BadReply,
        what=f"the server answered with {reply.what}",
        cure=reply.cure or "None of its vectors was used. Restart or update the server; see its log.",
        words=told.message,
        position=reply.position,
        of_text=reply.position is not None,
        status=200,
    )
    if reply.cut:
        return Verdict(action=Action.RETRY, fault=fault)
    return give_up(fault) if reply.position is None else Verdict(action=Action.SPLIT, fault=fault)
