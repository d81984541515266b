"""`embedwire embed`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from embedwire.cli.app import app, stopped

INPUT, OUTPUT, SERVER, RUN = "Input", "Output", "Server", "The run"


@app.command()
def embed(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, patterns, or - for stdin.", metavar="INPUT…", show_default=False
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="A file *.parquet, *.jsonl or *.npy, or a folder of several. Not needed with --dry-run.",
            rich_help_panel=OUTPUT,
        ),
    ] = "",
    text_column: Annotated[
        str, typer.Option(help="The column that is embedded.", rich_help_panel=INPUT)
    ] = "text",
    id_column: Annotated[
        str | None,
        typer.Option(
            help="The column that tells rows apart; it goes into the output.", rich_help_panel=INPUT
        ),
    ] = None,
    keep: Annotated[
        str, typer.Option(help="Further columns for the output: a,b,c.", rich_help_panel=INPUT)
    ] = "",
    input_format: Annotated[
        str | None,
        typer.Option(
            help="jsonl, csv, tsv, parquet or text (a text a line), where names do not tell.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(
            help="The server; several times for several. Default: EMBEDWIRE_BASE_URL. The key is taken from "
            "EMBEDWIRE_API_KEY.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Default: the one that is served.", rich_help_panel=SERVER)
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Numbers per vector.", rich_help_panel=SERVER)
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Vectors of unit length.", rich_help_panel=SERVER)
    ] = False,
    prompts: Annotated[
        str | None,
        typer.Option(
            help='A family of models (e5, nomic, …), or JSON: {"document": "passage: "}.',
            rich_help_panel=SERVER,
        ),
    ] = None,
    too_long: Annotated[
        str, typer.Option(help="raise, truncate or average.", rich_help_panel=SERVER)
    ] = "raise",
    extra_body: Annotated[
        str | None, typer.Option(help="Further fields of each request, as JSON.", rich_help_panel=SERVER)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Most texts in a request. Default: found.", rich_help_panel=SERVER),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Most requests in flight. Default: found.", rich_help_panel=SERVER),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds for a request. Default: 120.", rich_help_panel=SERVER)
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            help="File that keeps vectors, so that a text embedded before costs no request; or a folder for it.",
            metavar="PATH",
            rich_help_panel=SERVER,
        ),
    ] = None,
    cache_bytes: Annotated[
        int | None,
        typer.Option(min=2**16, help="Most bytes of that file. Default: 4 GiB.", rich_help_panel=SERVER),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            help="parquet, jsonl or npy, where the output is a folder. Default: parquet.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, float16, int8 or binary.", rich_help_panel=OUTPUT)
    ] = "float32",
    rows_per_file: Annotated[
        int | None,
        typer.Option(min=1, help="Where the output is a folder. Default: 100,000.", rich_help_panel=OUTPUT),
    ] = None,
    rejects: Annotated[
        Path | None,
        typer.Option(
            help="File for rows that get no vector, with the reason. Default: the first one ends the run.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the last run ended.", rich_help_panel=RUN)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there.", rich_help_panel=RUN)
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local, or ray: tasks of a cluster, a file each.", rich_help_panel=RUN)
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster, or auto. Default: RAY_ADDRESS, else one is started here.",
            rich_help_panel=RUN,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Ray tasks at a time. Default: as many as there are CPUs.", rich_help_panel=RUN
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only tell rows, characters and time, by 50 texts.", rich_help_panel=RUN
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=RUN)
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Progress and report as JSON lines on stdout.", rich_help_panel=RUN),
    ] = False,
) -> None:
    """Embed whole corpora: JSON Lines, CSV, Parquet or text → vectors in files; a crash loses what was in flight."""
    arguments: dict[str, Any] = {
        "text_column": text_column,
        "id_column": id_column,
        "keep": [name.strip() for name in keep.split(",") if name.strip()],
        "input_format": input_format,
    }
    output: dict[str, Any] = {
        "output_format": output_format,
        "dtype": dtype,
        "rows_per_file": rows_per_file,
        "rejects": rejects,
        "resume": resume,
        "overwrite": overwrite,
    }
    ended = "Stopped. What was done is kept; go on with --resume." if out and not dry_run else "Stopped."
    with stopped(ended):
        from embedwire.bulk import command

        with command.one_line():
            client = command.client(
                url,
                model=model,
                dimensions=dimensions,
                normalize=normalize,
                prompts=prompts,
                too_long=too_long,
                extra_body=extra_body,
                batch_size=batch_size,
                concurrency=concurrency,
                timeout=timeout,
                cache=command.cache(cache, cache_bytes),
            )
            if dry_run:
                command.look(inputs, client, arguments, as_json=as_json)
            elif not out:
                raise typer.BadParameter("say where the vectors go.", param_hint="--out")
            else:
                output["engine"] = command.engine(engine, address, workers)
                command.run(inputs, out, client, {**arguments, **output}, quiet=quiet, as_json=as_json)
