"""The gateway in front of several servers of one model."""

from __future__ import annotations

import asyncio

import pytest

from embedwire.testing import Answer, EmbeddingServer, Request
from tests.gateway.serving import Start
from tests.helpers import numbered, right


class TestSeveral:
    """One address for all of them."""

    async def test_all_of_them_work(self, start: Start) -> None:
        """Each server embeds some of the texts, each vector is its text's, and the metrics tell of each server."""
        async with EmbeddingServer() as one, EmbeddingServer() as two:
            gateway, texts = await start(one.url, two.url), numbered(600)
            assert right(await gateway.vectors(texts), texts)
            told = await gateway.metrics()
            for server in (one, two):
                assert sum(map(len, server.batches)) > 100
                assert told[f'server_ready{{server="{server.url}/v1"}}'] == 1

    async def test_one_that_goes(self, start: Start) -> None:
        """A server that breaks off is no error of anybody's, and the gateway stays ready."""
        gone: list[Request] = []

        def script(request: Request) -> Answer | None:
            return Answer.reset() if gone else None

        async with EmbeddingServer(script=script) as one, EmbeddingServer() as two:
            gateway, texts = await start(one.url, two.url), numbered(200)
            assert right(await gateway.vectors(texts), texts)
            gone.append(one.requests[0])
            calls = [numbered(20, f"call {call}") for call in range(10)]
            for vectors, asked in zip(await asyncio.gather(*map(gateway.vectors, calls)), calls, strict=True):
                assert right(vectors, asked)
            status, _, _ = await gateway.ask("GET", "/health")
            assert status == 200

    @pytest.mark.parametrize(("same_model", "hedge"), [(0.9, None), (None, 0.5)])
    async def test_options(self, start: Start, same_model: float | None, hedge: float | None) -> None:
        """How much alike vectors must be, and when a query goes to a second server, are the client's options."""
        async with EmbeddingServer() as one, EmbeddingServer() as two:
            gateway = await start(one.url, two.url, same_model=same_model, hedge=hedge)
            assert right(await gateway.vectors("hello"), ["hello"])
