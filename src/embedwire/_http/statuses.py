"""A reply that is no success → what to do about it: by what its words mean, then by its status, as a table. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from embedwire._http.backoff import retry_after
from embedwire._http.fields import spoken_of
from embedwire._http.gateways import GATEWAY, SLOW_DOWN, SMALLER, gateway_verdict
from embedwire._http.messages import unquoted
from embedwire._http.records import Action, Fault, Patience
from embedwire._http.verdicts import Context, Verdict
from embedwire._http.wire import Reply
from embedwire._http.words import Said, said
from embedwire._servers.kinds import Meaning, meaning, recognised
from embedwire.exceptions import (
    AuthenticationFailed,
    BadReply,
    ServerRefused,
    ServerUnavailable,
    TextRefused,
)

NO_SERVER = "Check base_url: on that host and port answers another program, or it embeds at another path."
PROXY_CURE = "Put them into the proxy's URL: proxy='http://user:password@…'."


def status_verdict(reply: Reply, seen: Context) -> Verdict:
    """What a reply means that is no success."""
    words, begin = said(reply.body), reply.body[:2000]
    verdict = by_words(reply.status, reply.headers, words, seen, plain=begin, reused=reply.reused)
    spoken = spoken_of(reply.status, reply.body)
    return replace(verdict, fault=replace(verdict.fault, spoken=spoken))


def by_words(
    status: int,
    headers: Mapping[str, str],
    words: Said,
    seen: Context,
    *,
    plain: bytes = b"",
    reused: bool = False,
) -> Verdict:
    """What a failure means.

    Args:
        status: HTTP status, or the one that a success with an error in it names.
        headers: Of the reply.
        words: What it says.
        seen: What else is known.
        plain: The beginning of the reply, as it came.
        reused: It came on a connection that had carried an earlier request.
    """
    # A 503 blames no text, and a text may well have "Loading model" in it.
    heard = words.message if status == 503 else unquoted(words.message, seen.texts)
    means = meaning(heard, words.type, words.fields)
    fault = Fault(
        error=ServerRefused,
        what=f"the server answered {status}",
        cure=means.cure or "See the server's log.",
        words=words.message,
        status=status,
        retry_after=retry_after(headers, heard),
    )
    if 300 <= status < 400:
        return give_up(_redirect(fault, headers))
    if status == 400 and _WANTS_TLS.search(plain):
        return give_up(
            replace(fault, what="the server speaks https (400)", cure="Put https:// into base_url.")
        )
    # HAProxy's and Apache's word on a connection that was idle.
    if status == 408 and reused and not seen.resent:
        return Verdict(action=Action.RESEND, fault=fault)
    case = _Case(fault, means, seen, headers)
    rules = (_not_ready, _repeated, _about_the_rate, _about_the_key, _about_the_text, _about_the_request)
    understood = next((verdict for rule in rules if (verdict := rule(case)) is not None), None)
    return understood or _by_status(status, fault, words, means, seen)


def _by_status(status: int, fault: Fault, words: Said, means: Meaning, seen: Context) -> Verdict:
    if status in GATEWAY:
        return gateway_verdict(fault, words, seen)
    if status in _PERMANENT:
        return give_up(_permanent(fault, words, means))
    if status in _OF_SIZE:
        return Verdict(action=Action.SPLIT, fault=_refusal(fault, means))
    return _failed(fault, seen)


def give_up(fault: Fault) -> Verdict:
    """Nothing helps."""
    return Verdict(action=Action.GIVE_UP, fault=fault)


# By words. Each rule passes on what is not its own.


@dataclass(frozen=True, slots=True)
class _Case:
    """A reply, what its words mean, and what was known before."""

    fault: Fault
    means: Meaning
    seen: Context
    headers: Mapping[str, str]

    def cure(self, usual: str) -> str:
        """The cure that a kind of server knows, or the usual one."""
        return self.means.cure or usual


def _not_ready(case: _Case) -> Verdict | None:
    fault, means = case.fault, case.means
    status = fault.status
    if means.unloaded and not means.of_text:
        what = f"the server has its model not loaded ({status})"
        cure = case.cure("Load the model on the server, or have it kept loaded.")
        patience: Patience = "gone" if case.seen.accepted else "unloaded"
        fault = replace(fault, error=ServerUnavailable, what=what, cure=cure, patience=patience)
        return Verdict(action=Action.WAIT, fault=fault)
    if means.loading and status in _WHILE_LOADING:
        cure = "Give it time: await client.wait_ready(timeout=…), or a longer deadline=."
        what = f"the server is still loading its model ({status})"
        fault = replace(fault, error=ServerUnavailable, what=what, cure=cure, patience="loading")
        return Verdict(action=Action.WAIT, fault=fault)
    return None


def _repeated(case: _Case) -> Verdict | None:
    """It was repeated already, by what stands in front of the server."""
    kind = recognised(case.headers)
    if kind is None or case.fault.status not in kind.final:
        return None
    what = f"what stands in front of the server gave up on it, after repeats of its own ({case.fault.status})"
    cure = "Its message says what became of the server; see its log, too."
    return give_up(replace(case.fault, error=ServerUnavailable, what=what, cure=cure))


def _about_the_rate(case: _Case) -> Verdict | None:
    fault, means = case.fault, case.means
    status = fault.status
    if means.too_large:
        cure = f"{SMALLER} or shorter texts."
        what = f"the request has too many tokens for the server's limit ({status})"
        fault = replace(fault, error=TextRefused, what=what, cure=cure, of_size="chars", too_long=True)
        return Verdict(action=Action.SPLIT, fault=fault)
    # Gemini's free tier says so of a limit per minute, too, and then how long to wait.
    if means.used_up and fault.retry_after is None:
        what = f"the account has nothing left to spend ({status})"
        return give_up(replace(fault, what=what, cure="Look at the account's quota and bill."))
    if status in _TOO_MUCH or (means.throttled and status in (200, 400, 403, 500, 503)):
        fault = replace(
            fault, error=ServerUnavailable, what=f"the server has too much to do ({status})", cure=SLOW_DOWN
        )
        return Verdict(action=Action.THROTTLE, fault=fault, overload=True)
    return None


def _about_the_key(case: _Case) -> Verdict | None:
    fault, means = case.fault, case.means
    status = fault.status
    if status == PROXY_ASKS:
        what = "the proxy asks for a user and a password (407)"
        return give_up(replace(fault, what=what, cure=PROXY_CURE))
    if status not in (401, 403) and not (status == 400 and means.of_key and not means.of_text):
        return None
    what, cure = (_WRONG_KEY if case.seen.key else _NO_KEY)[status == 403]
    if case.headers.get("www-authenticate", "").lower().startswith("basic"):
        cure = _BASIC
    return give_up(replace(fault, error=AuthenticationFailed, what=f"{what} ({status})", cure=cure))


def _about_the_text(case: _Case) -> Verdict | None:
    fault, means = case.fault, case.means
    if not means.of_text:
        return None
    what, cure = "the server cannot take the text", "Shorten or split the text."
    if means.tokens is not None and means.limit is not None:
        what = f"the text has {means.tokens} tokens and the server takes {means.limit}"
        cure = "Split the text, or start the server with larger -c, -b and -ub (llama-server)."
    fault = replace(
        fault,
        error=TextRefused,
        what=f"{what} ({fault.status})",
        cure=cure,
        of_text=True,
        too_long=means.too_long,
        tokens=means.tokens,
        limit=means.limit,
    )
    return Verdict(action=Action.SPLIT, fault=fault)


def _about_the_request(case: _Case) -> Verdict | None:
    fault, means = case.fault, case.means
    if not means.of_request or fault.status not in (400, 404, 405, 415, 422, 501) or means.max_texts:
        return None
    # A request of the same fields was taken before: then such words are of something in the text, or pass.
    if case.seen.accepted and not means.of_model and fault.status in _OF_SIZE:
        return None
    what, cure = (
        f"the server refuses the request ({fault.status})",
        "The server's message says what is wrong with it.",
    )
    if means.of_model:
        what, cure = f"the server does not know the model ({fault.status})", "Check model=."
    return give_up(replace(fault, what=what, cure=case.cure(cure)))


# By status.

_WHILE_LOADING = (200, 400, 404, 409, 424, 425, 500, 502, 503, 529)
_TOO_MUCH = (420, 429, 529)
PROXY_ASKS = 407

_NO_KEY = (
    ("the server asks for a key, and none was sent", "Pass api_key=, or set EMBEDWIRE_API_KEY."),
    (
        "the server, or what stands in front of it, forbids it",
        "No key was sent: pass api_key= if it wants one; else ask who runs it from where it may be reached.",
    ),
)
_WRONG_KEY = (
    ("the server does not accept the key", "Check api_key=, EMBEDWIRE_API_KEY or headers=."),
    ("the server forbids it to this key", "Check what the key is allowed to do."),
)
_BASIC = "It wants basic authorization: put user and password into base_url, http://user:password@host."

_PERMANENT = {
    404: (
        "the server does not know the path or the model",
        "Check base_url (the part before /embeddings) and model=.",
    ),
    405: ("the server takes no POST here", "Check base_url."),
    501: (
        "the server does not do embeddings",
        "Start llama-server with --embeddings, and with a pooling that is not none.",
    ),
}
# What such a refusal may be due to.
_OF_SIZE: dict[int, Literal["texts", "chars"]] = {400: "texts", 413: "chars", 422: "texts"}
_PASSING = (424, 425)
# nginx, Go's net/http, Apache.
_WANTS_TLS = re.compile(
    rb"HTTP request (?:was sent )?to (?:an )?HTTPS|plain HTTP to an SSL-enabled", re.IGNORECASE
)


def _redirect(fault: Fault, headers: Mapping[str, str]) -> Fault:
    cure = (
        "Redirects are not followed: texts and keys stay with their server. Put the final URL into base_url."
    )
    what = "the server redirects elsewhere"
    try:
        to = urlsplit(headers.get("location", ""))
        where = f"{to.scheme}://{to.hostname}{f':{to.port}' if to.port else ''}" if to.hostname else ""
    except ValueError:
        to, where = urlsplit(""), ""
    if where or to.path:  # without a query or a password, which may be secret
        what = f"the server redirects to {where}{to.path[:200]}"
    return replace(fault, what=f"{what} ({fault.status})", cure=cure)


def _permanent(fault: Fault, words: Said, means: Meaning) -> Fault:
    assert fault.status is not None  # noqa: S101 - it is in the table
    what, cure = _PERMANENT[fault.status]
    if words.page:
        what, cure = "a web page answered, not an embedding server", NO_SERVER
    return replace(fault, what=f"{what} ({fault.status})", cure=means.cure or cure)


def _refusal(fault: Fault, means: Meaning) -> Fault:
    too_large = "the server finds the request too large (413)"
    assert fault.status is not None  # noqa: S101 - it is in the table
    return replace(
        fault,
        error=TextRefused,
        what=too_large if fault.status == 413 else f"the server refused it ({fault.status})",
        cure=means.cure or "See the server's message and log; a text may be too long.",
        of_size=_OF_SIZE[fault.status],
        too_long=fault.status == 413 and means.max_texts is None,
        unclear=fault.status != 413 and means.max_texts is None,
        max_texts=means.max_texts,
    )


def _failed(fault: Fault, seen: Context) -> Verdict:
    """The server failed, for a reason of its own or because of a text."""
    status = fault.status or 0
    if status < 300:
        return give_up(replace(fault, error=BadReply, cure="Check base_url."))
    if status < 500 and status not in _PASSING:
        return give_up(fault)
    fault = replace(
        fault,
        error=ServerUnavailable,
        what=f"the server failed ({status})",
        harmful=status != 500,
        of_size="texts" if status == 500 else None,
    )
    if status != 500:
        return Verdict(action=again(seen) if status > 500 else Action.RETRY, fault=fault)
    return _failed_at(fault, seen)


def _failed_at(fault: Fault, seen: Context) -> Verdict:
    """A 500: the server has too much to do, or a text that it cannot take.

    With others on the wire it may be too much (Ollama); alone, the same twice is no accident.
    """
    crowded = seen.in_flight > 1
    if seen.same and not crowded and (not seen.lone or seen.bisecting):
        return Verdict(action=Action.SPLIT, fault=fault)
    return Verdict(action=again(seen), fault=fault, overload=crowded, singly=crowded and seen.failures > 0)


def again(seen: Context) -> Action:
    """Once more, at first; a failure that strikes the same texts again is searched for its text."""
    if seen.breaks and seen.alive and seen.suspicious and not seen.lone:
        return Action.SPLIT
    return Action.RETRY
