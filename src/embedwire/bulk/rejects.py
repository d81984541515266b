"""The file of rows that got no vector: a JSON object a line, with the reason."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import orjson

from embedwire.bulk.records import Done
from embedwire.exceptions import InputError


class Rejects:
    """Its state is the open file. Without a path there is none, and nothing may be added."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: io.FileIO | None = None

    @property
    def wanted(self) -> bool:
        """Whether rows without a vector go here, instead of ending the run."""
        return self._path is not None

    def check_new(self) -> None:
        """Raises InputError where the file exists."""
        if self._path is not None and self._path.exists():
            raise InputError(f"{self._path} exists; choose another file for the rejects, or pass --overwrite")

    def clear(self) -> None:
        """Removes what an earlier run wrote."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def begin(self, first: int) -> None:
        """Opens the file; rows from ``first`` on, which will come again, leave it."""
        if self._path is None:
            return
        if self._path.exists():
            before = self._path.read_bytes().splitlines(True)
            kept = [line for line in before if line.endswith(b"\n") and orjson.loads(line)["row"] < first]
            if kept != before:
                new = self._path.with_name(self._path.name + ".new")
                new.write_bytes(b"".join(kept))
                os.replace(new, self._path)
        self._file = io.FileIO(self._path, "ab")

    def add(self, rejected: Sequence[Done]) -> None:
        """Adds rows."""
        if self._file is None or not rejected:
            return
        lines = []
        for row, _, problem in rejected:
            line = row.chunk.lines[row.at]
            told = {"row": row.number, "file": row.chunk.source.name, "line": line, "reason": problem}
            lines.append(orjson.dumps(told) + b"\n")
        self._file.write(b"".join(lines))

    def close(self) -> None:
        """Closes it; twice is fine."""
        if self._file is not None:
            self._file.close()
