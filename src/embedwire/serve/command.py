"""What `embedwire serve` does: take the port, say where it is, serve until told to stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from aiohttp import web

from embedwire._web.listening import ServeError, as_seen_by_clients, listen, to_stderr
from embedwire._web.logs import wire_logger
from embedwire.serve.app import WORKER, create_app
from embedwire.serve.model import DIMENSIONS, MODEL, THREADS, BundledModel

_SHUTDOWN_SECONDS = 10.0  # for requests under way when the server is told to stop


def run(
    host: str = "127.0.0.1",
    port: int = 8090,
    api_key: str | None = None,
    *,
    say: Callable[[str], object] | None = None,
) -> None:
    """Serve the bundled model until SIGINT or SIGTERM; requests under way then get 10 seconds to finish.

    Args:
        host: The address to listen on; any other than the loopback lets the network in.
        port: The port; 0 takes any free one.
        api_key: See `create_app`.
        say: Takes the lines meant for a person. None: standard error.

    Raises:
        ServeError: The model is not installed or does not load, or the port cannot be had.
    """
    started = time.perf_counter()
    say = say or to_stderr
    bundled = BundledModel()
    with listen(host, port) as listener:
        _introduce(say, host, listener.getsockname()[1], api_key)
        app = create_app(
            bundled.encode,
            model=MODEL,
            dimensions=DIMENSIONS,
            api_key=api_key,
            count_tokens=bundled.count_tokens,
            threads=THREADS,
        )
        _follow_loading(app, say, started)
        web.run_app(
            app,
            sock=listener,
            print=None,
            access_log=None,
            logger=wire_logger(logging.getLogger(__package__)),
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
    if failure := app[WORKER].failure:
        raise ServeError(f"The model could not be loaded: {type(failure).__name__}.") from failure
    say("Stopped.")


def _follow_loading(app: web.Application, say: Callable[[str], object], started: float) -> None:
    """Say when the model is loaded, and end the server if it does not load."""

    def loaded(loading: asyncio.Task[None]) -> None:
        if loading.cancelled():
            return
        if loading.exception():
            raise web.GracefulExit  # how aiohttp's own signal handlers end run_app
        say(f"Ready in {time.perf_counter() - started:.1f} s.")

    async def follow(_: web.Application) -> None:
        app[WORKER].loading.add_done_callback(loaded)

    app.on_startup.append(follow)


def _introduce(say: Callable[[str], object], host: str, port: int, api_key: str | None) -> None:
    name, private = as_seen_by_clients(host)
    if api_key is None and not private:
        say(f"Warning: {host} lets the network in and no API key is asked for. Set EMBEDWIRE_API_KEY.")
    url, key = f"http://{name}:{port}", "" if api_key is None else ', api_key="..."'
    say(f"embedwire serves {MODEL} ({DIMENSIONS} dimensions) at {url}")
    say(f'Use it with EmbedwireEmbeddings(base_url="{url}"{key}); stop it with Ctrl+C. Loading the model ...')
