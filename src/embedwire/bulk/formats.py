"""What a shard is made of while rows come, and how it becomes a whole file: vectors alone, and JSON Lines."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from embedwire.bulk.records import ROW, VECTOR, Columns, Dtype, Row
from embedwire.exceptions import InputError

HEADER = 128  # bytes before the numbers of a .npy file


class Making(Protocol):
    """The whole file of one shard, which is made of the shard's files while these grow."""

    def grow(self, rows: int, width: int) -> None:
        """So many rows, of vectors of ``width`` numbers, are in the shard's files: does a part of what is to do."""
        ...

    def finish(self, rows: int, width: int) -> Path:
        """Makes the rest, and returns the file; it may be one of the shard's. Made twice it is the same."""
        ...

    def close(self) -> None:
        """Lets go of what is open; twice is fine."""
        ...


class Format(Protocol):
    """A format of the output: which files grow while a shard is filled, and what is made of them."""

    @property
    def suffix(self) -> str:
        """Of the whole file."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """Endings of the files that grow."""
        ...

    def begin(self) -> Sequence[bytes]:
        """What each of the files begins with."""
        ...

    def encoded(self, rows: Sequence[Row], vectors: NDArray[Any]) -> Sequence[bytes]:
        """What is added to each of the files, for these rows and their vectors as they are kept."""
        ...

    def making(self, parts: Sequence[Path], before: Path | None) -> Making:
        """What makes a whole file of them; ``before`` is the last file that was finished."""
        ...

    def align(self, files: Sequence[Path], work: Path) -> None:
        """Sees to it that the files of a complete output are of one kind; ``work`` is a folder for what that needs."""
        ...


def kept(vectors: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    """Vectors as they are kept: float32 of shape (n, d) → the same, or smaller numbers.

    ``"int8"``: each vector is scaled so that its largest number is 127 or -127. ``"binary"``: a bit for each number,
    1 where it is above 0, eight in a uint8: shape (n, ceil(d / 8)).

    Raises:
        InputError: float16 cannot hold a number.
    """
    if dtype == "float16":
        with np.errstate(over="ignore"):
            halves = vectors.astype(np.float16)
        if not np.isfinite(halves).all():
            raise InputError("a vector has a number above 65,504, which float16 cannot hold; use float32")
        return halves
    if dtype == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        return np.rint(vectors * (127 / np.where(largest == 0, 1, largest))).astype(np.int8)
    if dtype == "binary":
        return np.packbits(vectors > 0, axis=1)
    return vectors


def kept_as(dtype: Dtype, width: int) -> tuple[np.dtype[Any], int]:
    """The type of the numbers that are kept of vectors of ``width`` numbers, and how many there are."""
    if dtype == "binary":
        return np.dtype("u1"), (width + 7) // 8
    return np.dtype({"float32": "<f4", "float16": "<f2", "int8": "i1"}[dtype]), width


class Grown:
    """A file that is whole as soon as its last row is there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def grow(self, rows: int, width: int) -> None:
        """Nothing."""

    def finish(self, rows: int, width: int) -> Path:
        """Nothing is left to do."""
        return self._path

    def close(self) -> None:
        """Nothing."""


class Npy:
    """``.npy``: the vectors alone, in the order of the rows, shape (rows, numbers)."""

    suffix = ".npy"
    parts = (".npy",)

    def __init__(self, dtype: Dtype) -> None:
        self._dtype: Dtype = dtype

    def begin(self) -> Sequence[bytes]:
        """Room for the header, which tells how many rows there are."""
        return [bytes(HEADER)]

    def encoded(self, rows: Sequence[Row], vectors: NDArray[Any]) -> Sequence[bytes]:
        """Their numbers."""
        return [np.ascontiguousarray(vectors).tobytes()]

    def making(self, parts: Sequence[Path], before: Path | None) -> Making:
        """What writes the header."""
        return _NpyFile(parts[0], self._dtype)

    def align(self, files: Sequence[Path], work: Path) -> None:
        """They are."""


class _NpyFile(Grown):
    def __init__(self, path: Path, dtype: Dtype) -> None:
        super().__init__(path)
        self._dtype: Dtype = dtype

    def finish(self, rows: int, width: int) -> Path:
        kind, numbers = kept_as(self._dtype, width)
        told = repr({"descr": kind.str, "fortran_order": False, "shape": (rows, numbers)}).encode()
        size = HEADER - 10
        header = b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + told.ljust(size - 1) + b"\n"
        with self._path.open("r+b") as file:
            file.write(header)
        return self._path


class Jsonl:
    """``.jsonl``: an object a line, the carried columns and the vector as a list."""

    suffix = ".jsonl"
    parts = (".jsonl",)

    def __init__(self, columns: Columns) -> None:
        self._numbered = columns.numbered

    def begin(self) -> Sequence[bytes]:
        """Nothing."""
        return [b""]

    def encoded(self, rows: Sequence[Row], vectors: NDArray[Any]) -> Sequence[bytes]:
        """A line for each."""
        lines = []
        for row, carried, vector in zip(rows, carried_of(rows), vectors, strict=True):
            told = {ROW: row.number, **carried} if self._numbered else dict(carried)
            told[VECTOR] = vector
            try:
                lines.append(
                    orjson.dumps(told, _as_json, orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
                )
            except orjson.JSONEncodeError:  # an int of more than 64 bits, or the like
                told[VECTOR] = vector.tolist()
                lines.append(json.dumps(told, default=_as_json).encode() + b"\n")
        return [b"".join(lines)]

    def making(self, parts: Sequence[Path], before: Path | None) -> Making:
        """It grows into a whole one."""
        return Grown(parts[0])

    def align(self, files: Sequence[Path], work: Path) -> None:
        """They are."""


def carried_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The carried columns of each row, as a dict."""
    found: list[dict[str, Any]] = []
    for chunk, indexes in by_chunk(rows):
        if isinstance(chunk.carried, list):
            found += [chunk.carried[index] for index in indexes]
        elif chunk.carried.num_columns:
            found += chunk.carried.take(indexes).to_pylist()
        else:
            found += [{}] * len(indexes)
    return found


def by_chunk(rows: Sequence[Row]) -> list[tuple[Any, list[int]]]:
    """Rows in a line that are of one chunk, together: the chunk, and their indexes in it."""
    groups: list[tuple[Any, list[int]]] = []
    for _, chunk, index in rows:
        if not groups or groups[-1][0] is not chunk:
            groups.append((chunk, []))
        groups[-1][1].append(index)
    return groups


def _as_json(value: object) -> object:
    """What JSON has no word for."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    return str(value)


def write(file: io.FileIO, data: bytes) -> None:
    """Writes all of it: a disk that fills up takes a part first."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def sync(path: Path) -> None:
    """Waits until a file, or what a folder lists, is on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    file = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
