"""OpenAI's embeddings API on the wire: what a request asks for, and the bodies of answers and errors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

MAX_TEXTS = 2048

_JSON_NAMES = {
    type(None): "null",
    bool: "a boolean",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "a string",
}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)  # no repr: it would show texts
class EmbeddingsRequest:
    """What a request for embeddings asks for."""

    texts: list[str]
    model: str | None
    as_base64: bool


class Refusal(Exception):
    """The reply to a request that is not carried out. Its words never contain a text."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",  # noqa: A002 - the field's name on the wire
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = {"error": {"message": message, "type": type, "code": status, **(details or {})}}


def parse(body: bytes, dimensions: int) -> EmbeddingsRequest:
    """Read the body of a request to a model whose vectors have this many dimensions.

    Raises:
        Refusal: The request cannot be answered; it says why and where.
    """
    fields = _json_object(body)
    model, encoding, width = (fields.get(name) for name in ("model", "encoding_format", "dimensions"))
    if not isinstance(model, str | None):
        raise Refusal(f"model must be a string, not {_kind(model)}.")
    if encoding not in (None, "float", "base64"):
        raise Refusal('encoding_format must be "float" or "base64".')
    if width is not None and (type(width) is not int or width != dimensions):
        raise Refusal(f"This model's vectors have {dimensions} dimensions: no other number can be asked for.")
    if "input" not in fields:
        raise Refusal("input is missing: a string or a list of strings.")
    return EmbeddingsRequest(texts=_texts(fields["input"]), model=model, as_base64=encoding == "base64")


def answer(
    model: str, vectors: NDArray[np.float32], *, as_base64: bool, tokens: int | None
) -> dict[str, Any]:
    """The body of the answer, for orjson with `OPT_SERIALIZE_NUMPY`; `tokens` is None if nobody counted them."""
    rows = [pybase64.b64encode_as_string(row.data) for row in vectors] if as_base64 else vectors
    body: dict[str, Any] = {
        "object": "list",
        "model": model,
        "data": [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)],
    }
    if tokens is not None:
        body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return body


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Refusal(f"The body is not valid JSON: {error.msg} ({place}).") from None
    if not isinstance(value, dict):
        raise Refusal(f"The body must be a JSON object, not {_kind(value)}.")
    return value


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise Refusal(f"input must be a string or a list of strings, not {_kind(value)}.")
    if not value:
        raise Refusal("input must not be empty.")
    if len(value) > MAX_TEXTS:
        raise Refusal(f"batch size {len(value)} > maximum allowed batch size {MAX_TEXTS}")
    for index, text in enumerate(value):
        if type(text) is int or isinstance(text, list):
            raise Refusal(f"input[{index}] is {_kind(text)}: this server takes texts, not token ids.")
        if not isinstance(text, str):
            raise Refusal(f"input[{index}] must be a string, not {_kind(text)}.")
    return value


def _kind(value: object) -> str:
    return _JSON_NAMES[type(value)]
