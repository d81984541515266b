"""What the dispatcher learns of a server, on real sockets: its caps, its slots, its manners."""

from __future__ import annotations

import asyncio

import pytest

from embedwire import EmbeddingClient
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import numbered, right

TEXTS = numbered(1000)


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
    """A refusal without a number is halved until it is taken; when that happened twice, more is tried but seldom."""
    async with (
        EmbeddingServer(
            script=lambda request: (
                Answer.error(status, "no") if request.embeds and len(request.texts) > 32 else None
            )
        ) as server,
        EmbeddingClient(server.url, model="m", batch_size=100, concurrency=1) as client,
    ):
        assert right(await client.embed(TEXTS), TEXTS)
        assert len([batch for batch in server.batches if len(batch) > 32]) <= 2 * 3
        refused = len(server.batches)
        assert right(await client.embed([text + "!" for text in TEXTS]), [text + "!" for text in TEXTS])
        assert len([batch for batch in server.batches[refused:] if len(batch) > 32]) <= 2


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
    """A lone query asks nothing; a bulk call asks ``/props`` once, and has two texts in flight for each slot."""
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
        await client.embed([text + "!" for text in TEXTS[:40]])
        assert server.peak_in_flight == 4
        assert {len(batch) for batch in server.batches[-30:]} == {1}


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
