"""How alike two vectors are. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

SAME = 1e-5  # cosine below one: two texts that differ by a word of many are further apart


def cosine(one: Vector, other: Vector) -> float:
    """Of the angle between two vectors of one width; 0 where one holds zeros alone."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0


def apart(one: Vector, other: Vector) -> float:
    """How far one vector is from the other, as a part of the first one's length."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(np.linalg.norm(a - b)) / (float(np.linalg.norm(a)) or 1.0)


def alike(one: Vector, other: Vector) -> bool:
    """Whether two vectors point the same way, as those of one text do."""
    return 1 - cosine(one, other) < SAME
