"""Vectors with as many numbers as the user asked for. Pure."""

from __future__ import annotations

import numpy as np

from embedwire._http.records import Matrix
from embedwire._http.reply import ContractBroken
from embedwire._http.vectors import normalized

UNIT = 1e-3  # how far from 1 a length may be that is taken for 1


def fit(matrix: Matrix, dimensions: int | None) -> Matrix:
    """The vectors with as many numbers as the user asked for, at unit length.

    A longer vector, from a server that ignores the wish, is cut, as Matryoshka models are made for. Not every server
    that cuts brings what is left back to unit length, and none says whether it did: so it is done here, for each
    vector that has not that length already.

    Raises:
        ContractBroken: The vectors are too short.
    """
    if dimensions is None:
        return matrix
    width = matrix.shape[1]
    if width < dimensions:
        raise ContractBroken(
            f"vectors of {width} numbers where dimensions={dimensions} were asked for",
            cure=f"Ask for at most {width} (dimensions=), or for another model (model=).",
        )
    if width > dimensions:
        return normalized(matrix[:, :dimensions])
    lengths = np.linalg.norm(matrix, axis=1)
    off = ~(np.abs(lengths - 1) <= UNIT)
    if not off.any():
        return matrix
    unit = matrix.copy()
    unit[off] = normalized(matrix[off])
    return unit
