"""`embedwire serve` as tests meet it: around any model on a free port, and the client that asks it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from embedwire.serve import Encode, create_app

SECRET = "the patient is called Kim"


def vector_of(text: str) -> NDArray[np.float32]:
    """Eight numbers that only this text has, and that no short decimal equals."""
    return np.random.default_rng(list(text.encode())).standard_normal(8).astype(np.float32)


def encode(texts: list[str]) -> NDArray[np.float32]:
    """A model of eight dimensions that is loaded at once."""
    return np.stack([vector_of(text) for text in texts])


def words(text: str) -> int:
    """A tokenizer."""
    return len(text.split())


class Client:
    """One session with the server under test."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of a reply."""
        async with self.session.request(method, self.url + path, **options) as response:
            assert response.content_type == "application/json"
            return response.status, await response.json()

    async def embed(self, texts: str | list[str], **fields: Any) -> dict[str, Any]:
        """The reply to a request that succeeds."""
        status, reply = await self.ask("POST", "/v1/embeddings", json={"input": texts, **fields})
        assert status == 200, reply
        return reply

    async def refused(self, body: bytes | io.BytesIO, **options: Any) -> tuple[int, str]:
        """The status and the message of a refusal."""
        status, reply = await self.ask("POST", "/v1/embeddings", data=body, **options)
        assert reply["error"]["code"] == status
        return status, reply["error"]["message"]

    async def loaded(self) -> None:
        """Return when the server is ready."""
        while (await self.ask("GET", "/health"))[0] == 503:  # noqa: ASYNC110 - it is another's state
            await asyncio.sleep(0.01)


Start = Callable[..., Awaitable[Client]]


@asynccontextmanager
async def applications() -> AsyncIterator[Start]:
    """What serves any `encode` on a free port, until the end of the block."""
    runners = []
    async with aiohttp.ClientSession() as session:

        async def start(encode: Encode = encode, *, wait: bool = True, **options: Any) -> Client:
            app = create_app(encode, model="tiny", dimensions=8, **options)
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
            runners.append(runner)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            client = Client(f"http://127.0.0.1:{runner.addresses[0][1]}", session)
            if wait:
                await client.loaded()
            return client

        try:
            yield start
        finally:
            for runner in runners:
                await runner.cleanup()
