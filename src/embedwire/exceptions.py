"""Everything embedwire raises.

    EmbedwireError
    ├── InputError          (ValueError)    you passed something wrong; nothing was sent
    ├── UsageError          (RuntimeError)  the client was closed, or belongs to another event loop
    ├── Overloaded                          the queue of waiting texts is full
    └── RequestError                        a text went out, or should have, and no vector came back
        ├── DeadlineExceeded  (TimeoutError)     the call's own deadline passed
        ├── ConnectionFailed  (ConnectionError)  the server was not reached, or hung up
        ├── RequestTimeout    (TimeoutError)     the server was reached and did not answer in time
        ├── AuthenticationFailed                 401 or 403: the key
        ├── ServerRefused                        the server says this request will never work
        ├── TextRefused                          this text will never work: it is too long, or breaks the model
        ├── ServerUnavailable                    429, 5xx: the server could not, and repeating did not help
        └── BadReply                             the reply broke the contract; none of its vectors was used

Each message says what happened, to which server and which text (its index in the list that the caller
passed), after how many attempts, and what to do. No message holds a text, a key or a reply's body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "AuthenticationFailed",
    "BadReply",
    "Completed",
    "ConnectionFailed",
    "DeadlineExceeded",
    "EmbedwireError",
    "InputError",
    "Overloaded",
    "RequestError",
    "RequestTimeout",
    "ServerRefused",
    "ServerUnavailable",
    "TextRefused",
    "UsageError",
]


@dataclass(frozen=True)
class Completed:
    """What a failed call had done before it failed.

    Attributes:
        indexes: Indexes, in the list that the caller passed, of the texts that have a vector; ascending.
        vectors: Their vectors, float32, shape ``(len(indexes), dimensions)``, in the same order.
    """

    indexes: list[int]
    vectors: NDArray[np.float32]


class EmbedwireError(Exception):
    """Base of everything this package raises on purpose."""


class InputError(EmbedwireError, ValueError):
    """Something passed in is wrong; nothing was sent."""


class UsageError(EmbedwireError, RuntimeError):
    """The client cannot be used here: it is closed, or it belongs to another event loop."""


class Overloaded(EmbedwireError):
    """More texts wait for the server than ``max_queued`` allows."""


class RequestError(EmbedwireError):
    """One or more texts of a call have no vector.

    Attributes:
        server: The server's base URL.
        index: Index of the first text it happened to, in the list that the caller passed.
        status: The HTTP status, if there was a reply.
        attempts: How many requests were sent for that text.
        retry_after: Seconds the server asked to wait, if it did.
        tokens: Tokens in the refused text, where the server told.
        limit: The server's limit it went over, where the server told.
    """

    server: str = ""
    index: int | None = None
    status: int | None = None
    attempts: int = 0
    retry_after: float | None = None
    tokens: int | None = None
    limit: int | None = None

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._completed: Completed | Callable[[], Completed] | None = None
        self._failures: dict[int, RequestError] | Callable[[], dict[int, RequestError]] = {}

    @property
    def completed(self) -> Completed | None:
        """What the call had done before it failed; nothing that was computed is lost."""
        if callable(self._completed):
            self._completed = self._completed()
        return self._completed

    @completed.setter
    def completed(self, completed: Completed | None) -> None:
        self._completed = completed

    @property
    def failures(self) -> dict[int, RequestError]:
        """The error of each text that failed for a reason of its own, by index."""
        if callable(self._failures):
            self._failures = self._failures()
        return self._failures

    @failures.setter
    def failures(self, failures: dict[int, RequestError]) -> None:
        self._failures = failures

    def set_outcome(
        self, completed: Callable[[], Completed], failures: Callable[[], dict[int, RequestError]]
    ) -> None:
        """Says where `completed` and `failures` come from, when they are asked for: they may be large."""
        self._completed, self._failures = completed, failures

    def __reduce__(self) -> str | tuple[Any, ...]:
        _ = self.completed, self.failures  # a pickle or a copy has them, not what makes them
        return super().__reduce__()


class DeadlineExceeded(RequestError, TimeoutError):
    """The deadline of the whole call passed: queue, attempts, back-off and body together."""


class ConnectionFailed(RequestError, ConnectionError):
    """The server was not reached, or closed the connection without answering."""


class RequestTimeout(RequestError, TimeoutError):
    """The server was reached and did not answer within the request's timeout."""


class AuthenticationFailed(RequestError):
    """The server did not accept the key."""


class ServerRefused(RequestError):
    """The server will not serve this request, however often it is sent."""


class TextRefused(RequestError):
    """The server will not embed this one text, however often it is sent.

    Attributes:
        too_long: Whether it is the text's length, as far as the server's words tell; a client's ``too_long=`` cuts it.
    """

    too_long: bool = False


class ServerUnavailable(RequestError):
    """The server was overloaded or failing, and repeating did not help."""


class BadReply(RequestError):
    """The server's reply broke the contract; no vector of it was used."""
