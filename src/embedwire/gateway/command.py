"""What `embedwire gateway` does: take the port, say where it is, serve until told to stop, finish what is under way."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from aiohttp import web

from embedwire._web.listening import ServeError, as_seen_by_clients, listen, to_stderr
from embedwire._web.logs import wire_logger
from embedwire.exceptions import InputError
from embedwire.gateway.app import GATEWAY, Around, Gateway, create_app
from embedwire.gateway.limits import DEFAULT, Limits
from embedwire.gateway.upstream import To

KEEP_ALIVE = (
    75.0  # seconds for which an idle connection stays, and in which the head of a request must have come
)
BACKLOG = 1024  # connections that wait to be accepted
TOGETHER = 0.3  # seconds: a wrapper, or a terminal beside it, may send one and the same signal twice
LAST = 0.5  # seconds for connections to close, once nothing is under way or patience is over

Say = Callable[[str], object]


def run(
    to: To,
    host: str = "127.0.0.1",
    port: int = 8089,
    *,
    api_keys: Sequence[str] = (),
    limits: Limits = DEFAULT,
    grace: float = 30.0,
    around: Around | None = None,
    say: Say | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is under way; a second signal ends the process at once.

    Args:
        to: Where texts go.
        host: The address to listen on; any other than the loopback lets the network in.
        port: The port; 0 takes any free one.
        api_keys: See `create_app`.
        limits: What the gateway takes.
        grace: Seconds for what is under way when the gateway is told to stop.
        around: See `create_app`.
        say: Takes the lines meant for a person. None: standard error.

    Raises:
        ServeError: A URL or a number is wrong, or the port cannot be had.
    """
    say = say or to_stderr
    try:
        app = create_app(to, api_keys=api_keys, limits=limits, around=around)
    except InputError as error:
        raise ServeError(f"{str(error).replace('base_url', 'The URL', 1)}.") from None
    with listen(host, port) as listener:
        _introduce(say, app[GATEWAY], host, listener.getsockname()[1], keyed=bool(api_keys))
        asyncio.run(_serve(app, listener, grace, say))
    say("Stopped.")


async def _serve(app: web.Application, listener: socket.socket, grace: float, say: Say) -> None:
    gateway = app[GATEWAY]
    runner = runner_of(app)
    await runner.setup()
    try:
        site = web.SockSite(runner, listener, backlog=BACKLOG)
        await site.start()
        following = asyncio.ensure_future(gateway.servers.follow(say))
        await _signalled(say)
        following.cancel()
        gateway.stopping = True
        await site.stop()  # no new connections; those that are there learn of it from /health
        await _finished(gateway, grace, say)
    finally:
        await runner.cleanup()


def runner_of(app: web.Application) -> web.AppRunner:
    """What runs the gateway: a client that hangs up cancels its request, and one that says nothing is let go."""
    return web.AppRunner(
        app,
        access_log=None,
        logger=wire_logger(logging.getLogger(__package__)),
        handler_cancellation=True,
        keepalive_timeout=KEEP_ALIVE,
        shutdown_timeout=LAST,
    )


async def _signalled(say: Say) -> None:
    """Returns when the process is told to stop; from then on another signal ends it."""
    loop, stop, moments = asyncio.get_running_loop(), asyncio.Event(), list[float]()

    def first_or_second() -> None:
        moments.append(loop.time())
        if moments[-1] - moments[0] > TOGETHER:
            say("Stopped at once.")
            os._exit(1)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(first_or_second))
        else:
            loop.add_signal_handler(number, first_or_second)
    await stop.wait()


async def _finished(gateway: Gateway, grace: float, say: Say) -> None:
    """Returns when nothing is under way any more, or patience is over."""
    if not gateway.idle.is_set():
        say(f"Finishing {_under_way(gateway)} within {grace:g} s; once more Ctrl+C drops what is left.")
    try:
        await asyncio.wait_for(gateway.idle.wait(), grace)
    except asyncio.TimeoutError:
        say(f"Not finished: {_under_way(gateway)}.")


def _under_way(gateway: Gateway) -> str:
    count = gateway.metrics.in_flight
    return f"{count} request{'s' * (count != 1)}"


def _introduce(say: Say, gateway: Gateway, host: str, port: int, *, keyed: bool) -> None:
    name, private = as_seen_by_clients(host)
    if not keyed and not private:
        say(
            f"Warning: {host} lets the network in and no API key is asked for. Set EMBEDWIRE_GATEWAY_API_KEY."
        )
    url = f"http://{name}:{port}"
    servers = " and ".join(gateway.servers.urls)
    say(f"embedwire gateway for {servers} at {url}")
    key = " and one of the gateway's keys" if keyed else ""
    say(f"Give tools the base URL {url}/v1{key}; stop it with Ctrl+C.")
