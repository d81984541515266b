"""Whether several servers have one and the same model. Pure."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from embedwire._servers.facts import same_model

SENTENCE = "One sentence that each server embeds, to see whether all have the same model."
STRICT = 0.999  # a cosine: servers with several slots, or of other hardware, differ a little
LENGTH = 0.01  # of a vector's length, by which two may differ


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What a server made of the sentence.

    Attributes:
        server: Base URL, for messages.
        model: The name that it gave, or was asked for; None where there is none.
        vector: Its numbers.
    """

    server: str
    model: str | None
    vector: Sequence[float] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Terms:
    """What counts as the same model.

    Attributes:
        least: Cosine of two vectors of one text; None: strict, and the names must agree, too.
        normalized: The user has all vectors at unit length, so that their length says nothing.
    """

    least: float | None = None
    normalized: bool = False


@dataclass(slots=True, eq=False)
class Agreed:
    """What is known of the one model that several servers have, for the life of the process. Written by `_queue`.

    Attributes:
        reference: What every server is compared with; None until some agreed.
        number: How many models there were.
        states: Of each server, by its visitor and the form's variant: whether it is in use, and why not.
    """

    reference: Sample | None = None
    number: int = 0
    states: dict[object, tuple[str, str]] = field(default_factory=dict)


def difference(one: Sample, other: Sample, terms: Terms) -> str:
    """What speaks against two servers, or one and its former self, having the same model; "" where nothing does."""
    anew = one.server == other.server
    it_has, than_it = ("it had", "before") if anew else (f"{other.server} has", other.server)
    if len(one.vector) != len(other.vector):
        return f"vectors of {len(one.vector)} numbers, and {it_has} {len(other.vector)}"
    if terms.least is None and not same_model(bare(one.model), bare(other.model)):
        return f"the model {one.model!r}, and {it_has} {other.model!r}"
    lengths = math.hypot(*one.vector), math.hypot(*other.vector)
    if not all(lengths):
        return "" if lengths[0] == lengths[1] else f"another vector than {than_it} for the same text"
    cosine = math.fsum(map(operator.mul, one.vector, other.vector)) / (lengths[0] * lengths[1])
    if cosine < (STRICT if terms.least is None else terms.least) - 1e-9:
        return f"another vector than {than_it} for the same text (cosine {cosine:.4f})"
    if not terms.normalized and abs(lengths[0] - lengths[1]) > LENGTH * lengths[1]:
        return f"vectors of length {lengths[0]:.3g}, and {it_has} {lengths[1]:.3g}"
    return ""


def other_name(name: str | None, reference: Sample | None, terms: Terms) -> bool:
    """Whether a reply names another model than the one that all servers have."""
    if reference is None or terms.least is not None:
        return False
    return not same_model(bare(name), bare(reference.model))


def elected(samples: Sequence[Sample], terms: Terms) -> Sequence[Sample]:
    """The largest set of samples that agree, in their order; none where two sets are as large.

    One alone is a set only where there is no other.
    """
    sets = [[one for one in samples if not difference(one, first, terms)] for first in samples]
    most = max(map(len, sets), default=0)
    largest = [one for one in sets if len(one) == most]
    first = largest[0] if largest else []
    if len(samples) > 1 and (most == 1 or any(first[0] not in other for other in largest)):
        return []
    return first


def bare(name: str | None) -> str | None:
    """A model's name without the folders and the ending of its file."""
    return name and re.sub(r"\.gguf$", "", re.split(r"[/\\]", name)[-1], flags=re.IGNORECASE)
