"""Where the files of an output are, and its manifest: what it is, how far, and whether a run may go on with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from embedwire._version import __version__
from embedwire.bulk.formats import sync
from embedwire.bulk.records import Position
from embedwire.exceptions import InputError


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the files of an output are: one file, or a folder of shards.

    Attributes:
        out: As the user named it.
        suffix: Of the format.
        rows_per_file: Most rows of a file; None: the output is one file.
    """

    out: Path
    suffix: str
    rows_per_file: int | None

    @property
    def manifest(self) -> Path:
        """What the output is, and how far."""
        return self.out / "_manifest.json" if self.rows_per_file else beside(self.out, ".manifest.json")

    @property
    def work(self) -> Path:
        """The folder of what is not finished."""
        return self.out / ".work" if self.rows_per_file else beside(self.out, ".work")

    @property
    def lock(self) -> Path:
        """The file that a run locks."""
        return self.out / ".lock" if self.rows_per_file else beside(self.out, ".lock")

    def file(self, number: int) -> Path:
        """A file of the output."""
        return self.out / f"part-{number:05}{self.suffix}" if self.rows_per_file else self.out


class Manifest:
    """What an output is, and how far. Its state is what stands in the file, which is replaced as a whole.

    Args:
        layout: Where it is, or will be.
        resume: Go on with what is there.
        overwrite: Replace what is there.
        first: Number of its first row.

    Raises:
        InputError: Something is there, and neither says what to do; or it is nobody's output.
    """

    def __init__(self, layout: Layout, *, resume: bool, overwrite: bool, first: int = 0) -> None:
        self._layout = layout
        there = orjson.loads(layout.manifest.read_bytes()) if layout.manifest.exists() else None
        if there is None:
            self._check_free(overwrite=overwrite)
        elif not resume and not overwrite:
            self._refuse(complete=there["complete"])
        self.new = there is None or overwrite  # nothing of what is there is gone on with
        begin = asdict(Position(next=first))
        nothing: dict[str, Any] = {"job": {}, "files": [], "complete": False, "position": begin}
        told = nothing if there is None or overwrite else there
        self._job: dict[str, Any] = told["job"]
        self._files: list[dict[str, Any]] = told["files"]
        self.complete: bool = told["complete"]
        self.position = Position(**told["position"])
        self._old: list[str] = [] if there is None else there["old"]  # files of a run that is replaced
        if self.new and there is not None:
            self._old = self._old + [file["name"] for file in there["files"]]

    @property
    def files(self) -> tuple[Path, ...]:
        """The finished files."""
        return tuple(self._layout.manifest.parent / file["name"] for file in self._files)

    def check(self, job: Mapping[str, Any]) -> None:
        """Compares the job with the one that the output is of; names that the job lacks are not compared.

        Raises:
            InputError: Something differs; the message says what.
        """
        for name, value in job.items():
            if name in self._job and self._job[name] != value:
                raise InputError(
                    f"{self._layout.out} holds a run of another job: {_difference(name, self._job[name], value)}. Give "
                    "what was given then, or start again (--overwrite, overwrite=True)"
                )

    def begin(self, job: Mapping[str, Any]) -> None:
        """Writes that the output is of this job, and removes the shards that it replaces; a single file stays."""
        if self.new:
            shutil.rmtree(self._layout.work, ignore_errors=True)  # first: it is not of this job
            self._job = dict(job)
            self._save()
        if self._old:
            for name in self._old if self._layout.rows_per_file else ():
                (self._layout.out / name).unlink(missing_ok=True)
            self._old = []
            self._save()

    @property
    def model(self) -> str | None:
        """Of whose vectors the output is."""
        model: str | None = self._job.get("model")
        return model

    def add(self, path: Path, rows: int, position: Position) -> None:
        """A file is there, after which the output is at ``position``."""
        self._files.append({"name": path.name, "rows": rows})
        self.move(position)

    def move(self, position: Position) -> None:
        """The output is at ``position``."""
        self.position = position
        self._save()

    def end(self, position: Position) -> None:
        """The output is complete."""
        self.position, self.complete = position, True
        self._save()

    def _check_free(self, *, overwrite: bool) -> None:
        layout = self._layout
        if not layout.rows_per_file:
            if layout.out.exists() and not overwrite:
                self._refuse(complete=True)
            return
        ours = {layout.lock, beside(layout.manifest, ".new")}  # of a run that was killed as it began
        if set(layout.out.iterdir()) - ours:
            raise InputError(
                f"{layout.out} is not empty, and no run of embedwire wrote what is there; choose another folder"
            )

    def _refuse(self, *, complete: bool) -> None:
        if complete:
            raise InputError(
                f"{self._layout.out} exists; choose another output, or replace it (--overwrite, overwrite=True)"
            )
        raise InputError(
            f"{self._layout.out} holds an unfinished run; go on with it (--resume, resume=True), or start again "
            "(--overwrite, overwrite=True)"
        )

    def _save(self) -> None:
        told = {
            "embedwire": __version__,
            "complete": self.complete,
            "job": self._job,
            "files": self._files,
            "position": asdict(self.position),
            "old": self._old,
        }
        path = self._layout.manifest
        new = beside(path, ".new")
        new.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
        sync(new)
        os.replace(new, path)
        sync(path.parent)


def _difference(name: str, before: Any, now: Any) -> str:
    if name != "inputs":
        return f"{name} was {before!r} and is {now!r}"
    if len(before) != len(now):
        return f"it had {len(before)} input files, and these are {len(now)}"
    old, new = next((old, new) for old, new in zip(before, now, strict=True) if old != new)
    if old["name"] != new["name"]:
        return f"the input was {old['name']} and is {new['name']}"
    if old.get("size") != new.get("size"):
        return f"{new['name']} had {old.get('size'):,} bytes and has {new.get('size'):,}"
    return f"{new['name']} was changed since"


def beside(path: Path, suffix: str) -> Path:
    """A file beside another one."""
    return path.with_name(path.name + suffix)
