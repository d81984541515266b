"""A job, from its arguments to its report: on this machine, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from embedwire._clients.base import Client
from embedwire._settings.options import Timeouts
from embedwire.bulk.formats import Format, Jsonl, Npy
from embedwire.bulk.job import Job, without_unknown
from embedwire.bulk.manifest import Layout
from embedwire.bulk.output import Output
from embedwire.bulk.records import Chunk, Position, Report, Show, Source
from embedwire.bulk.rejects import Rejects
from embedwire.bulk.run import CorpusClient, Run
from embedwire.bulk.showing import Shower, shower
from embedwire.bulk.threads import run_here

RESTART = 600.0  # seconds that a server which is gone is waited for


class Outcome(NamedTuple):
    """What a run did, how far its output is, and the model that this is of."""

    report: Report
    position: Position
    model: str | None


def run_job(
    job: Job,
    sources: Sequence[Source],
    chunks: Iterator[Chunk],
    total: int,
    client: Client | str | None,
    progress: Show | bool | Shower | None,
    *,
    first: int = 0,
    patience: float = 0.0,
) -> Outcome:
    """Does a job.

    Args:
        job: What.
        sources: Of what it is known again.
        chunks: Its rows.
        total: Of what the chunks count that was read; 0 where it is not known.
        client: Whose arguments are taken; a URL, or None for the environment's.
        progress: Where it is shown.
        first: Number of its first row.
        patience: Seconds that another run on the same output is waited for.
    """
    own = client_of(client)
    form = format_of(job)
    layout, rejects = layout_of(job, form.suffix), Rejects(job.rejects)
    output = Output(
        layout,
        form,
        job.dtype,
        rejects,
        resume=job.resume,
        overwrite=job.overwrite,
        first=first,
        patience=patience,
    )
    try:
        identity = job.identity(own._settings, sources)  # noqa: SLF001 - whatever its pickle carries
        output.check(without_unknown(identity))
        run = Run(own, output, chunks, identity, total, rejects=rejects.wanted)
        if not output.complete:
            showing = shower(progress)
            try:
                run_here(lambda: run.run(showing))
            finally:
                showing.close()
        return Outcome(run.report(), output.position, output.model)
    finally:
        output.close()


def client_of(client: Client | str | None, *, cached: bool = True) -> CorpusClient:
    """A client of a run's own, with the arguments of the user's."""
    if isinstance(client, Client):
        settings, hooks = client._settings, client._hooks  # noqa: SLF001 - a client of our own
        own = CorpusClient.__new__(CorpusClient)
        own.__setstate__((settings if cached else replace(settings, cache=None), hooks))
        return own
    return CorpusClient(client, timeout=Timeouts(restart=RESTART))


def format_of(job: Job) -> Format:
    """The format of a job's output."""
    if job.format == "parquet":
        from embedwire.bulk.parquet import Parquet

        return Parquet(job.columns, job.dtype)
    return Jsonl(job.columns) if job.format == "jsonl" else Npy(job.dtype)


def layout_of(job: Job, suffix: str) -> Layout:
    """Where the files of a job's output are."""
    return Layout(job.out, suffix, job.rows_per_file)
