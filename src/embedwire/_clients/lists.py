"""Vectors as they leave by the doors, in the caller's thread: as lists of Python floats, or none at all."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from embedwire._http.steps import Work

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUMBERS = 2**15  # made into floats in one step: about a millisecond
ROWS = 128  # filled in one step: the collector comes for seven hundred new lists
MANY = 256  # lists, from which on the garbage collector sees them empty
BLOCK = 2**15  # lists that it sees in one step


def to_lists(matrix: NDArray[np.float32]) -> Work[list[list[float]]]:
    """One list per row.

    The garbage collector looks through every young list, number by number, and finds nothing: that stops the process
    for tenths of a second, and costs a quarter of what the numbers cost. So it sees many lists once, while they are
    empty, and they are old before they are filled. What fills them is gone at once, and does not call it again.
    """
    rows = min(ROWS, max(1, NUMBERS // max(1, matrix.shape[1])))
    if len(matrix) <= rows:
        few: list[list[float]] = matrix.tolist()
        return few
    lists: list[list[float]] = []
    for start in range(0, len(matrix), BLOCK):
        block = matrix[start : start + BLOCK]
        empty = _empty_lists(block)
        yield
        for at in range(0, len(block), rows):
            for row, numbers in zip(empty[at : at + rows], block[at : at + rows].tolist(), strict=True):
                row += numbers
            yield
        lists += empty
    return lists


def _empty_lists(matrix: NDArray[np.float32]) -> list[list[float]]:
    """An empty list for each row, old where they are many.

    The collector, where it is on, runs once after they are made and not dozens of times meanwhile, of which one might
    be for all that the process has. It is off for one call into numpy, in which nobody else's code can run.
    """
    nothing, collecting = matrix[:, :0], len(matrix) >= MANY and gc.isenabled()
    if not collecting:
        lists: list[list[float]] = nothing.tolist()
        return lists
    gc.disable()
    try:
        lists = nothing.tolist()
    finally:
        gc.enable()
    gc.collect(1)  # what is young
    return lists


def no_vectors(dimensions: int | None) -> NDArray[np.float32]:
    """The vectors of no texts: shape ``(0, dimensions)``, 0 dimensions where the server is still unknown."""
    import numpy as np  # not before it is needed

    return np.empty((0, dimensions or 0), dtype=np.float32)
