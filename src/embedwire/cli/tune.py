"""`embedwire tune`."""

from pathlib import Path
from typing import Annotated

import typer

from embedwire.cli.app import app, stopped

INPUT, SERVER, SWEEP, REPORT = "Texts", "Server", "The sweep", "Report"


@app.command()
def tune(
    url: Annotated[str, typer.Argument(help="The server; the key is taken from EMBEDWIRE_API_KEY.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT…]",
            help="Your texts: files, folders, patterns, or - for stdin, as for embed. Default: built-in ones.",
            show_default=False,
        ),
    ] = None,
    text_column: Annotated[
        str, typer.Option(help="The column that is embedded.", rich_help_panel=INPUT)
    ] = "text",
    input_format: Annotated[
        str | None,
        typer.Option(
            help="jsonl, csv, tsv, parquet or text (a text a line), where names do not tell.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Default: the one that is served.", rich_help_panel=SERVER)
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Numbers per vector.", rich_help_panel=SERVER)
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help='A family of models (e5, nomic, …), or JSON: {"document": "passage: "}.',
            rich_help_panel=SERVER,
        ),
    ] = None,
    extra_body: Annotated[
        str | None, typer.Option(help="Further fields of each request, as JSON.", rich_help_panel=SERVER)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds for a request. Default: 120.", rich_help_panel=SERVER)
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1.0, help="Seconds for all of it, at most.", rich_help_panel=SWEEP)
    ] = 60.0,
    max_batch: Annotated[
        int, typer.Option(min=1, max=4096, help="Most texts in a request.", rich_help_panel=SWEEP)
    ] = 128,
    max_in_flight: Annotated[
        int, typer.Option(min=1, max=1024, help="Most requests in flight.", rich_help_panel=SWEEP)
    ] = 64,
    heatmap: Annotated[
        Path | None, typer.Option(help="File *.svg for a picture.", rich_help_panel=REPORT)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the report as JSON.", rich_help_panel=REPORT)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The report as JSON on stdout, no text.", rich_help_panel=REPORT)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show nothing meanwhile.", rich_help_panel=REPORT)
    ] = False,
) -> None:
    """Find the best batch_size and concurrency for a server and your own texts, by measuring them.

    Exit code: 0 found, 1 an error, 2 the command line is wrong, 3 too little time to tell.
    """
    inputs = inputs or []
    if any("://" in one for one in inputs):
        raise typer.BadParameter(
            "sizes are those of one server; tune several one after another.", param_hint="URL"
        )
    if "://" not in url and Path(url).exists():
        raise typer.BadParameter(f"name the server first: embedwire tune URL {url}", param_hint="URL")
    with stopped("Stopped."):
        from embedwire.exceptions import InputError
        from embedwire.tune import command
        from embedwire.tune.sweeping import Options

        try:
            given = (
                command.parsed("--prompts", prompts, '{"document": "passage: "}')
                if _is_json(prompts)
                else prompts
            )
            fields = command.parsed("--extra-body", extra_body, '{"user": "me"}')
        except InputError as error:
            raise typer.BadParameter(str(error)) from None
        options = Options(
            url=url,
            model=model,
            dimensions=dimensions,
            prompts=given,
            extra_body=fields,
            timeout=timeout,
            seconds=seconds,
            batch=max_batch,
            requests=max_in_flight,
        )
        code = command.run(
            options,
            inputs,
            column=text_column,
            told=input_format,
            heatmap=heatmap,
            out=out,
            machine=as_json,
            quiet=quiet,
        )
    raise typer.Exit(code)


def _is_json(text: str | None) -> bool:
    return text is not None and text.lstrip().startswith("{")
