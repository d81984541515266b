"""`usage()`: what a client had embedded, and what that took, adds up."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from embedwire import (
    ConnectionFailed,
    DeadlineExceeded,
    EmbeddingClient,
    RetryPolicy,
    ServerUnavailable,
    SharedEmbeddingClient,
    TextRefused,
)
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, EmbeddingServer
from tests.helpers import copies, numbered, right, simulated
from tests.server.doors import Open, own, shared


def counted(server: EmbeddingServer) -> int:
    """Tokens that the server counted, in all that it answered well."""
    return sum(len(text.split()) + 2 for batch in server.batches for text in batch)


class TestOneClient:
    """All of it is the client's."""

    async def test_by_each_door(self, open_doors: Open, server: EmbeddingServer) -> None:
        """Texts, characters, tokens and requests are those that the server saw."""
        doors = open_doors()
        assert doors.client.usage().tokens is None
        texts = numbered(100)
        await doors.embed(texts)
        await doors.embed_query("a query")
        usage = doors.client.usage()
        assert usage.texts == 101
        assert usage.characters == sum(map(len, texts)) + 7
        assert usage.tokens == counted(server)
        assert usage.requests == len(server.batches)
        assert usage.repeats == usage.truncated == usage.averaged == 0
        assert usage.seconds > 0
        assert usage.since <= datetime.datetime.now(datetime.timezone.utc)

    async def test_equal_texts(self, here: EmbeddingServer) -> None:
        """Each counts, the tokens only once, as they travelled once."""
        async with own(here) as client:
            await client.embed(["a"] * 10)
            usage = client.usage()
            assert (usage.texts, usage.characters, usage.tokens, usage.requests) == (10, 10, 3, 1)

    async def test_empty_texts(self, here: EmbeddingServer) -> None:
        """They have no characters, and are texts all the same."""
        async with own(here) as client:
            await client.embed([""])
            assert (client.usage().texts, client.usage().requests) == (1, 1)

    async def test_of_a_server_that_counts_nothing(self, here: EmbeddingServer) -> None:
        """Tokens are None, not 0."""
        here.script = lambda request: (
            Answer.mutate(lambda reply: {"data": reply["data"]}) if request.embeds else None
        )
        async with own(here) as client:
            await client.embed(["a"])
            assert client.usage().tokens is None

    @simulated
    async def test_repeats(self) -> None:
        """Requests that failed count, and those that sent the same texts again are repeats."""
        async with EmbeddingServer() as server, own(server) as client:
            server.answer(Answer.error(503, "no"), Answer.error(503, "no"))
            await client.embed(["a"])
            usage = client.usage()
            assert (usage.requests, usage.repeats, usage.texts) == (3, 2, 1)

    @simulated
    async def test_failures(self) -> None:
        """So do those of a call that came to nothing."""
        async with EmbeddingServer() as server, own(server) as client:
            server.script = lambda request: Answer.error(503, "no") if request.embeds else None
            with pytest.raises(ServerUnavailable):
                await client.embed(["a"])
            usage = client.usage()
            assert usage.requests == len(server.batches) > 1
            assert (usage.repeats, usage.texts, usage.tokens) == (len(server.batches) - 1, 0, None)

    async def test_refused_texts(self, here: EmbeddingServer) -> None:
        """A text that is searched for costs what was sent for it."""
        here.script = lambda request: Answer.too_large(600, 512) if "bad" in request.texts else None
        async with own(here, batch_size=8) as client:
            with pytest.raises(TextRefused):
                await client.embed([*numbered(7), "bad"])
            usage = client.usage()
            assert usage.requests == len(here.batches)
            assert usage.repeats == len(here.batches) - 1
            assert usage.texts == 7

    async def test_nothing_was_sent(self) -> None:
        """A server that is not there gets no negative number of repeats."""
        client = EmbeddingClient("http://127.0.0.1:9", model="m", max_retries=RetryPolicy(attempts=1))
        with pytest.raises(ConnectionFailed):
            await client.embed(["a"])
        assert client.usage().repeats == 0
        assert client.usage().texts == 0
        await client.close()

    @simulated
    async def test_given_up(self) -> None:
        """A request that was cancelled, or whose deadline passed, was sent, and counts."""
        async with EmbeddingServer() as server, own(server, deadline=5) as client:
            with server.hold():
                call = asyncio.ensure_future(client.embed(["a"]))
                await server.wait_for(lambda: server.in_flight == 1)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
                with pytest.raises(DeadlineExceeded):
                    await client.embed(["b"])
                usage = client.usage()
                assert (usage.requests, usage.repeats, usage.texts) == (2, 0, 0)

    async def test_questions_do_not_count(self, here: EmbeddingServer) -> None:
        """Which model, how many slots: these have no tokens. What wait_ready embeds has some."""
        async with EmbeddingClient(here.url) as client:
            await client.wait_ready()
            assert client.usage().requests == len(here.batches)
            assert len(here.requests) > len(here.batches)

    @copies
    def test_copies_start_anew(self, again: Any, server: EmbeddingServer) -> None:
        """What a copy has embedded is its own."""
        with shared(server) as client:
            client.embed(["a"])
            with again(client) as twin:
                assert twin.usage().texts == 0
                assert twin.usage().since >= client.usage().since
                twin.embed(["b", "c"])
                assert (twin.usage().texts, client.usage().texts) == (2, 1)

    async def test_is_kept_over_loops_and_after_close(self, server: EmbeddingServer) -> None:
        """It belongs to the client, not to its connections, and is read from any thread."""
        client = own(server)
        async with client:
            await client.embed(["a"])
        assert client.usage().texts == 1
        assert (await asyncio.to_thread(client.usage)).texts == 1

    async def test_by_the_adapters(self, server: EmbeddingServer) -> None:
        """Both have it; what they embed counts there."""
        chain, index = EmbedwireEmbeddings(server.url, model="m"), EmbedwireEmbedding(server.url, model="m")
        await chain.aembed_documents(["a", "b"])
        await index.aget_text_embedding("c")
        assert (chain.usage().texts, index.usage().texts) == (2, 1)
        await chain.aclose()
        await index.aclose()


class TestSharedRequests:
    """Each client has its share of a request, by characters."""

    async def both(
        self, server: EmbeddingServer, *texts: list[str], answer: Answer | None = None
    ) -> list[Any]:
        """What two clients' calls cost that travel in one request."""
        clients = [own(server, concurrency=1, max_retries=RetryPolicy(attempts=1)) for _ in texts]
        with server.hold() as gate:
            first = asyncio.ensure_future(clients[0].embed(["first"]))
            await server.wait_for(lambda: server.in_flight == 1)
            rest = [
                asyncio.ensure_future(client.embed(some)) for client, some in zip(clients, texts, strict=True)
            ]
            await asyncio.sleep(0)
            if answer is not None:
                server.answer(answer)
            gate.open()
            await first
            await asyncio.gather(*rest, return_exceptions=True)
        assert server.batches[1:] == [sorted({text for some in texts for text in some})]
        usages = [client.usage() for client in clients]
        for client in clients:
            await client.close()
        return usages

    async def test_add_up_to_the_whole(self, here: EmbeddingServer) -> None:
        """Three characters of four are three quarters of the request, and of its tokens."""
        mine, others = await self.both(here, ["a a"], ["b"])
        assert (mine.requests, others.requests) == (1.75, 0.25)
        assert mine.tokens + others.tokens == counted(here)
        assert (mine.texts, others.texts) == (2, 1)

    async def test_of_an_equal_text(self, here: EmbeddingServer) -> None:
        """Two who want the same text pay half each."""
        mine, others = await self.both(here, ["same"], ["same"])
        assert (mine.requests, others.requests) == (1.5, 0.5)
        assert (others.tokens, others.characters) == (2, 4)  # one and a half

    async def test_of_one_that_failed(self, here: EmbeddingServer) -> None:
        """A failure is paid by the same shares."""
        mine, others = await self.both(here, ["a a"], ["b"], answer=Answer.error(401, "no"))
        assert (mine.requests, others.requests) == (1.75, 0.25)
        assert (mine.texts, others.texts) == (1, 0)

    async def test_of_who_left(self, here: EmbeddingServer) -> None:
        """Who gives up while the request is on the wire pays for it too, and has no texts of it."""
        clients = [own(here, concurrency=1) for _ in range(2)]
        with here.hold() as gate:
            first = asyncio.ensure_future(clients[0].embed(["x"]))
            await here.wait_for(lambda: here.in_flight == 1)
            second = asyncio.ensure_future(clients[1].embed(["x"]))
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            gate.open()
            assert right(await first, ["x"])
        usages = [client.usage() for client in clients]
        assert sum(usage.requests for usage in usages) == 1
        assert [usage.texts for usage in usages] == [1, 0]
        for client in clients:
            await client.close()

    def test_of_many(self, server: EmbeddingServer) -> None:
        """A hundred clients, one for each query, cost together what the server saw."""
        clients = [SharedEmbeddingClient(server.url, model="m", encoding="float") for _ in range(100)]

        async def ask() -> None:
            await asyncio.gather(*(client.aembed_query(f"q {at}") for at, client in enumerate(clients)))

        asyncio.run(ask())
        usages = [client.usage() for client in clients]
        assert sum(usage.requests for usage in usages) == pytest.approx(len(server.batches), abs=1e-4)
        assert sum(usage.texts for usage in usages) == 100
        for client in clients:
            client.close()
