"""The dispatcher, on real sockets: who goes when, together with whom, and what becomes of who leaves."""

from __future__ import annotations

import asyncio
import statistics

import pytest

from embedwire import BatchLimits, EmbeddingClient
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.testing import EmbeddingServer, is_vector_of
from tests.helpers import now, numbered, right, simulated

TEXTS = numbered(1000)


# Batches form when a slot is free.


def test_a_crowd_of_queries_travels_together() -> None:
    """2000 concurrent queries through the LangChain adapter take fewer than 200 requests, 8 at once at most."""
    with EmbeddingServer(slots=4, latency=0.02, latency_per_text=0.001) as server:
        embeddings = EmbedwireEmbeddings(base_url=server.url, model="m")
        queries = numbered(2000, "query")

        async def ask() -> list[list[float]]:
            return await asyncio.gather(*[embeddings.aembed_query(query) for query in queries])

        assert right(asyncio.run(ask()), queries)
        assert len(server.batches) < 200
        assert server.peak_in_flight <= 8
        embeddings.close()


@simulated
async def test_a_crowd_of_queries_takes_a_tenth_of_the_time() -> None:
    """2000 concurrent queries take about a tenth of the time of one request each; a lone one is not delayed."""
    async with (
        EmbeddingServer(slots=4, latency=0.02, latency_per_text=0.001) as server,
        EmbeddingClient(server.url, model="m") as client,
    ):
        begin = now()
        await client.embed_query("alone")
        assert now() - begin == pytest.approx(0.021, abs=0.002)
        begin = now()
        await asyncio.gather(*[client.embed_query(text) for text in [*TEXTS, *(t + "!" for t in TEXTS)]])
        assert now() - begin < 0.12 * 2000 * 0.021 / 4


@simulated
async def test_bulk_does_not_starve_queries() -> None:
    """Under a bulk call of 20,000 texts the 99th percentile of a query is at most two batch times over idle."""
    async with (
        EmbeddingServer(slots=4, latency=0.02, latency_per_text=0.001) as server,
        EmbeddingClient(server.url, model="m", batch_size=5) as client,
    ):
        await client.wait_ready()
        begin = now()
        await client.embed_query("idle")
        idle = now() - begin
        bulk = asyncio.create_task(client.embed_array(numbered(20_000, "document")))
        waits = []
        while not bulk.done():
            begin = now()
            await client.embed_query(f"query {len(waits)}")
            waits.append(now() - begin)
            await asyncio.sleep(0.05 - waits[-1] if waits[-1] < 0.05 else 0)
        assert len(waits) > 100
        assert statistics.quantiles(waits, n=100)[98] <= idle + 2 * 0.025 + 0.001
        await bulk


async def test_queries_do_not_starve_bulk() -> None:
    """While more queries wait than the server can take, a bulk call still goes forward."""
    async with (
        EmbeddingServer(slots=1) as server,
        EmbeddingClient(server.url, model="m", concurrency=1, batch_size=1) as client,
    ):
        with server.hold():
            queries = [asyncio.create_task(client.embed_query(f"q{number}")) for number in range(40)]
            await server.wait_for(lambda: server.in_flight == 1)
            bulk = asyncio.create_task(client.embed(["document"]))
            await asyncio.sleep(0)  # lets it submit
        await asyncio.gather(bulk, *queries)
        assert server.batches.index(["document"]) <= 6


async def test_bulk_calls_take_turns() -> None:
    """Bulk calls share fairly: a short one that comes second does not wait for a long one to finish."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", batch_size=5, concurrency=1) as client,
    ):
        long = asyncio.create_task(client.embed(TEXTS[:100]))
        await server.wait_for(lambda: len(server.batches) > 0)
        short = await client.embed(numbered(10, "short"))
        assert len(server.batches) < 10
        assert not long.done()
        assert right(short, numbered(10, "short"))
        assert right(await long, TEXTS[:100])


async def test_small_calls_share_a_request() -> None:
    """Documents of several calls that wait at the same time go in one request, each vector to its caller."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", batch_size=8, concurrency=1) as client,
    ):
        with server.hold():
            first = asyncio.create_task(client.embed(["first"]))
            await server.wait_for(lambda: server.in_flight == 1)
            calls = [asyncio.create_task(client.embed([f"a{number}", f"b{number}"])) for number in range(4)]
            await asyncio.sleep(0)
        await first
        for number, call in enumerate(calls):
            assert right(await call, [f"a{number}", f"b{number}"])
        assert [len(batch) for batch in server.batches] == [1, 8]


async def test_equal_texts_travel_once() -> None:
    """A text that waits or is on its way is not sent again, but for a query, which waits for no larger request."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", batch_size=2, concurrency=1) as client,
    ):
        with server.hold():
            calls = [asyncio.create_task(client.embed(["x", "y", "x", "z", "x"])) for _ in range(5)]
            await server.wait_for(lambda: server.in_flight == 1)
            calls.append(asyncio.create_task(client.embed_query("x")))  # type: ignore[arg-type]
            await asyncio.sleep(0)
        for call in calls[:5]:
            assert right(await call, ["x", "y", "x", "z", "x"])
        assert is_vector_of(await calls[5], "x")
        assert server.batches == [["x", "y"], ["x"], ["z"]]


async def test_equal_texts_of_one_call_share_a_request_with_others() -> None:
    """A text that stands twice in a call, in a batch with another call's text, gets its own vector twice."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", batch_size=2, concurrency=1) as client,
    ):
        with server.hold():
            first = asyncio.create_task(client.embed(["a", "b"]))
            await server.wait_for(lambda: server.in_flight == 1)
            calls = [["c", "c"], ["d", "c", "d"], ["d"]]
            others = [asyncio.create_task(client.embed(texts)) for texts in calls]
            await asyncio.sleep(0)
        assert right(await first, ["a", "b"])
        for texts, other in zip(calls, others, strict=True):
            assert right(await other, texts)


async def test_a_query_overtakes_with_a_text_that_waits_in_bulk() -> None:
    """A query for a text that waits far back in a bulk call goes first, and the text is still sent once."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", batch_size=5, concurrency=1) as client,
    ):
        with server.hold():
            bulk = asyncio.create_task(client.embed(TEXTS[:50]))
            await server.wait_for(lambda: server.in_flight == 1)
            query = asyncio.create_task(client.embed_query("text 40"))
            await asyncio.sleep(0)
        await query
        assert server.batches[1] == ["text 40"]
        assert right(await bulk, TEXTS[:50])
        assert sum(batch.count("text 40") for batch in server.batches) == 1


async def test_characters_limit_a_batch() -> None:
    """No request has more characters than asked for, but for a single text that is longer by itself."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", batch_size=BatchLimits(texts=None, chars=10)) as client,
    ):
        texts = ["aaaa", "bbbb", "cccc", "d" * 30, "e", "f"]
        assert right(await client.embed(texts), texts)
        assert sorted(len("".join(batch)) for batch in server.batches) == [2, 4, 8, 30]


# Callers who go.


async def test_a_cancelled_calls_texts_vanish() -> None:
    """What only a cancelled call wanted is never sent, and its request on the way is dropped with its socket."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", batch_size=5, concurrency=1) as client,
    ):
        with server.hold():
            call = asyncio.create_task(client.embed(TEXTS[:50]))
            await server.wait_for(lambda: server.in_flight == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await server.wait_for(lambda: len(server.aborted) == 1)
        assert right(await client.embed(["next"]), ["next"])
        assert server.batches == [TEXTS[:5], ["next"]]


async def test_a_shared_request_outlives_one_of_its_callers() -> None:
    """A request goes on as long as one of its callers waits."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", concurrency=1) as client,
    ):
        with server.hold():
            leaver = asyncio.create_task(client.embed(["a", "b"]))
            await server.wait_for(lambda: server.in_flight == 1)
            stayer = asyncio.create_task(client.embed(["b"]))
            await asyncio.sleep(0)
            leaver.cancel()
            await asyncio.sleep(0)
        assert right(await stayer, ["b"])
        assert server.batches == [["a", "b"]]
        assert not server.aborted


async def test_slots_are_free_again_after_cancellations() -> None:
    """Calls cancelled at once, before their requests have even begun, leave no slot taken."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", concurrency=2) as client,
    ):
        for _ in range(5):
            calls = [asyncio.create_task(client.embed([f"gone {number}"])) for number in range(10)]
            await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        assert right(await asyncio.wait_for(client.embed(TEXTS[:20]), 10), TEXTS[:20])
