"""Replies as the world's servers write them, through the client and both adapters: vectors, and requests."""

from __future__ import annotations

import asyncio
import base64
import gzip
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import numpy as np
import orjson
import pytest

from embedwire import BadReply, EmbeddingClient, ServerRefused
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, EmbeddingServer, Request, vector
from tests.helpers import numbered, right
from tests.server.doors import own

Rows: TypeAlias = "list[list[float]]"
Door: TypeAlias = Callable[..., Awaitable[Rows]]
TEXTS = numbered(3)


def a_bomb(coding: str) -> bytes:
    """500 MB of blanks, compressed: one piece that stands for itself, 500 times."""
    packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    start = packer.compress(b" ") + packer.flush(zlib.Z_FULL_FLUSH)
    return start + 500 * (packer.compress(b" " * 10**6) + packer.flush(zlib.Z_FULL_FLUSH))


async def through_client(url: str, texts: list[str], **arguments: Any) -> Rows:
    """The vectors that the client gives."""
    async with EmbeddingClient(url, **arguments) as client:
        return await client.embed(texts)


async def through_langchain(url: str, texts: list[str], **arguments: Any) -> Rows:
    """The vectors that a vector store of LangChain's gets."""
    embeddings = EmbedwireEmbeddings(base_url=url, **arguments)
    try:
        return await asyncio.to_thread(embeddings.embed_documents, texts)
    finally:
        await asyncio.to_thread(embeddings.close)


async def through_llama_index(url: str, texts: list[str], **arguments: Any) -> Rows:
    """The vectors that a pipeline of LlamaIndex's gets."""
    name = {"model_name": arguments.pop("model")} if "model" in arguments else {}
    embedding = EmbedwireEmbedding(base_url=url, **name, **arguments)
    try:
        return await asyncio.to_thread(embedding.get_text_embedding_batch, texts)
    finally:
        await asyncio.to_thread(embedding.close)


DOORS: list[Door] = [through_client, through_langchain, through_llama_index]


@pytest.fixture(params=DOORS, ids=["client", "langchain", "llama_index"])
def embed(request: pytest.FixtureRequest) -> Door:
    """A door, which is given a URL, texts and arguments."""
    door: Door = request.param
    return door


def asked(server: EmbeddingServer, name: str) -> list[Any]:
    """What each request for vectors says in one field; "" where it has none."""
    return [request.json.get(name, "") for request in server.requests if request.embeds]


def packed(row: list[float], kind: str = "<f4") -> str:
    """A vector in base64 of some type of numbers."""
    numbers = np.asarray(row)
    if kind == "i1":
        numbers = np.round(numbers / np.abs(numbers).max() * 127)
    return base64.b64encode(numbers.astype(kind).tobytes()).decode()


def written(change: Callable[[dict[str, Any], int], dict[str, Any]]) -> Answer:
    """The right reply with each item of `data` changed."""
    return Answer.items(lambda data: [change(item, place) for place, item in enumerate(data)])


def without(item: dict[str, Any], name: str = "index") -> dict[str, Any]:
    """An item without a field."""
    return {key: value for key, value in item.items() if key != name}


def as_bytes(reply: Any, pack: Callable[[bytes], bytes]) -> bytes:
    """A reply's bytes, packed."""
    return pack(orjson.dumps(reply))


def raw_deflate(data: bytes) -> bytes:
    """Deflate without a frame."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


LENIENT: dict[str, Answer] = {
    "no index": written(lambda item, place: without(item)),
    "no index for the first": written(lambda item, place: item if place else without(item)),
    "null for the last": written(lambda item, place: item if place < 2 else {**item, "index": None}),
    "indexes as strings": written(lambda item, place: {**item, "index": str(place)}),
    "indexes as floats": written(lambda item, place: {**item, "index": float(place)}),
    **{
        f"error {error!r}": Answer.mutate(lambda reply, error=error: {**reply, "error": error})  # type: ignore[misc]
        for error in (None, "", {}, [], False, {"message": None})
    },
    "no object, usage or model": Answer.mutate(lambda reply: {"data": reply["data"]}),
    "a byte order mark": Answer(body=lambda reply: as_bytes(reply, lambda data: b"\xef\xbb\xbf" + data)),
    "nested once": Answer.vectors(lambda rows: [[row] for row in rows]),
    "a bare list": Answer.mutate(lambda reply: [without(item, "object") for item in reply["data"]]),
    "201": Answer(status=201),
    "202": Answer(status=202),
    "text/plain": Answer(headers={"Content-Type": "text/plain"}),
    **{
        f"Content-Encoding: {coding}": Answer(headers={"Content-Encoding": coding})
        for coding in ("", "identity", "none", "utf-8", "binary", "gzip")
    },
    "gzip": Answer(headers={"Content-Encoding": "gzip"}, body=lambda reply: as_bytes(reply, gzip.compress)),
    "gzip in chunks": Answer(
        headers={"Content-Encoding": "x-gzip"},
        body=lambda reply: as_bytes(reply, gzip.compress),
        framing="chunked",
    ),
    "deflate": Answer(
        headers={"Content-Encoding": "deflate"}, body=lambda reply: as_bytes(reply, zlib.compress)
    ),
    "raw deflate": Answer(
        headers={"Content-Encoding": "deflate"}, body=lambda reply: as_bytes(reply, raw_deflate)
    ),
}
STRICT: dict[str, tuple[Answer, str]] = {
    "two of three without an index": (
        written(lambda item, place: without(item) if place else item),
        "2 of 3 items of data without an index",
    ),
    "counted from 1": (written(lambda item, place: {**item, "index": place + 1}), "index is not one of"),
    "one index twice": (
        written(lambda item, place: {**item, "index": place // 2}),
        "two vectors for index 0",
    ),
    "202 without vectors": (Answer(status=202, body={"id": "job-1"}), "without a list called data"),
    "br": (Answer(headers={"Content-Encoding": "br"}, body=b"\x0b\x02\x80"), r"compressed.*\(br\)"),
    "broken gzip": (Answer(headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8bno"), r"\(gzip, broken\)"),
}


class TestLenient:
    """Whatever is certain is accepted, at the first request; whatever is not is refused after one."""

    @pytest.mark.parametrize("how", LENIENT)
    async def test_accepted(self, how: str, embed: Door, server: EmbeddingServer) -> None:
        """Each text gets its own vector."""
        server.script = lambda request: LENIENT[how] if request.embeds else None
        assert right(await embed(server.url, TEXTS, model="m"), TEXTS)
        assert len(server.batches) == 1

    @pytest.mark.parametrize("how", STRICT)
    async def test_refused(self, how: str, embed: Door, server: EmbeddingServer) -> None:
        """None gets any."""
        answer, words = STRICT[how]
        server.script = lambda request: answer if request.embeds else None
        with pytest.raises(BadReply, match=words):
            await embed(server.url, TEXTS, model="m")
        assert len(server.batches) == 1

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    async def test_a_refusal_is_unpacked(self, coding: str, embed: Door, server: EmbeddingServer) -> None:
        """The server's words are read from a compressed refusal too; one that cannot be read has its status."""
        pack = gzip.compress if coding == "gzip" else zlib.compress
        server.script = lambda request: Answer(
            status=404,
            headers={"Content-Encoding": coding},
            body=pack(b'{"error":{"message":"no such model here"}}'),
        )
        with pytest.raises(ServerRefused, match="no such model here"):
            await embed(server.url, TEXTS, model="m")
        server.script = lambda request: Answer(status=404, headers={"Content-Encoding": "br"}, body=b"\x0b")
        with pytest.raises(ServerRefused, match="404"):
            await embed(server.url, TEXTS, model="m")
        assert len(server.batches) == 2

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    async def test_a_bomb(self, coding: str, embed: Door, server: EmbeddingServer) -> None:
        """500 KB that would be 500 MB are refused at the cap, and take no more memory than it, a few times over."""
        bomb = a_bomb(coding)
        assert len(bomb) < 600_000
        server.script = lambda request: Answer(headers={"Content-Encoding": coding}, body=bomb)
        await asyncio.sleep(0)
        tracemalloc.start()
        try:
            with pytest.raises(BadReply, match=r"larger than the cap.*max_reply_bytes="):
                await embed(server.url, TEXTS, model="m")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 40 * 2**20
        assert len(server.batches) == 1

    async def test_cut_short(self, here: EmbeddingServer) -> None:
        """A compressed reply that stops in the middle is asked for again."""
        here.answer(
            Answer(
                headers={"Content-Encoding": "gzip"}, body=lambda reply: as_bytes(reply, gzip.compress)[:-9]
            )
        )
        async with own(here) as client:
            assert right(await client.embed(TEXTS), TEXTS)
        assert len(here.batches) == 2


class TestBase64:
    """Base64 that holds something else than float32 never becomes a vector."""

    @pytest.mark.parametrize("kind", ["i1", "<f2", "<f8", ">f4"])
    @pytest.mark.parametrize("encoding", ["auto", "float", "base64"])
    async def test_always(self, kind: str, encoding: str, embed: Door) -> None:
        """A server that always answers so is refused, after at most one more request."""
        with EmbeddingServer(dimensions=256) as server:
            server.script = lambda request: (
                written(
                    lambda item, place: {
                        **item,
                        "embedding": packed(vector(request.texts[place], 256), kind),
                    }
                )
                if request.embeds
                else None
            )
            with pytest.raises(BadReply, match=r"base64.*decimal numbers, or 32-bit floats"):
                await embed(server.url, TEXTS, model="m", encoding=encoding)
            assert len(server.batches) == (2 if encoding == "base64" else 1)

    @pytest.mark.parametrize("kind", ["i1", "<f2", "<f8", ">f4"])
    @pytest.mark.parametrize("before", [False, True])
    async def test_on_request(self, kind: str, before: bool, embed: Door) -> None:
        """With `encoding="base64"` it is asked for once and never again: the vectors come in decimal."""
        texts = numbered(60)
        with EmbeddingServer(dimensions=256) as server:
            if before:  # then their width is known
                assert right(await embed(server.url, ["before"], model="m", encoding="float"), ["before"])
            server.script = lambda request: (
                written(
                    lambda item, place: {
                        **item,
                        "embedding": packed(vector(request.texts[place], 256), kind),
                    }
                )
                if request.embeds and request.json["encoding_format"] == "base64"
                else None
            )
            arguments = {"model": "m", "encoding": "base64", "concurrency": 1}
            assert right(await embed(server.url, texts, **arguments), texts)
            assert right(await embed(server.url, ["once more"], **arguments), ["once more"])
            assert asked(server, "encoding_format").count("base64") == 1

    async def test_of_another_size(self, embed: Door) -> None:
        """Long vectors in float16 look like sizes that float32 has, and are refused by how far their numbers differ."""
        with EmbeddingServer(dimensions=256) as server:
            server.script = lambda request: (
                written(
                    lambda item, place: {
                        **item,
                        "embedding": packed(
                            [50 * number for number in vector(request.texts[place], 256)], "<f2"
                        ),
                    }
                )
                if request.embeds
                else None
            )
            with pytest.raises(BadReply, match=r"base64.*decimal numbers, or 32-bit floats"):
                await embed(server.url, TEXTS[:1], model="m")
            assert len(server.batches) == 1

    async def test_another_order_of_numbers(self, embed: Door, caplog: pytest.LogCaptureFixture) -> None:
        """Vectors that only look like some are found out by one text in decimal, before any is given out."""
        with EmbeddingServer() as server:
            server.script = lambda request: (
                Answer.vectors(lambda rows: [row[::-1] for row in rows])
                if request.embeds and request.json["encoding_format"] == "base64"
                else None
            )
            assert right(await embed(server.url, TEXTS, model="m", encoding="base64"), TEXTS)
            assert asked(server, "encoding_format") == ["base64", "float", "float"]
            assert server.batches == [TEXTS, TEXTS[:1], TEXTS]
        assert caplog.text.count("gives other vectors in base64 than in decimal") == 1

    @pytest.mark.parametrize("size", [2, 5, 32])
    async def test_is_found_out_where_every_batch_is_full(
        self, size: int, embed: Door, server: EmbeddingServer
    ) -> None:
        """With as many texts as fill their batches, one has room for a known text, at one request more at most."""
        texts = numbered(8 * 32)
        rows = await embed(server.url, texts, model="m", batch_size=size, concurrency=1)
        assert right(rows, texts, tolerance=1e-7)
        assert asked(server, "encoding_format").count("float") <= 2
        assert max(map(len, server.batches)) == size
        assert len(server.batches) <= len(texts) // size + 1

    async def test_is_confirmed_once(self, embed: Door, server: EmbeddingServer) -> None:
        """With `encoding="base64"`, one text goes once in decimal too, however many requests begin together."""
        texts = numbered(60)
        for _ in range(2):
            rows = await embed(server.url, texts, model="m", encoding="base64")
            assert right(rows, texts, tolerance=1e-7)
        decimal = [one for one in server.requests if one.embeds and one.json["encoding_format"] == "float"]
        assert [len(request.texts) for request in decimal] == [1]

    @pytest.mark.parametrize(
        ("encoding", "requests"),
        [("base64", ["base64", "float", "base64"]), ("auto", ["float", "base64", "base64"])],
    )
    async def test_a_server_that_knows_nothing_else(
        self, encoding: str, requests: list[str], embed: Door, server: EmbeddingServer
    ) -> None:
        """Where a server refuses decimal, base64 that looks like vectors is believed."""

        def script(request: Request) -> Answer | None:
            if request.embeds and request.json.get("encoding_format") != "base64":
                return Answer.error(400, "encoding_format: only 'base64' is supported")
            return None

        server.script = script
        for _ in range(2):
            assert right(await embed(server.url, TEXTS, model="m", encoding=encoding), TEXTS)
        assert asked(server, "encoding_format") == requests

    @pytest.mark.parametrize("encoding", ["auto", "float"])
    async def test_that_was_not_asked_for(self, encoding: str, embed: Door, server: EmbeddingServer) -> None:
        """A server that answers in base64 whatever it is asked is believed where it gives vectors for certain."""
        server.script = lambda request: (
            written(lambda item, place: {**item, "embedding": packed(vector(request.texts[place], 8))})
            if request.embeds
            else None
        )
        assert right(await embed(server.url, TEXTS, model="m", encoding=encoding), TEXTS)
        assert len(server.batches) == 1
