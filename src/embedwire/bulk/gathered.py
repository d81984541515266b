"""An output whose files are made elsewhere: taken in one after another, in the order of the input."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedwire.bulk.formats import sync
from embedwire.bulk.job import Job
from embedwire.bulk.manifest import Layout
from embedwire.bulk.output import Output, check_width, written
from embedwire.bulk.records import Position
from embedwire.bulk.shards import Shard
from embedwire.exceptions import UsageError


class Gathered(Output):
    """Written by the one run that locks it. Its state is what was written.

    What a run in one process had in its unfinished file is done again, so that files begin where they would.
    """

    def _begin(self, job: Mapping[str, Any]) -> None:
        self._open(job)
        for path in self._layout.work.glob("[0-9]*"):
            path.unlink()
        self._rejects.begin(self.position.next)

    def adopt(self, shard: Shard, made: Position, job: Job) -> None:
        """Takes in the next file, and the rows that got no vector.

        Args:
            shard: Its rows, which follow on those that are there.
            made: How far it is, by itself.
            job: That it was made by.

        Raises:
            UsageError: It is not there, its vectors are not as long as those before, or the disk does not let it.
        """
        before = self.position
        position = Position(
            next=shard.first + shard.rows,
            rows=before.rows + made.rows,
            rejects=before.rejects + made.rejects,
            digest=shard.digest,
            width=before.width or made.width,
        )
        if made.rows:
            check_width(position.width, made.width)
        with written(self._layout.out):
            if job.rejects is not None:
                self._rejects.take(job.rejects)
            if made.rows:
                self._take(job.out, made.rows, position)
            else:
                self._manifest.move(position)
            forget(job)

    def _take(self, whole: Path, rows: int, position: Position) -> None:
        target = self._layout.file(len(self._manifest.files))
        if whole.exists():  # else it was killed just behind this
            os.replace(whole, target)
            sync(target.parent)
        elif not target.exists():
            raise UsageError(
                f"a task has made {whole}, and it is not there: the output must be a folder that all machines of the "
                "cluster share, at the same path"
            )
        self._manifest.add(target, rows, position)

    def _finish(self) -> None:
        self._next_spool()  # for an output without any row
        super()._finish()


def job_of_shard(job: Job, shard: Shard) -> Job:
    """The job that makes one file of an output: where it is unfinished, it is gone on with."""
    work = Layout(job.out.absolute(), "", job.rows_per_file).work
    out = work / f"rows-{shard.first:012}.{job.format}"
    return replace(
        job,
        out=out,
        rows_per_file=None,
        rejects=None if job.rejects is None else out.with_suffix(".rejects"),
        resume=True,
        overwrite=False,
    )


def forget(job: Job) -> None:
    """Removes what the job of a shard left: its rejects first, as a job that begins wants none there."""
    if job.rejects is not None:
        job.rejects.unlink(missing_ok=True)
    job.out.unlink(missing_ok=True)
    Layout(job.out, "", None).manifest.unlink(missing_ok=True)
