"""What was learnt of one server, and of one model on it: the records.

No locks: each fact is one plain assignment, and one that is lost does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedwire._servers.kinds import OPENAI_LIKE, ServerKind, Told, owner, recognised
from embedwire._servers.pace import Budget, Throttle

MOST_CHANGES = 3  # of the Server header, before no more is asked for it


@dataclass(slots=True, eq=False)
class ServerFacts:
    """A server, whoever asks. Written by `_http`. Asked again after a restart, a loading model, other software.

    Attributes:
        kind: Its software; None while that is not known.
        software: Its ``Server`` header.
        listed: Its software as its list of models shows it, through a proxy that replaces the header.
        told: What it says of itself.
        models: The names of its models, where it was asked.
        asked: Whether it told all that it will.
        unanswered: Questions that failed for a passing reason.
        alive: It has answered.
        base: Path before ``/embeddings``, of those that the URL may mean, that was right last; None: not known yet.
        settled: Whether vectors came from there since the server may have become another one.
        changes: How often its ``Server`` header changed; several servers behind one address are not asked each time.
    """

    kind: ServerKind | None = None
    software: str | None = None
    listed: ServerKind | None = None
    told: Told = field(default_factory=Told)
    models: tuple[str, ...] = ()
    asked: bool = False
    unanswered: int = 0
    alive: bool = False
    base: str | None = None
    settled: bool = False
    changes: int = 0
    _met: bool = False

    @property
    def drops_work(self) -> bool:
        """Whether it is known to stop computing when its client leaves."""
        return self.kind is not None and self.kind.drops_work

    def met(self, headers: Mapping[str, str]) -> None:
        """It answered an embedding request well, with these headers."""
        kind = recognised(headers)
        software = _software(headers, kind)
        if self._met and self.software != software and self.changes < MOST_CHANGES:
            self.changes += 1
            self.forget()
        self.software, self._met = software, True
        self.kind = kind or self.listed

    def lists(self, models: Iterable[str], owners: Iterable[str]) -> None:
        """It told which models it has, and whose they are."""
        self.models = tuple(models)
        self.listed = owner(owners) or OPENAI_LIKE
        self.kind = self.kind or self.listed

    def is_changed(self, headers: Mapping[str, str]) -> bool:
        """Whether these are the headers of other software than before."""
        return self._met and self.software != _software(headers, recognised(headers))

    def forget(self) -> None:
        """It may have been restarted, with other settings."""
        self.told, self.asked, self.unanswered, self.settled = Told(), False, 0, False
        self.listed, self.models = None, ()


@dataclass(slots=True, eq=False)
class ModelFacts:
    """What one visitor (its key, its headers) sees of one model, in one number of dimensions. Written by `_http`.

    Attributes:
        served: The model that the server serves, where none was named.
        asked_model: Whether the server was asked for that.
        of: What it served when the rest was learnt.
        named: The model that its replies name.
        width: Numbers per vector.
        sample: A text and its vector, which came in decimal.
        base64: Whether base64 was seen to carry vectors like those in decimal; where nobody asked for base64, whether
            it pays to ask for it.
        agrees: Whether base64 was ever seen to carry the vector that came in decimal; where there is no decimal to be
            had, whether what it carried was a vector.
        left_out: Fields of a request that the server refuses.
        only: The one encoding that it takes.
        innocent: Fields that were suspected, and were not what it refused.
        cut: Whether it was said that vectors are cut here.
        repeats: What repeats are left.
        throttle: How the server holds requests off.
        seconds: How long a request takes, on the average of late.
    """

    served: str | None = None
    asked_model: bool = False
    of: str | None = None
    named: str | None = None
    width: int | None = None
    sample: tuple[str, Any] | None = field(default=None, repr=False)
    base64: bool | None = None
    agrees: bool | None = None
    left_out: frozenset[str] = frozenset()
    only: str | None = None
    innocent: frozenset[str] = frozenset()
    cut: bool = False
    repeats: Budget = field(default_factory=Budget)
    throttle: Throttle = field(default_factory=Throttle)
    seconds: float | None = None

    def distrust(self) -> None:
        """Another server may answer: base64 is to be seen anew, beside vectors of its own."""
        self.sample = None
        if self.base64:
            self.base64 = None

    def reborn(self) -> None:
        """The server may have been started anew: with another model, too, of which it is asked where it tells it."""
        self.distrust()
        self.asked_model = self.asked_model and self.served is None

    def serves(self, name: str | None) -> bool:
        """The server serves this model now; whether it is another one than before, of which nothing holds any more."""
        before, self.of = self.of, name
        if name is None or before is None or same_model(before, name):
            return False
        self.forget()
        return True

    def forget(self) -> None:
        """There is another model: what was seen of the last one holds no more."""
        self.named = self.width = self.sample = self.base64 = self.agrees = self.only = None
        self.left_out = self.innocent = frozenset()
        self.cut = False

    def succeeded(self, seconds: float, *, at_once: bool) -> None:
        """A request went well after so many seconds, at its first attempt or a later one."""
        if at_once:
            self.repeats.earn()
        self.throttle.accepted()
        self.seconds = seconds if self.seconds is None else 0.7 * self.seconds + 0.3 * seconds


def same_model(one: str | None, other: str | None) -> bool:
    """Whether two names may be those of one model; where one is missing, nothing speaks against it.

    Case says nothing, nor does the tag that Ollama gives to what has none.
    """
    return not one or not other or _bare(one) == _bare(other)


def _bare(name: str) -> str:
    return name.casefold().removesuffix(":latest")


def _software(headers: Mapping[str, str], kind: ServerKind | None) -> str | None:
    return headers.get("server") or (kind.name if kind is not None else None)  # TEI has no Server header
