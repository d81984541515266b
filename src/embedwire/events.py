"""What happens in a client, as hooks are told of it: ``on_event=`` of both clients and both adapters. Pure.

No event holds a text, a vector, a key, or what of a URL is secret.

    def note(event: Event) -> None:
        if isinstance(event, RequestFinished):
            print(event.server, event.texts, event.seconds, event.error)

    client = SharedEmbeddingClient("http://localhost:8080", on_event=note)
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "BatchSplit",
    "CallFinished",
    "CallStarted",
    "ConcurrencyReduced",
    "Event",
    "EventsLost",
    "LimitLearnt",
    "Noticed",
    "RequestFinished",
    "RequestRepeated",
    "RequestStarted",
    "ServerSetAside",
    "ServerTakenBack",
    "SessionOpened",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        at: When, in seconds since 1970, as `time.time` has it.
    """

    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted(Event):
    """A caller passed texts in: by ``embed``, ``embed_query`` and the like, or as a piece of a stream.

    Attributes:
        call: Its number in this process.
        server: Base URL; several have commas between.
        model: Named in the requests, as far as is known yet.
        kind: Of its texts.
        texts: How many it has, equal ones counted each.
        characters: In them, prompts included.
        dimensions: Asked for; None for as many as the model has.
    """

    call: int
    server: str
    model: str | None
    kind: Literal["document", "query"]
    texts: int
    characters: int
    dimensions: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished(Event):
    """A call is over.

    Attributes:
        call: Its number in this process.
        server: Base URL; several have commas between.
        model: Named in the requests; None where they named none.
        reply_model: Named in the last reply.
        kind: Of its texts.
        texts: How many it has.
        characters: In them, prompts included.
        embedded: How many got a vector.
        requests: That were sent with some of its texts, failed and shared ones included.
        tokens: Its share of those that the server counted; None where it told none.
        seconds: From the call to its end.
        waited: Of these, before the first of its texts was sent.
        outcome: ``"done"``, ``"failed"``, or ``"cancelled"`` where the caller left.
        error: Class of the exception that it failed with.
    """

    call: int
    server: str
    model: str | None
    reply_model: str | None
    kind: Literal["document", "query"]
    texts: int
    characters: int
    embedded: int
    requests: int
    tokens: int | None
    seconds: float
    waited: float
    outcome: Literal["done", "failed", "cancelled"]
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStarted(Event):
    """A request with texts goes out.

    Attributes:
        request: Its number in this process.
        calls: Numbers of the calls whose texts are in it, of those that have a hook.
        server: Base URL.
        model: That it names; None for none.
        kind: Of its texts.
        texts: How many it has; equal ones travel once.
        characters: In them.
        attempt: 1 at first, then one more for each time that the same texts are sent again together.
        in_flight: Requests in flight at the server, this one included.
    """

    request: int
    calls: tuple[int, ...]
    server: str
    model: str | None
    kind: Literal["document", "query"]
    texts: int
    characters: int
    attempt: int
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished(Event):
    """A request with texts is over, well or not.

    Attributes:
        request: Its number in this process.
        calls: Numbers of the calls whose texts are in it; some may have joined while it was under way.
        server: Base URL.
        model: That it named; None for none.
        reply_model: That the reply names.
        kind: Of its texts.
        texts: How many it had.
        characters: In them.
        attempt: 1 at first, then one more for each time that the same texts are sent again together.
        seconds: From its sending to its end.
        tokens: That the server counted; None where it told none.
        status: HTTP status; None where there was no reply.
        error: Class of the exception that would be raised if it were the last attempt, ``"Cancelled"`` where all who
            wanted its vectors left, or None where it went well.
    """

    request: int
    calls: tuple[int, ...]
    server: str
    model: str | None
    reply_model: str | None
    kind: Literal["document", "query"]
    texts: int
    characters: int
    attempt: int
    seconds: float
    tokens: int | None
    status: int | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRepeated(Event):
    """A request failed for a passing reason, and is sent again after a pause.

    Attributes:
        server: Base URL.
        why: What happened, in words.
        error: Class of the exception that it would be.
        status: HTTP status; None where there was no reply.
        pause: Seconds until then.
        attempt: That comes next; None where the server has too much to do, which is no attempt.
        attempts: How many there may be.
    """

    server: str
    why: str
    error: str
    status: int | None
    pause: float
    attempt: int | None
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSplit(Event):
    """A batch got no vectors, and is sent again in parts.

    Attributes:
        server: Base URL.
        why: What happened, in words.
        kind: Of its texts.
        parts: Texts in each part.
    """

    server: str
    why: str
    kind: Literal["document", "query"]
    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitLearnt(Event):
    """How much the server takes in one request is known now, or known otherwise.

    Attributes:
        server: Base URL.
        model: That requests name; None for none.
        of: What there may be so much of.
        limit: The most in one request.
    """

    server: str
    model: str | None
    of: Literal["texts", "characters"]
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyReduced(Event):
    """The server has too much to do: fewer requests may be in flight, until more go well again.

    Attributes:
        server: Base URL.
        allowed: The most in flight from now on.
    """

    server: str
    allowed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened(Event):
    """New connections are made: at first use, and after a connection failed.

    Attributes:
        server: Base URL.
    """

    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSetAside(Event):
    """One of several servers gets no more texts for now.

    Attributes:
        server: Base URL.
        state: ``"set aside"`` where it is away, fails or hangs; ``"left out"`` where it has another model, or refuses
            all.
        why: In words.
    """

    server: str
    state: Literal["set aside", "left out"]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTakenBack(Event):
    """One of several servers gets texts again.

    Attributes:
        server: Base URL.
    """

    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed(Event):
    """Something else that is worth knowing, and is logged.

    Attributes:
        server: Base URL; several have commas between.
        level: Of the log.
        what: In words.
    """

    server: str
    level: Literal["debug", "info", "warning"]
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsLost(Event):
    """The hook was too slow: so many events were not kept for it, between the last one and the next.

    Attributes:
        count: They.
    """

    count: int
