"""What crosses the border between the queue and HTTP; all of it frozen.

A `Job` goes down, `Vectors` come back, or `Refused` is raised.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedwire._events.heard import Heard
from embedwire._http.fields import NOTHING, Spoken
from embedwire._servers.facts import ModelFacts
from embedwire._settings.options import Kind
from embedwire._settings.settings import Form
from embedwire.exceptions import (
    AuthenticationFailed,
    BadReply,
    ConnectionFailed,
    RequestError,
    RequestTimeout,
)

Matrix = NDArray[np.float32]


Patience: TypeAlias = Literal["loading", "gone", "unloaded"]


class Action(enum.Enum):
    """What to do after a request went wrong."""

    GIVE_UP = "fail every text of the request"
    RESEND = "send again at once, free of charge"
    RETRY = "send again after a short pause"
    THROTTLE = "send again after a long pause"
    WAIT = "send again when the server says that it is ready"
    ELSEWHERE = "send to another server at once"
    SPLIT = "send again in parts; a text that stands alone fails"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What happened so far to the texts of one request, in this job and in those that it was a part of.

    Attributes:
        sent: Requests sent for them.
        failures: How many of those failed for a reason that counts as an attempt.
        throttled: How many the server refused since it had too much to do.
        timeouts: How many ran into a timeout.
        breaks: How many the server broke off, or failed with a 5xx.
        last: Hash of the last failing reply.
        bisecting: They were part of a larger request that failed like that, and the text at fault is searched for.
    """

    sent: int = 0
    failures: int = 0
    throttled: int = 0
    timeouts: int = 0
    breaks: int = 0
    last: int | None = None
    bisecting: bool = False


STRICT = (
    1.0  # seconds for which texts go to no server at which they failed; then any that is free may take them
)
NEW = History()  # of texts that were not sent yet


def never() -> bool:
    """No."""
    return False


def nobody() -> Collection[Heard]:
    """No hook is told."""
    return ()


def no_end() -> float | None:
    """Somebody always waits."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)  # no repr: it would show texts
class Job:
    """Texts to embed in one request.

    Attributes:
        form: What the request looks like and how it is treated.
        model: What is known of its model.
        kind: Queries go first.
        texts: In the order of the vectors.
        waiting: Texts that wait behind these.
        spare: Whether one more text would be within every limit.
        until: The moment, in loop time, after which nobody wants the answer; None: somebody always does.
        suspicious: Whether a failure that strikes again may be one text's: several callers share the request, or
            others of this form went well meanwhile.
        history: What happened to them before.
        elsewhere: Whether another server would take them.
        callers: The calls that want them, of those whose clients have hooks; `nobody` where none has.
    """

    form: Form
    model: ModelFacts
    kind: Kind
    texts: list[str]
    waiting: int = 0
    spare: Callable[[], bool] = never
    until: Callable[[], float | None] = no_end
    suspicious: Callable[[], bool] = never
    history: History = NEW
    elsewhere: Callable[[], bool] = never
    callers: Callable[[], Collection[Heard]] = nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """What came of a job.

    Attributes:
        matrix: One row per text, in their order.
        seconds: From the last sending to the reply.
        tokens: Tokens that the server counted, where it tells.
        model: The model that the reply names.
        asked: The model that the request names.
        sent: Requests that were sent for these texts.
    """

    matrix: Matrix = field(repr=False)
    seconds: float
    tokens: int | None
    model: str | None
    asked: str | None
    sent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What went wrong, in the form that an exception is made of.

    Attributes:
        error: The exception's class.
        what: What happened, as the middle of a sentence.
        cure: What to do about it, as a sentence.
        words: The server's own message, capped; screened before a job hands it up.
        position: Place in the request of the text at fault, where the reply tells.
        of_text: The server blames the text itself (too long, no number for it), not the request.
        too_long: The same, and it is its length.
        of_size: What there may have been too much of in the request.
        unclear: The server refuses it without a word of what: a text, their number, or whatever is asked.
        harmful: The server broke off or timed out, so each repeat does harm.
        timed_out: It timed out, here or at a gateway.
        status: HTTP status.
        retry_after: Seconds that the server asked to wait.
        tokens: Tokens in the text, where the server tells.
        limit: The limit in tokens, where the server tells.
        max_texts: The most texts the server takes in one request, where it tells.
        patience: What the server is waited for: that it has loaded its model, that it is back, or that it loads a model
            which was never seen there.
        of_server: No text is involved, so that none is named.
        spoken: The fields of the request that it speaks of.
        exchanged: The server has another model than before, which is no text's fault.
        absent: The server is not there, or not ready: nothing is of use until it is.
        server: The one that it happened at; "" for none in particular.
    """

    error: type[RequestError]
    what: str
    cure: str
    words: str = field(default="", repr=False)
    position: int | None = None
    of_text: bool = False
    too_long: bool = False
    of_size: Literal["texts", "chars"] | None = None
    unclear: bool = False
    harmful: bool = False
    timed_out: bool = False
    status: int | None = None
    retry_after: float | None = None
    tokens: int | None = None
    limit: int | None = None
    max_texts: int | None = None
    patience: Patience = "gone"
    of_server: bool = False
    spoken: Spoken = NOTHING
    exchanged: bool = False
    absent: bool = False
    server: str = ""

    @property
    def is_refusal(self) -> bool:
        """Whether the server would not do it, rather than could not."""
        return 400 <= (self.status or 0) < 500

    @property
    def of_one_server(self) -> bool:
        """Whether it is this server's own, as far as can be told, so that another one may do what it does not."""
        if self.of_text or self.harmful:
            return False
        own = issubclass(self.error, (AuthenticationFailed, BadReply, ConnectionFailed, RequestTimeout))
        return (
            own
            or self.exchanged
            or self.of_server
            or self.status in _OF_ONE_SERVER
            or 300 <= (self.status or 0) < 400
        )


_OF_ONE_SERVER = (402, 404, 405, 407, 410, 429, 501)  # no path, no model, nothing left to spend


class Refused(Exception):
    """A job that got no vectors.

    Attributes:
        action: SPLIT where smaller requests may help, ELSEWHERE where another server should be asked, else GIVE_UP.
        fault: What went wrong last.
        history: What happened to its texts.
    """

    def __init__(self, action: Action, fault: Fault, history: History) -> None:
        super().__init__(fault.what)
        self.action = action
        self.fault = fault
        self.history = history
