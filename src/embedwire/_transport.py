"""The one seam to the network: only this file knows aiohttp.

Nothing above it sees an aiohttp exception: a request ends in a `Reply` or in a `Broken`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import functools
import logging
import os
import socket
import ssl
import urllib.request
import weakref
from contextvars import ContextVar
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import aiohttp

from embedwire._config import CLOSED, Secret, Target, Timeouts, check_key
from embedwire._retry import Break, Broken, Reply
from embedwire._version import __version__
from embedwire.exceptions import UsageError

logger = logging.getLogger("embedwire")

# llama-server, uvicorn and TEI close a connection that was idle for 5 s; below it no request meets a closed one.
KEEP_ALIVE = 4.0
DNS_CACHE = 300
_READ_BUFFER = 2**18
_SUSPECT = {Break.REFUSED, Break.CLOSED, Break.CUT}  # the other pooled connections may be dead too

_SILENT = {Break.READ_TIMEOUT, Break.TOTAL_TIMEOUT}  # on a used connection: the network may be gone, and back


class Transport(Protocol):
    """What the rest of the package needs of a network."""

    async def request(
        self, method: str, url: str, body: bytes | None, timeouts: Timeouts, most: int
    ) -> Reply | Broken:
        """Sends one request; every failure of the network is a `Broken`, never an exception.

        Args:
            method: GET or POST.
            url: The whole URL.
            body: JSON, or None.
            timeouts: Of this request.
            most: Bytes of the reply's body; a longer one is `Broken`.
        """
        ...

    def secrets(self) -> list[str]:
        """What no message may repeat."""
        ...

    async def close(self) -> None:
        """Closes every connection. A request still on its way ends as `Broken`."""
        ...


class _Session:
    """An aiohttp session and how many requests use it now."""

    __slots__ = ("client", "retired", "users")

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self.client = client
        self.users = 0
        self.retired = False


_reused: ContextVar[bool] = ContextVar(
    "embedwire_reused", default=False
)  # the connection of this task's request


class _Connector(aiohttp.TCPConnector):
    """Notes for each request whether its connection has carried an earlier one; cheaper than aiohttp's traces."""

    def __init__(self, tls: ssl.SSLContext | bool) -> None:
        super().__init__(
            limit=0,  # how many requests are in flight is the dispatcher's decision; here none waits
            keepalive_timeout=KEEP_ALIVE,
            ttl_dns_cache=DNS_CACHE,
            ssl=tls,
            socket_factory=_socket,
        )
        self._used: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(self, req: Any, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:
        connection = await super().connect(req, traces, timeout)
        protocol: Any = connection.protocol
        _reused.set(protocol in self._used)
        self._used.add(protocol)
        return connection


@functools.lru_cache(maxsize=64)
def _client_timeout(timeouts: Timeouts) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=timeouts.total, connect=timeouts.connect, sock_read=timeouts.sock_read)


class AiohttpTransport:
    """Keeps connections to one server open, on one event loop.

    A connection error retires the session: requests on their way finish on it, the next one starts a new one.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._session: _Session | None = None
        self._retired: set[_Session] = set()
        self._closed = False
        self._sent_key: Secret | None = None
        self._opening: asyncio.Lock = asyncio.Lock()
        _inherited_by_forks.add(self)

    async def request(
        self, method: str, url: str, body: bytes | None, timeouts: Timeouts, most: int
    ) -> Reply | Broken:
        """Sends one request over a kept connection."""
        session = self._session or await self._open()
        session.users += 1
        try:
            outcome = await self._exchange(
                session.client, method, url, body, timeouts, most, self._fresh_key()
            )
        finally:
            session.users -= 1
            if session.retired and not session.users:
                await self._discard(session)
        if isinstance(outcome, Broken) and (
            outcome.how in _SUSPECT or (outcome.reused and outcome.how in _SILENT)
        ):
            await self._retire(session)
        return outcome

    def secrets(self) -> list[str]:
        """What no message may repeat: keys as they were sent, values of headers, the proxy."""
        target, hidden = self._target, [value for _, value in self._target.headers]
        hidden += [key for key in (target.api_key, self._sent_key) if isinstance(key, Secret)]
        proxies = [target.proxy.reveal()] if target.proxy else []
        if target.trust_env:
            proxies += [url for name, url in urllib.request.getproxies().items() if name != "no"]
        return [secret.reveal() for secret in hidden] + [
            part for proxy in proxies for part in _secrets_of(proxy)
        ]

    async def close(self) -> None:
        """Closes every connection."""
        self._closed = True
        sessions = [*self._retired, *([self._session] if self._session else [])]
        self._session = None
        for session in sessions:
            await self._discard(session)

    def abandon(self) -> None:
        """Closes every connection at once, on the loop or after its end, and without a warning."""
        self._closed = True
        sessions = [*self._retired, *([self._session] if self._session else [])]
        self._session = None
        self._retired.clear()
        for session in sessions:
            _bury(session.client)

    async def _exchange(
        self,
        client: aiohttp.ClientSession,
        method: str,
        url: str,
        body: bytes | None,
        timeouts: Timeouts,
        most: int,
        key: dict[str, str] | None,
    ) -> Reply | Broken:
        answered = False
        _reused.set(False)
        try:
            async with client.request(
                method,
                url,
                data=body,
                headers=key,
                timeout=_client_timeout(timeouts),
                allow_redirects=False,
                proxy=self._target.proxy.reveal() if self._target.proxy else None,
            ) as response:
                answered = True
                content = await _read(response, most)
                if isinstance(content, Broken):
                    return content
                return Reply(status=response.status, headers=response.headers, body=content)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
            # Translated, not chained: an aiohttp error and its traceback hold headers with the key.
            return _translate(error, answered=answered, reused=_reused.get())

    def _fresh_key(self) -> dict[str, str] | None:
        """The header of a key that may change from request to request."""
        key = self._target.api_key
        if not callable(key):
            return None
        try:
            value = key()
        except Exception:
            raise
        except BaseException as error:  # it must end one call, not the loop that all share
            raise UsageError(f"the function passed as api_key raised {type(error).__name__}") from None
        self._sent_key = check_key(value, "what the function passed as api_key returned")
        return {"Authorization": f"Bearer {self._sent_key.reveal()}"}

    async def _open(self) -> _Session:
        async with self._opening:
            if self._session is None:
                client = await _client(self._target)
                if self._closed:  # in the meantime
                    _bury(client)
                    raise UsageError(CLOSED)
                self._session = _Session(client)
                logger.info("new session for %s", self._target.base_url)
            return self._session

    async def _retire(self, session: _Session) -> None:
        if self._session is session:
            self._session = None
        if not session.retired:
            session.retired = True
            self._retired.add(session)
            if not session.users:
                await self._discard(session)

    async def _discard(self, session: _Session) -> None:
        self._retired.discard(session)
        with contextlib.suppress(OSError, aiohttp.ClientError):
            await session.client.close()


def _secrets_of(proxy: str) -> list[str]:
    """What a proxy's URL hides, as it stands there and as it is sent."""
    parts = urlsplit(proxy)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not user + password:
        return []
    sent = {
        base64.b64encode(f"{user}:{password}".encode(code, "replace")).decode()
        for code in ("utf-8", "latin1")
    }
    return [proxy, password or user, *sent]


async def _client(target: Target) -> aiohttp.ClientSession:
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": f"embedwire/{__version__}",
    }
    if target.api_key is not None and not callable(target.api_key):
        headers["Authorization"] = f"Bearer {target.api_key.reveal()}"
    headers.update((name, value.reveal()) for name, value in target.headers)
    return aiohttp.ClientSession(
        connector=_Connector(await _tls(target)),
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=target.trust_env,
        read_bufsize=_READ_BUFFER,
    )


async def _tls(target: Target) -> ssl.SSLContext | bool:
    if isinstance(target.ssl, (bool, ssl.SSLContext)):
        return target.ssl
    if target.ssl is None and not target.base_url.startswith("https:"):
        return True
    # Reading the authorities takes about 120 ms, so not on the loop.
    return await asyncio.to_thread(ssl.create_default_context, cafile=target.ssl)


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


def _bury(client: aiohttp.ClientSession) -> None:
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


_inherited_by_forks: weakref.WeakSet[AiohttpTransport] = weakref.WeakSet()


def _leak_in_child() -> None:
    """Keeps a forked child from ever closing, or collecting, what belongs to its parent.

    Both share the sockets and the epoll: closing here would unregister them there, and hang the parent.
    """
    for transport in list(_inherited_by_forks):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(transport))
    _inherited_by_forks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leak_in_child)


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes | Broken:
    """The body, under the cap; an error's is cut there. Compressed ones are refused: 500 KB can become 500 MB."""
    refused = response.status >= 300
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        response.close()
        return Broken(how=Break.COMPRESSED)
    chunks: list[bytes] = []
    size = response.content_length or 0
    if size <= most or refused:
        size = 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > most:
                break
    if size > most:
        response.close()
    if size > most and not refused:
        return Broken(how=Break.TOO_LARGE, detail=f"{most} bytes")
    return b"".join(chunks) if len(chunks) != 1 else chunks[0]


def _translate(error: BaseException, *, answered: bool, reused: bool) -> Broken:
    how, detail = _cause(error, answered=answered)
    return Broken(how=how, reused=reused, detail=detail)


def _cause(error: BaseException, *, answered: bool) -> tuple[Break, str]:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Break.CONNECT_TIMEOUT, ""
    if isinstance(error, aiohttp.SocketTimeoutError):
        return Break.READ_TIMEOUT, ""
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):  # also an OSError, so before those
        return Break.TOTAL_TIMEOUT, ""
    if isinstance(error, (aiohttp.ClientConnectorDNSError, UnicodeError)):  # or a label that no name can have
        return Break.NAME, ""
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        cause = getattr(error, "certificate_error", None) or error.__cause__ or error
        return Break.TLS, getattr(cause, "verify_message", "") or type(cause).__name__
    if isinstance(error, aiohttp.ClientConnectorError):
        return Break.REFUSED, os.strerror(error.os_error.errno) if error.os_error.errno else ""
    if isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL)):
        return Break.NOT_HTTP, ""
    if isinstance(error, aiohttp.ClientPayloadError):
        return Break.CUT, ""
    if answered:
        return Break.CUT, ""
    return Break.CLOSED, ""
