"""What a request asks for beside its vectors, and what a refusal teaches about that. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from embedwire._http.fields import DIMENSIONS, ENCODING, REFUSALS
from embedwire._http.records import Fault
from embedwire._servers.facts import ModelFacts
from embedwire._settings.settings import Form
from embedwire.exceptions import BadReply

_PASSING = (500,)  # of the refusals, what passes where base64 was seen to work


@dataclass(frozen=True, slots=True)
class Asked:
    """How the vectors are to come; None: that is left out, and for the server to choose."""

    encoding: str | None
    dimensions: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a refusal seems to teach.

    Attributes:
        fault: The refusal.
        base64: It was base64 that was refused.
        fields: Fields to leave out from now on.
        only: The one encoding to ask for from now on.
        believed: What was believed of base64 before.
    """

    fault: Fault
    base64: bool = False
    fields: frozenset[str] = frozenset()
    only: str | None = None
    believed: bool | None = None

    def learn(self, facts: ModelFacts) -> None:
        """From now on it is asked otherwise."""
        if self.base64:
            facts.base64 = False
        facts.left_out |= self.fields
        if self.only is not None:
            facts.only, facts.left_out = self.only, facts.left_out - {ENCODING}

    def is_wrong(self, fault: Fault) -> bool:
        """Whether the request was refused all the same when it asked otherwise."""
        return fault.status == self.fault.status and (self.base64 or fault.spoken == self.fault.spoken)

    def unlearn(self, facts: ModelFacts) -> None:
        """That was not the reason, nor will it be suspected again."""
        if self.base64:
            facts.base64 = self.believed
        facts.left_out -= self.fields
        facts.innocent |= self.fields
        if self.only is not None:
            facts.only, facts.innocent = None, facts.innocent | {ENCODING}


def asked_for(form: Form, facts: ModelFacts) -> Asked:
    """What to ask for, as the user wants it and the server takes it."""
    dimensions = None if DIMENSIONS in facts.left_out else form.dimensions
    return Asked(_encoding(form, facts), dimensions)


def is_open(form: Form, facts: ModelFacts) -> bool:
    """Whether it is still to be seen what base64 carries, and a text is there whose vector is known.

    Under a rate limit that text, which goes along, would cost another its turn.
    """
    if form.encoding != "auto" or form.rate is not None or facts.base64 is not None or facts.sample is None:
        return False
    return asked_for(form, facts).encoding == "float"


def _encoding(form: Form, facts: ModelFacts) -> str | None:
    if form.encoding == "base64":  # in vain only where it was seen to be something else
        return "float" if facts.agrees is False else "base64"
    if form.encoding is None or ENCODING in facts.left_out:
        return None
    if form.encoding == "float":
        return "float"
    return facts.only or ("base64" if facts.base64 else "float")


def is_about_asking(fault: Fault, asked: Asked) -> bool:
    """Whether a failure may be due to what was asked for beside the vectors."""
    of_base64 = asked.encoding == "base64" and (fault.error is BadReply or fault.status in REFUSALS)
    return of_base64 or bool(fault.spoken.fields)


def lesson_of(fault: Fault, asked: Asked, form: Form, facts: ModelFacts, *, tried: bool) -> Lesson | None:
    """What a failure teaches; None for nothing.

    Args:
        fault: The failure.
        asked: What the request asked for.
        form: What the user wants.
        facts: What is known.
        tried: Whether it was the request that tried base64.
    """
    if _of_base64(fault, asked, form, facts, tried=tried):
        return Lesson(fault=fault, base64=True, believed=facts.base64)
    fields = set(fault.spoken.fields)
    only = "base64" if _wants_base64(fault, asked, form) and ENCODING not in facts.innocent else None
    if asked.encoding != "float" or only is not None:  # what is decimal anyway need not be asked for
        fields.discard(ENCODING)
    if asked.dimensions is None:
        fields.discard(DIMENSIONS)
    fields -= facts.innocent
    return Lesson(fault=fault, fields=frozenset(fields), only=only) if fields or only else None


def _of_base64(fault: Fault, asked: Asked, form: Form, facts: ModelFacts, *, tried: bool) -> bool:
    """Whether it may be due to base64, for which nobody but this package asked."""
    if asked.encoding != "base64" or form.encoding != "auto" or facts.only is not None:
        return False
    if facts.base64 is None and not tried:  # it may be another server by now, and is tried anew
        return False
    if not is_about_asking(fault, asked):
        return False
    return not (facts.base64 and fault.status in _PASSING)


def _wants_base64(fault: Fault, asked: Asked, form: Form) -> bool:
    """Whether base64 is all that the server takes: it says so, or wants the field and refuses the other word."""
    if form.encoding != "auto" or ENCODING not in fault.spoken.fields:
        return False
    if asked.encoding == "float":
        return fault.spoken.wants == "base64"
    return asked.encoding is None and fault.spoken.wants != "float"
