"""The one seam to the network.

Nothing above it sees an exception of aiohttp: a request ends in a `Reply` or a `Broken`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Protocol

import aiohttp

from embedwire._events.audience import Tell
from embedwire._events.log import log
from embedwire._http.passwords import password_of, secrets_of
from embedwire._http.sessions import Lives, Session, born, bury, new_client, proxy_of, reused
from embedwire._http.unpacking import Packed, Unpacker
from embedwire._http.wire import Break, Broken, Reply
from embedwire._settings.address import Target, check_key
from embedwire._settings.options import Timeouts
from embedwire._settings.secret import Secret
from embedwire._settings.settings import CLOSED
from embedwire.events import SessionOpened
from embedwire.exceptions import UsageError

MOST_KEYS = 32  # of a function that gives a new one each time, that no message may repeat
_LARGE = 2**20  # bytes of a body above which aiohttp wants a file
# The other kept connections may be dead too, or lead to an address that is not the host's any more.
_SUSPECT = {Break.REFUSED, Break.CLOSED, Break.CUT, Break.CONNECT_TIMEOUT}
_SILENT = {Break.READ_TIMEOUT, Break.TOTAL_TIMEOUT}  # on a used connection: the network may be gone, and back


class Transport(Protocol):
    """What the rest of the package needs of a network."""

    async def request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        timeouts: Timeouts,
        most: int,
        headers: Mapping[str, str] | None = None,
    ) -> Reply | Broken:
        """Sends one request; every failure of the network is a `Broken`, never an exception.

        Args:
            method: GET or POST.
            url: The whole URL, but for the user's query.
            body: JSON, or None.
            timeouts: Of this request.
            most: Bytes of the reply's body; a longer one is `Broken`.
            headers: Of this request, beside the user's, which count more.
        """
        ...

    def secrets(self) -> list[str]:
        """What no message may repeat."""
        ...

    @property
    def life(self) -> int:
        """How often every connection that there was is gone, so that the next one may lead to another server."""
        ...

    @property
    def restarts(self) -> int:
        """The same, however they ended, and once there is a new one: also where their end was announced."""
        ...

    async def close(self) -> None:
        """Closes every connection. A request still on its way ends as `Broken`."""
        ...


@functools.lru_cache(maxsize=64)
def _client_timeout(timeouts: Timeouts) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=timeouts.total, connect=timeouts.connect, sock_read=timeouts.sock_read)


class AiohttpTransport:
    """Keeps connections to one server open, on one event loop.

    A connection error retires the session: requests on their way finish on it, the next one starts a new one.
    Its state is the session in use, the retired ones that still have users, and the keys that were sent.

    Args:
        target: The server and who asks.
        tell: Told of new sessions.
    """

    def __init__(self, target: Target, tell: Tell = log) -> None:
        self._target = target
        self._tell = tell
        self._proxy = proxy_of(target)
        self._session: Session | None = None
        self._retired: set[Session] = set()
        self._closed = False
        self._lives = Lives()
        self._keys: dict[Secret, None] = {}  # in the order in which they were sent first
        self._opening: asyncio.Lock = asyncio.Lock()

    async def request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        timeouts: Timeouts,
        most: int,
        headers: Mapping[str, str] | None = None,
    ) -> Reply | Broken:
        """Sends one request over a kept connection."""
        key = self._fresh_key()
        if headers:
            key = self._beside_own(headers) | (key or {})
        try:
            session = self._session or await self._open()
        except (ssl.SSLError, OSError) as error:
            return Broken(how=Break.TLS, detail=type(error).__name__)
        session.users += 1
        try:
            outcome = await self._exchange(session.client, method, url, body, timeouts, most, key)
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
        """What no message may repeat: keys as they were sent, values of headers, passwords, the proxy."""
        hidden = [value for _, value in self._target.headers] + list(self._keys)
        if isinstance(self._target.api_key, Secret):
            hidden.append(self._target.api_key)
        sent = [secret.reveal() for secret in hidden]
        passwords = [password for value in sent for password in password_of(value)]
        return [*sent, *passwords, *self._target.endpoint.secrets(), *secrets_of(self._proxy)]

    @property
    def life(self) -> int:
        """How often every connection that there was is gone, so that the next one may lead to another server."""
        return self._lives.now()

    @property
    def restarts(self) -> int:
        """The same, however they ended, and once there is a new one: also where their end was announced."""
        return self._lives.restarts

    async def close(self) -> None:
        """Closes every connection, gracefully where it is given the time."""
        sessions = self._take_all()
        try:
            for session in sessions:
                await self._discard(session)
        finally:
            for session in sessions:
                bury(session.client)

    def close_now(self) -> None:
        """Closes every connection at once, on the loop or after its end, and without a warning."""
        for session in self._take_all():
            bury(session.client)

    def _take_all(self) -> list[Session]:
        self._closed = True
        sessions = [*self._retired, *([self._session] if self._session else [])]
        self._session = None
        self._retired.clear()
        return sessions

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
        reused.set(False)
        try:
            async with client.request(
                method,
                self._target.endpoint.with_query(url),
                data=io.BytesIO(body) if body and len(body) > _LARGE else body,
                headers=key,
                timeout=_client_timeout(timeouts),
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                answered = True
                content = await _read(response, most)
                if isinstance(content, Broken):
                    return content
                if response.headers.get("Connection", "").lower() == "close":
                    self._lives.announced()
                return Reply(
                    status=response.status,
                    headers=response.headers,
                    body=content,
                    life=born.get(),
                    reused=reused.get(),
                )
        except Exception as error:
            # Whatever it is: translated, not chained. Its frames hold the texts, and headers with the key.
            return _broken(error, answered=answered)

    def _fresh_key(self) -> dict[str, str] | None:
        """The header of a key that may change from request to request."""
        key = self._target.api_key
        if not callable(key):
            return None
        try:
            secret = check_key(key(), "what the function passed as api_key returned")
        except Exception:
            raise
        except BaseException as error:  # it must end one call, not the loop that all share
            raise UsageError(f"the function passed as api_key raised {type(error).__name__}") from None
        if secret not in self._keys and len(self._keys) >= MOST_KEYS:
            del self._keys[next(iter(self._keys))]
        self._keys[secret] = None
        return {"Authorization": f"Bearer {secret.reveal()}"}

    def _beside_own(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Headers, without those that the user has set otherwise."""
        own = {name.lower() for name, _ in self._target.headers}
        return {name: value for name, value in headers.items() if name.lower() not in own}

    async def _open(self) -> Session:
        async with self._opening:
            if self._session is None:
                client = await new_client(self._target, self._lives)
                if self._closed:  # in the meantime
                    bury(client)
                    raise UsageError(CLOSED)
                self._session = Session(client)
                self._tell(SessionOpened(server=self._target.base_url))
            return self._session

    async def _retire(self, session: Session) -> None:
        if self._session is session:
            self._session = None
        if not session.retired:
            session.retired = True
            self._retired.add(session)
            if not session.users:
                await self._discard(session)

    async def _discard(self, session: Session) -> None:
        self._retired.discard(session)
        with contextlib.suppress(OSError, aiohttp.ClientError):
            await session.client.close()


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes | Broken:
    """The body, unpacked, under the cap; an error's is cut there. 500 KB of gzip can become 500 MB."""
    refused = response.status >= 300
    try:
        content = await _unpacked(response, most, cut=refused)
    except Packed as packed:
        response.close()
        return b"" if refused else Broken(how=Break.COMPRESSED, detail=str(packed))
    if isinstance(content, Broken) and content.how is Break.TOO_LARGE:
        response.close()
    return content


async def _unpacked(response: aiohttp.ClientResponse, most: int, *, cut: bool) -> bytes | Broken:
    too_large = Broken(how=Break.TOO_LARGE, detail=f"{most} bytes")
    if (response.content_length or 0) > most and not cut:
        return too_large
    unpacker = Unpacker(response.headers.get("Content-Encoding", ""))
    chunks: list[bytes] = []
    room = most + 1
    async for chunk in response.content.iter_any():
        chunks.append(unpacker.feed(chunk, room))
        room -= len(chunks[-1])
        if room <= 0:
            if not cut:
                return too_large
            response.close()
            break
    if not (cut or unpacker.whole):
        return Broken(how=Break.CUT)
    return b"".join(chunks) if len(chunks) != 1 else chunks[0]


# In this order: a timeout is an OSError too. What is not listed is told by its name alone.
_CAUSES: tuple[tuple[tuple[type[Exception], ...], Break], ...] = (
    ((aiohttp.ConnectionTimeoutError,), Break.CONNECT_TIMEOUT),
    ((aiohttp.SocketTimeoutError,), Break.READ_TIMEOUT),
    ((asyncio.TimeoutError, TimeoutError), Break.TOTAL_TIMEOUT),
    ((aiohttp.ClientConnectorDNSError, UnicodeError), Break.NAME),  # or a label that no name can have
    ((aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError), Break.PROXY),
    ((aiohttp.ClientSSLError, ssl.SSLError), Break.TLS),
    ((aiohttp.ClientConnectorError,), Break.REFUSED),
    ((aiohttp.ClientResponseError, aiohttp.InvalidURL), Break.NOT_HTTP),
    ((aiohttp.ClientPayloadError,), Break.CUT),
)


# What OpenSSL calls an answer that is no TLS.
_NO_TLS = {
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
}


def _broken(error: Any, *, answered: bool) -> Broken:
    """What an exception means; its own words may hold texts and keys."""
    how = next((how for kinds, how in _CAUSES if isinstance(error, kinds)), None)
    if how is None:
        if not isinstance(error, (aiohttp.ClientError, OSError, ValueError)):
            return Broken(how=Break.OTHER, detail=type(error).__name__)
        how = Break.CUT if answered else Break.CLOSED
    system = getattr(error, "os_error", None)
    if how is Break.NAME and getattr(system, "errno", None) == socket.EAI_AGAIN:
        how = Break.LOOKUP
    if how is Break.TLS and getattr(system, "reason", None) in _NO_TLS:
        how = Break.PLAIN
    status = error.status if isinstance(error, aiohttp.ClientHttpProxyError) else None
    return Broken(how=how, reused=reused.get(), detail=_detail(error, how), status=status)


def _detail(error: Any, how: Break) -> str:
    """The operating system's words, which hold neither texts nor keys."""
    if how is Break.TLS:
        cause = getattr(error, "certificate_error", None) or error.__cause__ or error
        return getattr(cause, "verify_message", "") or type(cause).__name__
    if how in (Break.REFUSED, Break.PROXY) and isinstance(error, aiohttp.ClientConnectorError):
        return os.strerror(error.os_error.errno) if error.os_error.errno else ""
    return ""
