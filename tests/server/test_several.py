"""Several servers of one model: one queue, a place at any of them takes the next texts, a failure goes elsewhere."""

from __future__ import annotations

import asyncio
import logging
import pickle

import pytest

from embedwire import (
    AuthenticationFailed,
    ConnectionFailed,
    DeadlineExceeded,
    EmbeddingClient,
    Server,
    SharedEmbeddingClient,
    TextRefused,
)
from embedwire.testing import Answer, EmbeddingServer
from tests.helpers import now, numbered, right, simulated
from tests.server.fleet import client_of, fleet, info_of, states, texts_of
from tests.servers import free_port


class TestBalance:
    """A free place at any server takes the next texts."""

    @pytest.mark.slow
    @simulated
    async def test_the_quicker_does_more(self) -> None:
        """Of three servers with speeds 1 : 2 : 4 each does its share, in at most 1.08 times the ideal of their sum."""
        async with (
            EmbeddingServer(slots=4, latency_per_text=0.04) as slow,
            EmbeddingServer(slots=4, latency_per_text=0.02) as middle,
            EmbeddingServer(slots=4, latency_per_text=0.01) as quick,
            client_of([slow, middle, quick], batch_size=20, concurrency=4) as client,
        ):
            texts, began = numbered(20_000), now()
            assert right(await client.embed_array(texts), texts)
            ideal = 20_000 / (4 * (1 / 0.04 + 1 / 0.02 + 1 / 0.01))
            assert now() - began <= 1.08 * ideal
            assert texts_of(slow) < texts_of(middle) < texts_of(quick)

    @pytest.mark.slow
    @simulated
    async def test_one_dies_half_way(self) -> None:
        """With one of three dying half-way it takes at most 1.15 times the ideal of what lives, without an error."""
        async with (
            EmbeddingServer(slots=4, latency_per_text=0.04) as slow,
            EmbeddingServer(slots=4, latency_per_text=0.02) as middle,
            EmbeddingServer(slots=4, latency_per_text=0.01) as quick,
            client_of([slow, middle, quick], batch_size=20, concurrency=4) as client,
        ):
            texts, began = numbered(20_000), now()
            call = asyncio.ensure_future(client.embed_array(texts))
            await middle.wait_for(lambda: sum(map(texts_of, (slow, middle, quick))) >= 10_000, timeout=600)
            half = now() - began
            await middle.astop()
            assert right(await call, texts)
            rest = 20_000 - half * 4 * (25 + 50 + 100)
            ideal = half + rest / (4 * (25 + 100))
            assert now() - began <= 1.15 * ideal

    @simulated
    async def test_a_weight_is_heeded(self) -> None:
        """Of two equal servers one of three times the weight gets more, where few requests are sent at once."""
        async with fleet(2, latency=0.1) as (light, heavy):
            servers = [Server(light.url), Server(heavy.url, weight=3)]
            async with EmbeddingClient(servers, model="m", batch_size=1, concurrency=4) as client:
                for number in range(40):
                    await asyncio.gather(*(client.embed([f"{number} {place}"]) for place in range(4)))
            assert texts_of(heavy) > 1.5 * texts_of(light)

    @simulated
    async def test_a_slow_server_gets_few_queries(self) -> None:
        """Queries go where they are expected to take least; a slow server is tried now and then only."""
        async with (
            EmbeddingServer(latency=1.0) as slow,
            EmbeddingServer(latency=0.1) as quick,
            client_of([slow, quick]) as client,
        ):
            for number in range(100):
                await client.embed_query(f"query {number}")
            assert texts_of(slow) <= 4
            assert texts_of(quick) >= 97

    async def test_own_keys_and_headers(self) -> None:
        """Each server gets its own key and headers; the client's go to those that have none of their own."""
        async with fleet(2) as (one, two):
            servers: list[str | Server] = [Server(one.url, api_key="one", headers={"X-Place": "1"}), two.url]
            async with EmbeddingClient(servers, model="m", api_key="all", headers={"X-Place": "2"}) as client:
                await client.embed(numbered(100))
            for server, key, place in ((one, "Bearer one", "1"), (two, "Bearer all", "2")):
                asked = [request for request in server.requests if request.embeds]
                assert {request.headers["authorization"] for request in asked} == {key}
                assert {request.headers["x-place"] for request in asked} == {place}

    async def test_slots_are_shared_with_clients_of_one(self) -> None:
        """Two clients, of [A, B] and of [A], keep A's limit together."""
        async with fleet(2, latency=0.02) as (one, two):
            alone = EmbeddingClient(one.url, model="m", encoding="float", concurrency=2, batch_size=1)
            both = client_of([one, two], concurrency=2, batch_size=1)
            async with alone, both:
                await asyncio.gather(alone.embed(numbered(50, "a")), both.embed(numbered(100, "b")))
            assert one.peak_in_flight == 2
            assert texts_of(two) > 50

    async def test_one_server_in_a_list_is_not_compared(self) -> None:
        """A list of one is what one URL is: nothing is sent but the texts."""
        async with EmbeddingServer() as server, client_of([server]) as client:
            await client.embed(["a"])
            assert server.batches == [["a"]]
            assert client.server_info().servers == ()

    async def test_streams_and_the_shared_client(self) -> None:
        """Streams and the client for every thread work with several servers, and after a pickle."""
        async with fleet(3) as servers:
            texts, urls = numbered(300), [server.url for server in servers]
            client = SharedEmbeddingClient(urls, model="m")
            again = pickle.loads(pickle.dumps(client))
            assert again == client
            got = [piece async for piece in again.astream(texts)]
            assert sum(len(vectors) for _, vectors in got) == 300
            assert right(await client.aembed(texts), texts)
            await client.aclose()
            await again.aclose()
            assert all(texts_of(server) > 1 for server in servers)


class TestFailover:
    """What fails for a passing reason goes to another server at once."""

    @simulated
    async def test_without_a_pause(self) -> None:
        """A 500 of one server costs a caller no pause: another one is asked at once, and it counts as an attempt."""
        async with fleet(2) as (one, two), client_of([one, two]) as client:
            await client.embed_query("warm")
            one.script = lambda request: Answer.error(500, "boom") if request.embeds else None
            began = now()
            for number in range(8):
                assert right([await client.embed_query(f"q{number}")], [f"q{number}"])
            assert now() - began < 0.01
            assert client.usage().repeats > 0

    @simulated
    @pytest.mark.parametrize("then", ["reset", "close"])
    async def test_a_server_that_breaks_off_is_set_aside(self, then: str) -> None:
        """One of three resets, or closes, every connection: no error comes out, and it gets nothing after a while."""
        async with fleet(3) as servers, client_of(servers) as client:
            await client.embed(numbered(30, "warm"))
            servers[0].script = lambda request: Answer(raw=b"", then=then) if request.embeds else None  # type: ignore[arg-type]
            texts = numbered(300)
            assert right(await client.embed_array(texts), texts)
            assert states(client)[0] == "set aside"
            servers[0].script = None
            await asyncio.sleep(10)
            texts = numbered(100, "again")
            assert right(await client.embed_array(texts), texts)
            assert states(client) == ["in use"] * 3

    @simulated
    async def test_a_server_that_hangs(self) -> None:
        """One of three hangs: its texts go elsewhere after the timeout, and it is set aside."""
        async with fleet(3) as servers, client_of(servers, timeout=5) as client:
            await client.embed(numbered(30, "warm"))
            hangs = Answer(raw=b"", then="hang")
            servers[1].script = lambda request: hangs if request.embeds else None
            texts, began = numbered(200), now()
            assert right(await client.embed_array(texts), texts)
            assert 5 <= now() - began < 7
            assert info_of(client, servers[1]).state == "set aside"

    @simulated
    async def test_a_server_that_is_killed_and_restarted(self, caplog: pytest.LogCaptureFixture) -> None:
        """A server that goes and comes again and again is set aside and taken back, each said once; no text is lost."""
        caplog.set_level(logging.INFO, "embedwire")
        async with (
            fleet(3, latency=0.5) as servers,
            client_of(servers, batch_size=4, concurrency=2) as client,
        ):
            texts = numbered(1600)
            call = asyncio.ensure_future(client.embed_array(texts))
            for number in range(4):
                await asyncio.sleep(3)
                await servers[number % 3].astop()
                await asyncio.sleep(3)
                await servers[number % 3].astart()
            assert right(await call, texts)
            await client.embed(numbered(100, "more"))
        aside = [record for record in caplog.records if "is set aside" in record.getMessage()]
        back = [record for record in caplog.records if "is in use again" in record.getMessage()]
        assert len(aside) == 4
        assert len(back) == 4
        assert {record.levelno for record in aside} == {logging.WARNING}

    async def test_a_wrong_port_in_the_list(self) -> None:
        """A server that is not there is set aside; the others do the work."""
        async with fleet(2) as servers:
            urls = [f"http://127.0.0.1:{free_port()}", *(server.url for server in servers)]
            async with EmbeddingClient(urls, model="m") as client:
                texts = numbered(100)
                assert right(await client.embed_array(texts), texts)
                (info, *_) = client.server_info().servers
                assert info.state == "set aside"
                assert "refused" in info.reason
                assert client.server_info().url.startswith(servers[0].url)

    async def test_none_is_there(self) -> None:
        """Where no server answers, the error names all, and the next call tries them again."""
        urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        async with EmbeddingClient(urls, model="m", max_retries=0) as client:
            for _ in range(2):
                with pytest.raises(ConnectionFailed, match="no server is in use") as failed:
                    await client.embed(["a"])
                assert all(url in str(failed.value) for url in urls)

    @simulated
    async def test_all_are_gone_and_one_comes_back(self) -> None:
        """Where all servers are gone, calls wait as for one that restarts; whichever is back first takes the texts."""
        async with fleet(3) as servers, client_of(servers) as client:
            await client.embed(numbered(30, "warm"))
            for server in servers:
                await server.astop()
            texts, began = numbered(100), now()
            call = asyncio.ensure_future(client.embed_array(texts))
            await asyncio.sleep(20)
            await servers[1].astart()
            assert right(await call, texts)
            assert now() - began < 30
            await servers[0].astart()
            await servers[2].astart()

    @simulated
    async def test_a_loading_server_is_not_waited_for(self) -> None:
        """A server that loads its model is set aside, and taken back when it has."""
        async with fleet(2) as servers, client_of(servers) as client:
            await client.embed(numbered(30, "warm"))
            servers[0].loading = True
            texts, began = numbered(200), now()
            assert right(await client.embed_array(texts), texts)
            assert now() - began < 1
            assert states(client)[0] == "set aside"
            servers[0].loading = False
            await asyncio.sleep(5)
            assert states(client)[0] == "in use"

    async def test_a_wrong_key_at_one(self) -> None:
        """A server that does not accept the key is left out with the reason; the texts go elsewhere."""
        async with (
            EmbeddingServer(api_key="other") as one,
            EmbeddingServer(api_key="mine") as two,
            client_of([one, two], api_key="mine") as client,
        ):
            assert right(await client.embed(["a"]), ["a"])
            assert info_of(client, one).state == "left out"
            assert "key" in info_of(client, one).reason
        async with fleet(2, api_key="other") as servers, client_of(servers, api_key="mine") as client:
            with pytest.raises(AuthenticationFailed):
                await client.embed(["a"])

    @simulated
    async def test_too_much_to_do_at_one(self) -> None:
        """A server that asks to be left alone gets nothing for so long; the others take its texts at once."""
        async with fleet(2) as (one, two), client_of([one, two]) as client:
            await client.embed(numbered(30, "warm"))
            one.script = lambda request: Answer.throttled(30) if request.embeds else None
            before, began = len(one.batches), now()
            texts = numbered(200)
            assert right(await client.embed_array(texts), texts)
            assert now() - began < 1
            assert len(one.batches) - before <= 8

    @simulated
    async def test_attempts_are_spent(self) -> None:
        """Where every server fails, the attempts are counted over all of them, and the error names the last."""
        async with fleet(2) as servers, client_of(servers) as client:
            await client.embed_query("warm")
            for server in servers:
                server.script = lambda request: Answer.error(500, "boom") if request.embeds else None
            with pytest.raises(Exception, match="boom") as failed:
                await client.embed_query("a")
            assert failed.value.attempts == 3  # type: ignore[attr-defined]
            assert failed.value.server in {info.url for info in client.server_info().servers}  # type: ignore[attr-defined]

    @simulated
    async def test_a_text_that_crashes_servers_does_not_go_round(self) -> None:
        """A text at which each server breaks off fails after one attempt at each; one on an old connection is free."""
        async with fleet(3) as servers, client_of(servers) as client:
            await client.embed(numbered(30, "warm"))

            def crash(request: object) -> Answer | None:
                texts = getattr(request, "texts", ())
                return Answer(raw=b"", then="reset") if "poison" in texts else None

            for server in servers:
                server.script = crash
            with pytest.raises(ConnectionFailed):
                await client.embed(["poison"])
            assert sum("poison" in batch for server in servers for batch in server.batches) <= 6

    async def test_a_text_too_long_for_one_may_fit_at_another(self) -> None:
        """A text over one server's context is tried once where the context is larger; it fails where none takes it."""

        def limited(most: int) -> object:
            def script(request: object) -> Answer | None:
                texts = getattr(request, "texts", [])
                long = [text for text in texts if len(text) > most]
                return Answer.exceed_context(len(long[0]), most) if long else None

            return script

        async with (
            EmbeddingServer(n_ctx=100) as small,
            EmbeddingServer(n_ctx=1000) as large,
            client_of([small, large], max_retries=0) as client,
        ):
            small.script, large.script = limited(100), limited(1000)  # type: ignore[assignment]
            for letter in "abcd":
                assert right(await client.embed([letter * 500]), [letter * 500])
            assert any("a" * 500 in batch for batch in small.batches)
            before = len(large.batches) + len(small.batches)
            with pytest.raises(TextRefused) as failed:
                await client.embed(["y" * 2000])
            assert failed.value.too_long
            assert len(large.batches) + len(small.batches) - before <= 2

    @simulated
    async def test_a_deadline_names_all(self) -> None:
        """A deadline that passes while nothing is under way names every server."""
        async with fleet(2, loading=True) as servers, client_of(servers, deadline=3) as client:
            with pytest.raises(DeadlineExceeded) as late:
                await client.embed(["a"])
            assert all(server.url in str(late.value) for server in servers)


class TestEnds:
    """Nothing stays behind."""

    @simulated
    async def test_wait_ready(self) -> None:
        """`wait_ready` returns when one server embeds and those that answered were compared."""
        async with fleet(3) as servers:
            await servers[0].astop()
            servers[1].loading = True
            async with client_of(servers) as client:
                info = await client.wait_ready(10)
                assert [one.state for one in info.servers].count("in use") == 1
                assert info.url.startswith(servers[2].url)
                servers[1].loading = False

    @simulated
    async def test_wait_ready_in_vain(self) -> None:
        """Where none becomes ready the error names all."""
        async with fleet(2, loading=True) as servers, client_of(servers) as client:
            with pytest.raises(Exception, match="not ready within 5 s") as failed:
                await client.wait_ready(5)
            assert all(server.url in str(failed.value) for server in servers)

    @simulated
    async def test_close_leaves_nothing(self) -> None:
        """Closing while a server is compared, polled and waited for ends every task."""
        before = asyncio.all_tasks()
        async with fleet(3) as servers:
            inside = asyncio.all_tasks()
            await servers[0].astop()
            servers[1].loading = True
            client = client_of(servers)
            await client.embed(numbered(10))
            call = asyncio.ensure_future(client.embed(numbered(500, "more")))
            await asyncio.sleep(0)
            await client.close()
            with pytest.raises(Exception, match="closed"):
                await call
            assert not [task for task in asyncio.all_tasks() - inside if "embedwire/_" in repr(task)]
            servers[1].loading = False
        assert asyncio.all_tasks() == before

    @simulated
    async def test_a_cancelled_call_gives_its_places_back(self) -> None:
        """A call that is cancelled at several servers leaves no slot taken."""
        async with fleet(3, latency=0.5) as servers, client_of(servers) as client:
            await client.embed_query("warm")
            call = asyncio.ensure_future(client.embed(numbered(500)))
            await asyncio.sleep(0.2)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await asyncio.sleep(5)
            engine = client._engine
            assert engine is not None
            assert [origin.slots.in_flight for origin in engine._group.origins] == [0, 0, 0]
            assert right([await client.embed_query("after")], ["after"])
