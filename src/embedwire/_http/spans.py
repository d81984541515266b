"""The vectors of a reply, cut out of its bytes; the small rest is left to be parsed. Pure.

No contract is checked here. Cut is only what stands behind a key ``embedding`` and is one thing for certain, whatever
stands around it: base64 between two quotes, or numbers between two brackets. Else nothing is cut.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from embedwire._http.steps import Work

Vector: TypeAlias = bytes | NDArray[np.float32]  # bytes of 32-bit floats

STEP = 2**18  # bytes that are read in one step: a millisecond or two where they are decimal numbers
_MARK = f"<vector {secrets.token_hex(8)} "  # which no reply can hold, whoever wrote it
_MARKED = b'"%b' % _MARK.encode()
_NO_NUMBER = b'"', b"u", b"l"  # one of which is in every string, null, true and false


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A reply without its vectors.

    Attributes:
        rest: The reply, with a mark in the place of each vector.
        vectors: The vectors, by their marks.
        base64: Whether they came in base64, and are bytes.
    """

    rest: bytes = field(repr=False)
    vectors: dict[str, Any] = field(repr=False)
    base64: bool


def cut_out(body: bytes) -> Work[Cut | None]:
    """A reply without its vectors, where all of them are written in one way; None where there is any doubt."""
    before, after, read = _way(body)
    vectors: dict[str, Vector] = {}
    rest: list[bytes] = []
    at, left, view = 0, STEP, memoryview(body)
    while (key := body.find(before, at)) >= 0:
        start = key + len(before)
        end = body.find(after, start)
        vector = read(view[start:end]) if end > start else None
        if vector is None:
            return None
        mark, quoted = _mark(len(vectors))
        vectors[mark] = vector
        rest += (body[at : start - 1], quoted)
        left -= end - start
        at = end + 1
        if left < 0:
            yield
            left = STEP
    rest.append(body[at:])
    joined = b"".join(rest)
    if not vectors or joined.count(_MARKED) != len(vectors):
        return None
    return Cut(rest=joined, vectors=vectors, base64=read is _from_base64)


def _way(body: bytes) -> tuple[bytes, bytes, Callable[[memoryview], Vector | None]]:
    """What stands before and after each vector, as before and after the first one, and what reads it."""
    key = b'"embedding":'
    at = body.find(key) + len(key)
    if body[at : at + 1] == b" ":
        key, at = key + b" ", at + 1
    if body[at : at + 1] == b"[":
        return key + b"[", b"]", _from_numbers
    return key + b'"', b'"', _from_base64


@lru_cache(maxsize=4096)
def _mark(number: int) -> tuple[str, bytes]:
    mark = f"{_MARK}{number}>"
    return mark, b'"%b"' % mark.encode()


def _from_base64(span: memoryview) -> bytes | None:
    """What is in a string, if it is base64 of 32-bit floats and nothing else."""
    try:
        raw = pybase64.b64decode(span, validate=True)
    except ValueError:
        return None
    return raw if raw and not len(raw) % 4 else None


def _from_numbers(span: memoryview) -> NDArray[np.float32] | None:
    """What is in a list, if it is numbers, one of them with a decimal point, and nothing else."""
    inner = bytes(span)
    if any(byte in inner for byte in _NO_NUMBER):
        return None
    try:
        numbers = np.array(orjson.loads(b"[%b]" % inner))
    except ValueError:  # NaN, too
        return None
    if numbers.dtype != np.float64 or numbers.ndim != 1:
        return None
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, and is refused for it
        return numbers.astype(np.float32)
