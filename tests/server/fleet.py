"""Several servers on the test's own loop, and clients of all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from embedwire import EmbeddingClient, ServerInfo
from embedwire._servers.agreement import SENTENCE
from embedwire.testing import Answer, EmbeddingServer


@asynccontextmanager
async def fleet(count: int, **options: Any) -> AsyncIterator[list[EmbeddingServer]]:
    """So many servers of one model."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(EmbeddingServer(**options)) for _ in range(count)]


def client_of(servers: list[EmbeddingServer], **options: Any) -> EmbeddingClient:
    """A client of all of them that asks for nothing but vectors."""
    urls = [server.url for server in servers]
    return EmbeddingClient(urls, **{"model": "m", "encoding": "float", **options})


def states(client: EmbeddingClient) -> list[str]:
    """Whether each server is in use."""
    return [info.state for info in client.server_info().servers]


def info_of(client: EmbeddingClient, server: EmbeddingServer) -> ServerInfo:
    """What is known of one of them."""
    return next(info for info in client.server_info().servers if info.url.startswith(server.url))


def texts_of(server: EmbeddingServer) -> int:
    """Texts that it was sent."""
    return sum(map(len, server.batches))


def comparisons(servers: list[EmbeddingServer]) -> int:
    """Requests that they got to be compared with each other."""
    return sum(SENTENCE in batch for server in servers for batch in server.batches)


def turned(vectors: list[list[float]]) -> list[list[float]]:
    """The vectors of another model of the same width."""
    return [row[1:] + row[:1] for row in vectors]


OTHER = Answer.vectors(turned)  # of another model
