"""The command line. Each command imports what it needs when it runs."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from embedwire._version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"embedwire {__version__}")
        raise typer.Exit


@app.callback()
def embedwire(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Turn texts into vectors over HTTP."""


@contextmanager
def _stopped(sentence: str) -> Iterator[None]:
    """Ctrl-C ends a command with one line."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(sentence, err=True)
        raise typer.Exit(130) from None


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets the network in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8090,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="EMBEDWIRE_API_KEY",
            help="Key that clients must send. Other users of this machine can read a command line (ps): "
            "the environment variable is the safer place.",
        ),
    ] = None,
) -> None:
    """Serve the bundled multilingual model as an OpenAI-compatible embedding API."""
    # The model's matrices are small: two BLAS threads were 1.4 times as fast as one on idle cores and half as
    # fast on busy ones. One it is, and requests run side by side instead. Read once, when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not host:
        raise typer.BadParameter("it is empty, which would let the network in.", param_hint="--host")
    if api_key == "":
        raise typer.BadParameter("it is empty, which protects nothing.", param_hint="--api-key")
    with _stopped("Stopped."):
        from embedwire.serve import ServeError, run

        try:
            run(host, port, api_key)
        except ServeError as error:
            sys.exit(str(error))


@app.command()
def gateway(
    urls: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="URL...",
            help="The embedding server, or several of one and the same model. None: EMBEDWIRE_BASE_URL, "
            "comma-separated.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets the network in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8089,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Key that clients must send; may be given several times. EMBEDWIRE_GATEWAY_API_KEY, "
            "comma-separated, is the safer place: a command line can be read by others (ps).",
        ),
    ] = None,
    server_key: Annotated[
        str | None,
        typer.Option(
            envvar="EMBEDWIRE_API_KEY", help="Key that the servers want to see; clients never see it."
        ),
    ] = None,
    same_model: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="How much alike the servers' vectors must be, where one is quantised: 0.98.",
        ),
    ] = None,
    hedge: Annotated[
        str | None,
        typer.Option(help="When a query goes to a second server too: p95, or seconds.", show_default="never"),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request to a server.")] = 120.0,
    max_body: Annotated[int, typer.Option(min=1, help="Most MiB in the body of a request.")] = 64,
    max_texts: Annotated[int, typer.Option(min=1, help="Most texts in a request.")] = 100_000,
    max_queued: Annotated[
        int, typer.Option(min=1, help="Most texts under way; more are answered 429.")
    ] = 200_000,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to finish what is under way when told to stop.")
    ] = 30.0,
) -> None:
    """Put one OpenAI-compatible address in front of embedding servers, for every tool and process."""
    keys = api_key if api_key is not None else _keys_in_environment()
    servers = urls or os.environ.get("EMBEDWIRE_BASE_URL", "").split(",")
    servers = [url.strip() for url in servers if url.strip()]
    if not servers:
        raise typer.BadParameter(
            "name the embedding server, for example http://localhost:8080, or set EMBEDWIRE_BASE_URL.",
            param_hint="URL",
        )
    if not host:
        raise typer.BadParameter("it is empty, which would let the network in.", param_hint="--host")
    if not all(keys):
        raise typer.BadParameter("a key is empty, which protects nothing.", param_hint="--api-key")
    if server_key == "":
        raise typer.BadParameter(
            "it is empty; leave it out where the servers want none.", param_hint="--server-key"
        )
    from embedwire.gateway import Limits, ServeError, To, run

    try:
        run(
            To(
                urls=servers,
                key=server_key,
                timeout=timeout,
                queued=max_queued,
                same_model=same_model,
                hedge=_hedge(hedge),
            ),
            host,
            port,
            api_keys=keys,
            limits=Limits(body=max_body * 2**20, texts=max_texts, queued=max_queued),
            grace=grace,
        )
    except ServeError as error:
        sys.exit(str(error))


def _hedge(value: str | None) -> str | float | None:
    """Seconds, or a percentile."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


def _keys_in_environment() -> list[str]:
    """The gateway's keys; an empty one stays, as it is a mistake."""
    keys = os.environ.get("EMBEDWIRE_GATEWAY_API_KEY")
    return [] if keys is None else [key.strip() for key in keys.split(",")]


@app.command()
def doctor(
    urls: Annotated[list[str], typer.Argument(metavar="URL", help="Servers; several are compared.")],
    model: Annotated[
        str | None, typer.Option(help="The model to ask for, where a server has several.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Its key; EMBEDWIRE_API_KEY in the environment is the safer place.")
    ] = None,
    ca_file: Annotated[str | None, typer.Option(help="CA certificates of a private authority (PEM).")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for one server in all.")] = 90.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Find out what an embedding server is, what is wrong with it, and what to do: some 50 to 80 small requests.

    Ends with the settings to paste. Exit code: 0 fine, 1 problems, 2 a server could not be asked.
    """
    from embedwire.doctor.command import run
    from embedwire.doctor.examining import Options

    options = Options(model=model or None, api_key=api_key, ssl=ca_file, timeout=timeout, seconds=seconds)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    raise typer.Exit(run(urls, options, machine=as_json, colour=colour))


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
    from embedwire.bulk import command

    arguments: dict[str, Any] = {
        "text_column": text_column,
        "id_column": id_column,
        "keep": [name.strip() for name in keep.split(",") if name.strip()],
        "input_format": input_format,
    }
    output = {
        "output_format": output_format,
        "dtype": dtype,
        "rows_per_file": rows_per_file,
        "rejects": rejects,
        "resume": resume,
        "overwrite": overwrite,
    }
    ended = "Stopped. What was done is kept; go on with --resume." if out and not dry_run else "Stopped."
    with _stopped(ended), command.one_line():
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
        )
        if dry_run:
            command.look(inputs, client, arguments, as_json=as_json)
        elif not out:
            raise typer.BadParameter("say where the vectors go.", param_hint="--out")
        else:
            command.run(inputs, out, client, {**arguments, **output}, quiet=quiet, as_json=as_json)
