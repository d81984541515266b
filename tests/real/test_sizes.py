"""What a real llama.cpp is sent when texts become longer: sizes count what costs."""

from __future__ import annotations

import asyncio
import logging

import pytest

from embedwire import EmbeddingClient
from tests.helpers import numbered

PER_TEXT = 40  # characters that a text counts for besides its own


@pytest.mark.slow
async def test_batches_that_grew_with_titles_meet_long_texts(
    llama: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests that grew with titles carry no more work of long texts than twice what they had, or five texts."""
    caplog.set_level(logging.DEBUG, "embedwire")

    def sizes() -> list[int]:
        return [
            int(record.getMessage().split()[1])
            for record in caplog.records
            if record.getMessage().startswith("sending ")
        ]

    async with EmbeddingClient(llama, concurrency=1) as client:
        titles = numbered(800, "title")
        await client.embed_array(titles)
        grown = max(sizes())
        assert grown >= 5
        caplog.clear()
        long = [f"{number} " + "river stone garden winter market coffee " * 50 for number in range(12)]
        bulk = asyncio.create_task(client.embed_array(long))
        await asyncio.sleep(0)
        rows = await asyncio.gather(*map(client.embed_query, numbered(3, "query")))
        assert len(rows) == 3
        await bulk
        first = next(size for size in sizes() if size != len(rows))
        most = 2 * grown * (len(titles[-1]) + PER_TEXT)
        assert first <= max(5, most // (len(long[0]) + PER_TEXT))
        assert max(sizes()) <= grown
