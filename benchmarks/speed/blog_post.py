"""The client that embedwire began as, as its blog post described it."""

from __future__ import annotations

import asyncio

import aiohttp

BATCH = 5  # "larger ones made the server run out of memory"
PAUSES = (1, 2, 4)


class CustomHTTPEmbedding:
    """Batches of five, one after another, over one aiohttp session."""

    def __init__(self, base_url: str, model: str) -> None:
        self.base_url = base_url
        self.model = model
        self._session: aiohttp.ClientSession | None = None

    def _get_session(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=100, limit_per_host=30, ttl_dns_cache=300, keepalive_timeout=30
                ),
                timeout=aiohttp.ClientTimeout(total=120, connect=10, sock_read=60),
            )
        return self._session

    async def aembed(self, texts: list[str]) -> list[list[float]]:
        """One vector per text."""
        vectors: list[list[float]] = []
        for start in range(0, len(texts), BATCH):
            vectors += await self._with_retries(texts[start : start + BATCH])
        return vectors

    async def _with_retries(self, batch: list[str]) -> list[list[float]]:
        for attempt, pause in enumerate(PAUSES, 1):
            try:
                return await self._send(batch)
            except (aiohttp.ClientError, asyncio.TimeoutError):  # noqa: PERF203 - as the post has it
                if attempt == len(PAUSES):
                    raise
                await self.close()
                await asyncio.sleep(pause)
        raise AssertionError

    async def _send(self, batch: list[str]) -> list[list[float]]:
        body = {"input": batch, "model": self.model, "encoding_format": "float"}
        async with self._get_session().post(f"{self.base_url}/v1/embeddings", json=body) as response:
            response.raise_for_status()
            data = (await response.json())["data"]
        if len(data) != len(batch):
            raise ValueError(f"{len(data)} vectors for {len(batch)} texts")
        return [item["embedding"] for item in data]

    async def close(self) -> None:
        """Closes the session."""
        if self._session is not None:
            await self._session.close()
