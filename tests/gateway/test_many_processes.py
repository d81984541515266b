"""Many processes behind one gateway push a server no harder than one client does."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest

from embedwire import EmbeddingClient
from embedwire.testing import EmbeddingServer
from tests.gateway.serving import process
from tests.helpers import numbered, right

CALLER = """
    import asyncio, json, sys
    import aiohttp, numpy as np
    from embedwire.testing import is_vector_of

    async def call(session, url, name):
        for turn in range(3):
            texts = [f"{name} {turn} {number}" for number in range(1 + turn)]
            async with session.post(url + "/v1/embeddings", json={"input": texts, "model": "m"}) as response:
                rows = (await response.json())["data"]
            rows = [np.array(row["embedding"], np.float32) for row in rows]
            assert all(map(is_vector_of, rows, texts)) and len(rows) == len(texts)

    async def main(url, name):
        connector = aiohttp.TCPConnector(limit=50)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(call(session, url, f"{name} {caller}") for caller in range(50)))
        print("right")

    asyncio.run(main(*sys.argv[1:]))
"""
PROCESSES = 8


@pytest.mark.slow
async def test_push_no_harder_than_one_client() -> None:
    """8 processes of 50 callers, and never more in flight at a llama.cpp than one client of ours would have."""
    async with EmbeddingServer(slots=4, latency=0.01, latency_per_text=0.002) as server:
        async with EmbeddingClient(server.url, model="m") as client:
            queries = [client.embed_query(f"query {number}") for number in range(300)]
            texts = numbered(1000)
            vectors, *_ = await asyncio.gather(client.embed_array(texts), *queries)
            assert right(vectors, texts)
        allowed = server.peak_in_flight
        server.peak_in_flight = 0
        with process(server.url) as (_, url):
            script = textwrap.dedent(CALLER)
            callers = [
                await asyncio.create_subprocess_exec(
                    sys.executable, "-c", script, url, str(number), stdout=subprocess.PIPE
                )
                for number in range(PROCESSES)
            ]
            ended = await asyncio.gather(*(caller.communicate() for caller in callers))
        assert [out for out, _ in ended] == [b"right\n"] * PROCESSES
        assert 2 <= server.peak_in_flight <= allowed
        assert allowed <= 4 + 4  # its slots, and its threads beyond them
