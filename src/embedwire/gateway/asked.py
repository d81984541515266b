"""What a request to the gateway asks for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import orjson

from embedwire._web.requests import Refusal, json_object, model_in, texts_in, wants_base64

_OWN = ("input", "model", "encoding_format", "dimensions")


class Variant(NamedTuple):
    """What decides a vector beside its text: texts of one variant may share a request."""

    model: str | None
    dimensions: int | None
    extra: bytes  # further fields, as a JSON object with sorted names


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)  # no repr: it would show texts
class Asked:
    """What a request asks for.

    Attributes:
        texts: At least one.
        variant: What is asked of the server beside them.
        as_base64: How vectors travel to the client.
        kind: One text is a query, which goes before bulk; more are documents.
    """

    texts: list[str]
    variant: Variant
    as_base64: bool

    @property
    def kind(self) -> Literal["query", "document"]:
        """Queries go first."""
        return "query" if len(self.texts) == 1 else "document"


def parse(body: bytes, most: int) -> Asked:
    """Reads a body.

    Args:
        body: JSON.
        most: Texts in a request.

    Raises:
        Refusal: It asks for nothing that can be answered; says why and where.
    """
    fields = json_object(body)
    model, as_base64, dimensions = model_in(fields), wants_base64(fields), fields.get("dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise Refusal("dimensions must be a whole number of at least 1.", param="dimensions")
    extra = {name: value for name, value in fields.items() if name not in _OWN and value is not None}
    return Asked(
        texts=texts_in(fields, most),
        variant=Variant(model or None, dimensions, _dumped(extra)),
        as_base64=as_base64,
    )


def _dumped(extra: dict[str, object]) -> bytes:
    return orjson.dumps(extra, option=orjson.OPT_SORT_KEYS) if extra else b"{}"
