"""The FastAPI example under load, with a restart of its embedding server in the middle."""

from __future__ import annotations

import asyncio

import aiohttp

from embedwire.testing import EmbeddingServer
from tests.helpers import numbered
from tests.tools.test_examples import application

USERS, ROUNDS = 100, 6


async def test_a_restart_costs_no_request() -> None:
    """A hundred users search all the time; the embedding server is away for a while, and each of them is answered."""
    with EmbeddingServer(latency=0.01) as server, application(server.url) as app:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def search(text: str) -> tuple[int, str]:
                body = {"query": text, "texts": [f"{text} a", text, f"{text} b"]}
                async with session.post(f"{app.url}/search", json=body) as reply:
                    answer = await reply.json()
                    return reply.status, answer[0]["text"] if reply.status == 200 else answer["detail"]

            async def user(name: str) -> list[tuple[int, str]]:
                return [await search(f"{name} {number}") for number in range(ROUNDS)]

            assert await search("warm") == (200, "warm")
            users = [asyncio.create_task(user(name)) for name in numbered(USERS, "user")]
            await asyncio.to_thread(server.wait, lambda: len(server.batches) > 40)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(1)  # so that it is found to be gone
            before = len(server.batches)
            await asyncio.to_thread(server.start)
            for name, answers in zip(numbered(USERS, "user"), await asyncio.gather(*users), strict=True):
                assert answers == [(200, f"{name} {number}") for number in range(ROUNDS)]
    assert before < len(server.batches)  # the restart was in the middle
