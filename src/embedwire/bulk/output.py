"""The output of a run: its shards, its manifest, and how far it is. Files appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from embedwire.bulk.formats import Format, kept, sync
from embedwire.bulk.lock import Lock
from embedwire.bulk.manifest import Layout, Manifest
from embedwire.bulk.records import Done, Dtype, Position
from embedwire.bulk.rejects import Rejects
from embedwire.bulk.spool import Spool
from embedwire.exceptions import UsageError


class Output:
    """Written by the one run that locks it. Its state is what was written.

    Args:
        layout: Where it is, or will be.
        form: Its format.
        dtype: Of its numbers.
        rejects: What takes rows without a vector.
        resume: Go on with what is there.
        overwrite: Replace what is there.
        first: Number of its first row.
        patience: Seconds that another run is waited for.

    Raises:
        InputError: It exists, and neither ``resume`` nor ``overwrite`` says what to do.
        UsageError: Another run is writing there.
    """

    def __init__(
        self,
        layout: Layout,
        form: Format,
        dtype: Dtype,
        rejects: Rejects,
        *,
        resume: bool,
        overwrite: bool,
        first: int = 0,
        patience: float = 0.0,
    ) -> None:
        self._layout, self._format, self._dtype, self._rejects = layout, form, dtype, rejects
        self.first = first
        self._spool: Spool | None = None
        with written(layout.out):
            (layout.out if layout.rows_per_file else layout.out.parent).mkdir(parents=True, exist_ok=True)
            self._lock = Lock(layout.lock, patience)
        try:
            self._manifest = Manifest(layout, resume=resume, overwrite=overwrite, first=first)
            if self._manifest.new and not overwrite:
                rejects.check_new()
        except BaseException:
            self.close()
            raise

    @property
    def _shard(self) -> Spool:
        if self._spool is None:
            raise UsageError("the output was not begun, or is finished")
        return self._spool

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self._manifest.complete

    @property
    def position(self) -> Position:
        """How far it is."""
        if self._spool is not None:
            return self._spool.position
        return self._manifest.position

    @property
    def model(self) -> str | None:
        """Of whose vectors it is."""
        return self._manifest.model

    @property
    def files(self) -> tuple[Path, ...]:
        """Its finished files."""
        return self._manifest.files

    def check(self, job: Mapping[str, Any]) -> None:
        """Compares the job with the one that the output is of; names that the job lacks are not compared.

        Raises:
            InputError: Something differs; the message says what.
        """
        self._manifest.check(job)

    def begin(self, job: Mapping[str, Any]) -> None:
        """Starts, or goes on: from here on the output is of this job.

        Raises:
            InputError: It is of another one.
            UsageError: It cannot be written.
        """
        self.check(job)
        with written(self._layout.out):
            self._begin(job)

    def _open(self, job: Mapping[str, Any]) -> None:
        self._manifest.begin(job)
        if self._manifest.new:
            self._rejects.clear()
        self._layout.work.mkdir(exist_ok=True)

    def _begin(self, job: Mapping[str, Any]) -> None:
        self._open(job)
        self._next_spool()
        if self._shard.whole is not None:  # it was killed while it finished a file
            self._publish()
        with written(self._rejects.path or self._layout.out):
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

    def grow(self) -> None:
        """Makes a part of the file in work of what was appended; others may append meanwhile.

        Raises:
            UsageError: It cannot be written.
        """
        with written(self._layout.out):
            self._shard.grow()

    def _append(self, done: Sequence[Done]) -> None:
        before = self._shard.position
        good = [(one.row, one.vector) for one in done if one.vector is not None]
        bad = [one for one in done if one.vector is None]
        width = before.width
        for _, vector in good:
            width = width or len(vector)
            check_width(width, len(vector))
        matrix = np.stack([vector for _, vector in good]) if good else np.empty((0, width), np.float32)
        with written(self._rejects.path or self._layout.out):
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
        if self._shard.rows or not self._manifest.files:
            self._publish(last=True)
        position = self._shard.position
        self._shard.close()
        self._spool = None
        self._format.align(self._manifest.files, self._layout.work)
        self._manifest.end(position)
        shutil.rmtree(self._layout.work, ignore_errors=True)

    def close(self) -> None:
        """Lets others in; twice is fine."""
        if self._spool is not None:
            self._spool.close()
        self._rejects.close()
        self._lock.release()

    def _publish(self, *, last: bool = False) -> None:
        """A shard is full: it becomes a file of the output."""
        spool = self._shard
        whole, target = spool.finish(), self._layout.file(len(self._manifest.files))
        if whole.exists():  # else it was killed just behind this
            os.replace(whole, target)
            sync(target.parent)
        self._manifest.add(target, spool.rows, spool.position)
        spool.remove()
        if not last:
            self._next_spool()

    def _next_spool(self) -> None:
        files = self._manifest.files
        stem, last = self._layout.work / f"{len(files):05}", files[-1] if files else None
        self._spool = Spool(stem, self._format, self._manifest.position, last)


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


def check_width(before: int, now: int) -> None:
    """Raises UsageError where vectors are not as long as those before."""
    if now != before:
        raise UsageError(
            f"the server's vectors have {now:,} numbers now, and those before had {before:,}: it serves another model. "
            "What was written is kept; --resume when it serves the first one again"
        )


def digested(digest: int, text: str | None) -> int:
    """The digest of some texts and one more."""
    return crc32(b"\x00" if text is None else b"\x01" + text.encode(), digest)
