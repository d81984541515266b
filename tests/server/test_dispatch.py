"""The dispatcher, on real sockets: who goes when, together with whom, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import statistics
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from embedwire import (
    BadReply,
    BatchLimits,
    DeadlineExceeded,
    EmbeddingClient,
    Overloaded,
    RequestError,
    RetryPolicy,
    ServerRefused,
    SharedEmbeddingClient,
    TextRefused,
)
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.testing import Answer, EmbeddingServer, Request, is_vector_of
from tests.servers import llamacpp

TEXTS = [f"text {number}" for number in range(1000)]


def right(vectors: Any, texts: list[str]) -> bool:
    """Whether each vector is its text's."""
    return len(vectors) == len(texts) and all(
        is_vector_of(row, text, tolerance=1e-6) for row, text in zip(vectors, texts, strict=True)
    )


def now() -> float:
    """The loop's time, simulated in tests marked looptime."""
    return asyncio.get_running_loop().time()


# Batches form when a slot is free.


def test_a_crowd_of_queries_travels_together() -> None:
    """2000 concurrent queries through the LangChain adapter take fewer than 200 requests, 8 at once at most."""
    with EmbeddingServer(slots=4, latency=0.02, latency_per_text=0.001) as server:
        embeddings = EmbedwireEmbeddings(base_url=server.url, model="m")
        queries = [f"query {number}" for number in range(2000)]

        async def ask() -> list[list[float]]:
            return await asyncio.gather(*[embeddings.aembed_query(query) for query in queries])

        assert right(asyncio.run(ask()), queries)
        assert len(server.batches) < 200
        assert server.peak_in_flight <= 8
        embeddings.close()


@pytest.mark.looptime
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


@pytest.mark.looptime
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
        bulk = asyncio.create_task(client.embed_array([f"document {number}" for number in range(20_000)]))
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
        short = await client.embed([f"short {number}" for number in range(10)])
        assert len(server.batches) < 10
        assert not long.done()
        assert right(short, [f"short {number}" for number in range(10)])
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
    """A text that is waiting or on its way is not sent again, within a call and across calls."""
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
        assert is_vector_of(await calls[5], "x", tolerance=1e-6)
        assert server.batches == [["x", "y"], ["z"]]


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


# One limit per server, whoever asks.


def test_equal_adapters_share_one_limit() -> None:
    """200 adapters with equal settings, from many threads and loops, open no more connections than ``concurrency``."""
    with EmbeddingServer(latency=0.002) as server:
        adapters = [EmbedwireEmbeddings(base_url=server.url, model="m", concurrency=4) for _ in range(200)]
        failed: list[str] = []

        def use(number: int) -> None:
            texts = [f"{number}-{index}" for index in range(5)]
            if number % 2:
                vectors = adapters[number].embed_documents(texts)
            else:
                vectors = asyncio.run(adapters[number].aembed_documents(texts))
            if not right(vectors, texts):
                failed.append(str(number))

        threads = [threading.Thread(target=use, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert server.peak_in_flight <= 4
        assert server.connections <= 4
        for adapter in adapters:
            adapter.close()
        server.wait(lambda: server.open_connections == 0)


def test_the_smallest_number_holds_for_all() -> None:
    """Clients with different settings at one server together never exceed the smallest ``concurrency`` among them."""
    with (
        EmbeddingServer(latency=0.002) as server,
        SharedEmbeddingClient(server.url, model="m", concurrency=2) as careful,
        SharedEmbeddingClient(server.url, model="m", concurrency=16, batch_size=1) as bold,
    ):
        both: list[Any] = []
        held = server.hold()
        first = threading.Thread(target=lambda: both.append(careful.embed(TEXTS[:100])))
        first.start()
        server.wait(lambda: server.in_flight == 2)
        second = threading.Thread(target=lambda: both.append(bold.embed(TEXTS[:100])))
        second.start()
        held.open()
        first.join()
        second.join()
        assert all(right(vectors, TEXTS[:100]) for vectors in both)
        assert len(both) == 2
        assert server.peak_in_flight == 2 or len(server.batches) > 100


@pytest.mark.looptime
async def test_a_full_queue_makes_callers_wait() -> None:
    """Beyond ``max_queued`` a caller waits until there is room, and is served then."""
    async with (
        EmbeddingServer(latency=1) as server,
        EmbeddingClient(server.url, model="m", max_queued=10, batch_size=5, concurrency=1) as client,
    ):
        calls = [asyncio.create_task(client.embed(TEXTS[10 * n : 10 * n + 10])) for n in range(4)]
        for number, call in enumerate(calls):
            assert right(await call, TEXTS[10 * number : 10 * number + 10])
        assert server.batches == [TEXTS[at : at + 5] for at in range(0, 40, 5)]


async def test_a_full_queue_is_said() -> None:
    """With ``on_full="raise"`` a call beyond ``max_queued`` fails at once, and nothing of it is sent."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", max_queued=10, on_full="raise", concurrency=1) as client,
    ):
        with server.hold():
            call = asyncio.create_task(client.embed(TEXTS[:8]))
            await server.wait_for(lambda: server.in_flight == 1)
            with pytest.raises(Overloaded, match="max_queued=10"):
                await client.embed(["one", "two", "three"])
        assert right(await call, TEXTS[:8])
        assert right(await client.embed(["one"]), ["one"])
        assert len(server.batches) == 3


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


@pytest.mark.looptime
@pytest.mark.parametrize("trouble", ["slow", "dripping", "throttled", "queued", "failing"])
async def test_the_deadline_covers_everything(trouble: str) -> None:
    """A call ends within 0.25 s of its deadline, whatever it is that takes so long, and keeps what was done."""
    answers: dict[str, Callable[[Request], Answer | None]] = {
        "slow": lambda request: None if "text 0" in request.texts else Answer(delay=100),
        "dripping": lambda request: None if "text 0" in request.texts else Answer(drip=1),
        "throttled": lambda request: None if "text 0" in request.texts else Answer.throttled(1),
        "queued": lambda request: None if "text 0" in request.texts else Answer(delay=2.0),
        "failing": lambda request: None if "text 0" in request.texts else Answer.error(502, "no"),
    }
    async with (
        EmbeddingServer(
            script=lambda request: answers[trouble](request) if request.embeds else None
        ) as server,
        EmbeddingClient(
            server.url,
            model="m",
            deadline=5,
            concurrency=1,
            max_retries=RetryPolicy(attempts=100, base=1, jitter=False, cap=1),
        ) as client,
    ):
        begin = now()
        with pytest.raises(RequestError) as caught:
            await client.embed(TEXTS[:40])
        assert now() - begin <= 5.25
        if trouble not in ("throttled", "failing"):  # these give up when the next try could not end in time
            assert isinstance(caught.value, DeadlineExceeded)
            assert now() - begin >= 4.75
        assert caught.value.completed is not None
        assert caught.value.completed.indexes[:5] == [0, 1, 2, 3, 4]
        assert right(caught.value.completed.vectors, [TEXTS[i] for i in caught.value.completed.indexes])
        sent = len(server.batches)
        await asyncio.sleep(200)
        assert len(server.batches) == sent


# Limits are learned.


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (422, "batch size {n} > maximum allowed batch size 32"),
        (413, "batch size {n} > maximum allowed batch size 32"),
        (400, "batch size is invalid, it should not be larger than 32.: input.contents"),
        (400, "the number of inputs must not exceed 32"),
        (400, "'input' must have at most 32 items"),
    ],
)
async def test_a_named_cap_is_learned(status: int, words: str) -> None:
    """A server with a cap that nobody told us of fails no caller, and after its first refusal no request exceeds it."""

    def cap(request: Request) -> Answer | None:
        count = len(request.texts) if request.embeds else 0
        return Answer.error(status, words.format(n=count)) if count > 32 else None

    async with (
        EmbeddingServer(script=cap) as server,
        EmbeddingClient(server.url, model="m", batch_size=100, concurrency=1) as client,
    ):
        assert right(await client.embed(TEXTS), TEXTS)
        assert right(await client.embed([text + "!" for text in TEXTS]), [text + "!" for text in TEXTS])
        assert [len(batch) for batch in server.batches if len(batch) > 32] == [100]
        assert client.server_info().max_texts == 32


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_an_unnamed_cap_is_found_by_halving(status: int) -> None:
    """A refusal that names no number is halved until it is taken, and that size is kept to."""
    async with (
        EmbeddingServer(
            script=lambda request: (
                Answer.error(status, "no") if request.embeds and len(request.texts) > 32 else None
            )
        ) as server,
        EmbeddingClient(server.url, model="m", batch_size=100, concurrency=1) as client,
    ):
        assert right(await client.embed(TEXTS), TEXTS)
        assert len([batch for batch in server.batches if len(batch) > 32]) <= 6
        refused = len(server.batches)
        assert right(await client.embed([text + "!" for text in TEXTS]), [text + "!" for text in TEXTS])
        assert all(len(batch) <= 32 for batch in server.batches[refused:])


async def test_a_limit_of_bytes_is_learned() -> None:
    """A 413 for the size of the body limits the characters of later requests, not the texts."""
    async with (
        EmbeddingServer(
            script=lambda request: Answer(status=413, body=b"") if len(request.body) > 2000 else None
        ) as server,
        EmbeddingClient(server.url, model="m", batch_size=64, concurrency=1, encoding="float") as client,
    ):
        long = [f"{number:03d}" + "x" * 97 for number in range(64)]
        assert right(await client.embed(long), long)
        info = client.server_info()
        assert info.max_texts is None
        assert info.max_chars is not None
        before = len(server.batches)
        assert right(await client.embed(TEXTS[:64]), TEXTS[:64])
        assert len(server.batches) == before + 1  # many short ones still go together


async def test_a_cap_that_shrinks_is_followed() -> None:
    """A server that lowers its cap while running fails no caller."""
    async with (
        EmbeddingServer(max_batch=32) as server,
        EmbeddingClient(server.url, model="m", batch_size=64) as client,
    ):
        for cap in (32, 8, 3):
            server.script = lambda request, cap=cap: (
                Answer.error(422, f"batch size > maximum allowed batch size {cap}")
                if request.embeds and len(request.texts) > cap
                else None
            )
            assert right(await client.embed(TEXTS[:200]), TEXTS[:200])
            assert client.server_info().max_texts == cap


async def test_slots_and_context_are_asked_for_when_it_pays() -> None:
    """A lone query asks nothing; a bulk call asks ``/props`` once, and doubles the slots for its concurrency."""
    async with (
        EmbeddingServer(slots=3, latency=0.001) as server,
        EmbeddingClient(server.url, model="m") as client,
    ):
        await client.embed_query("alone")
        assert [request.path for request in server.requests] == ["/v1/embeddings"]
        await client.embed(TEXTS[:200])
        assert [request.path for request in server.requests].count("/props") == 1
        assert client.server_info().slots == 3
        assert client.server_info().context == 512
        assert client.server_info().base64 is True
        server.peak_in_flight = 0
        await client.embed([text + "!" for text in TEXTS[:200]])
        assert server.peak_in_flight == 6


async def test_questions_that_were_cut_off_are_asked_again() -> None:
    """A client that is closed while it asks what the server is leaves the question to the next one."""
    texts = TEXTS[:600]
    async with EmbeddingServer(slots=8, latency=0.02) as server:
        async with EmbeddingClient(server.url, model="m") as client:
            await client.embed(texts[:50])
            await asyncio.sleep(0)
        async with EmbeddingClient(server.url, model="m") as client:
            assert right(await client.embed(texts), texts)
            assert client.server_info().slots == 8


async def test_base64_is_not_used_where_it_disagrees() -> None:
    """A server whose base64 vectors differ from its decimal ones, or that refuses the word, is asked in decimal."""
    for bad in (
        Answer.vectors(lambda rows: [row[::-1] for row in rows]),
        Answer.error(400, "encoding_format"),
    ):

        def broken(request: Request, bad: Answer = bad) -> Answer | None:
            return bad if request.embeds and request.json.get("encoding_format") == "base64" else None

        async with EmbeddingServer(script=broken) as server, EmbeddingClient(server.url, model="m") as client:
            assert right(await client.embed(TEXTS[:100]), TEXTS[:100])
            assert client.server_info().base64 is False
            assert sum(r.json["encoding_format"] == "base64" for r in server.requests if r.embeds) == 1


# One bad text fails alone.


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


async def test_a_tei_server_tells_its_limits() -> None:
    """A server that shows itself as TEI is asked for ``/info`` when it pays, and its batch cap is kept to."""
    asked = []

    def tei(request: Request) -> Answer | None:
        if request.path == "/info":
            asked.append(request.path)
            return Answer(status=200, body={"max_client_batch_size": 7, "max_input_length": 256})
        return None

    async with (
        EmbeddingServer(script=tei, server_header=None, headers={"x-compute-type": "cpu"}) as server,
        EmbeddingClient(server.url, model="m", batch_size=10, concurrency=1) as client,
    ):
        assert right(await client.embed(TEXTS[:200]), TEXTS[:200])
        assert asked == ["/info"]
        info = client.server_info()
        assert (info.max_texts, info.context, info.software) == (7, 256, "text-embeddings-inference")
        assert all(len(batch) <= 7 for batch in server.batches[1:])


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


@pytest.mark.parametrize(
    ("options", "tokens"),
    [({}, 512), ({"ctx": 256}, 256)],
    ids=["500, default flags", "400, small context"],
)
def test_one_too_long_text_on_real_llama_cpp(options: dict[str, int], tokens: int) -> None:
    """One too-long text among 1000: 999 vectors in ``completed``, its index, tokens and limit in the error."""
    texts = [f"text {number}" for number in range(1000)]
    texts[617] = "word " * (tokens + 100)
    with llamacpp(slots=1, **options) as url, SharedEmbeddingClient(url, batch_size=50) as client:
        with pytest.raises(TextRefused) as caught:
            client.embed(texts)
        error = caught.value
        assert error.index == 617
        assert error.tokens == tokens + 102  # with [CLS] and [SEP]
        assert error.limit in (256, 512)
        assert error.completed is not None
        assert error.completed.indexes == [index for index in range(1000) if index != 617]
        assert error.attempts <= 1 + math.ceil(math.log2(50))
        assert np.abs(error.completed.vectors[616] - client.embed_array([texts[616]])[0]).max() < 1e-3


# Servers with manners of their own.


async def test_a_server_that_closes_after_each_reply() -> None:
    """A server that closes each connection after one reply, with or without saying so, fails no call."""
    for silent in (False, True):
        async with (
            EmbeddingServer(close_after=1, silent_close=silent) as server,
            EmbeddingClient(server.url, model="m") as client,
        ):
            assert right(await client.embed(TEXTS[:100]), TEXTS[:100])


async def test_a_server_that_takes_one_connection_at_a_time() -> None:
    """A server that serves one connection after the other, each to its end, gives every text its vector."""
    async with EmbeddingServer() as behind:
        turn = asyncio.Lock()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async with turn:  # nobody else is even read until this connection ends
                there, back = await asyncio.open_connection("127.0.0.1", behind.port)
                pump = asyncio.create_task(_copy(there, writer))
                await _copy(reader, back)
                await pump

        door = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = door.sockets[0].getsockname()[1]
        async with EmbeddingClient(f"http://127.0.0.1:{port}", model="m", concurrency=2) as client:
            assert right(await client.embed(TEXTS[:100]), TEXTS[:100])
        door.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


# Streams.


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
    assert all(is_vector_of(row, TEXTS[index], tolerance=1e-6) for index, row in got.items())


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


def test_sockets_are_closed_at_the_end() -> None:
    """After the last client of a server is closed no connection to it stays open."""
    with EmbeddingServer() as server:
        one, two = (SharedEmbeddingClient(server.url, model="m") for _ in range(2))
        one.embed(TEXTS[:20])
        two.embed(TEXTS[:20])
        one.close()
        assert server.open_connections > 0
        two.close()
        server.wait(lambda: server.open_connections == 0)
        with socket.create_connection(("127.0.0.1", server.port)):
            pass
