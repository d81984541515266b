"""What the client raises → what the gateway answers. Pure."""

from __future__ import annotations

import math

from embedwire._web.requests import Refusal
from embedwire.exceptions import (
    AuthenticationFailed,
    BadReply,
    ConnectionFailed,
    DeadlineExceeded,
    EmbedwireError,
    InputError,
    Overloaded,
    RequestError,
    RequestTimeout,
    ServerRefused,
    ServerUnavailable,
    TextRefused,
    UsageError,
)

NOT_READY = "not_ready"  # a client of ours waits for whoever says so
RETRY_AFTER = 2  # seconds, where nobody told
_OF_REQUEST = {400: 400, 404: 404, 409: 400, 413: 413, 415: 400, 422: 400, None: 400}
_BUSY = (420, 429, 529)
_USED_UP = (402, 429)
_TOO_SLOW = (408, 504, 524)
_REPLIES: dict[type[RequestError], tuple[int, str]] = {
    RequestTimeout: (504, "server_timeout"),
    DeadlineExceeded: (504, "server_timeout"),
    ConnectionFailed: (502, "server_unreachable"),
    AuthenticationFailed: (502, "server_key_refused"),
    BadReply: (502, "bad_reply"),
    RequestError: (502, "server_refused"),  # the rest
}


def refusal(error: EmbedwireError, *, ready: bool) -> Refusal:
    """The reply to a request that failed.

    Args:
        error: Why.
        ready: Whether a server is ready.
    """
    if isinstance(error, TextRefused):
        return _of_text(error)
    if isinstance(error, RequestError):
        return _of_server(error, ready=ready)
    if isinstance(error, Overloaded):
        words = _words(error)
        return Refusal(words, status=429, type="rate_limit_error", code="queue_full", headers=_after(None))
    if isinstance(error, UsageError):
        return not_ready("The gateway is stopping.")
    assert isinstance(error, InputError)  # noqa: S101 - there is no other
    return Refusal(_words(error), code="invalid_input")


def not_ready(message: str) -> Refusal:
    """The reply while nothing can be embedded, which will pass."""
    return Refusal(message, status=503, type="unavailable_error", code=NOT_READY, headers=_after(None))


def _of_text(error: TextRefused) -> Refusal:
    told = {"n_prompt_tokens": error.tokens, "n_ctx": error.limit}  # as llama.cpp names them
    return Refusal(
        _words(error),
        param=None if error.index is None else f"input[{error.index}]",
        code="context_length_exceeded" if error.too_long else "text_refused",
        details={name: number for name, number in told.items() if number is not None},
    )


def _of_server(error: RequestError, *, ready: bool) -> Refusal:
    words, asked = _words(error), error.retry_after
    if isinstance(error, ServerRefused) and error.status in _OF_REQUEST:
        return Refusal(words, status=_OF_REQUEST[error.status], code="server_refused")
    if isinstance(error, ServerRefused) and error.status in _USED_UP:
        return Refusal(words, status=429, type="insufficient_quota", code="insufficient_quota")
    if isinstance(error, ServerUnavailable):
        return _unavailable(error, words, asked, ready=ready)
    status, code = next(reply for kind, reply in _REPLIES.items() if isinstance(error, kind))
    return _upstream(words, status, code, asked)


def _unavailable(error: ServerUnavailable, words: str, asked: float | None, *, ready: bool) -> Refusal:
    if error.status in _BUSY:
        return Refusal(words, status=429, type="rate_limit_error", code="server_busy", headers=_after(asked))
    if error.status == 503 and not ready:
        return not_ready(words)
    if error.status == 503:
        return _upstream(words, 503, "server_unavailable", asked or RETRY_AFTER)
    return _upstream(words, 504 if error.status in _TOO_SLOW else 502, "server_unavailable", asked)


def _upstream(words: str, status: int, code: str, asked: float | None) -> Refusal:
    headers = None if asked is None else _after(asked)
    return Refusal(words, status=status, type="server_error", code=code, headers=headers)


def _after(seconds: float | None) -> dict[str, str]:
    return {"Retry-After": str(math.ceil(seconds or RETRY_AFTER))}


def _words(error: EmbedwireError) -> str:
    """The message, with the text named as the request has it."""
    index = getattr(error, "index", None)
    return str(error).replace(f"texts[{index}]", f"input[{index}]", 1)
