"""A server that says what it likes when it likes: also on a connection on which nobody asked."""

from __future__ import annotations

import asyncio
import json
import ssl as tls
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from embedwire.testing import vector

DIMENSIONS = 8


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        path: Without host, also where a proxy was asked.
        headers: Names in lower case.
        body: As sent.
        line: The connection that it came on.
        nth: Its place on that connection, from 1.
    """

    path: str
    headers: dict[str, str]
    body: bytes
    line: asyncio.StreamWriter
    nth: int

    @property
    def embeds(self) -> bool:
        """Whether it asks for vectors."""
        return self.path.endswith("/embeddings")

    @property
    def json(self) -> Any:
        """The body decoded."""
        return json.loads(self.body)

    @property
    def texts(self) -> list[str]:
        """The texts to embed."""
        given: list[str] = self.json["input"]
        return given


def reply(body: object, status: str = "200 OK", headers: str = "") -> bytes:
    """A whole reply of HTTP; `headers` is lines that each end in a line break of HTTP."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
    return head.encode() + content


def embeddings(texts: Sequence[str], code: Callable[[list[float]], object] = list) -> bytes:
    """The right reply for some texts, each vector written by `code`."""
    rows = [code(vector(text, DIMENSIONS)) for text in texts]
    data = [{"index": index, "object": "embedding", "embedding": row} for index, row in enumerate(rows)]
    return reply({"object": "list", "model": "m", "data": data})


def right_reply(asked: Asked) -> bytes:
    """What a server without a flaw, and of no known software, would say."""
    if asked.embeds:
        return embeddings(asked.texts)
    return reply({"data": [{"id": "m"}]} if asked.path.endswith("/models") else {})


class RawServer:
    """A server on the running loop, whose replies are made by a function: `async with RawServer(handle) as server`.

    Args:
        handle: Gets each request, and returns the bytes to send, or None where nothing is to be sent.
        ssl: Speak TLS.

    Attributes:
        asked: Requests for vectors, in order.
        lines: The connections that are open.
        connections: Connections ever accepted.
        in_flight: Requests for vectors that were not answered.
        peak: The most that this ever was.
    """

    def __init__(
        self,
        handle: Callable[[Asked], bytes | Awaitable[bytes | None] | None] = right_reply,
        *,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        self.handle = handle
        self.asked: list[Asked] = []
        self.lines: list[asyncio.StreamWriter] = []
        self.connections = self.in_flight = self.peak = 0
        self._ssl = ssl
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"

    def say(self, data: bytes) -> None:
        """Sends something that nobody asked for on every open connection, at once."""
        for line in self.lines:
            line.write(data)

    def hang_up(self) -> None:
        """Closes every connection, after what was said on it."""
        for line in self.lines:
            line.close()

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._ssl, limit=2**24)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, line: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.lines.append(line)
        task = asyncio.ensure_future(self._serve(reader, line))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, line: asyncio.StreamWriter) -> None:
        nth = 0
        try:
            with suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    nth += 1
                    said = await self._answer(await _read(reader, line, nth))
                    if said is not None:
                        line.write(said)
                        await line.drain()
        finally:
            self.lines.remove(line)
            line.close()

    async def _answer(self, asked: Asked) -> bytes | None:
        if asked.embeds:
            self.asked.append(asked)
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
        try:
            said = self.handle(asked)
            return said if isinstance(said, bytes) or said is None else await said
        finally:
            self.in_flight -= asked.embeds


async def _read(reader: asyncio.StreamReader, line: asyncio.StreamWriter, nth: int) -> Asked:
    start, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (header.split(":", 1) for header in rest if header)
    headers = {name.lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    where = start.split(" ")[1]
    path = "/" + where.split("/", 3)[3] if "://" in where else where
    return Asked(path, headers, body, line, nth)
