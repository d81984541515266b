"""The first contact: where a server embeds, with which model, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from embedwire._http.listing import listed
from embedwire._http.place import is_elsewhere
from embedwire._http.records import Fault, Matrix
from embedwire._http.reply import ContractBroken, parse
from embedwire._http.wire import Broken, Reply
from embedwire._servers.kinds import OPENAI_LIKE, ServerKind, Told, owner, recognised
from embedwire.doctor.asking import Asker, Heard, printable

TEXT = "The doctor listens to the heart of a sleeping server."  # that every server is asked for
_NO_LIST = (400, 404, 405, 501)  # of a server that does not list its models
_SHOWN = 5  # names of models in a message


class CouldNotAsk(Exception):
    """The server gave no vector, so there is nothing to look at; the message says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """A server that embeds.

    Attributes:
        base: The path before ``/embeddings`` at which it does.
        model: The model that requests name; None where it does not tell.
        kind: Its software.
        software: Its ``Server`` header, or what its kind is called.
        told: What it says of itself.
        vector: Of `TEXT`, alone in a request.
        seconds: How long that took, connecting included.
    """

    base: str
    model: str | None
    kind: ServerKind
    software: str
    told: Told
    vector: Matrix = field(repr=False)
    seconds: float

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return len(self.vector)


async def meet(ask: Asker, model: str | None) -> Met:
    """Has one text embedded, wherever the server does that.

    Args:
        ask: Asks it.
        model: The model to name; None for the one that the server lists.

    Raises:
        CouldNotAsk: It did not.
        EnoughAsked: It left questions without an answer.
    """
    bases = list(ask.target.endpoint.bases)
    names: list[str] = []
    owners: list[str] = []
    for base in bases:
        body = await _list_at(ask, base, needed=model is None)
        if body is not None:
            bases = [base, *(one for one in bases if one != base)]
            names, owners = _names(body)
            break
    model = model or _one_of(names)
    where, heard = await _embedded(ask, bases, model)
    assert heard.matrix is not None  # noqa: S101 - `_embedded` raises else
    kind = recognised(heard.headers) or owner(owners) or OPENAI_LIKE
    return Met(
        base=where,
        model=model or heard.model,
        kind=kind,
        software=printable(heard.headers.get("server", "") or kind.name),
        told=await _told(ask, kind),
        vector=heard.matrix[0],
        seconds=heard.seconds,
    )


async def _list_at(ask: Asker, base: str, *, needed: bool) -> bytes | None:
    """The list of models; None where there is none at this path."""
    outcome = await ask.get(ask.target.endpoint.models(base))
    if isinstance(outcome, Reply) and outcome.status == 200:
        return outcome.body
    if isinstance(outcome, Reply) and (outcome.status in _NO_LIST or not needed):
        return None
    raise CouldNotAsk(ask.message(ask.fault_of(outcome)))


def _names(body: bytes) -> tuple[list[str], list[str]]:
    """Models, and their owners; none where it is no list: whoever answers so may embed all the same."""
    try:
        told = listed(body)
    except ContractBroken:
        return [], []
    return told.models, told.owners


def _one_of(names: list[str]) -> str | None:
    if len(names) <= 1:
        return names[0] if names else None
    some = ", ".join(repr(printable(name[:60])) for name in names[:_SHOWN])
    raise CouldNotAsk(f"the server has {len(names)} models, among them {some}. Name one: --model NAME.")


async def _embedded(ask: Asker, bases: list[str], model: str | None) -> tuple[str, Heard]:
    """The path at which it embeds, and what came from there."""
    faults: list[Fault] = []
    for base in bases:
        ask.settle(base, model)
        heard = await ask.embed([TEXT])
        if heard.fault is None:
            return base, heard
        faults.append(heard.fault)
        other = next((one for one in bases if one != base), None)
        if other is None or not is_elsewhere(heard.fault, base, other):
            raise CouldNotAsk(ask.message(heard.fault))
    raise CouldNotAsk(ask.message(faults[0]))


async def _told(ask: Asker, kind: ServerKind) -> Told:
    """What it says of itself; nothing where it does not."""
    if kind.tells is None:
        return Told()
    outcome = await ask.get(ask.target.endpoint.question(kind.tells))
    if isinstance(outcome, Broken) or outcome.status != 200:
        return Told()
    try:
        return kind.read(parse(outcome.body))
    except ContractBroken:
        return Told()
