"""What went wrong → what to do about it. Pure.

`classify` is the one table of failures: from a fault of the connection or an HTTP reply to an action.
`delay` is the pause before a repeat.
"""

from __future__ import annotations

import datetime
import email.utils
import enum
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from embedwire._config import RetryPolicy
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


class Action(enum.Enum):
    """What to do after a failure."""

    GIVE_UP = "fail every text of the request"
    RESEND = "send again at once, free of charge"
    RETRY = "send again after a short pause"
    THROTTLE = "send again after a long pause"
    WAIT = "send again when the server says that it is ready"
    SPLIT = "send again in two halves; a text that stands alone fails"


class Break(enum.Enum):
    """How a request ended without a reply."""

    NAME = "the host's name cannot be looked up"
    REFUSED = "no connection could be made"
    CONNECT_TIMEOUT = "no connection within the connect timeout"
    TLS = "the TLS handshake failed"
    CLOSED = "the connection was closed before a reply"
    CUT = "the connection broke in the middle of the reply"
    READ_TIMEOUT = "silence for longer than the sock_read timeout"
    TOTAL_TIMEOUT = "no complete reply within the total timeout"
    NOT_HTTP = "what came back is not HTTP"
    TOO_LARGE = "the reply is larger than the cap"
    COMPRESSED = "the reply is compressed although that was not asked for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A request that ended without a reply.

    Attributes:
        how: The way it ended.
        reused: The connection had carried an earlier request, so it may just have been stale.
        detail: The operating system's words, which hold neither texts nor keys.
    """

    how: Break
    reused: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server answered; names of headers in any case, as HTTP has it."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


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
        timeouts: How often this request ran into a timeout before.
        same: The last reply to this request was the same, byte by byte.
        crowd: Several other requests were on the wire at the same time.
    """

    alive: bool = False
    resent: bool = False
    timeouts: int = 0
    same: bool = False
    crowd: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What went wrong, in the form that an exception is made of.

    Attributes:
        error: The exception's class.
        what: What happened, as the middle of a sentence.
        cure: What to do about it, as a sentence.
        words: The server's own message, capped; still to be searched for texts before anybody sees it.
        position: Place in the request of the text at fault, where the reply tells.
        of_text: The server blames the text itself (too long, no number for it), not the request.
        status: HTTP status.
        retry_after: Seconds that the server asked to wait.
        tokens: Tokens in the text, where the server tells.
        limit: The limit in tokens, where the server tells.
        max_texts: The most texts the server takes in one request, where it tells.
    """

    error: type[RequestError]
    what: str
    cure: str
    words: str = field(default="", repr=False)
    position: int | None = None
    of_text: bool = False
    status: int | None = None
    retry_after: float | None = None
    tokens: int | None = None
    limit: int | None = None
    max_texts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do, and what to say if it does not help.

    Attributes:
        action: What to do.
        fault: What to say.
        overload: The server has too much to do: fewer requests should be in flight.
    """

    action: Action
    fault: Fault
    overload: bool = False


def classify(outcome: Broken | Reply | Unusable, seen: Context) -> Verdict:
    """The one table: what went wrong, and what was seen before → what to do."""
    if isinstance(outcome, Broken):
        return _broken(outcome, seen)
    if isinstance(outcome, Unusable):
        return _unusable(outcome)
    return _status(outcome, seen)


_CONNECT_CURE = "Check that the server runs and that host and port are right."
_SLOW_CURE = "Send smaller batches (batch_size=), fewer at once (concurrency=), or raise timeout=."


def _broken(broken: Broken, seen: Context) -> Verdict:
    how = broken.how
    what = how.value + (f" ({broken.detail})" if broken.detail else "")

    def verdict(action: Action, error: type[RequestError], cure: str, *, overload: bool = False) -> Verdict:
        return Verdict(action=action, fault=Fault(error=error, what=what, cure=cure), overload=overload)

    if how is Break.NAME:  # a container that restarts loses its name, too
        action = Action.WAIT if seen.alive else Action.GIVE_UP
        return verdict(action, ConnectionFailed, "Check the host's name.")
    if how is Break.REFUSED:  # a server that answered before is being restarted
        action = Action.WAIT if seen.alive else Action.RETRY
        return verdict(action, ConnectionFailed, _CONNECT_CURE)
    if how is Break.CONNECT_TIMEOUT:  # TCP itself has tried several times by then
        action = Action.RETRY if seen.alive else Action.GIVE_UP
        return verdict(action, ConnectionFailed, _CONNECT_CURE + " A firewall may drop the packets.")
    if how is Break.TLS:
        return verdict(
            Action.GIVE_UP,
            ConnectionFailed,
            "Check http against https, and the host's name; for a private authority pass ssl='path of its CA file'.",
        )
    if how is Break.CLOSED and broken.reused and not seen.resent:
        return verdict(Action.RESEND, ConnectionFailed, _CONNECT_CURE)
    if how in (Break.CLOSED, Break.CUT):
        cure = "The server may have crashed or run out of memory; see its log."
        if not seen.alive:
            cure = "Check http against https, and the port. " + cure
        return verdict(Action.RETRY, ConnectionFailed, cure, overload=seen.crowd)
    if how in (Break.READ_TIMEOUT, Break.TOTAL_TIMEOUT):
        # The server goes on computing: once more, and smaller.
        action = Action.SPLIT if seen.timeouts == 0 else Action.GIVE_UP
        return verdict(action, RequestTimeout, _SLOW_CURE, overload=True)
    if how is Break.NOT_HTTP:
        return verdict(Action.GIVE_UP, BadReply, "Check http against https, and the port.")
    if how is Break.TOO_LARGE:
        return verdict(
            Action.GIVE_UP, BadReply, "Check that base_url is an embedding server, or raise max_reply_bytes=."
        )
    return verdict(Action.GIVE_UP, BadReply, "Check that base_url is an embedding server.")


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
    if reply.position is not None:
        return Verdict(action=Action.SPLIT, fault=fault)
    return Verdict(action=Action.GIVE_UP, fault=fault)


# Words of servers that make a text's fault certain, whatever the status: llama.cpp, Ollama, and the like.
_OF_TEXT = re.compile(
    r"too large to process|exceed_context_size|exceeds? the (?:available )?context|maximum context length"
    r"|unsupported value: [+-]?(?:NaN|Inf)|input (?:length|is too long)|must have less than \d+ tokens",
    re.IGNORECASE,
)
# "maximum allowed batch size 32" (TEI), "should not be larger than 10" (Bailian), "must not exceed 64",
# "at most 96", "less than or equal to 128", each in a message about the batch or the count of inputs.
_MAX_TEXTS = re.compile(
    r"(?:maximum allowed batch size|not be (?:larger|greater) than|(?:must|should|can|may)(?:not| not) exceed"
    r"|at most|(?:less|fewer|smaller) than or equal to|max(?:imum)? batch size(?: is| of)?|up to)\D{0,12}?(\d+)"
    r"(?!\d|\.\d|\s*(?:tokens|char|words|bytes|[kM]i?B))",
    re.IGNORECASE,
)
_ABOUT_COUNT = re.compile(r"batch|inputs|items|texts|array|list|documents|number of", re.IGNORECASE)
# nginx, Go's net/http, Apache.
_WANTS_TLS = re.compile(
    rb"HTTP request (?:was sent )?to (?:an )?HTTPS|plain HTTP to an SSL-enabled", re.IGNORECASE
)
_TOKENS = re.compile(r"input \((\d+) tokens\).*?current batch size: (\d+)", re.IGNORECASE | re.DOTALL)

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


def _status(reply: Reply, seen: Context) -> Verdict:
    status = reply.status
    words, kind, details = _server_words(reply.body)
    fault = Fault(
        error=ServerRefused,
        what=f"the server answered {status}",
        cure="See the server's log.",
        words=words,
        status=status,
        retry_after=retry_after(reply.headers),
    )
    if status in _PERMANENT:
        error, what, cure = _PERMANENT[status]
        return Verdict(
            action=Action.GIVE_UP, fault=replace(fault, error=error, what=f"{what} ({status})", cure=cure)
        )
    if 300 <= status < 400:
        cure = "Redirects are not followed: texts and keys stay with their server. Put the final URL into base_url."
        return Verdict(
            action=Action.GIVE_UP,
            fault=replace(fault, what=f"the server redirects elsewhere ({status})", cure=cure),
        )
    if status == 400 and _WANTS_TLS.search(reply.body[:2000]):
        return Verdict(
            action=Action.GIVE_UP,
            fault=replace(fault, what="the server speaks https (400)", cure="Put https:// into base_url."),
        )
    if _OF_TEXT.search(words) or _OF_TEXT.search(kind):
        return Verdict(action=Action.SPLIT, fault=_text_fault(fault, words, details))
    if status in (400, 413, 422):
        return Verdict(action=Action.SPLIT, fault=_refusal(fault, words, status))
    if status == 429:
        if "insufficient_quota" in (kind, details.get("code")):
            return Verdict(
                action=Action.GIVE_UP, fault=replace(fault, cure="The account's quota is used up.")
            )
        fault = replace(
            fault, error=ServerUnavailable, what="the server has too much to do (429)", cure=_SLOW_CURE
        )
        return Verdict(action=Action.THROTTLE, fault=fault, overload=True)
    if status == 503:
        if "loading model" in words.lower():
            cure = "Give it time: await client.wait_ready(timeout=…), or a longer deadline=."
            fault = replace(
                fault, error=ServerUnavailable, what="the server is still loading its model", cure=cure
            )
            return Verdict(action=Action.WAIT, fault=fault)
        fault = replace(
            fault, error=ServerUnavailable, what="the server is not available (503)", cure=_SLOW_CURE
        )
        return Verdict(action=Action.THROTTLE, fault=fault, overload=True)
    if status >= 500 or status in (408, 424, 425):
        fault = replace(fault, error=ServerUnavailable, what=f"the server failed ({status})")
        # Twice the same failure is no accident: one of the texts may be what the server cannot take.
        action = Action.SPLIT if status == 500 and seen.same else Action.RETRY
        return Verdict(action=action, fault=fault)
    if 200 <= status < 300:
        return Verdict(action=Action.GIVE_UP, fault=replace(fault, error=BadReply, cure="Check base_url."))
    return Verdict(action=Action.GIVE_UP, fault=fault)


def _text_fault(fault: Fault, words: str, details: Mapping[str, Any]) -> Fault:
    told = (details.get("n_prompt_tokens"), details.get("n_ctx"))
    tokens, limit = (number if type(number) is int else None for number in told)
    if match := _TOKENS.search(words):
        tokens, limit = int(match[1]), int(match[2])
    what = "the server cannot take the text"
    cure = "Shorten or split the text."
    if tokens is not None and limit is not None:
        what = f"the text has {tokens} tokens and the server takes {limit}"
        cure = "Split the text, or start the server with larger -c, -b and -ub (llama-server)."
    return replace(
        fault,
        error=TextRefused,
        what=f"{what} ({fault.status})",
        cure=cure,
        of_text=True,
        tokens=tokens,
        limit=limit,
    )


def _refusal(fault: Fault, words: str, status: int) -> Fault:
    found = _MAX_TEXTS.search(words) if _ABOUT_COUNT.search(words) else None
    return replace(
        fault,
        error=TextRefused,
        what={413: "the server finds the request too large (413)"}.get(
            status, f"the server refused it ({status})"
        ),
        cure="See the server's message and log; a text may be too long, or model= or dimensions= wrong.",
        max_texts=int(found[1]) if found and 0 < int(found[1]) < 1_000_000 else None,
    )


def _server_words(body: bytes) -> tuple[str, str, Mapping[str, Any]]:
    """The message, the type and all fields of an error reply, in the shapes that servers use."""
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", "", {}
    error = reply.get("error", reply) if isinstance(reply, dict) else {}
    if isinstance(error, str):  # Ollama, TEI: {"error": "…", "error_type": "…"}
        return _capped(error), _word(reply.get("error_type", reply.get("type"))), {}
    if not isinstance(error, dict):
        return "", "", {}
    message = error.get("message", error.get("detail"))
    if isinstance(message, list) and message and isinstance(message[0], dict):  # FastAPI: infinity, vLLM
        message = message[0].get("msg")
    return _capped(message) if isinstance(message, str) else "", _word(error.get("type")), error


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _capped(words: str, most: int = 300) -> str:
    words = " ".join(words.split())
    return words if len(words) <= most else words[: most - 1] + "…"


_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def retry_after(headers: Mapping[str, str], *, now: Callable[[], float] = time.time) -> float | None:
    """Seconds that the server asks to wait, from ``retry-after-ms`` or ``Retry-After`` (seconds or a date).

    Absurd values (not a number, negative, over a day) are ignored.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if _SECONDS.fullmatch(value):
            seconds = float(value) * unit
        else:
            try:
                date = email.utils.parsedate_to_datetime(value)
                date = date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)
                seconds = max(0.0, date.timestamp() - now())
            except (ValueError, TypeError, OverflowError):
                continue
        if 0 <= seconds <= 86_400:
            return seconds
    return None


def delay(
    policy: RetryPolicy,
    action: Action,
    repeat: int,
    asked: float | None,
    rand: Callable[[], float] = random.random,
) -> float:
    """Seconds to wait before a repeat.

    Args:
        policy: The user's numbers.
        action: RETRY or THROTTLE.
        repeat: 1 before the second request, 2 before the third.
        asked: What the server asked for; it is the least, and up to a tenth is added so that not all callers
            come back in the same moment.
        rand: A number in 0..1.
    """
    jitter = rand() if policy.jitter else 1.0
    if asked:  # 0, or a date that is past: no reason to hurry
        return asked + (asked * 0.1 * jitter if policy.jitter else 0.0)
    base = policy.throttled_base if action is Action.THROTTLE else policy.base
    return min(policy.cap, base * policy.multiplier ** min(repeat - 1, 64)) * jitter
