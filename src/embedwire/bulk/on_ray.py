"""A job in the tasks of a Ray cluster: they make a file of the output each, which are put together here."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from embedwire._clients.base import Client
from embedwire._clients.own import EmbeddingClient
from embedwire._settings.checks import check_int, shown
from embedwire._settings.settings import Settings
from embedwire._settings.sharing import most_parts, share_of
from embedwire.bulk.crew import Crew
from embedwire.bulk.gathered import Gathered
from embedwire.bulk.job import ROWS_PER_FILE, Job, without_unknown
from embedwire.bulk.local import client_of, format_of, layout_of
from embedwire.bulk.records import Chunk, Progress, RayEngine, Report, Show, Source
from embedwire.bulk.rejects import Rejects
from embedwire.bulk.shards import shards_of
from embedwire.bulk.showing import Shower, shower
from embedwire.bulk.task import loaded
from embedwire.bulk.threads import run_here
from embedwire.exceptions import InputError, UsageError

KNOCK = 10.0  # seconds for the first connection to a cluster


def engine_of(engine: object) -> RayEngine | None:
    """`engine`; None for this process.

    Raises:
        InputError: It is none, or one of its fields is wrong.
    """
    if engine == "local":
        return None
    if engine == "ray":
        return RayEngine()
    if not isinstance(engine, RayEngine):
        raise InputError(
            f"engine must be 'local', 'ray' or RayEngine(address=…, workers=…), not {shown(engine)}"
        )
    if engine.workers is not None:
        check_int("workers", engine.workers, least=1)
    if engine.address is not None and not isinstance(engine.address, str):
        raise InputError(f"address must be a str, or None, not {shown(engine.address)}")
    return engine


def run_on_ray(
    job: Job,
    sources: Sequence[Source],
    chunks: Iterator[Chunk],
    total: int,
    client: Client | str | None,
    progress: Show | bool | Shower | None,
    engine: RayEngine,
) -> Report:
    """Does a job; see `embedwire.bulk.local.run_job`."""
    if job.rows_per_file is None:
        raise InputError(
            f'the engine "ray" writes a folder, a file for each task; give a folder as output, not {job.out.name}'
        )
    ray = loaded()
    own = client_of(client)
    form = format_of(job)
    rejects = Rejects(job.rejects)
    output = Gathered(
        layout_of(job, form.suffix), form, job.dtype, rejects, resume=job.resume, overwrite=job.overwrite
    )
    try:
        identity = job.identity(own._settings, sources)  # noqa: SLF001 - whatever its pickle carries
        output.check(without_unknown(identity))
        if output.complete:
            return _nothing_left(output, own)
        with connected(ray, engine):
            showing = shower(progress)
            try:
                return _run(ray, job, output, identity, chunks, total, own, engine, showing)
            finally:
                showing.close()
    finally:
        output.close()


def _run(
    ray: Any,
    job: Job,
    output: Gathered,
    identity: dict[str, Any],
    chunks: Iterator[Chunk],
    total: int,
    own: EmbeddingClient,
    engine: RayEngine,
    showing: Shower,
) -> Report:
    settings = own._settings  # noqa: SLF001 - whatever its pickle carries
    workers = _workers(ray, engine, settings)
    showing.show(Progress(phase="waiting"))
    model = identity["model"] or run_here(lambda: _model(own))
    output.begin({**identity, "model": model})
    showing.show(Progress(phase="skipping", rows=output.position.rows, resumed=output.position.rows))
    shards = shards_of(chunks, output.position, job.rows_per_file or ROWS_PER_FILE, ray.put)
    crew = Crew(ray, job, settings, output, shards, total, workers)
    try:
        crew.run(showing)
        output.finish()
        showing.show(crew.progress(done=True))
        return crew.report(own.usage())
    finally:
        crew.stop()


@contextmanager
def connected(ray: Any, engine: RayEngine) -> Iterator[None]:
    """Within a cluster: the one that this process is in already, or another one as long as it is needed.

    Raises:
        UsageError: There is none at the address.
    """
    if ray.is_initialized():
        yield
        return
    try:
        _knock(engine.address)
        ray.init(address=engine.address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = "" if engine.address is None else f" at {engine.address}"
        reason = next(iter(str(error).splitlines()), "no reason given")
        raise UsageError(f"Ray{where} cannot be reached: {reason}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raises OSError at once where nobody listens: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK).close()


def _workers(ray: Any, engine: RayEngine, settings: Settings) -> int:
    """How many tasks are at work at a time."""
    most = most_parts(settings)
    workers = engine.workers
    if workers is None:
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        workers = cpus if most is None else min(cpus, most)
    share_of(settings, workers, 0)  # or it says why not
    return workers


async def _model(client: EmbeddingClient) -> str | None:
    async with client:
        return (await client.wait_ready()).model


def _nothing_left(output: Gathered, client: EmbeddingClient) -> Report:
    position = output.position
    return Report(
        rows=position.rows,
        resumed=position.rows,
        rejects=position.rejects,
        repeats=0,
        seconds=0.0,
        usage=client.usage(),
        files=output.files,
    )
