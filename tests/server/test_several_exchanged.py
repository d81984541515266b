"""Several servers, one of them exchanged: no vector of another model comes out, however its requests were timed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from embedwire import ByKind, Timeouts
from embedwire._servers.agreement import SENTENCE
from embedwire.testing import Answer, EmbeddingServer, Gate
from tests.helpers import now, numbered, right, simulated
from tests.server.fleet import OTHER, client_of, comparisons, fleet, info_of, states


async def restart(server: EmbeddingServer, answer: Callable[[list[str]], Answer | None]) -> None:
    """Restarts a server; from then on it answers texts so."""
    await server.astop()
    server.script = lambda request: answer(request.texts) if request.embeds else None
    await server.astart()


def late(texts: list[str]) -> Answer:
    """Another model, whose vectors take long but for those of the sentence that is compared."""
    return Answer(body=OTHER.body, delay=0 if SENTENCE in texts else 0.3)


def other(name: str, **options: Any) -> Answer:
    """Another model, of another name."""

    def body(reply: dict[str, Any]) -> dict[str, Any]:
        changed = OTHER.body(reply) if callable(OTHER.body) else reply
        return {**changed, "model": name}

    return Answer(body=body, **options)


class TestInFlight:
    """What a server was asked for before it was found to have another model is not used."""

    @pytest.mark.parametrize("kind", ["query", "document"])
    async def test_found_out_before_the_reply(self, kind: Any) -> None:
        """A restarted server's first vectors come after the comparison has found another model, and are not used."""
        async with fleet(2) as servers, client_of(servers, batch_size=1, concurrency=4) as client:
            for text in numbered(6, "warm"):
                await client.embed_array([text], kind=kind)
            await restart(servers[0], late)
            texts = numbered(6, "q")
            calls = [client.embed_array([text], kind=kind) for text in texts]
            assert right([matrix[0] for matrix in await asyncio.gather(*calls)], texts)
            assert info_of(client, servers[0]).state == "left out"

    async def test_replies_that_name_it(self) -> None:
        """Of several requests in flight whose replies name another model none is used, not only the first."""
        gate, exchanged = Gate(), False

        def script(request: Any) -> Answer | None:
            if not (exchanged and request.embeds):
                return None
            return other("two") if SENTENCE in request.texts else other("two", gate=gate)

        async with (
            fleet(2, model="one") as servers,
            client_of(servers, model=None, batch_size=1, concurrency=4) as client,
        ):
            servers[0].script = script
            await client.embed(numbered(20))
            exchanged = True
            texts = numbered(12, "q")
            call = asyncio.ensure_future(client.embed_array(texts))
            await servers[0].wait_for(lambda: servers[0].in_flight > 1)
            gate.open()
            assert right(await call, texts)
            assert states(client) == ["left out", "in use"]

    @simulated
    async def test_connections_that_end_as_announced(self) -> None:
        """A restart is noticed, too, where every connection is closed after its reply, as that says."""
        async with fleet(2, close_after=1) as servers, client_of(servers) as client:
            for text in numbered(6, "warm"):
                await client.embed_query(text)
            await restart(servers[0], lambda texts: OTHER)
            await asyncio.sleep(1)
            texts = numbered(6, "q")
            calls = [client.embed_query(text) for text in texts]
            assert right(await asyncio.gather(*calls), texts)
            assert states(client) == ["left out", "in use"]

    @simulated
    async def test_few_comparisons_where_all_connections_end(self) -> None:
        """Where every connection is closed after its reply, a server is not compared at each request."""
        async with fleet(2, close_after=1, latency=0.01) as servers, client_of(servers) as client:
            for text in numbered(200):
                await client.embed_query(text)
            assert 4 < comparisons(servers) <= 14


class TestReference:
    """All forms of a client have one model, and a server that is away for a moment does not lose its place."""

    @simulated
    async def test_documents_and_queries_are_of_one_model(self) -> None:
        """Queries with other fields than documents go to servers of the documents' model, also where it was away."""
        fields = ByKind(query={"input_type": "query"}, document={"input_type": "document"})
        async with fleet(2) as (one, two), client_of([one, two], extra_body=fields) as client:
            await two.astop()
            two.script = lambda request: OTHER if request.embeds else None
            assert right(await client.embed(["a"]), ["a"])
            await one.astop()
            await two.astart()
            call = asyncio.ensure_future(client.embed_query("a"))
            await asyncio.sleep(20)
            await one.astart()
            assert right([await call], ["a"])
            assert right(await client.embed(["b"]), ["b"])
            assert states(client) == ["in use", "left out"]

    @simulated
    async def test_both_follow_where_the_model_is_another(self) -> None:
        """Where queries found that only another model is left, documents follow, and do not go back and forth."""
        fields = ByKind(query={"input_type": "query"}, document={"input_type": "document"})
        async with fleet(2) as (one, two), client_of([one, two], extra_body=fields) as client:
            await two.astop()
            two.script = lambda request: OTHER if request.embeds else None
            assert right(await client.embed(["a"]), ["a"])
            await one.astop()
            await two.astart()
            assert not right([await client.embed_query("a")], ["a"])
            began = now()
            assert not right(await client.embed(["b"]), ["b"])
            assert now() - began < 1
            await one.astart()
            await asyncio.sleep(5)
            for text in numbered(3):
                assert not right([await client.embed_query(text)], [text])
                assert not right(await client.embed([text]), [text])

    @simulated
    async def test_one_that_is_away_is_waited_for(self) -> None:
        """A server with another model does not take over while the good one is away for less than `restart`."""
        async with fleet(2) as (one, two), client_of([one, two]) as client:
            await client.embed(numbered(100))
            await two.astop()
            for text in numbered(12, "y"):
                await client.embed_query(text)
            assert states(client) == ["in use", "set aside"]
            await restart(one, lambda texts: OTHER)
            call = asyncio.ensure_future(client.embed(["a"]))
            await asyncio.sleep(30)
            await two.astart()
            assert right(await call, ["a"])
            assert states(client) == ["left out", "in use"]

    @simulated
    async def test_not_for_ever(self) -> None:
        """After `restart` seconds the model that is left is used."""
        async with fleet(2) as (one, two), client_of([one, two], timeout=Timeouts(restart=10)) as client:
            await client.embed(numbered(100))
            await two.astop()
            for text in numbered(12, "y"):
                await client.embed_query(text)
            began = now()
            await restart(one, lambda texts: OTHER)
            assert not right(await client.embed(["a"]), ["a"])
            assert 9 <= now() - began <= 11
            await two.astart()
