"""Clients that are none of embedwire's: raw sockets and the standard library, for its test server and proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from typing import TYPE_CHECKING, Any

from embedwire.testing import EmbeddingServer, FaultProxy

if TYPE_CHECKING:
    from typing_extensions import Self

END = b"\r\n\r\n"


def post(texts: object, headers: str = "", **fields: Any) -> bytes:
    """An embedding request as bytes."""
    body = json.dumps({"input": texts, **fields}).encode()
    return (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


class Peer:
    """A raw client: sends bytes, reads replies."""

    def __init__(self, server: EmbeddingServer) -> None:
        self._server = server

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], Any]:
        """Send a request and read one reply with a length."""
        self.writer.write(request)
        head = (await self.reader.readuntil(END)).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split(" ")[1]), headers, json.loads(body or b"null")

    async def embed(self, *texts: str, **fields: Any) -> Any:
        """Ask for embeddings and return the decoded reply."""
        return (await self.ask(post(list(texts), **fields)))[2]

    async def rest(self, request: bytes) -> bytes:
        """Send a request and read until the connection ends."""
        self.writer.write(request)
        return await self.reader.read()


def call(server: EmbeddingServer | FaultProxy, texts: list[str], **headers: str) -> Any:
    """Ask for embeddings with urllib."""
    request = urllib.request.Request(
        server.url + "/v1/embeddings", json.dumps({"input": texts}).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)
