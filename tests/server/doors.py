"""Clients that ask for nothing but vectors, and one that knocks at all doors of a client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from embedwire import EmbeddingClient, ServerInfo, SharedEmbeddingClient
from embedwire.testing import EmbeddingServer

KEY = "sk-never-to-be-seen"


def shared(server: EmbeddingServer, **arguments: Any) -> SharedEmbeddingClient:
    """A client for every thread and loop that asks for nothing but vectors."""
    return SharedEmbeddingClient(server.url, **{"model": "m", "encoding": "float", **arguments})


def own(server: EmbeddingServer, **arguments: Any) -> EmbeddingClient:
    """A client for one loop that asks for nothing but vectors."""
    return EmbeddingClient(server.url, **{"model": "m", "encoding": "float", **arguments})


def client_of(url: str, **arguments: Any) -> EmbeddingClient:
    """A client with a key that asks for nothing but vectors."""
    return EmbeddingClient(url, **{"model": "m", "encoding": "float", "api_key": KEY, **arguments})


class Doors:
    """Every client through the same three async methods, so that one test can knock at all of them."""

    def __init__(self, kind: str, server: EmbeddingServer, **arguments: Any) -> None:
        self.client = own(server, **arguments) if kind == "own" else shared(server, **arguments)
        self._kind = kind

    async def _call(self, name: str, *arguments: Any) -> Any:
        if self._kind == "own":
            return await getattr(self.client, name)(*arguments)
        if self._kind == "async":
            return await getattr(self.client, "a" + name)(*arguments)
        return await asyncio.to_thread(getattr(self.client, name), *arguments)

    async def embed(self, *arguments: Any) -> list[list[float]]:
        """Embed texts."""
        return await self._call("embed", *arguments)  # type: ignore[no-any-return]

    async def embed_array(self, *arguments: Any) -> Any:
        """Embed texts into an array."""
        return await self._call("embed_array", *arguments)

    async def embed_query(self, text: str) -> list[float]:
        """Embed a query."""
        return await self._call("embed_query", text)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close the client."""
        await self._call("close")

    async def pieces(self, *arguments: Any, **options: Any) -> list[tuple[int, Any]]:
        """Stream texts to the end."""
        if self._kind == "sync":
            return await asyncio.to_thread(lambda: list(self.client.stream(*arguments, **options)))
        stream = self.client.stream if self._kind == "own" else self.client.astream  # type: ignore[union-attr]
        return [piece async for piece in stream(*arguments, **options)]

    async def wait_ready(self, timeout: float) -> ServerInfo:
        """Wait until the server embeds."""
        if self._kind == "async":
            return await self.client.await_ready(timeout)  # type: ignore[union-attr, no-any-return]
        return await self._call("wait_ready", timeout)  # type: ignore[no-any-return]


Open = Callable[..., Doors]  # what the fixture `open_doors` gives
