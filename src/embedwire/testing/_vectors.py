"""The vector that a text deserves, so that a test can tell whose vector it got."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["from_base64", "is_vector_of", "to_base64", "vector"]


def vector(text: str, dimensions: int) -> list[float]:
    """Return the vector that `EmbeddingServer` gives this text: always the same, and no other text's.

    Its length is 1 and its numbers are exact in float32, so it is the same after a trip as JSON or as base64.
    Its first numbers, renormalised, are the vector of fewer dimensions, up to rounding.

    Args:
        text: Any string, lone surrogates included.
        dimensions: How many numbers; with fewer than 4, two texts may come close to each other.
    """
    row: list[float] = _vector(text, dimensions).tolist()
    return row


def is_vector_of(row: ArrayLike, text: str, *, tolerance: float = 0.0) -> bool:
    """Tell whether `row` is the vector of this text, each number within `tolerance` (0: to the last bit)."""
    got = np.asarray(row, dtype=np.float64)
    return got.ndim == 1 and got.size > 0 and bool(np.all(np.abs(got - _vector(text, got.size)) <= tolerance))


def to_base64(row: Sequence[float]) -> str:
    """Encode numbers as an OpenAI-compatible server does: little-endian float32."""
    return base64.b64encode(np.asarray(row, dtype="<f4").tobytes()).decode("ascii")


def from_base64(encoded: str) -> list[float]:
    """Undo `to_base64`."""
    row: list[float] = np.frombuffer(base64.b64decode(encoded, validate=True), dtype="<f4").tolist()
    return row


def _vector(text: str, dimensions: int) -> NDArray[np.float32]:
    digest = hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(4 * dimensions)
    spread = np.frombuffer(digest, dtype="<i4").astype(np.float64) + 0.5  # + 0.5: never all zero
    return (spread / np.linalg.norm(spread)).astype(np.float32)
