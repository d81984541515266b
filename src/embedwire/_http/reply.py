"""The bytes of a reply → vectors, or what is wrong with them. Pure.

The reply contract: JSON, no ``error``, as many items as texts, each ``index`` of 0..n-1 once, vectors of one
width and of the expected one, all numbers finite. A reply that breaks it is refused whole.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from embedwire._http.records import Matrix
from embedwire._settings.checks import is_unicode

V = TypeVar("V", bytes, NDArray[Any])


class ContractBroken(Exception):
    """A reply that must not be used.

    Attributes:
        position: Place in the request of the text that got the bad vector; None where the whole reply is bad.
        cut: The reply stops in the middle, so that asking again may help.
        other_width: The vectors are not as wide as earlier ones.
    """

    def __init__(
        self, what: str, *, position: int | None = None, cut: bool = False, other_width: bool = False
    ) -> None:
        super().__init__(what)
        self.other_width = other_width
        self.position = position
        self.cut = cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What a reply holds.

    Attributes:
        matrix: float32, shape ``(texts, width)``, each vector in the row of its text.
        base64: Whether they came in base64.
        tokens: Tokens that the server counted, where it tells.
        model: The model that it names.
    """

    matrix: Matrix = field(repr=False)
    base64: bool
    tokens: int | None
    model: str | None


def decode(body: bytes, count: int, *, width: int | None = None) -> Decoded:
    """The vectors of one reply, each in the row of its text.

    Args:
        body: The reply.
        count: How many texts were sent.
        width: Numbers per vector in this server's earlier replies, if there were any.

    Raises:
        ContractBroken: The reply must not be used.
    """
    reply = parse(body)
    rows = _rows(reply, count)
    base64 = all(type(row) is str for row in rows)
    matrix = _from_base64(rows) if base64 else _from_numbers(rows, body)
    if width is not None and matrix.shape[1] != width:
        raise ContractBroken(
            f"vectors of {matrix.shape[1]} numbers where earlier ones had {width}; if the model was exchanged, "
            "what was stored before must be embedded again",
            other_width=True,
        )
    _check_numbers(matrix, base64=base64)
    usage, model = reply.get("usage"), reply.get("model")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return Decoded(
        matrix=matrix,
        base64=base64,
        tokens=tokens if type(tokens) is int and tokens >= 0 else None,
        model=model if isinstance(model, str) and is_unicode(model) else None,
    )


def fit(matrix: Matrix, dimensions: int | None) -> Matrix:
    """The vectors with as many numbers as the user asked for.

    A longer vector, from a server that ignores the wish, is cut and brought back to unit length, as
    Matryoshka models are made for.

    Raises:
        ContractBroken: The vectors are too short.
    """
    if dimensions is None or matrix.shape[1] == dimensions:
        return matrix
    if matrix.shape[1] < dimensions:
        raise ContractBroken(
            f"vectors of {matrix.shape[1]} numbers where dimensions={dimensions} were asked for"
        )
    return normalized(matrix[:, :dimensions])


def normalized(matrix: Matrix) -> Matrix:
    """Each row at unit length; a row of zeros stays as it is."""
    lengths = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    unit: Matrix = (matrix / lengths).astype(np.float32)
    return unit


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a reply whose status is a success.

    Raises:
        ContractBroken: It is no JSON, no object, or an error after all.
    """
    try:
        reply = _loads(body)
    except (ValueError, RecursionError):
        trimmed = body.strip()
        if not trimmed:
            raise ContractBroken("an empty reply", cut=True) from None
        if trimmed.startswith(b"{") and trimmed.count(b"{") > trimmed.count(b"}"):
            raise ContractBroken("a reply that is cut short", cut=True) from None
        raise ContractBroken("a reply that is no JSON") from None
    if not isinstance(reply, dict):
        raise ContractBroken(f"a reply that is no JSON object but a {type(reply).__name__}")
    if reply.get("error") is not None:
        raise ContractBroken("a success status with an error in the reply")
    return reply


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError:
        # Python servers write NaN, which is no JSON; read as such it is found out with the text that it belongs to.
        if b"NaN" not in body and b"Infinity" not in body:
            raise
    return json.loads(body.decode())  # as bytes it would be taken in UTF-16 too


def _rows(reply: dict[str, Any], count: int) -> list[Any]:
    """The embeddings in the order of the texts."""
    data = reply.get("data")
    if not isinstance(data, list):
        raise ContractBroken("a reply without a list called data")
    if len(data) != count:
        raise ContractBroken(f"{len(data)} vectors for {count} texts")
    rows: list[Any] = [_MISSING] * count
    for item in data:
        if not isinstance(item, dict):
            raise ContractBroken("an item of data that is no object")
        index = item.get("index")
        if type(index) is not int or not 0 <= index < count:
            raise ContractBroken(f"an item of data whose index is not one of 0..{count - 1}")
        if rows[index] is not _MISSING:
            raise ContractBroken(f"two vectors for index {index}")
        rows[index] = item.get("embedding")
    return rows


_MISSING = object()


def _from_numbers(rows: list[Any], body: bytes) -> Matrix:
    if all(type(row) is list for row in rows):
        # The standard says true is no number; numpy says it is 1. No reply has it but in a model's name.
        if b"true" in body or b"false" in body:
            _refuse_booleans(rows)
        try:
            for row in rows:
                sum(
                    row
                )  # fails on what is no number: numpy would make every cell as wide as the longest string
            matrix = np.array(rows)
        except (TypeError, ValueError, OverflowError):  # also rows of several widths
            pass
        else:
            if matrix.ndim == 2 and matrix.dtype.kind in "fiu":
                return _float32(matrix)
    return _float32(np.stack(_of_one_width([_vector(row, position) for position, row in enumerate(rows)])))


def _from_base64(rows: list[str]) -> Matrix:
    raw = _of_one_width([_decoded(row, position) for position, row in enumerate(rows)])
    return np.frombuffer(b"".join(raw), dtype="<f4").reshape(len(raw), -1).astype(np.float32, copy=False)


def _of_one_width(vectors: list[V]) -> list[V]:
    """The vectors, bytes or arrays, if they have equally many numbers and any at all."""
    lengths = [len(vector) for vector in vectors]
    if 0 in lengths:
        raise ContractBroken("an empty vector", position=lengths.index(0))
    usual, times = Counter(lengths).most_common(1)[0]
    if times < len(lengths):
        position = next(position for position, length in enumerate(lengths) if length != usual)
        widths = [n // (4 if isinstance(vectors[0], bytes) else 1) for n in (usual, lengths[position])]
        raise ContractBroken(
            f"vectors of {widths[0]} and of {widths[1]} numbers in one reply",
            position=position if times > len(lengths) / 2 else None,  # whose, is clear only where most agree
        )
    return vectors


def _float32(matrix: NDArray[Any]) -> Matrix:
    if matrix.shape[1] == 0:
        raise ContractBroken("an empty vector", position=0)
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, and is refused for it
        return matrix.astype(np.float32)


def _vector(row: Any, position: int) -> NDArray[Any]:
    if isinstance(row, str):
        return np.frombuffer(_decoded(row, position), dtype="<f4")
    if row is None:
        raise ContractBroken("null instead of a vector", position=position)
    if not isinstance(row, list):
        raise ContractBroken(f"a {type(row).__name__} instead of a vector", position=position)
    for number in row:
        if type(number) is not float and type(number) is not int:
            kind = "null" if number is None else f"a {type(number).__name__}"
            raise ContractBroken(f"{kind} among the numbers of a vector", position=position)
    try:
        return np.array(row, dtype=np.float64)
    except OverflowError:
        raise ContractBroken("a number too large for any float", position=position) from None


def _decoded(row: str, position: int) -> bytes:
    try:
        raw = pybase64.b64decode(row, validate=True)
    except ValueError:
        raise ContractBroken("a vector in broken base64", position=position) from None
    if len(raw) % 4:
        raise ContractBroken(f"a base64 vector of {len(raw)} bytes, no multiple of 4", position=position)
    return raw


def _refuse_booleans(rows: list[Any]) -> None:
    for position, row in enumerate(rows):
        if isinstance(row, list) and any(isinstance(number, bool) for number in row):
            raise ContractBroken("a bool among the numbers of a vector", position=position)


def _check_numbers(matrix: Matrix, *, base64: bool) -> None:
    peaks = np.abs(matrix).max(axis=1)  # NaN where there is one
    if base64 and not plausible(peaks):
        raise ContractBroken("base64 that holds no vectors of 32-bit floats")
    finite = np.isfinite(peaks)
    if not finite.all():
        raise ContractBroken("a vector with NaN, infinity or null in it", position=int(np.argmin(finite)))


def plausible(peaks: NDArray[np.float32]) -> bool:
    """Whether vectors that came in base64 may be vectors, by the largest number in each.

    float32 in the other byte order is large or small by many powers of ten; zeros and NaN have their own meaning.
    """
    return not bool(((peaks > 1e6) & np.isfinite(peaks)).any() or ((peaks > 0) & (peaks < 1e-9)).any())


def near(one: Matrix, other: Matrix) -> bool:
    """Whether two vectors may be those of one text.

    Servers with several slots give a text a slightly different vector each time (llama.cpp: 3.4e-3 in a number), so
    near is enough: a misread vector is far.
    """
    if one.shape != other.shape:
        return False
    length = np.linalg.norm(one.astype(np.float64))
    return bool(length > 0 and np.linalg.norm(one.astype(np.float64) - other) <= 0.05 * length)


def models(body: bytes) -> list[str]:
    """The names in a reply to ``GET /v1/models``.

    Raises:
        ContractBroken: The reply is no JSON object.
    """
    names = [item.get("id") for item in _models(body)]
    return [name for name in names if isinstance(name, str) and is_unicode(name)]


def owners(body: bytes) -> list[str]:
    """Who owns those models, which tells the software.

    Raises:
        ContractBroken: The reply is no JSON object.
    """
    names = [item.get("owned_by") for item in _models(body)]
    return [name for name in names if isinstance(name, str)]


def _models(body: bytes) -> list[dict[str, Any]]:
    data = parse(body).get("data")
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
