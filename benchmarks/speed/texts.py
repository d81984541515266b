"""The texts of the benchmarks, and the vector that each must get: known to server and client alike."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 1024
ROWS = 257  # different vectors; a prime, so that texts of two batches in a row never have the same
WARM_UP = 900_000  # number of the first text of a warm-up
QUERIES = 800_000  # of the first query that is asked beside other texts
WORDS = range(8, 241)  # in texts of mixed lengths
_FILLER = "of a corpus that is about as mixed as the pages of a manual which somebody would want to search"
_SLICE = 4096  # vectors compared at once


def text(number: int) -> str:
    """A text that carries its number."""
    return (
        f"text {number:06d} of a corpus, about as long as a sentence that somebody would want to find again"
    )


def texts(count: int, start: int = 0, *, mixed: bool = False) -> list[str]:
    """Texts numbered from ``start`` on, each a sentence; ``mixed``: of 8 to 240 words."""
    if not mixed:
        return [text(number) for number in range(start, start + count)]
    ends = _ends()
    return [f"text {number:06d} {ends[number % len(ends)]}" for number in range(start, start + count)]


@cache
def _ends() -> list[str]:
    """What follows on the number in texts of mixed lengths: each number of words once, in no order."""
    filler = _FILLER.split()
    words = filler * (WORDS[-1] // len(filler) + 1)
    ends = [" ".join(words[: count - 2]) for count in WORDS]
    random.Random(2026).shuffle(ends)
    return ends


@cache
def table() -> NDArray[np.float32]:
    """The vectors, at unit length as a model's are: float32, shape (ROWS, DIMENSIONS)."""
    vectors = np.random.default_rng(2026).standard_normal((ROWS, DIMENSIONS))
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def are_right(vectors: Any, count: int, start: int = 0) -> bool:
    """Whether text ``start`` + i got its own vector, to the last bit, for every i below ``count``.

    Args:
        vectors: A list of lists of floats, or a float32 matrix; anything else is wrong.
        count: How many there must be.
        start: Number of the first text.
    """
    if isinstance(vectors, list):
        if not all(type(vector) is list and vector and type(vector[0]) is float for vector in vectors):
            return False
    elif vectors.dtype != np.float32:
        return False
    expected = np.arange(start, start + count) % ROWS
    return len(vectors) == count and all(
        np.array_equal(vectors[at : at + _SLICE], table()[expected[at : at + _SLICE]])
        for at in range(0, count, _SLICE)
    )
