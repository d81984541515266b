"""One bad text fails alone, on real sockets: by halving, with few requests more, and only for its owner."""

from __future__ import annotations

import asyncio
import json
import math

import pytest

from embedwire import BadReply, EmbeddingClient, RequestError, RetryPolicy, ServerRefused, TextRefused
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import numbered, right

TEXTS = numbered(1000)


@pytest.mark.parametrize("poison", [0, 13, 63])
@pytest.mark.parametrize(
    "failure",
    [
        Answer.too_large(600, 512),
        Answer.exceed_context(600, 512),
        Answer.error(400, "no"),
        Answer.error(500, "failed to encode response: json: unsupported value: NaN"),
        Answer.error(500, "something deterministic"),
    ],
    ids=["too_large", "context", "unnamed", "nan", "twice_the_same"],
)
async def test_a_poison_text_fails_alone(poison: int, failure: Answer) -> None:
    """One bad text in n costs at most 2·log2(n)+2 further requests; all others get their vectors."""
    texts = TEXTS[:64]
    async with (
        EmbeddingServer(
            script=lambda request: failure if request.embeds and texts[poison] in request.texts else None
        ) as server,
        EmbeddingClient(
            server.url,
            model="m",
            batch_size=64,
            concurrency=1,
            encoding="float",
            max_retries=RetryPolicy(base=0.001),
        ) as client,
    ):
        with pytest.raises(RequestError) as caught:
            await client.embed(texts)
        error = caught.value
        assert error.index == poison
        assert f"texts[{poison}] of 64" in str(error)
        assert error.completed is not None
        assert error.completed.indexes == [index for index in range(64) if index != poison]
        assert right(error.completed.vectors, [text for text in texts if text != texts[poison]])
        assert len(server.batches) - 1 <= 2 * math.log2(64) + 2
        assert sum(batch == [texts[poison]] for batch in server.batches) == 1


async def test_a_vector_of_nan_is_the_fault_of_its_text() -> None:
    """A NaN in one vector of a reply fails that text alone; the others are asked for again, and no vector is used."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", batch_size=16, concurrency=1, encoding="float") as client,
    ):
        server.script = lambda request: (
            Answer.vectors(
                lambda rows: [
                    [None] * 8 if text == "text 3" else row
                    for text, row in zip(request.texts, rows, strict=True)
                ]
            )
            if request.embeds
            else None
        )
        with pytest.raises(RequestError) as caught:
            await client.embed(TEXTS[:16])
        assert caught.value.index == 3
        assert caught.value.completed is not None
        assert right(caught.value.completed.vectors, [text for text in TEXTS[:16] if text != "text 3"])
        assert len(server.batches) == 3


async def test_nan_as_python_writes_it_is_the_fault_of_its_text() -> None:
    """A reply with a bare NaN, which is no JSON but what Python's own library writes, fails its text alone."""

    def script(request: Request) -> Answer | None:
        if not request.embeds:
            return None
        rows = [[float("nan") if text == "text 3" else 1.0] * 8 for text in request.texts]
        data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
        return Answer(body=json.dumps({"data": data}).encode())

    async with EmbeddingServer(script=script) as server, EmbeddingClient(server.url, model="m") as client:
        with pytest.raises(BadReply) as caught:
            await client.embed(TEXTS[:8])
        assert list(caught.value.failures) == [3]
        assert caught.value.completed is not None
        assert len(caught.value.completed.indexes) == 7


async def test_a_failure_reaches_only_its_owners() -> None:
    """A bad text in a shared request fails its own caller, by that caller's index, and nobody else."""
    async with (
        EmbeddingServer(
            script=lambda request: (
                Answer.too_large(600, 512) if request.embeds and "bad" in request.texts else None
            )
        ) as server,
        EmbeddingClient(server.url, model="m", batch_size=8, concurrency=1) as client,
    ):
        with server.hold():
            first = asyncio.create_task(client.embed(["first"]))
            await server.wait_for(lambda: server.in_flight == 1)
            good = asyncio.create_task(client.embed(["a", "b"]))
            bad = asyncio.create_task(client.embed(["c", "d", "bad"]))
            await asyncio.sleep(0)
        await first
        assert right(await good, ["a", "b"])
        with pytest.raises(TextRefused) as caught:
            await bad
        assert caught.value.index == 2
        assert (caught.value.tokens, caught.value.limit) == (600, 512)


async def test_a_server_that_answers_one_callers_texts_only() -> None:
    """A reply that leaves out one caller's texts fails that caller; the others in the request get their vectors."""

    def forgetful(request: Request) -> Answer | None:
        if not request.embeds:
            return None
        return Answer.items(
            lambda items: [
                item for item, text in zip(items, request.texts, strict=True) if not text.startswith("mine")
            ]
        )

    async with (
        EmbeddingServer(script=forgetful) as server,
        EmbeddingClient(server.url, model="m", batch_size=8, concurrency=1) as client,
    ):
        with server.hold():
            calls = [
                asyncio.create_task(client.embed([f"{who} 1", f"{who} 2"])) for who in ("a", "mine", "c")
            ]
            await asyncio.sleep(0)
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert right(done[0], ["a 1", "a 2"])
        assert isinstance(done[1], BadReply)
        assert right(done[2], ["c 1", "c 2"])


async def test_several_bad_texts_are_all_reported() -> None:
    """Each text that fails for a reason of its own is in ``failures``, by its index in the caller's list."""
    bad = {"text 2", "text 30", "text 31"}
    async with (
        EmbeddingServer(
            script=lambda request: (
                Answer.too_large(9, 8) if request.embeds and bad & set(request.texts) else None
            )
        ) as server,
        EmbeddingClient(server.url, model="m") as client,
    ):
        with pytest.raises(TextRefused) as caught:
            await client.embed(TEXTS[:50])
        assert list(caught.value.failures) == [2, 30, 31]
        assert all(error.index == index for index, error in caught.value.failures.items())
        assert caught.value.completed is not None
        assert len(caught.value.completed.indexes) == 47


@pytest.mark.parametrize("status", [400, 413, 422, 500])
async def test_a_server_that_refuses_everything_is_not_asked_for_ever(status: int) -> None:
    """A server that refuses every batch size gets a handful of requests; its words are in the error."""
    async with (
        EmbeddingServer(
            script=lambda request: Answer.error(status, "Thursday is closed") if request.embeds else None
        ) as server,
        EmbeddingClient(
            server.url, model="m", batch_size=32, concurrency=2, max_retries=RetryPolicy(base=0.001)
        ) as client,
    ):
        with pytest.raises((ServerRefused, RequestError), match="Thursday is closed"):
            await client.embed(TEXTS)
        assert len(server.batches) < 40
