"""`embedwire serve`."""

import os
import sys
from typing import Annotated

import typer

from embedwire.cli.app import app, stopped


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
    with stopped("Stopped."):
        from embedwire.serve import ServeError, run

        try:
            run(host, port, api_key)
        except ServeError as error:
            sys.exit(str(error))
