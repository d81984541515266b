"""aiohttp's sessions: connections that are kept, looked at before they are used again, and let go without a warning.

Only this file and `transport` know aiohttp.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import urllib.request
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.resolver import ThreadedResolver

from embedwire._http.native import original
from embedwire._http.threads import in_thread
from embedwire._settings.address import Target
from embedwire._version import __version__

# llama-server, uvicorn and TEI close a connection that was idle for 5 s; below it no request meets a closed one.
KEEP_ALIVE = 4.0
DNS_CACHE = 300
_READ_BUFFER = 2**18

# Of this task's request: whether its connection has carried an earlier one, and the life in which that was made.
reused: ContextVar[bool] = ContextVar("embedwire_reused", default=False)
born: ContextVar[int] = ContextVar("embedwire_born", default=0)


class Lives:
    """How often connections to a server were lost without a word, so that the next one may lead to another server.

    Its state is that number, how often there was none left however they ended, and the connections that there are.
    """

    def __init__(self) -> None:
        # Each with what looks whether something has come on it, and the life in which it was made.
        self.connections: dict[Any, tuple[Callable[[], Any], int]] = {}
        self._met = False
        self._announced = False
        self._number = 0
        self.restarts = 0  # that there may have been: a new connection was made where none was left

    def now(self) -> int:
        """Grows, too, when all connections are gone, which nobody announced."""
        for protocol in self.connections:
            if protocol.is_connected():
                self._announced = False
                return self._number
        if self._met:
            self._met = False
            self._number += not self._announced
        return self._number

    def announced(self) -> None:
        """A reply says that its connection is closed after it; llama.cpp does so after a hundred requests."""
        self._announced = True

    def lost(self) -> None:
        """A kept connection was found to have ended, or to carry what nobody asked for."""
        self._number += 1

    def add(self, protocol: Any) -> int:
        """There is a new connection; the life that it belongs to. Those that have ended are forgotten."""
        number = self.now()
        self.restarts += not any(one.is_connected() for one in self.connections)
        for ended in [one for one in self.connections if not one.is_connected()]:
            del self.connections[ended]
        self.connections[protocol] = _watch(protocol), number
        self._met, self._announced = True, False  # what was announced was another one's end
        return number


class Session:
    """An aiohttp session, how many requests use it now, and whether it is retired. Written by `transport`."""

    __slots__ = ("client", "retired", "users")

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self.client = client
        self.users = 0
        self.retired = False


class _Watchful(aiohttp.BaseConnector):
    """Notes for each request what its connection is; cheaper than aiohttp's traces. It writes `Lives`.

    aiohttp hands out a kept connection without a look at what has arrived on it meanwhile. A second copy of a reply
    would be taken for the answer to the next request, which is another text's vector.
    """

    _lives: Lives

    async def connect(self, req: Any, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol: Any = connection.protocol
            known = self._lives.connections.get(protocol)
            reused.set(known is not None)
            if known is None:
                born.set(self._lives.add(protocol))
                return connection
            if _quiet(protocol, known[0]):
                born.set(known[1])
                return connection
            self._lives.lost()
            connection.close()


class _Tcp(_Watchful, aiohttp.TCPConnector):
    def __init__(self, tls: ssl.SSLContext | bool, lives: Lives) -> None:
        super().__init__(
            limit=0,  # how many requests are in flight is the dispatcher's decision; here none waits
            keepalive_timeout=KEEP_ALIVE,
            ttl_dns_cache=DNS_CACHE,
            ssl=tls,
            socket_factory=_socket,
            resolver=ThreadedResolver(loop=_Lookups()),  # type: ignore[arg-type]  # all that it uses of a loop
        )
        self._lives = lives


class _Unix(_Watchful, aiohttp.UnixConnector):
    def __init__(self, path: str, lives: Lives) -> None:
        super().__init__(path, limit=0, keepalive_timeout=KEEP_ALIVE)
        self._lives = lives


def _watch(protocol: Any) -> Callable[[], Any]:
    """What tells whether something can be read from a connection's socket: its data, or its end."""
    number = protocol.transport.get_extra_info("socket").fileno()
    if not hasattr(select, "poll"):  # Windows
        return lambda: select.select([number], [], [], 0)[0]
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return partial(poll.poll, 0)


def _quiet(protocol: Any, something_came: Callable[[], Any]) -> bool:
    """Whether nothing came on a kept connection that nobody asked for, read or not yet read."""
    return not (protocol.should_close or protocol.transport is None or something_came())


class _Lookups:
    """What aiohttp's resolver uses of a loop: look-ups, each in a thread of its own."""

    async def getaddrinfo(
        self,
        host: str,
        port: int,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the loop's own name for it
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """As the loop's."""
        return await in_thread(original("socket", "getaddrinfo"), host, port, family, type, proto, flags)

    async def getnameinfo(self, address: Any, flags: int = 0) -> Any:
        """As the loop's."""
        return await in_thread(original("socket", "getnameinfo"), address, flags)


def _socket(address: Any) -> socket.socket:
    """A socket that finds out when the other side is gone, within about 30 s, where the platform can."""
    family, kind, protocol, *_ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 15),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 30_000),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError):
                made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


async def new_client(target: Target, lives: Lives) -> aiohttp.ClientSession:
    """A session with nothing of its own accord: no cookies, no redirects, no ``~/.netrc``.

    Raises:
        ssl.SSLError: The CA file has changed since it was checked.
    """
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": f"embedwire/{__version__}",
    }
    if target.api_key is not None and not callable(target.api_key):
        headers["Authorization"] = f"Bearer {target.api_key.reveal()}"
    headers.update((name, value.reveal()) for name, value in target.headers)
    path = target.endpoint.socket
    return aiohttp.ClientSession(
        connector=_Tcp(await _tls(target), lives) if path is None else _Unix(path, lives),
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=_READ_BUFFER,
    )


async def _tls(target: Target) -> ssl.SSLContext | bool:
    if isinstance(target.ssl, (bool, ssl.SSLContext)):
        return target.ssl
    if target.ssl is None and not target.endpoint.origin.startswith("https:"):
        return True
    # Reading the authorities takes about 120 ms, so not on the loop.
    return await in_thread(_context, target.ssl)


def _context(cafile: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=cafile)


def proxy_of(target: Target) -> str | None:
    """The proxy to use; from the environment here and not by aiohttp, which would read ``~/.netrc`` too."""
    if target.proxy is not None:
        return target.proxy.reveal()
    url = urlsplit(target.endpoint.origin)
    if not target.trust_env or target.endpoint.socket is not None or urllib.request.proxy_bypass(url.netloc):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy is None or "://" in proxy:
        return proxy
    return f"http://{proxy}"


def bury(client: aiohttp.ClientSession) -> None:
    """Closes a session without awaiting anything; aiohttp and asyncio have no public way for a closed loop."""
    connector = client.connector
    client.detach()
    if connector is None or connector.closed:
        return
    idle = [protocol for waiting in connector._conns.values() for protocol, _ in waiting]  # noqa: SLF001
    transports: list[Any] = [protocol.transport for protocol in (*idle, *connector._acquired)]  # noqa: SLF001
    loop_is_over = connector._loop.is_closed()  # noqa: SLF001
    connector._close()  # noqa: SLF001
    if loop_is_over:
        for transport in transports:
            tls = getattr(transport, "_ssl_protocol", None)
            layers: tuple[Any, Any] = (transport, getattr(tls, "_transport", None))
            for layer in layers:
                with contextlib.suppress(Exception):  # nobody is left to be told
                    layer._call_connection_lost(None)  # noqa: SLF001
