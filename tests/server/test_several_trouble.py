"""Several servers in trouble: a call ends as soon as one of them is well, and none is asked without need."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from embedwire import EmbeddingClient, Server, TextRefused
from embedwire._servers.agreement import SENTENCE
from embedwire.testing import Answer, EmbeddingServer, Gate
from tests.helpers import now, numbered, right, simulated
from tests.server.fleet import client_of, fleet, info_of, states
from tests.servers import free_port

Script = Callable[[object], "Answer | None"]


def sentences(server: EmbeddingServer) -> int:
    """How often it was compared."""
    return sum(SENTENCE in batch for batch in server.batches)


def on_texts(answer: Answer) -> Script:
    """An answer to everything but the sentence that servers are compared with."""

    def script(request: object) -> Answer | None:
        texts = getattr(request, "texts", ())
        return answer if texts and SENTENCE not in texts else None

    return script


class TestAllAreGone:
    """Where all servers go at once, calls wait as for one that restarts; whichever is back takes their texts."""

    @simulated
    @pytest.mark.parametrize("model", ["test-model", None])
    @pytest.mark.parametrize("back", [0, 1])
    async def test_while_idle(self, model: str | None, back: int) -> None:
        """Queries and documents that find all servers gone are embedded by the first that comes back."""
        async with fleet(2) as servers:
            urls = [server.url for server in servers]
            async with EmbeddingClient(urls, model=model, batch_size=10) as client:
                await client.embed(numbered(200))
                for server in servers:
                    await server.astop()
                queries = [asyncio.ensure_future(client.embed([f"q{number}"])) for number in range(4)]
                calls = [
                    asyncio.ensure_future(client.embed(numbered(30, f"d{number}"))) for number in range(2)
                ]
                await asyncio.sleep(1.5)
                assert not any(call.done() for call in (*queries, *calls))
                await servers[back].astart()
                began = now()
                await asyncio.gather(*queries, *calls)
                assert now() - began < 5
                await servers[1 - back].astart()

    @simulated
    async def test_the_last_to_fail_is_not_stuck_to(self) -> None:
        """Texts that failed at both servers go to the one that is back, not to the one that they waited for last."""
        async with fleet(2) as servers, client_of(servers, batch_size=1) as client:
            await client.embed(numbered(20))
            for server in servers:
                server.script = lambda request: Answer(raw=b"", then="reset") if request.embeds else None
            calls = [asyncio.ensure_future(client.embed_query(f"q{number}")) for number in range(4)]
            for server in servers:
                await server.astop()
            await asyncio.sleep(3)
            servers[0].script = None
            await servers[0].astart()
            began = now()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert now() - began < 5
            assert not [end for end in ends if isinstance(end, Exception)]
            servers[1].script = None
            await servers[1].astart()


class TestComparison:
    """A comparison holds nobody up for longer than it must."""

    @simulated
    async def test_that_hangs_ends_with_its_callers(self) -> None:
        """Where every caller left, nothing is on the wire; the next call compares anew."""
        async with fleet(2) as servers, client_of(servers, deadline=1.0) as client:
            for server in servers:
                server.script = lambda request: Answer.hang() if request.embeds else None
            with pytest.raises(Exception, match="deadline"):
                await client.embed(["a"])
            for server in servers:
                await server.wait_for(lambda server=server: not server.in_flight)  # type: ignore[misc]
                server.script = None
            assert right([await client.embed_query("b")], ["b"])

    @simulated
    async def test_that_hangs_is_begun_once_more(self) -> None:
        """A call that waits is answered once the servers are well, though their first answers never come."""
        async with fleet(2) as servers, client_of(servers) as client:
            for server in servers:
                server.answer(Answer.hang())
            began = now()
            assert right([await client.embed_query("a")], ["a"])
            assert now() - began < 7

    @simulated
    async def test_is_not_repeated_while_there_is_no_work(self) -> None:
        """A server that refuses the sentence is left out, and an idle client asks nobody anything."""
        async with fleet(2) as (one, two), client_of([one, two]) as client:
            two.script = lambda request: Answer.error(400, "no") if request.embeds else None
            await client.embed_query("x")
            assert info_of(client, two).state == "left out"
            await asyncio.sleep(15)
            before = len(two.requests), len(one.requests)
            assert sentences(two) <= 4
            await asyncio.sleep(300)
            assert (len(two.requests), len(one.requests)) == before
            two.script = None
            await client.embed_query("y")
            await asyncio.sleep(5)
            assert states(client) == ["in use", "in use"]

    @simulated
    async def test_a_wrong_port_is_left_alone(self, caplog: pytest.LogCaptureFixture) -> None:
        """An idle client logs nothing about a server that is not there."""
        caplog.set_level(logging.INFO, "embedwire")
        async with EmbeddingServer() as server:
            urls = [server.url, f"http://127.0.0.1:{free_port()}"]
            async with EmbeddingClient(urls, model="m") as client:
                await client.embed_query("x")
                await asyncio.sleep(20)
                before = len(caplog.records)
                await asyncio.sleep(300)
                assert len(caplog.records) == before

    @simulated
    async def test_a_key_function_that_raises(self, caplog: pytest.LogCaptureFixture) -> None:
        """A server whose key function raises is out of use until it does not; the others do the work."""
        broken = [True]

        def key() -> str:
            if broken[0]:
                raise RuntimeError("SECRET")
            return "key"

        async with fleet(2) as (one, two):
            servers = [one.url, Server(two.url, api_key=key)]
            async with EmbeddingClient(servers, model="m", batch_size=1, concurrency=1) as client:
                for number in range(4):
                    await client.embed_query(f"q{number}")
                    await asyncio.sleep(0.6)
                assert info_of(client, two).state == "set aside"
                broken[0] = False
                await client.embed_query("again")
                await asyncio.sleep(3)
                assert states(client) == ["in use", "in use"]
                broken[0] = True
                calls = [client.embed_query(f"then {number}") for number in range(6)]
                await asyncio.gather(*calls)
                assert info_of(client, two).state == "left out"
        assert "SECRET" not in caplog.text
        assert not [record for record in caplog.records if record.name == "asyncio"]


class TestFlapping:
    """A server that answers the sentence and fails texts is in use ever more seldom."""

    @simulated
    async def test_500(self, caplog: pytest.LogCaptureFixture) -> None:
        """It is taken back after pauses that double, and each warning is said as seldom."""
        async with fleet(2) as (one, two), client_of([one, two]) as client:
            await client.embed(numbered(60))
            one.script = on_texts(Answer.error(500, "boom"))
            for number in range(300):
                await client.embed(numbered(4, f"t{number}"))
                await asyncio.sleep(0.2)
            aside = [record for record in caplog.records if "is set aside" in record.getMessage()]
            assert 2 <= len(aside) <= 10
            one.script = None
            for number in range(100):
                await client.embed(numbered(4, f"u{number}"))
                await asyncio.sleep(1)
            assert states(client) == ["in use", "in use"]

    @simulated
    @pytest.mark.parametrize("status", [400, 422, 403])
    async def test_refusals(self, status: int) -> None:
        """Texts that one server refuses for no reason are embedded by the other, and no caller is told."""
        async with fleet(2) as (one, two), client_of([one, two]) as client:
            await client.embed(numbered(60))
            one.script = on_texts(Answer.error(status, "Bad request"))
            for number in range(60):
                texts = numbered(20, f"t{number}")
                assert right(await client.embed(texts), texts)
            assert info_of(client, one).state != "in use"

    @simulated
    async def test_a_text_that_both_refuse(self) -> None:
        """A text that is refused by all is shown to two servers only, and neither is blamed."""
        async with fleet(3) as servers, client_of(servers) as client:
            await client.embed(numbered(60))

            def script(request: object) -> Answer | None:
                return Answer.error(400, "bad") if "bad" in getattr(request, "texts", ()) else None

            for server in servers:
                server.script = script
            with pytest.raises(TextRefused):
                await client.embed(["bad"])
            assert sum("bad" in batch for server in servers for batch in server.batches) == 2
            assert states(client) == ["in use"] * 3


class TestFreePlaces:
    """No text waits for a server while another one is free."""

    @simulated
    async def test_a_pause_ends(self) -> None:
        """A server whose pause is over gets what waits, though no other one answers meanwhile."""
        async with fleet(2) as (one, two), client_of([one, two], batch_size=1, concurrency=1) as client:
            await client.embed(["x", "y", "z", "w"])
            one.answer(Answer.throttled(1))
            two.script = lambda request: Answer(delay=20) if request.embeds else None
            calls = [asyncio.ensure_future(client.embed([f"d{number}"])) for number in range(4)]
            await asyncio.sleep(5)
            assert sum(call.done() for call in calls) == 3
            await asyncio.gather(*calls)

    @simulated
    async def test_a_server_that_failed_once(self) -> None:
        """A query that one server failed once does not wait long for the place of another one that hangs."""
        async with fleet(2) as (one, two), client_of([one, two], batch_size=1, concurrency=1) as client:
            for number in range(6):
                await client.embed_query(f"w{number}")
            one.answer(Answer.error(500, "oops"))
            two.script = lambda request: Answer.hang() if request.embeds else None
            calls = [asyncio.ensure_future(client.embed_query(f"q{number}")) for number in range(6)]
            await asyncio.sleep(10)
            assert sum(call.done() for call in calls) >= 5
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    @simulated
    async def test_a_long_pause(self) -> None:
        """A query that both servers put off is sent where the pause ends first."""
        async with fleet(2) as (one, two), client_of([one, two], batch_size=1, concurrency=2) as client:
            await client.embed(["x", "y", "z", "w"])
            one.answer(Answer.throttled(1))
            two.answer(Answer.throttled(30))
            began = now()
            await client.embed_query("first")
            assert now() - began < 5

    @simulated
    async def test_a_slow_server_is_measured_without_a_caller(self) -> None:
        """That a slow server is as quick as before is found out by the sentence; no query is spent on that."""
        async with fleet(2, latency=0.01) as (one, two), client_of([one, two]) as client:
            for number in range(10):
                await client.embed_query(f"w{number}")
            two.script = lambda request: Answer(delay=5) if request.embeds else None
            slow, began = 0, now()
            while now() - began < 60:
                before = now()
                await client.embed_query(f"q{before}")
                slow += now() - before > 1
                await asyncio.sleep(0.05)
            assert slow <= 1
            two.script, count = None, len(two.batches)
            for number in range(600):
                await client.embed_query(f"v{number}")
                await asyncio.sleep(0.05)
            assert len(two.batches) - count > 20


class TestLimits:
    """Several servers are not pushed further than one."""

    @simulated
    async def test_hedges_keep_to_the_places(self) -> None:
        """Second requests take no place that is not there."""
        async with fleet(2) as servers, client_of(servers, batch_size=1, concurrency=4, hedge=0.3) as client:
            for number in range(120):
                await client.embed_query(f"w{number}")
            gate = Gate()
            for server in servers:
                server.peak_in_flight = 0
                server.script = lambda request: Answer.hold(gate) if request.embeds else None
            calls = [asyncio.ensure_future(client.embed_query(f"q{number}")) for number in range(7)]
            await asyncio.sleep(1)
            assert [server.in_flight for server in servers] == [4, 4]
            gate.open()
            await asyncio.gather(*calls)
            assert [server.peak_in_flight for server in servers] == [4, 4]

    @simulated
    async def test_a_hedge_that_was_quicker_says_nothing_of_the_slower(self) -> None:
        """A server that a hedge overtakes may have as many requests in flight as before."""
        async with fleet(2, server_header="uvicorn") as servers, client_of(servers, hedge=0.5) as client:
            for number in range(60):
                await client.embed_query(f"w{number}")
            servers[0].answer(Answer(delay=60))
            for number in range(10):
                await client.embed_query(f"q{number}")
            assert sum(SENTENCE not in batch for server in servers for batch in server.batches) == 71
            assert client._engine is not None
            origins = client._engine._group.origins
            assert [origin.slots.window.allowed for origin in origins] == [None, None]

    @simulated
    async def test_a_failed_hedge_is_noted(self) -> None:
        """A server that fails after another one was asked too is set aside as any other."""
        async with fleet(2) as (one, two), client_of([one, two], hedge=0.5) as client:
            for number in range(60):
                await client.embed_query(f"w{number}")
            late = Answer(raw=b"", then="reset", delay=0.7)
            one.script = lambda request: late if request.embeds else None
            two.script = lambda request: Answer(delay=1.0) if request.embeds else None
            for number in range(8):
                await client.embed_query(f"q{number}")
            assert info_of(client, two).state == "in use"
            assert info_of(client, one).state == "set aside"

    @simulated
    @pytest.mark.parametrize("count", [1, 2, 3])
    async def test_moves_are_paid_for(self, count: int) -> None:
        """Where all requests fail, several servers get no more repeats than so many single ones."""
        async with fleet(count) as servers, client_of(servers, batch_size=1) as client:
            await client.embed(numbered(50))
            before = client.usage().requests
            for server in servers:
                server.script = on_texts(Answer.error(500, "out of memory"))
            calls = [client.embed_query(f"d{number}") for number in range(300)]
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(end, Exception) for end in ends)
            assert client.usage().requests - before <= 300 + 100 * count

    async def test_no_url_is_named_twice(self) -> None:
        """An error of all servers names each once."""
        urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        async with EmbeddingClient(urls, model="m", max_retries=0) as client:
            with pytest.raises(Exception, match="no server is in use") as failed:
                await client.embed(["a"])
            assert [str(failed.value).count(url) for url in urls] == [1, 1]
