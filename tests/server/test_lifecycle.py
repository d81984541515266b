"""One object in many loops and threads at once, its copies, and its end; without a word.

What `test_client_life` shows for one client at a time is shown here for the adapters, and for several at once.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from embedwire import EmbeddingClient, SharedEmbeddingClient, UsageError
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, EmbeddingServer
from tests.helpers import numbered, right

TEXTS = numbered(23)


def named(who: object, count: int = 12) -> list[str]:
    """Texts of somebody's own."""
    return [f"{who}: {number}" for number in range(count)]


class Doors:
    """Each client through the same two methods, where it has them.

    Attributes:
        client: The client.
        embed: A sync door for texts; None where there is none.
        aembed: An async door for texts.
    """

    def __init__(self, kind: str, url: str, **arguments: Any) -> None:
        arguments = {"encoding": "float", **arguments}
        self.client: Any
        self.embed: Any = None
        if kind == "EmbeddingClient":
            self.client = EmbeddingClient(url, model="m", **arguments)
            self.aembed = self.client.embed
        elif kind == "SharedEmbeddingClient":
            self.client = SharedEmbeddingClient(url, model="m", **arguments)
            self.embed, self.aembed = self.client.embed, self.client.aembed
        elif kind == "LangChain":
            self.client = EmbedwireEmbeddings(base_url=url, model="m", **arguments)
            self.embed, self.aembed = self.client.embed_documents, self.client.aembed_documents
        else:
            self.client = EmbedwireEmbedding(base_url=url, model_name="m", **arguments)
            self.embed, self.aembed = (
                self.client.get_text_embedding_batch,
                self.client.aget_text_embedding_batch,
            )

    async def aclose(self) -> None:
        """Close the client."""
        await (self.client.aclose() if self.embed else self.client.close())


SHARED = ["SharedEmbeddingClient", "LangChain", "LlamaIndex"]
KINDS = ["EmbeddingClient", *SHARED]


class TestLoops:
    """One object, many event loops, at once and one after another."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_several_runs(self, kind: str, server: EmbeddingServer) -> None:
        """Every `asyncio.run` gets its vectors, sync calls between them too, the shared ones on one connection."""
        doors = Doors(kind, server.url, concurrency=1)
        for run in range(5):
            assert right(asyncio.run(doors.aembed(named(run))), named(run))
            if doors.embed:
                assert right(doors.embed(named(f"sync {run}")), named(f"sync {run}"))
        asyncio.run(doors.aclose())
        server.wait(lambda: server.open_connections == 0)
        assert server.connections == (1 if doors.embed else 5)

    def test_many_threads_with_many_loops(self, server: EmbeddingServer) -> None:
        """Eight threads, each with loops of its own and all clients in them, get their own vectors within one bound."""
        shared = {kind: Doors(kind, server.url, concurrency=3, batch_size=4) for kind in SHARED}
        begin = threading.Barrier(8)

        async def run(who: str) -> bool:
            own = Doors("EmbeddingClient", server.url, concurrency=1)
            calls = {
                kind: doors.aembed(named(f"{who} {kind}")) for kind, doors in {**shared, "own": own}.items()
            }
            rows = await asyncio.gather(*calls.values())
            await own.aclose()
            return all(right(part, named(f"{who} {kind}")) for kind, part in zip(calls, rows, strict=True))

        def work(thread: int) -> bool:
            begin.wait()
            runs = [asyncio.run(run(f"{thread} {number}")) for number in range(3)]
            syncs = [
                right(doors.embed(named((thread, kind))), named((thread, kind)))
                for kind, doors in shared.items()
            ]
            return all(runs + syncs)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))
        assert server.peak_in_flight <= 3 + 8
        for doors in shared.values():
            doors.client.close()

    @pytest.mark.parametrize("kind", SHARED)
    async def test_sync_and_async_at_once(self, kind: str, server: EmbeddingServer) -> None:
        """On one running loop, sync calls go through while async ones are under way, as in a handler."""
        doors = Doors(kind, server.url, concurrency=2)
        calls = [asyncio.ensure_future(doors.aembed(named(call))) for call in range(5)]
        for call in range(5):
            assert right(doors.embed(named(f"sync {call}")), named(f"sync {call}"))
            await asyncio.sleep(0)
        for call, rows in enumerate(await asyncio.gather(*calls)):
            assert right(rows, named(call))
        await doors.aclose()


COPIES: dict[str, Callable[[Any], Any]] = {
    "a pickle": lambda client: pickle.loads(pickle.dumps(client)),
    "a copy": copy.copy,
    "a deep copy": copy.deepcopy,
}


class TestCopies:
    """A copy of an object in use is an object of its own."""

    @pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
    @pytest.mark.parametrize("kind", SHARED)
    def test_made_in_the_middle_of_a_call(
        self, kind: str, copied: Callable[[Any], Any], server: EmbeddingServer
    ) -> None:
        """Made while a request is on its way, it works, and its end leaves that request and its original alone."""
        doors = Doors(kind, server.url, concurrency=2)
        with ThreadPoolExecutor(1) as pool:
            with server.hold():
                call = pool.submit(doors.embed, TEXTS[:5])
                server.wait(lambda: server.in_flight == 1)
                twin = Doors(kind, server.url)
                twin.client.close()
                twin.client = copied(doors.client)
            again = getattr(twin.client, doors.embed.__name__)
            assert right(again(TEXTS), TEXTS)
            twin.client.close()
            assert right(call.result(), TEXTS[:5])
            assert right(doors.embed(named("after")), named("after"))
        doors.client.close()
        assert server.aborted == []

    @pytest.mark.parametrize("used", [False, True])
    @pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
    async def test_of_an_embedding_client(
        self, used: bool, copied: Callable[[Any], Any], server: EmbeddingServer
    ) -> None:
        """A copy of an EmbeddingClient works and closes by itself, used before or not."""
        client = EmbeddingClient(server.url, model="m", encoding="float")
        if used:
            await client.embed(TEXTS)
        twin = copied(client)
        assert right(await twin.embed(named("twin")), named("twin"))
        await twin.close()
        assert right(await client.embed(named("client")), named("client"))
        await client.close()
        await server.wait_for(lambda: server.open_connections == 0)


@pytest.mark.usefixtures("no_idle_limit")
class TestDropped:
    """What is dropped in the middle of its work stops it, and leaves nothing behind."""

    @pytest.mark.parametrize("kind", KINDS)
    async def test_with_a_cancelled_call(self, kind: str, server: EmbeddingServer) -> None:
        """A client whose last call was cancelled and forgotten lets go of its requests and connections."""
        with server.hold():
            call = asyncio.ensure_future(Doors(kind, server.url, concurrency=2).aembed(TEXTS))
            await server.wait_for(lambda: server.in_flight == 2)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            del call
            gc.collect()
            await server.wait_for(lambda: server.open_connections == 0 and len(server.aborted) == 2)

    @pytest.mark.parametrize(
        "door", ["EmbeddingClient.stream", "SharedEmbeddingClient.stream", "SharedEmbeddingClient.astream"]
    )
    async def test_with_a_stream(self, door: str, server: EmbeddingServer) -> None:
        """A stream that was begun and dropped with its client cancels what is on its way."""
        server.script = lambda request: None if "text 0" in request.texts else Answer.hang()
        arguments: dict[str, Any] = {"model": "m", "encoding": "float", "batch_size": 1, "concurrency": 3}
        client: Any = (SharedEmbeddingClient if door.startswith("Shared") else EmbeddingClient)(
            server.url, **arguments
        )
        stream = getattr(client, door.split(".")[1])(TEXTS)
        assert (next(stream) if hasattr(stream, "__next__") else await anext(stream))[0] == 0
        await server.wait_for(lambda: server.in_flight == 3)
        del stream, client
        gc.collect()
        await server.wait_for(lambda: server.open_connections == 0)
        assert len(server.batches) == 4


class TestEnd:
    """A close from anywhere, at any time, once or often."""

    @pytest.mark.parametrize("kind", SHARED)
    def test_in_many_threads_at_once(self, kind: str, server: EmbeddingServer) -> None:
        """While eight threads call and eight close, a call gives right vectors or UsageError, and nobody hangs."""
        doors, begin = Doors(kind, server.url, concurrency=2), threading.Barrier(16)

        def call(thread: int) -> str:
            begin.wait()
            try:
                for number in range(20):
                    assert right(doors.embed(named((thread, number), 3)), named((thread, number), 3))
            except UsageError as error:
                return str(error)
            return "done"

        def close(_: int) -> None:
            begin.wait()
            server.wait(lambda: len(server.batches) >= 5)
            doors.client.close()
            asyncio.run(doors.client.aclose())

        with ThreadPoolExecutor(16) as pool:
            ended = [pool.submit(call, thread) for thread in range(8)]
            closed = [pool.submit(close, thread) for thread in range(8)]
            assert {future.result() for future in closed} == {None}
            assert {future.result() for future in ended} <= {"done", "this client was closed; make a new one"}
        with pytest.raises(UsageError):
            doors.embed(["after"])
        server.wait(lambda: server.open_connections == 0)

    async def test_of_one_that_is_closing(self, server: EmbeddingServer) -> None:
        """Several closes of an EmbeddingClient at once all wait for the same end; calls after the first are told."""
        client = EmbeddingClient(server.url, model="m", encoding="float")
        with server.hold():
            call = asyncio.ensure_future(client.embed(TEXTS))
            await server.wait_for(lambda: server.in_flight > 0)
            closing = [asyncio.ensure_future(client.close()) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(UsageError):
                await client.embed(["late"])
            await asyncio.gather(*closing)
            with pytest.raises(UsageError):
                await call
        await server.wait_for(lambda: server.open_connections == 0)

    @pytest.mark.parametrize("kind", SHARED)
    def test_in_a_pause(self, kind: str, server: EmbeddingServer) -> None:
        """A call that waits for its next attempt, half a minute away, ends with its client."""
        server.script = lambda request: Answer.throttled(30) if request.embeds else None
        doors = Doors(kind, server.url)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(doors.embed, TEXTS[:5])
            server.wait(lambda: len(server.batches) == 1 and server.in_flight == 0)
            doors.client.close()
            with pytest.raises(UsageError):
                call.result()
