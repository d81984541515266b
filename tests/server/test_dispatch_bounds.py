"""The dispatcher's bounds, on real sockets: one limit per server, whoever asks, and a deadline for everything."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from embedwire import (
    DeadlineExceeded,
    EmbeddingClient,
    Overloaded,
    RequestError,
    RetryPolicy,
    SharedEmbeddingClient,
)
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import now, numbered, right, simulated

TEXTS = numbered(1000)


def test_equal_adapters_share_one_limit() -> None:
    """200 adapters with equal settings, from many threads and loops, open no more connections than ``concurrency``."""
    with EmbeddingServer(latency=0.002) as server:
        adapters = [EmbedwireEmbeddings(base_url=server.url, model="m", concurrency=4) for _ in range(200)]
        failed: list[str] = []

        def use(number: int) -> None:
            texts = [f"{number}-{index}" for index in range(5)]
            if number % 2:
                vectors = adapters[number].embed_documents(texts)
            else:
                vectors = asyncio.run(adapters[number].aembed_documents(texts))
            if not right(vectors, texts):
                failed.append(str(number))

        threads = [threading.Thread(target=use, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert server.peak_in_flight <= 4
        assert server.connections <= 4
        for adapter in adapters:
            adapter.close()
        server.wait(lambda: server.open_connections == 0)


def test_the_smallest_number_holds_for_all() -> None:
    """Clients with different settings at one server together never exceed the smallest ``concurrency`` among them."""
    with (
        EmbeddingServer(latency=0.002) as server,
        SharedEmbeddingClient(server.url, model="m", concurrency=2) as careful,
        SharedEmbeddingClient(server.url, model="m", concurrency=16, batch_size=1) as bold,
    ):
        both: list[Any] = []
        held = server.hold()
        first = threading.Thread(target=lambda: both.append(careful.embed(TEXTS[:100])))
        first.start()
        server.wait(lambda: server.in_flight == 2)
        second = threading.Thread(target=lambda: both.append(bold.embed(TEXTS[:100])))
        second.start()
        held.open()
        first.join()
        second.join()
        assert all(right(vectors, TEXTS[:100]) for vectors in both)
        assert len(both) == 2
        assert server.peak_in_flight == 2 or len(server.batches) > 100


async def test_a_full_queue_is_said() -> None:
    """A call beyond ``max_queued`` fails at once, and nothing of it is sent."""
    async with (
        EmbeddingServer() as server,
        EmbeddingClient(server.url, model="m", max_queued=10, concurrency=1) as client,
    ):
        with server.hold():
            call = asyncio.create_task(client.embed(TEXTS[:8]))
            await server.wait_for(lambda: server.in_flight == 1)
            with pytest.raises(Overloaded, match="max_queued=10"):
                await client.embed(["one", "two", "three"])
        assert right(await call, TEXTS[:8])
        assert right(await client.embed(["one"]), ["one"])
        assert len(server.batches) == 3


@simulated
@pytest.mark.parametrize("trouble", ["slow", "dripping", "throttled", "queued", "failing"])
async def test_the_deadline_covers_everything(trouble: str) -> None:
    """A call ends within 0.25 s of its deadline, whatever it is that takes so long, and keeps what was done."""
    answers: dict[str, Callable[[Request], Answer | None]] = {
        "slow": lambda request: None if "text 0" in request.texts else Answer(delay=100),
        "dripping": lambda request: None if "text 0" in request.texts else Answer(drip=1),
        "throttled": lambda request: None if "text 0" in request.texts else Answer.throttled(1),
        "queued": lambda request: None if "text 0" in request.texts else Answer(delay=2.0),
        "failing": lambda request: None if "text 0" in request.texts else Answer.error(502, "no"),
    }
    async with (
        EmbeddingServer(
            script=lambda request: answers[trouble](request) if request.embeds else None
        ) as server,
        EmbeddingClient(
            server.url,
            model="m",
            deadline=5,
            concurrency=1,
            max_retries=RetryPolicy(attempts=100, base=1, jitter=False, cap=1),
        ) as client,
    ):
        begin = now()
        with pytest.raises(RequestError) as caught:
            await client.embed(TEXTS[:40])
        assert now() - begin <= 5.25
        if trouble not in ("throttled", "failing"):  # these give up when the next try could not end in time
            assert isinstance(caught.value, DeadlineExceeded)
            assert now() - begin >= 4.75
        assert caught.value.completed is not None
        assert caught.value.completed.indexes[:5] == [0, 1, 2, 3, 4]
        assert right(caught.value.completed.vectors, [TEXTS[i] for i in caught.value.completed.indexes])
        sent = len(server.batches)
        await asyncio.sleep(200)
        assert len(server.batches) == sent


def test_sockets_are_closed_at_the_end() -> None:
    """After the last client of a server is closed no connection to it stays open."""
    with EmbeddingServer() as server:
        one, two = (SharedEmbeddingClient(server.url, model="m") for _ in range(2))
        one.embed(TEXTS[:20])
        two.embed(TEXTS[:20])
        one.close()
        assert server.open_connections > 0
        two.close()
        server.wait(lambda: server.open_connections == 0)
        with socket.create_connection(("127.0.0.1", server.port)):
            pass
