"""Further fields of a request, and time limits, by the client and both adapters."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import pytest
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError

from embedwire import ByKind, EmbeddingClient, RequestTimeout, SharedEmbeddingClient
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.frameworks.both import NOBODY, Door, every_door
from tests.helpers import numbered, pickled, right, simulated

TEXTS = numbered(3)
NIM = ByKind(query={"input_type": "query"}, document={"input_type": "passage"})


def demanding(request: Request) -> Answer | None:
    """NVIDIA's NIM: asymmetric models want to be told what a text is."""
    if request.embeds and request.json.get("input_type") not in ("query", "passage"):
        return Answer(status=400, body={"detail": "'input_type' parameter is required"})
    return None


def sent(server: EmbeddingServer, field: str = "input_type") -> list[tuple[str, Any]]:
    """A field of each request, beside its first text."""
    return [(request.texts[0], request.json.get(field)) for request in server.requests if request.embeds]


class TestFields:
    """They are in each request, and part of what a request is."""

    @every_door
    async def test_by_each_door(self, door: Door) -> None:
        """Fields for all requests, and fields by kind, reach a server that demands them."""
        async with EmbeddingServer(script=demanding) as server:
            for fields in ({"input_type": "passage", "truncate": "END"}, NIM):
                assert right(await door(server.url, TEXTS, model="m", extra_body=fields), TEXTS)
            assert sent(server) == [("text 0", "passage")] * 2
            assert sent(server, "truncate") == [("text 0", "END"), ("text 0", None)]

    async def test_queries_and_documents_differ(self) -> None:
        """An equal text, as a query and as a document at the same moment, is two requests of their own fields."""
        async with (
            EmbeddingServer(script=demanding) as server,
            EmbeddingClient(server.url, model="m", extra_body=NIM) as client,
        ):
            await asyncio.gather(client.embed_query("a"), client.embed(["a"]), client.embed(["a"], "query"))
            assert set(sent(server)) == {("a", "query"), ("a", "passage")}
            assert client.server_info().dimensions == 8

    async def test_both_adapters_tell_them_apart(self) -> None:
        """What the frameworks call a query is one."""
        async with EmbeddingServer(script=demanding) as server:
            options: dict[str, Any] = {"base_url": server.url, "extra_body": NIM}
            with closing(EmbedwireEmbeddings(model="m", **options)) as embeddings:
                await asyncio.gather(embeddings.aembed_query("q"), embeddings.aembed_documents(["d"]))
            with closing(EmbedwireEmbedding(model_name="m", **options)) as embed_model:
                await embed_model.aget_query_embedding("q")
                await embed_model.aget_text_embedding("d")
            assert set(sent(server)) == {("q", "query"), ("d", "passage")}
            assert len(sent(server)) == 4

    async def test_only_equal_ones_share_a_request(self) -> None:
        """Clients of other fields do not ride along; those of equal ones, in any order, do."""
        async with EmbeddingServer() as server:
            fields: list[dict[str, Any]] = [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}]
            clients = [
                EmbeddingClient(server.url, model="m", concurrency=1, extra_body=one) for one in fields
            ]
            with server.hold() as gate:
                first = asyncio.ensure_future(clients[0].embed_query("first"))
                await server.wait_for(lambda: server.in_flight == 1)
                rest = [asyncio.ensure_future(one.embed_query(f"q{at}")) for at, one in enumerate(clients)]
                await asyncio.sleep(0)
                gate.open()
                await asyncio.gather(first, *rest)
            assert sorted(map(sorted, server.batches)) == [["first"], ["q0", "q1"], ["q2"]]
            for client in clients:
                await client.close()

    async def test_what_is_learnt_is_theirs(self) -> None:
        """Vectors of another width under other fields are no contradiction."""

        def script(request: Request) -> Answer | None:
            short = request.embeds and request.json.get("output_dimension") == 4
            return Answer.vectors(lambda rows: [row[:4] for row in rows]) if short else None

        async with EmbeddingServer(script=script) as server:
            for fields, width in ((None, 8), ({"output_dimension": 4}, 4), (None, 8)):
                async with EmbeddingClient(server.url, model="m", extra_body=fields) as client:
                    assert len((await client.embed(["a"]))[0]) == width

    async def test_wait_ready_asks_for_both(self) -> None:
        """The start of an application finds out both kinds' requests, with their fields."""
        async with (
            EmbeddingServer(script=demanding) as server,
            EmbeddingClient(server.url, model="m", extra_body=NIM) as client,
        ):
            assert (await client.wait_ready()).dimensions == 8
            assert set(sent(server)) == {("ready", "query"), ("ready", "passage")}

    async def test_no_encoding(self) -> None:
        """`encoding=None` leaves the field out, for a server that knows none."""

        def script(request: Request) -> Answer | None:
            if request.embeds and "encoding_format" in request.json:
                return Answer.error(400, "extra fields not permitted: encoding_format")
            return None

        async with (
            EmbeddingServer(script=script) as server,
            EmbeddingClient(server.url, model="m", encoding=None) as client,
        ):
            texts = numbered(120)
            assert right(await client.embed(texts), texts)


class TestCopies:
    """The fields go wherever a client goes."""

    @pytest.mark.parametrize("fields", [{"task": "x", "deep": {"a": [1, None]}}, NIM])
    def test_dumps_and_pickles(self, fields: Any) -> None:
        """A pickle and a dump, as a dict and as JSON, of clients and adapters keep them."""
        client = SharedEmbeddingClient(NOBODY, extra_body=fields)
        assert pickled(client) == client
        chain = EmbedwireEmbeddings(base_url=NOBODY, extra_body=fields)
        for again in (
            pickled(chain),
            EmbedwireEmbeddings(**chain.model_dump()),
            EmbedwireEmbeddings.model_validate_json(chain.model_dump_json()),
        ):
            assert again._client == client
        index = EmbedwireEmbedding(base_url=NOBODY, extra_body=fields)
        for twin in (
            pickled(index),
            EmbedwireEmbedding.from_dict(index.to_dict()),
            EmbedwireEmbedding.from_json(index.to_json()),
        ):
            assert twin._client == client

    def test_are_part_of_llama_indexs_dump(self) -> None:
        """They decide the vector, so a cache of LlamaIndex must not take one for another."""
        dumps = [
            EmbedwireEmbedding(base_url=NOBODY, extra_body=fields).to_dict()
            for fields in (None, {"task": "a"}, {"task": "b"}, NIM)
        ]
        assert len({str(dump) for dump in dumps}) == 4

    def test_no_cache_by_the_bare_text(self) -> None:
        """LlamaIndex's cache of vectors knows no kinds, so it is refused beside `ByKind`."""
        with pytest.raises(ValidationError, match=r"embeddings_cache .*ByKind"):
            EmbedwireEmbedding(base_url=NOBODY, extra_body=NIM, embeddings_cache=SimpleKVStore())
        EmbedwireEmbedding(base_url=NOBODY, extra_body={"user": "me"}, embeddings_cache=SimpleKVStore())


@simulated
class TestTimeouts:
    """A number is for the whole request."""

    @pytest.mark.parametrize("timeout", [300, None])
    async def test_a_slow_server(self, timeout: float | None) -> None:
        """65 seconds of silence are within five minutes, and within no limit."""
        async with EmbeddingServer(latency=65) as server:
            async with EmbeddingClient(server.url, model="m", timeout=timeout) as client:
                assert right(await client.embed(["a"]), ["a"])
            assert len(server.requests) == 1

    async def test_a_slow_server_without_a_number(self) -> None:
        """The default is 60 seconds of silence, and the message's cure works."""
        async with EmbeddingServer(latency=65) as server:
            async with EmbeddingClient(server.url, model="m") as client:
                with pytest.raises(RequestTimeout, match=r"sock_read .*raise timeout="):
                    await client.embed(["a"])
            async with EmbeddingClient(server.url, model="m", timeout=130) as client:
                assert right(await client.embed(["a"]), ["a"])
