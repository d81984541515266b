"""The bytes of a reply → vectors, or what is wrong with them. Pure.

The reply contract: JSON, no ``error``, as many items as texts, each ``index`` of 0..n-1 once, vectors of one
width and of the expected one, all numbers finite. A reply that breaks it is refused whole. Where it is certain all the
same whose a vector is, a reply may be written as it likes: see `_index`, `_indexes`, `_unnested`, `_says_nothing`.
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
from embedwire._http.spans import Cut
from embedwire._http.vectors import LARGE, SMALL, plausible
from embedwire._settings.checks import is_unicode

V = TypeVar("V", bytes, NDArray[Any])

NOT_FLOAT32 = "base64 that holds no vectors of 32-bit floats"
OF_FLOAT32 = "Have the server give decimal numbers, or 32-bit floats in base64."
EMBED_AGAIN = "What was stored before must be embedded again."
_BOM = b"\xef\xbb\xbf"


class ContractBroken(Exception):
    """A reply that must not be used.

    Attributes:
        position: Place in the request of the text that got the bad vector; None where the whole reply is bad.
        cut: The reply stops in the middle, so that asking again may help.
        exchanged: The vectors are not of the model that earlier ones were of.
        misread: What came in base64 seems to be no float32.
        cure: What to do about it, as a sentence; "" for the usual.
    """

    def __init__(
        self,
        what: str,
        *,
        position: int | None = None,
        cut: bool = False,
        exchanged: bool = False,
        misread: bool = False,
        cure: str = "",
    ) -> None:
        super().__init__(what)
        self.position = position
        self.cut = cut
        self.exchanged = exchanged
        self.misread = misread
        self.cure = cure


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What a reply holds.

    Attributes:
        matrix: float32, shape ``(texts, width)``, each vector in the row of its text.
        base64: Whether they came in base64.
        tokens: Tokens that the server counted, where it tells.
        model: The model that it names.
        zeros: Vectors that hold nothing but zeros.
    """

    matrix: Matrix = field(repr=False)
    base64: bool
    tokens: int | None
    model: str | None
    zeros: int


def decode(body: bytes, count: int, *, width: int | None = None, cut: Cut | None = None) -> Decoded:
    """The vectors of one reply, each in the row of its text.

    Args:
        body: The reply.
        count: How many texts were sent.
        width: Numbers per vector in this server's earlier replies, if there were any.
        cut: The same reply, with its vectors cut out: a shorter way to the same end. In any doubt it is not taken.

    Raises:
        ContractBroken: The reply must not be used.
    """
    if cut is not None and (decoded := _of_cut(cut, count, width)) is not None:
        return decoded
    reply = _framed(body)
    rows = _unnested(_rows(reply, count))
    coded = [type(row) is str for row in rows]
    base64 = all(coded)
    matrix = _from_base64(rows) if base64 else _from_numbers(rows, body)
    if width is not None and matrix.shape[1] != width:
        raise ContractBroken(
            f"vectors of {matrix.shape[1]} numbers where earlier ones had {width}",
            exchanged=not base64,
            misread=base64,
            cure=OF_FLOAT32 if base64 else f"The model was exchanged, it seems. {EMBED_AGAIN}",
        )
    zeros = _check_numbers(matrix, coded)
    return _decoded_as(matrix, reply, base64=base64, zeros=zeros)


def _of_cut(cut: Cut, count: int, width: int | None) -> Decoded | None:
    """The vectors that were cut out of a reply, if all is well with them and with the rest."""
    try:
        reply = _framed(cut.rest)
        rows = _rows(reply, count)
        if not all(type(row) is str and row in cut.vectors for row in rows):
            return None
        vectors: list[Any] = _of_one_width([cut.vectors[row] for row in rows])
        matrix = _joined(vectors) if cut.base64 else np.stack(vectors)
        if width is not None and matrix.shape[1] != width:
            return None
        zeros = _check_numbers(matrix, [cut.base64] * count)
    except ContractBroken:
        return None  # what is wrong is for the whole contract to say
    return _decoded_as(matrix, reply, base64=cut.base64, zeros=zeros)


def _decoded_as(matrix: Matrix, reply: dict[str, Any], *, base64: bool, zeros: int) -> Decoded:
    usage, model = reply.get("usage"), reply.get("model")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return Decoded(
        matrix=matrix,
        base64=base64,
        tokens=tokens if type(tokens) is int and tokens >= 0 else None,
        model=model if isinstance(model, str) and is_unicode(model) else None,
        zeros=zeros,
    )


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a reply whose status is a success.

    Raises:
        ContractBroken: It is no JSON, no object, or an error after all.
    """
    return _checked(_parsed(body))


def _parsed(body: bytes) -> Any:
    try:
        return _loads(body.removeprefix(_BOM))
    except (ValueError, RecursionError):
        trimmed = body.removeprefix(_BOM).strip()
        if not trimmed:
            raise ContractBroken("an empty reply", cut=True) from None
        if trimmed.startswith(b"{") and trimmed.count(b"{") > trimmed.count(b"}"):
            raise ContractBroken("a reply that is cut short", cut=True) from None
        raise ContractBroken("a reply that is no JSON") from None


def _framed(body: bytes) -> dict[str, Any]:
    """The object that holds ``data``."""
    reply = _parsed(body)
    if _is_list_of_items(reply):
        reply = {"data": reply}
    return _checked(reply)


def _checked(reply: Any) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise ContractBroken(f"a reply that is no JSON object but a {type(reply).__name__}")
    if not _says_nothing(reply.get("error")):
        raise ContractBroken("a success status with an error in the reply")
    return reply


def _says_nothing(error: Any) -> bool:
    """Whether an ``error`` is none: null, "", {}, [], false, or an object whose fields are all like that."""
    return not error or (isinstance(error, dict) and not any(error.values()))


def _is_list_of_items(reply: Any) -> bool:
    """Whether it is ``data`` itself, as llama-server's ``/embeddings`` without ``/v1`` answers."""
    return isinstance(reply, list) and bool(reply) and all(isinstance(item, dict) for item in reply)


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
    for item, index in zip(data, _indexes(data), strict=True):
        if not 0 <= index < count:
            raise ContractBroken(f"an item of data whose index is not one of 0..{count - 1}")
        if rows[index] is not _MISSING:
            raise ContractBroken(f"two vectors for index {index}")
        rows[index] = item.get("embedding")
    return rows


_MISSING = object()


def _indexes(data: list[Any]) -> list[int]:
    """Whose the items are: as they say; as they stand, where none says it; the one left, where one does not."""
    told: list[int | None] = []
    for item in data:
        if not isinstance(item, dict):
            raise ContractBroken("an item of data that is no object")
        told.append(_index(item.get("index")))
    silent = told.count(None)
    if silent == len(told):
        return list(range(len(told)))
    if silent > 1:
        raise ContractBroken(f"{silent} of {len(told)} items of data without an index")
    left = set(range(len(told))).difference(told)
    return [min(left, default=-1) if index is None else index for index in told]


def _index(index: Any) -> int | None:
    """An index, in whatever type it came; -1 for what is none."""
    if type(index) is int or index is None:
        return index
    if isinstance(index, float) and index.is_integer():
        return int(index)
    if isinstance(index, str) and index.isascii() and index.isdigit() and len(index) < 10:
        return int(index)
    return -1


def _unnested(rows: list[Any]) -> list[Any]:
    """The vectors, where all are nested once, as llama-server's own endpoint gives them: ``[[0.1, …]]``."""
    if all(type(row) is list and len(row) == 1 and type(row[0]) is list for row in rows):
        return [row[0] for row in rows]
    return rows


def _from_numbers(rows: list[Any], body: bytes) -> Matrix:
    if all(type(row) is list for row in rows):
        # The standard says true is no number; numpy says it is 1. No reply has it but in a model's name.
        if b"true" in body or b"false" in body:
            _refuse_booleans(rows)
        try:
            # A sum fails on a string: numpy would make every cell as wide as the longest one.
            for row in rows:
                sum(row)
            matrix = np.array(rows)
        except (TypeError, ValueError, OverflowError):  # also rows of several widths
            pass
        else:
            if matrix.ndim == 2 and matrix.dtype.kind in "fiu":
                return _float32(matrix)
    return _float32(np.stack(_of_one_width([_vector(row, position) for position, row in enumerate(rows)])))


def _from_base64(rows: list[str]) -> Matrix:
    return _joined(_of_one_width([_decoded(row, position) for position, row in enumerate(rows)]))


def _joined(raw: list[bytes]) -> Matrix:
    return np.frombuffer(b"".join(raw), dtype="<f4").reshape(len(raw), -1).astype(np.float32, copy=False)


def _of_one_width(vectors: list[V]) -> list[V]:
    """The vectors, bytes or arrays, if they have equally many numbers and any at all."""
    lengths = [len(vector) for vector in vectors]
    if lengths[0] and lengths.count(lengths[0]) == len(lengths):
        return vectors
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
        raise ContractBroken("a vector in broken base64", position=position, misread=True) from None
    if len(raw) % 4:
        what = f"a base64 vector of {len(raw)} bytes, no multiple of 4"
        raise ContractBroken(what, position=position, misread=True)
    return raw


def _refuse_booleans(rows: list[Any]) -> None:
    for position, row in enumerate(rows):
        if isinstance(row, list) and any(isinstance(number, bool) for number in row):
            raise ContractBroken("a bool among the numbers of a vector", position=position)


def _check_numbers(matrix: Matrix, coded: list[bool]) -> int:
    """Raises where numbers cannot be a vector's; how many vectors hold nothing but zeros."""
    peaks = np.abs(matrix).max(axis=1)  # NaN where there is one
    if peaks.min() >= SMALL and peaks.max() <= LARGE:
        return 0
    if any(coded) and not plausible(peaks[coded]):
        raise ContractBroken(NOT_FLOAT32, misread=True, cure=OF_FLOAT32)
    finite = np.isfinite(peaks)
    if not finite.all():
        raise ContractBroken("a vector with NaN, infinity or null in it", position=int(np.argmin(finite)))
    return len(peaks) - int(np.count_nonzero(peaks))
