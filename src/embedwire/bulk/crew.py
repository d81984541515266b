"""The tasks of a run in a cluster: who does which shard, what becomes of it, how far all are."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from embedwire._queue.usage import Usage, summed
from embedwire._settings.settings import Settings
from embedwire._settings.sharing import share_of
from embedwire.bulk.gathered import Gathered, forget, job_of_shard
from embedwire.bulk.job import Job
from embedwire.bulk.local import Outcome
from embedwire.bulk.progress import Pace
from embedwire.bulk.records import Position, Progress, Report
from embedwire.bulk.shards import Shard
from embedwire.bulk.showing import Shower
from embedwire.bulk.task import Board, Work, embed_shard
from embedwire.exceptions import EmbedwireError, InputError, UsageError

AHEAD = 2  # shards that are made, or being made, for each worker, before the first of them is taken in
DEATHS = 3  # of workers that had one shard, before the run ends


class Crew:
    """Its state is the shards that wait, are under way and are made, and what of the workers' limits is free.

    Args:
        ray: The module.
        job: Of the whole run.
        settings: Of the client; each task gets its share of the limits.
        output: Begun.
        shards: Those that the output does not have.
        total: Of what shards count that was read of the input; 0 where it is not known.
        workers: Most tasks at a time.
    """

    def __init__(
        self,
        ray: Any,
        job: Job,
        settings: Settings,
        output: Gathered,
        shards: Iterator[Shard],
        total: int,
        workers: int,
    ) -> None:
        self._ray, self._job, self._settings, self._output = ray, job, settings, output
        self._shards, self._total = shards, total
        self._begun = time.monotonic()
        self._pace = Pace()
        self._resumed = output.position.rows
        self._usages: list[Usage] = []
        self._repeats = 0
        self._read = 0  # of the input, by the shards that are made
        self._failure: InputError | None = None  # that ended the reading
        self._waiting: deque[Shard] = deque()
        self._fetch(workers)
        self._seats = min(workers, max(1, len(self._waiting)))  # few shards: each has more to share
        self._free = list(range(self._seats))
        self._under_way: dict[Any, tuple[int, Shard]] = {}
        self._made: dict[int, tuple[Shard, Outcome]] = {}  # by first row; those before are not
        self._task = ray.remote(embed_shard).options(max_retries=DEATHS)
        self._board = ray.remote(Board).options(num_cpus=0).remote()

    def run(self, showing: Shower) -> None:
        """Has all shards embedded, and takes their files in.

        Raises:
            EmbedwireError: The first thing that went wrong; what was done is kept.
        """
        shown = time.monotonic()
        self._start()
        while self._under_way:
            ready, _ = self._ray.wait(list(self._under_way), timeout=min(showing.every, 1.0))
            for ref in ready:
                self._end(ref)
            self._adopt()
            self._start()
            if time.monotonic() - shown >= showing.every:
                showing.show(self.progress())
                shown = time.monotonic()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Ends the tasks that are under way; twice is fine."""
        refs, self._under_way = list(self._under_way), {}
        for ref in refs:
            self._ray.cancel(ref, force=True)
        self._ray.kill(self._board)

    def report(self, asked: Usage) -> Report:
        """What was done; the run itself had embedded what ``asked`` says."""
        position = self._output.position
        return Report(
            rows=position.rows,
            resumed=self._resumed,
            rejects=position.rejects,
            repeats=self._repeats,
            seconds=time.monotonic() - self._begun,
            usage=summed([asked, *self._usages]),
            files=self._output.files,
        )

    def progress(self, *, done: bool = False) -> Progress:
        """How far all are now."""
        under_way = self._told()
        parts = [part for _, part in under_way]
        known: list[Position | Progress] = [
            self._output.position,
            *(outcome.position for _, outcome in self._made.values()),
            *parts,
        ]
        rows = sum(one.rows for one in known)
        counted: list[Usage | Progress] = [*self._usages, *parts]
        tokens = [one.tokens for one in counted if one.tokens is not None]
        read = self._read + sum(_read(shard, part) for shard, part in under_way)
        fraction = min(1.0, read / self._total) if self._total else None
        now = time.monotonic()
        self._pace.see(now, rows, fraction)
        return Progress(
            phase="done" if done else "embedding",
            rows=rows,
            resumed=self._resumed,
            rejects=sum(one.rejects for one in known),
            repeats=self._repeats + sum(one.repeats for one in parts),
            rate=self._pace.rate,
            tokens=sum(tokens) if tokens else None,
            fraction=1.0 if done else fraction,
            seconds=now - self._begun,
            left=self._pace.left,
        )

    def _fetch(self, count: int) -> None:
        """Reads on, until so many shards wait."""
        try:
            self._waiting.extend(islice(self._shards, max(0, count - len(self._waiting))))
        except InputError as error:  # what was read before it is done all the same
            self._failure = error

    def _start(self) -> None:
        while self._free and len(self._under_way) + len(self._made) < AHEAD * self._seats:
            self._fetch(1)
            if not self._waiting:
                return
            shard, seat = self._waiting.popleft(), self._free.pop(0)
            work = Work(
                first=shard.first,
                name=shard.name,
                job=job_of_shard(self._job, shard),
                settings=share_of(self._settings, self._seats, seat),
                board=self._board,
            )
            self._under_way[self._task.remote(work, shard.pieces)] = seat, shard

    def _end(self, ref: Any) -> None:
        seat, shard = self._under_way.pop(ref)
        self._free.append(seat)
        try:
            outcome = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            raise UsageError(
                f"Ray could not have {shard.name.partition(',')[0]} embedded: {_cause(error)}. What was done is kept, "
                "and --resume (resume=True) goes on with it"
            ) from None
        if isinstance(outcome, EmbedwireError):
            raise outcome
        self._usages.append(outcome.report.usage)
        self._repeats += outcome.report.repeats
        self._resumed += outcome.report.resumed
        self._read += shard.end - shard.begin
        self._made[shard.first] = shard, outcome

    def _adopt(self) -> None:
        """Takes in the files that follow on those that are there."""
        while (entry := self._made.pop(self._output.position.next, None)) is not None:
            shard, outcome = entry
            job, model = job_of_shard(self._job, shard), self._output.model
            if outcome.model != model:
                forget(job)
                raise UsageError(
                    f"the server serves {outcome.model} now, and the vectors so far are of {model}. What was written "
                    "is kept; --resume when it serves the first one again"
                )
            self._output.adopt(shard, outcome.position, job)

    def _told(self) -> list[tuple[Shard, Progress]]:
        """How far the shards under way are, of which that is known."""
        if not self._under_way:
            return []
        try:
            told: dict[int, Progress] = self._ray.get(self._board.told.remote(), timeout=5.0)
        except self._ray.exceptions.RayError:  # what is shown is late, then
            return []
        return [(shard, told[shard.first]) for _, shard in self._under_way.values() if shard.first in told]


def _read(shard: Shard, part: Progress) -> float:
    """About how much of the input is done of a shard under way."""
    return (shard.end - shard.begin) * (part.rows + part.rejects) / shard.rows


def _cause(error: Any) -> str:
    """What Ray says, in a line."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0].rstrip('.') if lines else 'no reason given'}"
