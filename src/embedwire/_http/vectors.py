"""What vectors look like: their length, whether two are near, whether numbers may be a vector's at all. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedwire._http.records import Matrix

SMALL, LARGE = 1e-9, 1e6  # of numbers that may be the largest one of a vector
_TELLING = 200  # numbers that it takes: of fewer, misread 16-bit floats are of one order now and then
_SPREAD = (
    1e-6  # of a vector's largest number; fewer than one in a hundred thousand of its numbers are smaller
)
_ENOUGH = 0.9


def normalized(matrix: Matrix) -> Matrix:
    """Each row at unit length; a row of zeros stays as it is."""
    lengths = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    unit: Matrix = (matrix / lengths).astype(np.float32)
    return unit


def near(one: Matrix, other: Matrix) -> bool:
    """Whether two vectors may be those of one text.

    Servers with several slots give a text a slightly different vector each time (llama.cpp: 3.4e-3 in a number), so
    near is enough: a misread vector is far.
    """
    if one.shape != other.shape:
        return False
    length = np.linalg.norm(one.astype(np.float64))
    return bool(length > 0 and np.linalg.norm(one.astype(np.float64) - other) <= 0.05 * length)


def plausible(peaks: NDArray[np.float32]) -> bool:
    """Whether vectors that came in base64 may be vectors, by the largest number in each.

    float32 in the other byte order is large or small by many powers of ten; zeros and NaN have their own meaning.
    """
    return not bool(((peaks > LARGE) & np.isfinite(peaks)).any() or ((peaks > 0) & (peaks < SMALL)).any())


def convincing(matrix: Matrix) -> bool:
    """Whether vectors that came in base64 are such for certain, where there is no decimal one to compare them with.

    They have unit length; or their numbers are of one order, as no others are when they are read as float32: half of
    float64's bits stand for any power of ten, float16's and int8's exponents are stretched by eight and more.
    """
    numbers = np.abs(matrix.astype(np.float64))
    lengths = np.linalg.norm(numbers, axis=1)
    if bool(np.all((lengths == 0) | (np.abs(lengths - 1) < 0.01))):
        return True
    there = numbers > 0
    if there.sum() < _TELLING:
        return False
    near_the_peak = numbers >= _SPREAD * numbers.max(axis=1, keepdims=True)
    return bool((near_the_peak & there).sum() >= _ENOUGH * there.sum())
