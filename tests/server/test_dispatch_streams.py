"""Streams through the dispatcher, on real sockets: in order, bounded, abandoned, with bad texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from embedwire import EmbeddingClient, RequestError, SharedEmbeddingClient, TextRefused
from embedwire.testing import Answer, EmbeddingServer, Request, is_vector_of
from tests.helpers import numbered, right

TEXTS = numbered(1000)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_stream_is_in_order_and_bounded(asynchronous: bool) -> None:
    """A stream reads no further ahead than four times ``concurrency`` batches, and gives vectors in order."""
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        for text in TEXTS:
            read += 1
            yield text

    async def asource() -> AsyncIterator[str]:
        for text in source():
            await asyncio.sleep(0)
            yield text

    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", batch_size=5, concurrency=3) as client,
    ):
        taken = 0
        async for start, vectors in client.stream(asource() if asynchronous else source()):
            assert start == taken
            assert vectors.dtype == np.float32
            assert right(vectors, TEXTS[start : start + len(vectors)])
            taken += len(vectors)
            assert read <= taken + 5 * (4 * 3 + 1)
        assert taken == len(TEXTS)


async def test_a_stream_can_be_abandoned() -> None:
    """Leaving a stream half-way cancels what is under way, and reads nothing more."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", batch_size=5, concurrency=3) as client,
    ):
        stream = client.stream(iter(TEXTS))
        async for start, _ in stream:
            if start >= 20:
                break
        await stream.aclose()
        assert right(
            await client.embed(["next"]), ["next"]
        )  # on a connection of its own, after all that was sent
        await server.wait_for(lambda: server.in_flight == 0)
        assert len(server.batches) <= 5 + 4 * 3 + 1  # what was taken, what was read ahead, and the next one


@pytest.mark.parametrize("shared", [False, True], ids=["async", "sync"])
def test_a_stream_skips_bad_texts_when_told(shared: bool) -> None:
    """With ``on_error="skip"`` a stream goes on past bad texts and tells each by its index in the whole."""
    bad = {"text 7", "text 8", "text 99"}

    def script(request: Request) -> Answer | None:
        return Answer.too_large(9, 8) if request.embeds and bad & set(request.texts) else None

    with EmbeddingServer(script=script) as server:
        got: dict[int, Any] = {}
        if shared:
            with SharedEmbeddingClient(server.url, model="m") as client:
                stream = client.stream(iter(TEXTS[:100]), on_error="skip")
                for start, vectors in stream:
                    got.update(enumerate(vectors, start))
                failures = stream.failures
        else:

            async def run() -> dict[int, RequestError]:
                async with EmbeddingClient(server.url, model="m") as client:
                    stream = client.stream(iter(TEXTS[:100]), on_error="skip")
                    async for start, vectors in stream:
                        got.update(enumerate(vectors, start))
                    return stream.failures

            failures = asyncio.run(run())
    assert sorted(failures) == [7, 8, 99]
    assert all(error.index == index and f"texts[{index}]" in str(error) for index, error in failures.items())
    assert sorted(got) == [index for index in range(100) if index not in (7, 8, 99)]
    assert all(is_vector_of(row, TEXTS[index]) for index, row in got.items())


async def test_a_stream_raises_with_the_index_in_the_whole() -> None:
    """By default a stream stops at the first bad text, with its index among all texts and what was done around it."""

    def script(request: Request) -> Answer | None:
        return Answer.too_large(9, 8) if request.embeds and "text 42" in request.texts else None

    async with EmbeddingServer(script=script) as server, EmbeddingClient(server.url, model="m") as client:
        with pytest.raises(TextRefused) as caught:
            async for _ in client.stream(iter(TEXTS)):
                pass
        assert caught.value.index == 42
        assert caught.value.completed is not None
        assert caught.value.completed.indexes == [40, 41, 43, 44]


async def test_a_streams_source_may_fail() -> None:
    """What the source of a stream raises reaches the reader, after the vectors of what came before."""

    def source() -> Iterator[str]:
        yield from TEXTS[:10]
        raise OSError("disk")

    async with EmbeddingServer() as server, EmbeddingClient(server.url, model="m") as client:
        taken = 0

        async def take() -> None:
            nonlocal taken
            async for _, vectors in client.stream(source()):
                taken += len(vectors)

        with pytest.raises(OSError, match="disk"):
            await take()
        assert taken == 10
