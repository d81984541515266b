"""OpenAI's embeddings API on the wire: what a request asks for, and the bodies of answers and errors. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pybase64
from numpy.typing import NDArray

from embedwire._web.requests import Refusal, json_object, model_in, texts_in, wants_base64

MAX_TEXTS = 2048


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)  # no repr: it would show texts
class EmbeddingsRequest:
    """What a request for embeddings asks for."""

    texts: list[str]
    model: str | None
    as_base64: bool


def parse(body: bytes, dimensions: int) -> EmbeddingsRequest:
    """Read the body of a request to a model whose vectors have this many dimensions.

    Raises:
        Refusal: The request cannot be answered; it says why and where.
    """
    fields = json_object(body)
    model, as_base64, width = model_in(fields), wants_base64(fields), fields.get("dimensions")
    if width is not None and (type(width) is not int or width != dimensions):
        raise Refusal(f"This model's vectors have {dimensions} dimensions: no other number can be asked for.")
    return EmbeddingsRequest(texts=texts_in(fields, MAX_TEXTS), model=model, as_base64=as_base64)


def error_body(refusal: Refusal) -> dict[str, Any]:
    """The body of an error, as llama.cpp has it."""
    error = {"message": refusal.message, "type": refusal.type, "code": refusal.status, **refusal.details}
    return {"error": error}


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
