"""The command line's frame: `--version`, and what ends a command."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from embedwire._version import __version__

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


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
def stopped(sentence: str) -> Iterator[None]:
    """Ctrl-C ends a command with one line."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(sentence, err=True)
        raise typer.Exit(130) from None
