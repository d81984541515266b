"""What was seen in a cell, and the rules it is judged by. A rule's words are those of docs/FAULTS.md."""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.faults.worker import Call, Observed
from embedwire.testing import Request, vector

KEY = "sk-the-secret-of-this-table"
PASSWORD = "the-password-in-netrc"
NETRC = f"machine 127.0.0.1 login somebody password {PASSWORD}\n"
DIMENSIONS = 8
RIGHT_WORD = "right"
SILENT = "no error"  # ends the words for vectors that are not those of the texts


def right_vector(text: str) -> list[float]:
    """The vector that the server gives a text; no other text has it."""
    return vector(text, DIMENSIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that was seen in a cell.

    Attributes:
        did: What happened in the client's process.
        expected: The vector that a text should get.
        off: How far off each of its numbers may be.
        requests: What the server received.
        elsewhere: What another server received, which the client was not made with.
        peak: The most requests that were in flight at the server.
        over: The seconds after which the process was ended; None: it ended before.
        died: The exit code of a process that ended without a word.
    """

    did: Observed
    expected: Callable[[str], list[float]] = right_vector
    off: float = 0.0
    requests: Sequence[Request] = ()
    elsewhere: Sequence[Request] = ()
    peak: int = 0
    over: float | None = None
    died: int | None = None

    @property
    def seconds(self) -> float:
        """How long the calls took, together."""
        return self.over or self.did.seconds or sum(call.seconds for call in self.did.calls)

    @property
    def sent(self) -> list[Request]:
        """The requests for embeddings, whatever their path."""
        return [request for request in self.requests if request.method == "POST"]

    @property
    def ended(self) -> bool:
        """Whether the process did all that it was to do."""
        return self.over is None and self.died is None

    @property
    def outcomes(self) -> list[str]:
        """What came of each call, in words; of the whole process where it did not end by itself."""
        if self.over is not None:
            return [f"over {self.over:.0f} s"]
        if self.died is not None:
            return [f"process died ({self.died})"]
        return [self._outcome(call) for call in self.did.calls]

    def _outcome(self, call: Call) -> str:
        if call.failure:
            return f"`{call.failure.name}`"
        vectors = call.vectors or []
        if len(vectors) != len(call.texts):
            return f"{len(vectors)} vectors for {len(call.texts)} texts, {SILENT}"
        right = [self.expected(text) for text in call.texts]
        pairs = list(zip(vectors, right, strict=True))
        if any(row is not None and len(row) != len(wanted) for row, wanted in pairs):
            return f"WRONG widths, {SILENT}"
        fits = all(row is not None and self._fits(row, wanted) for row, wanted in pairs)
        return RIGHT_WORD if fits else f"WRONG vectors, {SILENT}"

    def _fits(self, row: list[float], wanted: list[float]) -> bool:
        if not self.off:
            return row == wanted
        return all(abs(got - number) <= self.off for got, number in zip(row, wanted, strict=True))

    @property
    def error(self) -> str | None:
        """The message of the last call's exception."""
        failure = self.did.calls[-1].failure if self.did.calls else None
        return failure.message if failure else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What must hold in a cell.

    Attributes:
        words: That, as part of the sentence "Right: …".
        holds: Whether it does.
        fact: What the cell says about it, whether it holds or not; may be empty.
    """

    words: str
    holds: Callable[[Seen], bool]
    fact: Callable[[Seen], str] = lambda seen: ""


def _is_right(seen: Seen) -> bool:
    return set(seen.outcomes) == {RIGHT_WORD}


def _is_error(seen: Seen) -> bool:
    *before, last = seen.outcomes
    return last.startswith("`") and set(before) <= {RIGHT_WORD}


def _is_due_error(seen: Seen) -> bool:
    return _is_error(seen) and bool(seen.sent)  # one before any request is not due to the reply


RIGHT = Rule(words="the right vectors", holds=_is_right)
ERROR = Rule(words="an error", holds=_is_due_error)
UNREACHED = Rule(words="an error", holds=lambda seen: _is_error(seen) and not seen.requests)
UNSENT = Rule(words="an error, and no text sent", holds=lambda seen: _is_error(seen) and not seen.sent)
RIGHT_OR_ERROR = Rule(
    words="the right vectors or an error", holds=lambda seen: _is_right(seen) or _is_due_error(seen)
)
LAST_RIGHT = Rule(
    words="the right vectors in the last call", holds=lambda seen: seen.outcomes[-1] == RIGHT_WORD
)
RIGHT_OR_LOUD = Rule(
    words="the right vectors or an error in each call",
    holds=lambda seen: all(outcome == RIGHT_WORD or outcome.startswith("`") for outcome in seen.outcomes),
)
SPARES = Rule(
    words="an error for the caller of that text, the right vectors for all others", holds=_is_due_error
)
BOTH_GO_ON = Rule(words="the right vectors in both processes", holds=_is_right)


def within(seconds: float) -> Rule:
    """It does not take longer."""
    return Rule(words=f"within {seconds:g} s", holds=lambda seen: seen.seconds <= seconds)


def at_most(requests: int) -> Rule:
    """It sends one at least, and not more."""
    words = "one request" if requests == 1 else f"at most {requests} requests"
    return Rule(words=words, holds=lambda seen: 1 <= len(seen.sent) <= requests)


def last_at_most(requests: int) -> Rule:
    """The last call's texts travel in so few requests."""

    def count(seen: Seen) -> int:
        last = set(seen.did.calls[-1].texts) if seen.did.calls else set()
        return sum(bool(last & set(request.texts)) for request in seen.sent)

    return Rule(
        words=f"in at most {requests} requests",
        holds=lambda seen: count(seen) <= requests,
        fact=lambda seen: f"the last call in {count(seen)}",
    )


def met_at_most(text: str, times: int) -> Rule:
    """The text that harms the server is not sent over and over."""

    def count(seen: Seen) -> int:
        return sum(text in request.texts for request in seen.sent)

    return Rule(
        words=f"that text sent at most {times} times",
        holds=lambda seen: count(seen) <= times,
        fact=lambda seen: f"sent {count(seen)} times",
    )


def in_flight(most: int) -> Rule:
    """So few requests are at the server at once."""
    return Rule(
        words=f"at most {most} request{'s' * (most != 1)} in flight at the server",
        holds=lambda seen: seen.peak <= most,
        fact=lambda seen: f"{seen.peak} in flight",
    )


def last_within(seconds: float) -> Rule:
    """The last call does not take longer."""

    def took(seen: Seen) -> float:
        return seen.did.calls[-1].seconds if seen.did.calls else seen.over or 0.0

    return Rule(
        words=f"the query within {seconds:g} s",
        holds=lambda seen: took(seen) <= seconds,
        fact=lambda seen: f"query after {took(seen):.1f} s" if seen.did.calls else "",
    )


def piles_up_at_most(most: int, seconds: float) -> Rule:
    """A server that computes one request after the other, in so many seconds each, never has more before it."""

    def peak(seen: Seen) -> int:
        free, highest = 0.0, 0.0
        for request in seen.sent:
            free = max(free, request.at) + seconds
            highest = max(highest, free - request.at)
        return math.ceil(highest / seconds - 0.01)

    return Rule(
        words=f"never more than {most} requests before the server",
        holds=lambda seen: peak(seen) <= most,
        fact=lambda seen: f"{peak(seen)} piled up",
    )


def answered_at_least(calls: int) -> Rule:
    """So many of the calls get their vectors."""
    return Rule(
        words=f"at least {calls} calls answered",
        holds=lambda seen: seen.outcomes.count(RIGHT_WORD) >= calls,
    )


def waits(seconds: float) -> Rule:
    """The second request comes when it was asked for, and not much later."""

    def gap(seen: Seen) -> float:
        return seen.sent[1].at - seen.sent[0].at if len(seen.sent) > 1 else 0.0

    return Rule(
        words=f"the second request {seconds:g} to {seconds + 1:g} s after the first",
        holds=lambda seen: seconds - 0.02 <= gap(seen) <= seconds + 1,
        fact=lambda seen: f"after {gap(seen):.1f} s",
    )


def names(*places: int) -> Rule:
    """The error tells which text, in its attribute `index` or in its message; any of these is true."""
    numbers = "|".join(map(str, places))
    told = re.compile(
        rf"\b(?:text|input|item|index|row|position|embedding|data)s?\b\D{{0,12}}\b(?:{numbers})\b",
        re.IGNORECASE,
    )
    words = " or ".join(map(str, places))

    def holds(seen: Seen) -> bool:
        failure = seen.did.calls[-1].failure if seen.did.calls else None
        return failure is not None and (failure.index in places or bool(told.search(failure.message)))

    return Rule(
        words=f"which names text {words}",
        holds=holds,
        fact=lambda seen: f"names text {words}" if holds(seen) else "",
    )


def tells(*words: object) -> Rule:
    """The error's message says all of these."""
    return Rule(
        words=f"and says {' and '.join(map(str, words))}",
        holds=lambda seen: all(str(word) in (seen.error or "") for word in words),
    )


BLAMES_NO_TEXT = Rule(
    words="which blames no text (`TextRefused`, where there is such a thing)",
    holds=lambda seen: all(
        call.failure is None or call.failure.name != "TextRefused" for call in seen.did.calls
    ),
)

NO_REPEAT = Rule(
    words="no request sent twice",
    holds=lambda seen: max(Counter(request.body for request in seen.sent).values(), default=0) <= 1,
)


def remembers(most: int) -> Rule:
    """The last call's texts travel in requests that the server takes."""

    def holds(seen: Seen) -> bool:
        last = set(seen.did.calls[-1].texts) if seen.did.calls else set()
        return all(len(request.texts) <= most for request in seen.sent if last & set(request.texts))

    return Rule(words=f"in the last call no request over {most} texts", holds=holds)


WARNED = Rule(
    words="and a warning in the log",
    holds=lambda seen: any("zero" in message.lower() for message in seen.did.log),
    fact=lambda seen: (
        "warned" if any("zero" in message.lower() for message in seen.did.log) else "no warning"
    ),
)


def grows_at_most(megabytes: int) -> Rule:
    """The peak of memory does not rise by more."""
    return Rule(
        words=f"at most {megabytes} MB more memory",
        holds=lambda seen: seen.did.grown <= megabytes,
        fact=lambda seen: f"{seen.did.grown:+.0f} MB",
    )


def _went_elsewhere(seen: Seen) -> str:
    if not seen.elsewhere:
        return ""
    key = any(KEY in str(request.headers) for request in seen.elsewhere)
    texts = any(request.texts for request in seen.elsewhere)
    what = [word for word, went in (("texts", texts), ("key", key)) if went] or ["a request"]
    return f"{' and '.join(what)} went there"


STAYS = Rule(words="nothing sent there", holds=lambda seen: not seen.elsewhere, fact=_went_elsewhere)


def _hides(words: str, where: Callable[[Seen], Sequence[str]]) -> Rule:
    def shown(seen: Seen) -> bool:
        return any(KEY in text for text in where(seen))

    return Rule(
        words=words,
        holds=lambda seen: not shown(seen),
        fact=lambda seen: "key shown" if shown(seen) else "key hidden",
    )


def _errors(seen: Seen) -> list[str]:
    return [call.failure.message + call.failure.everything for call in seen.did.calls if call.failure]


def hides_text(text: str) -> Rule:
    """No 40 characters in a row of the text show in an error or a log."""

    def shown(seen: Seen) -> bool:
        runs = {
            message[at : at + 40] for message in [*_errors(seen), *seen.did.log] for at in range(len(message))
        }
        return any(len(run) == 40 and run in text for run in runs)

    return Rule(
        words="without the text in its message, repr, traceback or a log",
        holds=lambda seen: not shown(seen),
        fact=lambda seen: "text shown" if shown(seen) else "text hidden",
    )


def _password_sent(seen: Seen) -> bool:
    forms = (PASSWORD, base64.b64encode(f"somebody:{PASSWORD}".encode()).decode())
    return any(form in str(request.headers) for request in seen.requests for form in forms)


NO_PASSWORD = Rule(
    words="without that password",
    holds=lambda seen: not _password_sent(seen),
    fact=lambda seen: "password sent" if _password_sent(seen) else "",
)

HIDDEN = _hides("without the key", lambda seen: seen.did.shown or [])
HIDDEN_IN_ERROR = _hides("without the key in its message, repr or traceback", _errors)
HIDDEN_IN_LOG = _hides("and no key in any log record", lambda seen: seen.did.log)
