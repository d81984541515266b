"""The file of rows that got no vector: a JSON object a line, with the reason."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import orjson

from embedwire.bulk.formats import write
from embedwire.bulk.records import Done
from embedwire.exceptions import InputError


class Rejects:
    """Its state is the open file. Without a path there is none, and nothing may be added."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: io.FileIO | None = None

    @property
    def wanted(self) -> bool:
        """Whether rows without a vector go here, instead of ending the run."""
        return self.path is not None

    def check_new(self) -> None:
        """Raises InputError where the file exists."""
        if self.path is not None and self.path.exists():
            raise InputError(f"{self.path} exists; choose another file for the rejects, or pass --overwrite")

    def clear(self) -> None:
        """Removes what an earlier run wrote."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def begin(self, first: int) -> None:
        """Opens the file; rows from ``first`` on, which will come again, leave it."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            before = self.path.read_bytes().splitlines(True)
            kept = [line for line in before if line.endswith(b"\n") and self._row(line) < first]
            if kept != before:
                new = self.path.with_name(self.path.name + ".new")
                new.write_bytes(b"".join(kept))
                os.replace(new, self.path)
        self._file = io.FileIO(self.path, "ab")

    def add(self, rejected: Sequence[Done]) -> None:
        """Adds rows."""
        if self._file is None or not rejected:
            return
        lines = []
        for row, _, problem in rejected:
            line = row.chunk.lines[row.at]
            told = {"row": row.number, "file": row.chunk.source.name, "line": line, "reason": problem}
            lines.append(orjson.dumps(told) + b"\n")
        write(self._file, b"".join(lines))

    def _row(self, line: bytes) -> int:
        try:
            return int(orjson.loads(line)["row"])
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{self.path} holds something else than rejects; choose another file") from None

    def take(self, path: Path) -> None:
        """Adds the rows of another such file, which need not be there."""
        if self._file is not None and path.exists():
            self._file.write(path.read_bytes())

    def close(self) -> None:
        """Closes it; twice is fine."""
        if self._file is not None:
            self._file.close()
