"""`embedwire doctor`."""

import os
import sys
from typing import Annotated

import typer

from embedwire.cli.app import app, stopped


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
    with stopped("Stopped."):
        from embedwire.doctor.command import run
        from embedwire.doctor.examining import Options

        options = Options(model=model or None, api_key=api_key, ssl=ca_file, timeout=timeout, seconds=seconds)
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        raise typer.Exit(run(urls, options, machine=as_json, colour=colour))
