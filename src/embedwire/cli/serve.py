"""`embedwire serve`."""

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from embedwire.cli.app import app, stopped

MODEL = "Only with MODEL.gguf"


class Pooling(str, Enum):
    """How a text's vector is made of its tokens'."""

    mean = "mean"
    cls = "cls"
    last = "last"


@app.command()
def serve(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL.gguf]",
            help="A GGUF file, for llama.cpp; needs the extra llama-cpp. Default: the bundled multilingual model.",
            show_default=False,
        ),
    ] = None,
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
    alias: Annotated[
        str | None,
        typer.Option(help="The model's name for clients. Default: the file's.", rich_help_panel=MODEL),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most tokens of a text. Default: the model's, up to 8192.", rich_help_panel=MODEL
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Texts computed together. Default: 4, or as many as have 8192 tokens in all.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads that compute. Default: one less than cores.", rich_help_panel=MODEL
        ),
    ] = None,
    pooling: Annotated[
        Pooling | None,
        typer.Option(
            help="How tokens make a vector. Default: as the model says, else mean.", rich_help_panel=MODEL
        ),
    ] = None,
) -> None:
    """Serve a model as an OpenAI-compatible embedding API: a GGUF file, or the bundled one."""
    if not host:
        raise typer.BadParameter("it is empty, which would let the network in.", param_hint="--host")
    if api_key == "":
        raise typer.BadParameter("it is empty, which protects nothing.", param_hint="--api-key")
    wishes = {
        "alias": alias,
        "context": context,
        "slots": slots,
        "threads": threads,
        "pooling": pooling.value if pooling else None,
    }
    if model is None and (given := [name for name, value in wishes.items() if value is not None]):
        raise typer.BadParameter("it goes with a MODEL.gguf only.", param_hint=f"--{given[0]}")
    with stopped("Stopped."):
        _serve(model, wishes, host, port, api_key)


def _serve(
    model: Path | None, wishes: dict[str, str | int | None], host: str, port: int, api_key: str | None
) -> None:
    # The bundled model's matrices are small: two BLAS threads were 1.4 times as fast as one on idle cores and half as
    # fast on busy ones. One it is, and requests run side by side instead. Read once, when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from embedwire.serve import ServeError, llama_cpp, run

    try:
        if model is None:
            run(host, port, api_key)
        else:
            llama_cpp.run(model, llama_cpp.Wishes(**wishes), host, port, api_key)  # type: ignore[arg-type]
    except ServeError as error:
        sys.exit(str(error))
