"""The bodies of replies: vectors as JSON, in pieces of a bounded size, and errors in OpenAI's shape. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from embedwire._web.requests import Refusal

NUMBERS = 2**17  # in a piece: 1.4 MB of JSON, made in 3 ms


def pieces(
    vectors: NDArray[np.float32], *, model: str, tokens: int | None, as_base64: bool
) -> Iterator[bytes]:
    """The reply with some vectors; one piece where they are few.

    Args:
        vectors: One row a text.
        model: The model's name.
        tokens: In the texts; None where the server did not tell.
        as_base64: As base64 of little-endian float32, else as decimal numbers.
    """
    rows = max(1, NUMBERS // max(1, vectors.shape[1]))
    vectors = vectors.astype("<f4", copy=False)
    usage = {"prompt_tokens": tokens or 0, "total_tokens": tokens or 0}
    last = {"model": model, "usage": usage}
    if len(vectors) <= rows:  # without a copy of it
        yield _dumped({"object": "list", "data": _items(vectors, 0, as_base64=as_base64), **last})
        return
    for start in range(0, len(vectors), rows):
        items = _dumped(_items(vectors[start : start + rows], start, as_base64=as_base64))
        head = b"," if start else b'{"object":"list","data":['
        tail = b"]," + _dumped(last)[1:] if start + rows >= len(vectors) else b""
        yield b"".join((head, memoryview(items)[1:-1], tail))


def _items(vectors: NDArray[np.float32], start: int, *, as_base64: bool) -> list[dict[str, Any]]:
    rows = [pybase64.b64encode_as_string(row.data) for row in vectors] if as_base64 else vectors
    return [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows, start)]


def _dumped(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def error_body(refusal: Refusal) -> dict[str, Any]:
    """The body of an error, as OpenAI has it; numbers that the server told stand beside."""
    error = {
        "message": refusal.message,
        "type": refusal.type,
        "param": refusal.param,
        "code": refusal.code,
        **refusal.details,
    }
    return {"error": error}
