"""`embedwire gateway`."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from embedwire.cli.app import app, stopped

if TYPE_CHECKING:
    from embedwire.telemetry import OpenTelemetry


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
    otel: Annotated[
        bool,
        typer.Option(
            "--otel",
            help="Make OpenTelemetry's spans and metrics, and carry on the traces of clients. It needs the extra otel; "
            "opentelemetry-instrument sets up where they go.",
        ),
    ] = False,
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
    with stopped("Stopped."):
        from embedwire.gateway import Limits, ServeError, To, run

        hook = _telemetry() if otel else None
        try:
            run(
                To(
                    urls=servers,
                    key=server_key,
                    timeout=timeout,
                    queued=max_queued,
                    same_model=same_model,
                    hedge=_hedge(hedge),
                    on_event=hook,
                ),
                host,
                port,
                api_keys=keys,
                limits=Limits(body=max_body * 2**20, texts=max_texts, queued=max_queued),
                grace=grace,
                around=None if hook is None else hook.serving,
            )
        except ServeError as error:
            sys.exit(str(error))


def _telemetry() -> "OpenTelemetry":
    """What makes spans and metrics."""
    try:
        from embedwire.telemetry import OpenTelemetry
    except ModuleNotFoundError as missing:
        sys.exit(str(missing))
    return OpenTelemetry()


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
