"""`hedge=`: a query that takes long goes to a second server too, and the first answer counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from embedwire import ServerUnavailable
from embedwire.testing import Answer, EmbeddingServer
from tests.helpers import now, right, simulated
from tests.server.fleet import client_of, comparisons, fleet


async def _seconds(client: object, count: int) -> list[float]:
    """How long so many queries take, one after another."""
    took = []
    for number in range(count):
        began = now()
        assert right([await client.embed_query(f"query {number}")], [f"query {number}"])  # type: ignore[attr-defined]
        took.append(now() - began)
    return sorted(took)


class TestHedging:
    """A slow server costs a query little more than the time after which a second one is asked."""

    @simulated
    async def test_the_first_answer_counts(self) -> None:
        """A query that hangs is answered by the second server; the first request's connection is closed."""
        async with fleet(2) as servers, client_of(servers, hedge=0.5) as client:
            for number in range(40):
                await client.embed_query(f"warm {number}")
            answers = iter([Answer(delay=60)])
            servers[0].script = lambda request: next(answers, None) if request.embeds else None
            began = now()
            for number in range(30):
                await client.embed_query(f"query {number}")
            usage = client.usage()
            assert now() - began < 1
            await servers[0].wait_for(lambda: len(servers[0].aborted) == 1)
            assert servers[0].in_flight == 0
            assert usage.requests - comparisons(servers) == 71

    @simulated
    async def test_costs_at_most_one_in_twenty(self) -> None:
        """However slow the servers, no more than 5 % of the requests are second ones."""
        async with fleet(2, latency=1.0) as servers, client_of(servers, hedge=0.1) as client:
            await _seconds(client, 100)
            assert client.usage().requests - comparisons(servers) <= 105

    @simulated
    async def test_p99_with_a_slow_server(self) -> None:
        """With one server in three ten times as slow, p99 is at most 1.5 times the p99 without it."""
        async with fleet(2, latency=0.1) as servers, client_of(servers) as client:
            without = (await _seconds(client, 300))[296]
        async with (
            fleet(2, latency=0.1) as servers,
            EmbeddingServer(latency=1.0) as slow,
            client_of([*servers, slow], hedge="p95") as client,
        ):
            await client.embed_query("first")
            assert (await _seconds(client, 300))[296] <= 1.5 * without
            assert client.usage().requests - comparisons([*servers, slow]) <= 316

    @simulated
    async def test_both_fail(self) -> None:
        """Where both servers fail it is one failure."""
        async with fleet(2) as servers, client_of(servers, hedge=0.1, max_retries=0) as client:
            for number in range(40):
                await client.embed_query(f"warm {number}")
            boom = replace(Answer.error(500, "boom"), delay=1)
            for server in servers:
                server.script = lambda request: boom if request.embeds else None
            with pytest.raises(ServerUnavailable, match="boom"):
                await client.embed_query("a")

    @simulated
    async def test_cancelled(self) -> None:
        """A caller that leaves while two servers are asked leaves nothing behind."""
        async with fleet(2) as servers, client_of(servers, hedge=0.1) as client:
            for number in range(40):
                await client.embed_query(f"warm {number}")
            for server in servers:
                server.script = lambda request: Answer(delay=60) if request.embeds else None
            call = asyncio.ensure_future(client.embed_query("a"))
            await asyncio.sleep(1)
            assert [server.in_flight for server in servers] == [1, 1]
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await servers[0].wait_for(lambda: not servers[0].in_flight)
            await servers[1].wait_for(lambda: not servers[1].in_flight)

    @simulated
    async def test_off_by_default(self) -> None:
        """Without `hedge=` no query is sent twice, nor is a document ever."""
        async with fleet(2, latency=1.0) as servers, client_of(servers) as client:
            await _seconds(client, 20)
            assert client.usage().requests - comparisons(servers) == 20
        async with fleet(2, latency=1.0) as servers, client_of(servers, hedge=0.1) as client:
            for number in range(40):
                await client.embed([f"{number}"])
            assert client.usage().requests - comparisons(servers) == 40
