"""One request: what is sent, how its reply is read, who waits for it, and what comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from embedwire._http.records import NEW, History, never, no_end
from embedwire._http.steps import Work
from embedwire._http.verdicts import Verdict
from embedwire._http.watching import Watching
from embedwire._http.wire import Reply
from embedwire._servers.slots import Slot
from embedwire._settings.options import Kind
from embedwire._settings.settings import Form

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)  # no repr: it would show texts
class Request(Generic[T]):
    """What is sent, how its reply is read, and who waits for it.

    Attributes:
        method: GET or POST.
        url: The whole URL, but for the user's query.
        encode: The body; called before each sending, with what became of the last one.
        read: From a success to what is wanted, in steps; raises `ContractBroken`.
        form: Whose timeouts, retries and limits hold.
        kind: Queries go first.
        slot: Its place on the wire; None for a question about the server, which takes none.
        texts: The texts in it, which no message may repeat.
        until: The moment, in loop time, after which nobody wants the answer.
        suspicious: Whether a failure that strikes again may be one text's.
        elsewhere: Whether another server would take the texts.
        history: What happened before.
        watching: Tells hooks of it; None where nobody listens.
    """

    method: str
    url: str
    encode: Callable[[Verdict | None], bytes | None]
    read: Callable[[Reply], Work[T]]
    form: Form
    kind: Kind = "document"
    slot: Slot | None = None
    texts: list[str]
    until: Callable[[], float | None] = no_end
    suspicious: Callable[[], bool] = never
    elsewhere: Callable[[], bool] = never
    history: History = NEW
    watching: Watching | None = None

    @property
    def crowd(self) -> int:
        """Requests in flight at the server, as far as they have a place there."""
        return 1 if self.slot is None else self.slot.crowd


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Generic[T]):
    """A success: what was wanted, its status, how long the last sending took, and how many there were."""

    result: T
    status: int
    seconds: float
    sent: int


async def watched(
    request: Request[T], send: Callable[[Mapping[str, str]], Awaitable[Done[T] | Verdict]]
) -> Done[T] | Verdict:
    """What came of a request; hooks are told of it.

    Args:
        request: It.
        send: Sends it, with these headers beside its own.
    """
    watching = request.watching
    assert watching is not None  # noqa: S101 - the caller has looked
    headers = watching.begin(request.crowd)
    try:
        answer = await send(headers)
    except BaseException as error:
        watching.broke(error)
        raise
    if isinstance(answer, Done):
        watching.done(answer.result, answer.status)
    else:
        watching.failed(answer.fault)
    return answer
