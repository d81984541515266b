"""`embed_file`, `embed_rows` and `estimate`: whole corpora from Python."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from typing import Any, Literal, TypeAlias, TypeVar

from embedwire._clients.base import Client
from embedwire._clients.own import EmbeddingClient
from embedwire.bulk.arrow import batches_of_rows, chunks_of_batches, is_arrow
from embedwire.bulk.job import Job, job_of
from embedwire.bulk.local import client_of, layout_of, run_job
from embedwire.bulk.on_ray import engine_of, run_on_ray
from embedwire.bulk.reading import chunks_of, chunks_of_rows
from embedwire.bulk.records import (
    Chunk,
    Columns,
    Dtype,
    Estimate,
    InputFormat,
    OutputFormat,
    RayEngine,
    Report,
    Show,
    Source,
)
from embedwire.bulk.showing import Shower
from embedwire.bulk.sources import sources_of
from embedwire.bulk.threads import run_here

Inputs: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
T = TypeVar("T")

SAMPLE = 50  # texts that an estimate embeds


def embed_file(
    inputs: Inputs,
    out: str | os.PathLike[str],
    client: Client | str | None = None,
    *,
    text_column: str = "text",
    id_column: str | None = None,
    keep: Sequence[str] = (),
    input_format: InputFormat | None = None,
    output_format: OutputFormat | None = None,
    dtype: Dtype = "float32",
    rows_per_file: int | None = None,
    rejects: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Show | bool | Shower | None = None,
    engine: Literal["local", "ray"] | RayEngine = "local",
) -> Report:
    """Embeds the texts of files into a file or a folder of files, in bounded memory; blocks until it is done.

    A run that ended early, by a kill, an error or Ctrl-C, goes on with ``resume=True``; no row is written twice.

    Args:
        inputs: Files, folders and patterns, or ``"-"`` for stdin: JSON Lines, CSV, TSV, Parquet, or plain text (a text
            a line, empty lines are left out); ``.gz`` and ``.zst`` too.
        out: ``*.parquet``, ``*.jsonl`` or ``*.npy``; any other name is a folder of such files. The columns are
            ``id_column`` (without one: ``row``, the number of the row from 0 on), those of ``keep``, and ``embedding``.
        client: A client, of which the arguments are taken, or a server's URL. None: ``EMBEDWIRE_BASE_URL``.
        text_column: What is embedded. Plain text has one column, ``text``.
        id_column: What tells rows apart.
        keep: What else goes into the output.
        input_format: ``"jsonl"``, ``"csv"``, ``"tsv"``, ``"parquet"`` or ``"text"``. Default: as names tell; JSON Lines
            for stdin.
        output_format: ``"parquet"``, ``"jsonl"`` or ``"npy"``, where ``out`` is a folder. Default: ``"parquet"``.
        dtype: ``"float32"``; ``"float16"``; ``"int8"``, each vector scaled so that its largest number is 127; or
            ``"binary"``, the signs as bits, eight in a uint8.
        rows_per_file: Where ``out`` is a folder. Default: 100,000.
        rejects: A file for the rows that get no vector, with the reason, as JSON Lines. Default: the first one ends the
            run.
        resume: Go on with what is at ``out``; where nothing is, begin.
        overwrite: Replace what is at ``out``.
        progress: A function that gets a `Progress` twice a second, or True for a bar (lines where none can be drawn).
        engine: ``"ray"``, or a `RayEngine`, embeds in tasks of a Ray cluster, a file of the output each: ``out`` is a
            folder that all its machines share. Default: in this process.

    Returns:
        What was done.

    Raises:
        InputError: An argument, a file or a row is wrong (the message has file and line), ``out`` exists, or the job is
            not the one that is to be resumed. What was written is kept.
        RequestError: A text was not embedded, or the server could not; the message has file and line.
        UsageError: Another run is writing there, or the disk does not let it.
    """
    cluster = engine_of(engine)
    job = job_of(
        out,
        text_column=text_column,
        id_column=id_column,
        keep=keep,
        output_format=output_format,
        dtype=dtype,
        rows_per_file=rows_per_file,
        rejects=rejects,
        resume=resume,
        overwrite=overwrite,
    )
    sources = _sources(inputs, input_format, job)
    chunks = _chunks(sources, job.columns)
    total = sum(one.size for one in sources)
    if cluster is not None:
        return run_on_ray(job, sources, chunks, total, client, progress, cluster)
    return run_job(job, sources, chunks, total, client, progress).report


def embed_rows(
    rows: Iterable[Any],
    out: str | os.PathLike[str],
    client: Client | str | None = None,
    *,
    text_column: str = "text",
    id_column: str | None = None,
    keep: Sequence[str] = (),
    output_format: OutputFormat | None = None,
    dtype: Dtype = "float32",
    rows_per_file: int | None = None,
    rejects: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Show | bool | Shower | None = None,
) -> Report:
    """As `embed_file`, for rows of the program's own.

    Args:
        rows: An iterable of dicts or of texts, read in another thread; or an Arrow table, batch or reader, and whatever
            hands itself over as one (polars, pandas, DuckDB). To resume, the same rows must come again.
        out: See `embed_file`, as for all others.
        client: A client, or a URL.
        text_column: What is embedded.
        id_column: What tells rows apart.
        keep: What else goes into the output.
        output_format: Where ``out`` is a folder.
        dtype: Of the numbers.
        rows_per_file: Where ``out`` is a folder.
        rejects: A file for the rows that get no vector.
        resume: Go on with what is at ``out``.
        overwrite: Replace what is at ``out``.
        progress: A function, or True.

    Returns:
        What was done.

    Raises:
        InputError: See `embed_file`.
        RequestError: See `embed_file`.
        UsageError: See `embed_file`.
    """
    job = job_of(
        out,
        text_column=text_column,
        id_column=id_column,
        keep=keep,
        output_format=output_format,
        dtype=dtype,
        rows_per_file=rows_per_file,
        rejects=rejects,
        resume=resume,
        overwrite=overwrite,
    )
    source = Source(name="rows", format="parquet")
    if is_arrow(rows):
        chunks = chunks_of_batches(batches_of_rows(rows, source, job.columns), source, job.columns)
    else:
        chunks = chunks_of_rows(rows, job.columns)
    total = len(rows) if isinstance(rows, Sized) else 0
    return run_job(job, [source], _from_start(chunks), total, client, progress).report


def estimate(
    inputs: Inputs,
    client: Client | str | None = None,
    *,
    text_column: str = "text",
    id_column: str | None = None,
    keep: Sequence[str] = (),
    input_format: InputFormat | None = None,
) -> Estimate:
    """Reads the input once, and embeds its first 50 texts, to tell what a run would do; writes nothing.

    Args:
        inputs: See `embed_file`.
        client: See `embed_file`.
        text_column: See `embed_file`.
        id_column: See `embed_file`.
        keep: See `embed_file`.
        input_format: See `embed_file`.

    Returns:
        What it would do.

    Raises:
        InputError: The input cannot be read, or lacks a column.
        RequestError: The server did not embed the texts.
    """
    names = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    columns = Columns(text=text_column, id=id_column, keep=tuple(keep))
    rows = characters = bad = 0
    first, sample = None, list[str]()
    for chunk in _chunks(sources_of(names, input_format), columns):
        rows += len(chunk.texts)
        for index, text in enumerate(chunk.texts):
            if text is None:
                first = first or f"{chunk.place(index)}: {chunk.problems[index]}"
                bad += 1
                continue
            characters += len(text)
            if len(sample) < SAMPLE:
                sample.append(text)
    seconds = run_here(lambda: _timed(client_of(client, cached=False), sample)) if sample else None
    return Estimate(
        rows=rows,
        characters=characters,
        bad=bad,
        first_bad=first,
        sampled=len(sample),
        seconds=None if seconds is None else seconds * (rows - bad) / len(sample),
    )


def _sources(inputs: Inputs, told: InputFormat | None, job: Job) -> list[Source]:
    names = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    layout = layout_of(job, ".*")
    ours = [job.out, layout.manifest, layout.work, *([job.rejects] if job.rejects else ())]
    return sources_of(names, told, ours)


def _chunks(sources: Sequence[Source], columns: Columns) -> Iterator[Chunk]:
    """The chunks of all sources; what was read counts from the first one's beginning."""
    before = 0
    for source in sources:
        for chunk in _from_start(chunks_of(source, columns)):
            yield replace(chunk, start=before + chunk.start, read=before + chunk.read)
        before += source.size


def _from_start(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The chunks, each of which knows what was read before it."""
    before = 0
    for chunk in chunks:
        yield replace(chunk, start=before)
        before = chunk.read


async def _timed(client: EmbeddingClient, texts: list[str]) -> float:
    """Seconds that some texts take, the connection and what is asked first not included."""
    async with client:
        await client.wait_ready()
        begun = time.perf_counter()
        await client.embed_array(texts)
        return time.perf_counter() - begun
