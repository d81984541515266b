"""What went wrong → what to do about it, as tables: break → rule, status → rule. Pure.

`judge` is the only door. What differs between servers is asked of `_servers.kinds`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from embedwire._http.backoff import retry_after
from embedwire._http.records import Action, Fault
from embedwire._http.wire import Break, Broken, Reply
from embedwire._http.words import Said, said
from embedwire._servers.kinds import Meaning, meaning
from embedwire.exceptions import (
    AuthenticationFailed,
    BadReply,
    ConnectionFailed,
    RequestError,
    RequestTimeout,
    ServerRefused,
    ServerUnavailable,
    TextRefused,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """A success whose body broke the reply contract."""

    what: str
    position: int | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What else the decision rests on.

    Attributes:
        alive: This server has answered before.
        resent: The request was already sent again for free.
        timeouts: How often these texts ran into a timeout before.
        breaks: How often the server broke off at these texts, or failed with a 5xx, before.
        same: The last reply to this request was the same, byte by byte.
        crowd: Several other requests were on the wire at the same time.
        lone: There is one text in the request, or none.
        bisecting: The text at fault is being searched for.
        suspicious: A failure that strikes again may be one text's.
    """

    alive: bool = False
    resent: bool = False
    timeouts: int = 0
    breaks: int = 0
    same: bool = False
    crowd: bool = False
    lone: bool = False
    bisecting: bool = False
    suspicious: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do, and what to say if it does not help.

    Attributes:
        action: What to do.
        fault: What to say.
        overload: The server has too much to do: fewer requests should be in flight.
        singly: One of the requests on the wire may have brought it down: the next ones should go one at a time.
        mark: Of the reply, to know it again.
    """

    action: Action
    fault: Fault
    overload: bool = False
    singly: bool = False
    mark: int | None = None


def judge(outcome: Broken | Reply | Unusable, seen: Context) -> Verdict:
    """What went wrong, and what was seen before → what to do."""
    if isinstance(outcome, Broken):
        return _broken(outcome, seen)
    if isinstance(outcome, Unusable):
        return _unusable(outcome)
    return _status(outcome, seen)


# Breaks


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a break means: for a server that has answered before, and for a stranger."""

    error: type[RequestError]
    cure: str
    alive: Action
    stranger: Action


_CONNECT = "Check that the server runs and that host and port are right."
_SCHEME = "Check http against https, and the port."
_CRASH = "The server may have crashed or run out of memory; see its log."
_SLOW = "Send smaller batches (batch_size=), fewer at once (concurrency=), or raise timeout=."
_NOT_THERE = "Check that base_url is an embedding server."

_BREAKS = {
    # A server that answered before and is gone is being restarted, and a container loses its name, too.
    Break.NAME: _Rule(ConnectionFailed, "Check the host's name.", Action.WAIT, Action.GIVE_UP),
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


def _broken(broken: Broken, seen: Context) -> Verdict:
    how, rule = broken.how, _BREAKS[broken.how]
    action, cure = rule.alive if seen.alive else rule.stranger, rule.cure
    if how in _BROKE_OFF and not seen.alive:
        cure = f"{_SCHEME} {cure}"
    fault = Fault(
        error=rule.error,
        what=how.value + (f" ({broken.detail})" if broken.detail else ""),
        cure=cure,
        harmful=how in _BROKE_OFF or how in _TIMED_OUT,
    )
    # A stale connection, or one with something left over on it, says nothing about the server.
    if broken.reused and not seen.resent and how in (Break.CLOSED, Break.NOT_HTTP):
        return Verdict(action=Action.RESEND, fault=fault)
    if how in _BROKE_OFF:
        return Verdict(action=_again(seen), fault=fault, overload=seen.crowd, singly=seen.alive)
    if how in _TIMED_OUT:
        return Verdict(action=_after_timeout(seen), fault=fault, overload=True)
    return Verdict(action=action, fault=fault)


def _again(seen: Context) -> Action:
    """Once more, at first; a failure that strikes the same texts again is searched for its text."""
    if seen.breaks and seen.alive and seen.suspicious and not seen.lone:
        return Action.SPLIT
    return Action.RETRY


def _after_timeout(seen: Context) -> Action:
    """Once more, in halves; after that only to find the text at fault."""
    if seen.timeouts == 0:
        return Action.RETRY if seen.lone else Action.SPLIT
    if seen.bisecting and seen.suspicious:
        return Action.SPLIT
    return Action.GIVE_UP


# Replies


def _unusable(reply: Unusable) -> Verdict:
    fault = Fault(
        error=BadReply,
        what=f"the server answered with {reply.what}",
        cure="None of its vectors was used. Restart or update the server; see its log.",
        position=reply.position,
        of_text=reply.position is not None,
        status=200,
    )
    if reply.cut:
        return Verdict(action=Action.RETRY, fault=fault)
    return Verdict(action=Action.GIVE_UP if reply.position is None else Action.SPLIT, fault=fault)


# nginx, Go's net/http, Apache.
_WANTS_TLS = re.compile(
    rb"HTTP request (?:was sent )?to (?:an )?HTTPS|plain HTTP to an SSL-enabled", re.IGNORECASE
)

_PERMANENT = {
    401: (AuthenticationFailed, "the server does not accept the key", "Check api_key= or EMBEDWIRE_API_KEY."),
    403: (AuthenticationFailed, "the server forbids it to this key", "Check what the key is allowed to do."),
    404: (
        ServerRefused,
        "the server does not know the path or the model",
        "Check base_url (the part before /embeddings) and model=.",
    ),
    405: (ServerRefused, "the server takes no POST here", "Check base_url."),
    501: (
        ServerRefused,
        "the server does not do embeddings",
        "Start llama-server with --embeddings, and with a pooling that is not none.",
    ),
}
_REDIRECT = (
    "Redirects are not followed: texts and keys stay with their server. Put the final URL into base_url."
)
# What such a refusal may be due to.
_OF_SIZE: dict[int, Literal["texts", "chars"]] = {
    400: "texts",
    413: "chars",
    422: "texts",
}
_PASSING = (408, 424, 425)


def _status(reply: Reply, seen: Context) -> Verdict:
    status, words = reply.status, said(reply.body)
    means = meaning(words.message, words.type, words.fields)
    fault = Fault(
        error=ServerRefused,
        what=f"the server answered {status}",
        cure="See the server's log.",
        words=words.message,
        status=status,
        retry_after=retry_after(reply.headers),
    )
    if status in _PERMANENT:
        error, what, cure = _PERMANENT[status]
        return _give_up(replace(fault, error=error, what=f"{what} ({status})", cure=cure))
    if 200 <= status < 400 or (status == 400 and _WANTS_TLS.search(reply.body[:2000])):
        return _give_up(_elsewhere(fault, status))
    if means.of_text:
        return Verdict(action=Action.SPLIT, fault=_text_fault(fault, means))
    if status in _OF_SIZE:
        return Verdict(action=Action.SPLIT, fault=_refusal(fault, means, status))
    if status in (429, 503):
        return _throttled(fault, words, means)
    if status >= 500 or status in _PASSING:
        return _failed(fault, status, seen)
    return _give_up(fault)


def _give_up(fault: Fault) -> Verdict:
    return Verdict(action=Action.GIVE_UP, fault=fault)


def _elsewhere(fault: Fault, status: int) -> Fault:
    """A reply of something that is not the server that was meant."""
    if status == 400:
        return replace(fault, what="the server speaks https (400)", cure="Put https:// into base_url.")
    if status >= 300:
        return replace(fault, what=f"the server redirects elsewhere ({status})", cure=_REDIRECT)
    return replace(fault, error=BadReply, cure="Check base_url.")


def _text_fault(fault: Fault, means: Meaning) -> Fault:
    what = "the server cannot take the text"
    cure = "Shorten or split the text."
    if means.tokens is not None and means.limit is not None:
        what = f"the text has {means.tokens} tokens and the server takes {means.limit}"
        cure = "Split the text, or start the server with larger -c, -b and -ub (llama-server)."
    return replace(
        fault,
        error=TextRefused,
        what=f"{what} ({fault.status})",
        cure=cure,
        of_text=True,
        tokens=means.tokens,
        limit=means.limit,
    )


def _refusal(fault: Fault, means: Meaning, status: int) -> Fault:
    too_large = "the server finds the request too large (413)"
    return replace(
        fault,
        error=TextRefused,
        what=too_large if status == 413 else f"the server refused it ({status})",
        cure="See the server's message and log; a text may be too long, or model= or dimensions= wrong.",
        of_size=_OF_SIZE[status],
        max_texts=means.max_texts,
    )


def _throttled(fault: Fault, words: Said, means: Meaning) -> Verdict:
    if fault.status == 429 and "insufficient_quota" in (words.type, words.fields.get("code")):
        return _give_up(replace(fault, cure="The account's quota is used up."))
    fault = replace(fault, error=ServerUnavailable)
    if fault.status == 503 and means.loading:
        cure = "Give it time: await client.wait_ready(timeout=…), or a longer deadline=."
        return Verdict(
            action=Action.WAIT, fault=replace(fault, what="the server is still loading its model", cure=cure)
        )
    what = (
        "the server has too much to do (429)" if fault.status == 429 else "the server is not available (503)"
    )
    return Verdict(action=Action.THROTTLE, fault=replace(fault, what=what, cure=_SLOW), overload=True)


def _failed(fault: Fault, status: int, seen: Context) -> Verdict:
    fault = replace(
        fault,
        error=ServerUnavailable,
        what=f"the server failed ({status})",
        harmful=status != 500,
        of_size="texts" if status == 500 else None,
    )
    # Twice the same reply is no accident: one of the texts may be what the server cannot take.
    if status == 500 and seen.same and (not seen.lone or seen.bisecting):
        return Verdict(action=Action.SPLIT, fault=fault)
    return Verdict(action=_again(seen) if status >= 500 else Action.RETRY, fault=fault)
