"""The output of a run: its shards, its manifest, and how far it is. Files appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import orjson

from embedwire._version import __version__
from embedwire.bulk.formats import Format, kept, sync
from embedwire.bulk.lock import Lock
from embedwire.bulk.records import Done, Dtype, Position
from embedwire.bulk.rejects import Rejects
from embedwire.bulk.spool import Spool
from embedwire.exceptions import InputError, UsageError


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
        return self.out / "_manifest.json" if self.rows_per_file else _beside(self.out, ".manifest.json")

    @property
    def work(self) -> Path:
        """The folder of what is not finished."""
        return self.out / ".work" if self.rows_per_file else _beside(self.out, ".work")

    @property
    def lock(self) -> Path:
        """The file that a run locks."""
        return self.out / ".lock" if self.rows_per_file else _beside(self.out, ".lock")

    def file(self, number: int) -> Path:
        """A file of the output."""
        return self.out / f"part-{number:05}{self.suffix}" if self.rows_per_file else self.out


class Output:
    """Written by the one run that locks it. Its state is what was written.

    Raises:
        InputError: It exists, and neither ``resume`` nor ``overwrite`` says what to do.
        UsageError: Another run is writing there.
    """

    def __init__(
        self, layout: Layout, form: Format, dtype: Dtype, rejects: Rejects, *, resume: bool, overwrite: bool
    ) -> None:
        self._layout, self._format, self._dtype, self._rejects = layout, form, dtype, rejects
        self._spool: Spool | None = None
        with written(layout.out):
            (layout.out if layout.rows_per_file else layout.out.parent).mkdir(parents=True, exist_ok=True)
            self._lock = Lock(layout.lock)
        try:
            self._manifest = self._found(resume=resume, overwrite=overwrite)
        except BaseException:
            self.close()
            raise

    def _found(self, *, resume: bool, overwrite: bool) -> dict[str, Any]:
        """The manifest of the run that goes on; empty for a new one."""
        layout = self._layout
        there = layout.manifest.exists()
        manifest: dict[str, Any] = orjson.loads(layout.manifest.read_bytes()) if there else {}
        if overwrite:
            if layout.rows_per_file and not there:
                self._check_empty()
            return {"old": [file["name"] for file in manifest.get("files", ())]}
        if there and resume:
            return manifest
        if there and not manifest["complete"]:
            raise InputError(
                f"{layout.out} holds an unfinished run; go on with it (--resume, resume=True), or start again "
                "(--overwrite, overwrite=True)"
            )
        if layout.rows_per_file and not there:
            self._check_empty()
        elif there or layout.out.exists():
            raise InputError(
                f"{layout.out} exists; choose another output, or replace it (--overwrite, overwrite=True)"
            )
        self._rejects.check_new()
        return {}

    def _check_empty(self) -> None:
        ours = {
            self._layout.lock,
            _beside(self._layout.manifest, ".new"),
        }  # of a run that was killed as it began
        if set(self._layout.out.iterdir()) - ours:
            raise InputError(
                f"{self._layout.out} is not empty, and no run of embedwire wrote what is there; choose another folder"
            )

    @property
    def _shard(self) -> Spool:
        if self._spool is None:
            raise UsageError("the output was not begun, or is finished")
        return self._spool

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self._manifest.get("complete"))

    @property
    def position(self) -> Position:
        """How far it is."""
        if self._spool is not None:
            return self._spool.position
        return Position(**self._manifest["position"])

    @property
    def files(self) -> tuple[Path, ...]:
        """Its finished files."""
        return tuple(self._layout.manifest.parent / file["name"] for file in self._manifest["files"])

    def check(self, job: Mapping[str, Any]) -> None:
        """Compares the job with the one that the output is of; names that the job lacks are not compared.

        Raises:
            InputError: Something differs; the message says what.
        """
        before = self._manifest.get("job", {})
        for name, value in job.items():
            if name in before and before[name] != value:
                raise InputError(
                    f"{self._layout.out} holds a run of another job: {_difference(name, before[name], value)}. Give "
                    "what was given then, or start again (--overwrite, overwrite=True)"
                )

    def begin(self, job: Mapping[str, Any]) -> None:
        """Starts, or goes on: from here on the output is of this job.

        Raises:
            InputError: It is of another one.
            UsageError: It cannot be written.
        """
        self.check(job)
        with written(self._layout.out):
            self._begin(job)

    def _begin(self, job: Mapping[str, Any]) -> None:
        layout = self._layout
        old = self._manifest.pop("old", None)
        if old is not None:
            shutil.rmtree(layout.work, ignore_errors=True)
            for name in old if layout.rows_per_file else ():
                (layout.out / name).unlink(missing_ok=True)
        if not self._manifest:
            self._manifest = {
                "embedwire": __version__,
                "complete": False,
                "job": dict(job),
                "files": [],
                "position": asdict(Position()),
            }
            self._rejects.clear()
            self._save()
        layout.work.mkdir(exist_ok=True)
        self._next_spool()
        if self._shard.whole is not None:  # it was killed while it finished a file
            self._publish()
        self._rejects.begin(self.position.next)

    def append(self, done: Sequence[Done]) -> None:
        """Adds rows in their order, those without a vector to the rejects.

        Raises:
            UsageError: Their vectors are not as long as those before, or the disk is full.
        """
        most = self._layout.rows_per_file
        start = 0
        while start < len(done):
            if most is not None and self._shard.rows >= most:
                with written(self._layout.out):
                    self._publish()
            room = len(done) if most is None else most - self._shard.rows
            end = start
            while end < len(done) and room:
                room -= done[end].vector is not None
                end += 1
            with written(self._layout.out):
                self._append(done[start:end])
            start = end

    def _append(self, done: Sequence[Done]) -> None:
        before = self._shard.position
        good = [(one.row, one.vector) for one in done if one.vector is not None]
        bad = [one for one in done if one.vector is None]
        width = before.width
        for _, vector in good:
            width = width or len(vector)
            if len(vector) != width:
                raise UsageError(
                    f"the server's vectors have {len(vector):,} numbers now, and those before had {width:,}: it serves "
                    "another model. What was written is kept; --resume when it serves the first one again"
                )
        matrix = np.stack([vector for _, vector in good]) if good else np.empty((0, width), np.float32)
        self._rejects.add(bad)
        digest = before.digest
        for one in done:
            digest = digested(digest, one.row.text)
        position = Position(
            next=done[-1].row.number + 1,
            rows=before.rows + len(good),
            rejects=before.rejects + len(bad),
            digest=digest,
            width=width,
        )
        self._shard.append([row for row, _ in good], kept(matrix, self._dtype), position)

    def finish(self) -> None:
        """Writes what is left, and says that the output is complete.

        Raises:
            UsageError: It cannot be written.
        """
        with written(self._layout.out):
            self._finish()

    def _finish(self) -> None:
        if self._shard.rows or not self._manifest["files"]:
            self._publish(last=True)
        else:
            self._manifest["position"] = asdict(self.position)
        self._shard.close()
        self._spool = None
        self._manifest["complete"] = True
        self._save()
        shutil.rmtree(self._layout.work, ignore_errors=True)

    def close(self) -> None:
        """Lets others in; twice is fine."""
        if self._spool is not None:
            self._spool.close()
        self._rejects.close()
        self._lock.release()

    def _publish(self, *, last: bool = False) -> None:
        """A shard is full: it becomes a file of the output."""
        spool, files = self._shard, self._manifest["files"]
        whole, target = spool.finish(), self._layout.file(len(files))
        if whole.exists():  # else it was killed just behind this
            os.replace(whole, target)
            sync(target.parent)
        files.append({"name": target.name, "rows": spool.rows})
        self._manifest["position"] = asdict(spool.position)
        self._save()
        spool.remove()
        if not last:
            self._next_spool()

    def _next_spool(self) -> None:
        stem = self._layout.work / f"{len(self._manifest['files']):05}"
        self._spool = Spool(stem, self._format, Position(**self._manifest["position"]))

    def _save(self) -> None:
        path = self._layout.manifest
        new = _beside(path, ".new")
        new.write_bytes(orjson.dumps(self._manifest, option=orjson.OPT_INDENT_2) + b"\n")
        sync(new)
        os.replace(new, path)
        sync(path.parent)


@contextmanager
def written(out: Path) -> Iterator[None]:
    """What the system says of files that are written is said with the name of the output."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written: {error.strerror or error}. What was written before is kept, and --resume "
            "(resume=True) goes on with it"
        ) from None


def digested(digest: int, text: str | None) -> int:
    """The digest of some texts and one more."""
    return crc32(b"\x00" if text is None else b"\x01" + text.encode(), digest)


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


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
