"""A shard while it is filled: files that only grow, and a journal that says how far they are right.

Data are written first, then a line of the journal. Whatever a kill leaves behind the last whole line is cut off when
the run goes on, so a row is in the shard exactly when the journal counts it.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
from numpy.typing import NDArray

from embedwire.bulk.formats import Format, sync, write
from embedwire.bulk.records import Position, Row

JOURNAL = ".journal"


class Spool:
    """Its state is the open files, their sizes, how far the shard is, and who makes the whole file.

    Args:
        stem: Path of its files, without their endings.
        form: Format of the output.
        before: How far the output is without this shard.
        last: The last file that was finished.
    """

    def __init__(self, stem: Path, form: Format, before: Position, last: Path | None) -> None:
        self._format = form
        self._journal_path = _with(stem, JOURNAL)
        self._paths = [_with(stem, suffix) for suffix in form.parts]
        self._files: list[io.FileIO] = []
        self._before = before
        self.whole: Path | None = None  # the file that the shard became, once it is complete
        self.position, self._sizes = self._recovered()
        self._making = form.making(self._paths, last)
        self._one = threading.Lock()  # makes the whole file at a time
        if self.whole is None:
            self._open()

    @property
    def rows(self) -> int:
        """Rows in this shard."""
        return self.position.rows - self._before.rows

    def append(self, rows: Sequence[Row], vectors: NDArray[Any], position: Position) -> None:
        """Adds rows, after which the output is at ``position``."""
        if rows:
            for at, data in enumerate(self._format.encoded(rows, vectors)):
                write(self._files[at], data)
                self._sizes[at] += len(data)
        self.position = position
        self._note({"sizes": self._sizes, **asdict(position)})

    def grow(self) -> None:
        """Makes a part of the whole file, while other threads append."""
        with self._one:
            if self._files:  # else it is finished, or given up
                self._making.grow(self.rows, self.position.width)

    def finish(self) -> Path:
        """The whole file, on the disk, under its temporary name."""
        if self.whole is None:
            with self._one:
                made = self._making.finish(self.rows, self.position.width)
            sync(made)
            self._note({"whole": made.name, **asdict(self.position)})
            self.whole = made
        self.close()
        return self.whole

    def remove(self) -> None:
        """Removes what is left of it."""
        for path in (*self._paths, self._journal_path):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of its files; twice is fine."""
        files, self._files = self._files, []
        with self._one:
            self._making.close()
        for file in files:
            file.close()

    def _open(self) -> None:
        begin = self._format.begin()
        for at, path in enumerate(self._paths):
            path.touch()
            if not self._sizes[at]:
                path.write_bytes(begin[at])
                self._sizes[at] = len(begin[at])
            os.truncate(path, self._sizes[at])
            self._files.append(io.FileIO(path, "ab"))
        self._files.append(io.FileIO(self._journal_path, "ab"))

    def _note(self, line: dict[str, Any]) -> None:
        write(self._files[-1], orjson.dumps(line) + b"\n")

    def _recovered(self) -> tuple[Position, list[int]]:
        """The last line of the journal that its files bear out; the lines behind it are cut off."""
        found, good = (self._before, [0] * len(self._paths)), 0
        names = list(asdict(self._before))
        read = 0
        for line in self._journal_path.read_bytes().splitlines(True) if self._journal_path.exists() else ():
            read += len(line)
            try:
                told = orjson.loads(line) if line.endswith(b"\n") else {}
            except orjson.JSONDecodeError:
                break
            position = replace(self._before, **{name: told[name] for name in names if name in told})
            if "whole" in told:
                self.whole = self._journal_path.with_name(told["whole"])
                return position, found[1]
            if "sizes" not in told or not all(map(_has, self._paths, told["sizes"])):
                break
            found, good = (position, told["sizes"]), read
        if self._journal_path.exists():
            os.truncate(self._journal_path, good)
        return found


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _has(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size >= size
