"""Where both clients can be used, how they end, and what their copies are."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from embedwire import EmbeddingClient, RetryPolicy, SharedEmbeddingClient, Timeouts, UsageError
from embedwire.testing import EmbeddingServer, is_vector_of
from tests.helpers import copies, numbered, right
from tests.server.doors import KEY, Open, own, shared

TEXTS = numbered(23)


class TestLoops:
    """`EmbeddingClient` belongs to one loop; `SharedEmbeddingClient` to none."""

    def test_a_second_open_loop_is_told_what_to_use(self, server: EmbeddingServer) -> None:
        """In a second loop, while its own is open, EmbeddingClient names SharedEmbeddingClient, and goes on."""
        client, loop = own(server), asyncio.new_event_loop()
        assert is_vector_of(loop.run_until_complete(client.embed_query("a")), "a")
        with pytest.raises(UsageError, match="SharedEmbeddingClient"):
            asyncio.run(client.embed_query("b"))
        assert is_vector_of(loop.run_until_complete(client.embed_query("c")), "c")
        loop.run_until_complete(client.close())
        loop.close()
        assert server.batches == [["a"], ["c"]]

    @pytest.mark.usefixtures("no_idle_limit")
    def test_a_second_loop_after_the_first_is_fine(self, server: EmbeddingServer) -> None:
        """When its loop is over, EmbeddingClient starts anew on the next, and leaves nothing behind."""
        client = own(server)
        for text in TEXTS[:3]:
            assert is_vector_of(asyncio.run(client.embed_query(text)), text)
        asyncio.run(client.close())
        server.wait(lambda: server.open_connections == 0)
        gc.collect()

    def test_one_shared_client_in_many_runs(self, server: EmbeddingServer) -> None:
        """Several `asyncio.run`, and sync calls between them, share one connection."""
        with shared(server, concurrency=1) as client:
            for text in TEXTS[:3]:
                assert is_vector_of(asyncio.run(client.aembed_query(text)), text)
                assert is_vector_of(client.embed_query(text + "!"), text + "!")
        assert server.connections == 1

    def test_many_threads(self, server: EmbeddingServer) -> None:
        """Callers in 16 threads, sync and async, get their own vectors, and the bound holds for all."""
        begin = threading.Barrier(16)

        def work(number: int) -> bool:
            texts = [f"{number}: {text}" for text in TEXTS]
            begin.wait()
            if number % 2:
                return right(asyncio.run(client.aembed(texts)), texts)
            return right([client.embed_query(text) for text in texts], texts)

        with shared(server, concurrency=3) as client, ThreadPoolExecutor(16) as pool:
            assert all(pool.map(work, range(16)))
        assert server.peak_in_flight <= 3

    def test_clients_of_equal_settings_share_a_connection(self, server: EmbeddingServer) -> None:
        """A client per call costs no connection while another of equal settings lives."""
        with shared(server, concurrency=1) as first:
            first.embed_query("a")
            for text in TEXTS[:5]:
                with shared(server, concurrency=1) as client:
                    assert is_vector_of(client.embed_query(text), text)
            assert is_vector_of(first.embed_query("b"), "b")
        assert server.connections == 1

    async def test_a_sync_method_works_on_a_running_loop(self, server: EmbeddingServer) -> None:
        """Frameworks call sync methods on a loop's own thread: it blocks, and works."""
        with shared(server) as client:
            assert right(client.embed(TEXTS), TEXTS)

    @pytest.mark.parametrize("open_doors", ["own", "async"], indirect=True)
    async def test_a_cancelled_call_is_not_sent(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A cancelled call's waiting texts vanish, and its request on its way is dropped at the server."""
        doors = open_doors(concurrency=1)
        with server.hold():
            call = asyncio.ensure_future(doors.embed(TEXTS))
            await server.wait_for(lambda: server.in_flight == 1)
            call.cancel()
            await server.wait_for(lambda: len(server.aborted) == 1)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert is_vector_of(await doors.embed_query("next"), "next")
        assert server.batches == [TEXTS[:5], ["next"]]


@pytest.mark.usefixtures("no_idle_limit")
class TestEnd:
    """Closing ends everything, once."""

    async def test_use_after_close_is_told(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A closed client raises UsageError at each door and sends nothing, used before or not."""
        used, unused = open_doors(), open_doors()
        await used.embed(TEXTS)
        sent = len(server.requests)
        for doors in (used, unused):
            await doors.close()
            for call in (
                lambda doors=doors: doors.embed(["a"]),
                lambda doors=doors: doors.embed_array(["a"]),
                lambda doors=doors: doors.embed_query("a"),
                lambda doors=doors: doors.pieces(["a"]),
                lambda doors=doors: doors.wait_ready(5),
            ):
                with pytest.raises(UsageError, match="this client was closed; make a new one"):
                    await call()
        assert len(server.requests) == sent

    async def test_closing_twice_is_fine(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A second close does nothing, and neither does one of a client that was never used."""
        doors = open_doors()
        await doors.close()
        await doors.close()
        doors = open_doors()
        await doors.embed(TEXTS)
        await asyncio.gather(doors.close(), doors.close())
        await doors.close()
        await server.wait_for(lambda: server.open_connections == 0)

    async def test_closing_ends_the_calls_under_way(self, open_doors: Open, server: EmbeddingServer) -> None:
        """Calls under way end with UsageError, and the server sees their requests dropped."""
        doors = open_doors(concurrency=2)
        with server.hold():
            calls = [
                asyncio.ensure_future(doors.embed([f"{call} {text}" for text in TEXTS])) for call in "ab"
            ]
            await server.wait_for(lambda: server.in_flight == 2)
            await doors.close()
            for ended in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(ended, UsageError)
                assert "closed" in str(ended)
            await server.wait_for(lambda: server.in_flight == 0 and server.open_connections == 0)
        assert len(server.batches) == 2

    @pytest.mark.parametrize("reason", ["closed", "key"])
    async def test_no_two_callers_share_an_error(self, reason: str, server: EmbeddingServer) -> None:
        """Each caller gets an error of its own: a traceback that two add frames to would mix their stories."""
        raises = False

        def key() -> str:
            if raises:
                raise LookupError("no key")
            return "key"

        async with EmbeddingClient(server.url, model="m", api_key=key, concurrency=1) as client:
            with server.hold():
                calls = [asyncio.create_task(client.embed([f"text {n}"])) for n in range(5)]
                await server.wait_for(lambda: server.in_flight == 1)
                raises = reason == "key"
                if not raises:
                    await client.close()
            errors = [error for error in await asyncio.gather(*calls, return_exceptions=True) if error]
        failed = [error for error in errors if isinstance(error, Exception)]
        assert len({id(error) for error in failed}) == len(failed) >= 4
        assert {type(error) for error in failed} == {LookupError if raises else UsageError}

    def test_closing_one_leaves_its_twin_alone(self, server: EmbeddingServer) -> None:
        """Another client of equal settings goes on, its calls under way included."""
        one, other = (
            shared(server, concurrency=2, batch_size=30),
            shared(server, concurrency=2, batch_size=30),
        )
        with server.hold() as held, ThreadPoolExecutor() as pool:
            ending = pool.submit(one.embed, TEXTS)
            server.wait(lambda: server.in_flight == 1)
            staying = pool.submit(other.embed, [text + "!" for text in TEXTS])
            server.wait(lambda: server.in_flight == 2)
            one.close()
            with pytest.raises(UsageError):
                ending.result()
            held.open()
            assert right(staying.result(), [text + "!" for text in TEXTS])
        other.close()
        server.wait(lambda: server.open_connections == 0)

    def test_context_managers_close(self, server: EmbeddingServer) -> None:
        """`with` and `async with` end in a closed client."""

        async def use() -> SharedEmbeddingClient:
            async with shared(server) as client:
                await client.aembed_query("a")
                return client

        with shared(server) as client:
            client.embed_query("a")
        for closed in (client, asyncio.run(use())):
            with pytest.raises(UsageError):
                closed.embed_query("b")
        server.wait(lambda: server.open_connections == 0)

    def test_a_dropped_client_lets_go(self, server: EmbeddingServer) -> None:
        """A client that is merely dropped closes its connections, without a warning."""
        client = shared(server)
        client.embed(TEXTS)
        del client
        gc.collect()
        server.wait(lambda: server.open_connections == 0)


class TestCopies:
    """A client goes through a pickle and a copy; a key from the environment does not."""

    @copies
    @pytest.mark.parametrize("used", [False, True])
    def test_a_copy_works(self, again: Any, used: bool, server: EmbeddingServer) -> None:
        """A copy embeds as its original does, with its key, prompts and policies; each closes by itself."""
        client = shared(
            server,
            api_key=KEY,
            prompts="e5",
            timeout=Timeouts(total=5),
            max_retries=RetryPolicy(base=0),
            headers={"X-A": "b"},
        )
        if used:
            client.embed(TEXTS)
        with again(client) as twin:
            assert is_vector_of(twin.embed_query("a"), "query: a")
            assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
            assert server.requests[-1].headers["x-a"] == "b"
            client.close()
            assert is_vector_of(twin.embed_query("b"), "query: b")

    @copies
    async def test_a_copy_of_a_client_of_ones_own_loop_works(
        self, again: Any, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`EmbeddingClient` too: used or closed, its copy is new, and has no key of the environment in it."""
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
        async with EmbeddingClient(server.url, model="m", prompts="e5") as client:
            await client.embed_query("a")
        assert KEY.encode() not in pickle.dumps(client)
        async with again(client) as twin:
            assert is_vector_of(await twin.embed_query("b"), "query: b")

    def test_a_pickle_has_no_key_of_the_environment(
        self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A key that came from the environment stays there; where the pickle is opened, that one's is used."""
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
        with shared(server) as client:
            client.embed_query("a")
            assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
            pickled = pickle.dumps(client)
        assert KEY.encode() not in pickled
        monkeypatch.setenv("EMBEDWIRE_API_KEY", "another")
        with pickle.loads(pickled) as twin:
            twin.embed_query("a")
        assert server.requests[-1].headers["authorization"] == "Bearer another"
