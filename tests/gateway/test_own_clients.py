"""This package's clients at this package's gateway: they know it, and leave to it what it does."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from embedwire import EmbeddingClient, ServerUnavailable, TextRefused
from embedwire.gateway import Limits
from embedwire.testing import Answer, EmbeddingServer
from tests.gateway.serving import SECRET, Start, process
from tests.gateway.test_failures import poison
from tests.helpers import numbered, right


async def test_know_it(start: Start, server: EmbeddingServer) -> None:
    """A client recognises a gateway, and gets right vectors from it, in base64 once that is seen to be right."""
    gateway = await start(server.url, api_keys=["key"])
    async with EmbeddingClient(gateway.url, api_key="key") as client:
        info = await client.wait_ready()
        assert (info.software, info.model, info.dimensions) == ("embedwire-gateway", "test-model", 8)
        texts = numbered(300)
        assert right(await client.embed_array(texts), texts)
        assert client.server_info().base64
        assert client.usage().tokens


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer.error(500, "no"), 502),
        (Answer.hang_up(), 502),
        (Answer.items(lambda data: data[1:]), 502),
        (Answer.error(503, "no", headers={"Retry-After": "3600"}), 503),
    ],
)
async def test_do_not_repeat_what_it_repeated(
    start: Start, server: EmbeddingServer, answer: Answer, status: int
) -> None:
    """What the gateway gave up on is an error after one request of the client's, with the gateway's words."""
    gateway = await start(server.url, timeout=1)
    async with EmbeddingClient(gateway.url, model="m") as client:
        await client.embed(["first"])
        server.script = lambda request: answer if request.embeds else None
        with pytest.raises(ServerUnavailable) as raised:
            await client.embed_query(SECRET)
    assert raised.value.attempts == 1
    assert raised.value.status == status
    assert f"gave up on it, after repeats of its own ({status})" in str(raised.value)
    assert SECRET not in str(raised.value)


async def test_wait_where_it_has_no_room(start: Start, server: EmbeddingServer) -> None:
    """A client that finds the gateway full comes back, and gets its vectors."""
    gateway = await start(server.url, limits=Limits(queued=10))
    async with EmbeddingClient(gateway.url, model="m") as client:
        with server.hold():
            first = asyncio.create_task(gateway.vectors(numbered(10, "b")))
            await server.wait_for(lambda: server.in_flight > 0)
            second = asyncio.create_task(client.embed_array(numbered(5)))
            await gateway.until(lambda told: 'requests_total{status="429"}' in told)
        assert right(await second, numbered(5))
        assert right(await first, numbered(10, "b"))


async def test_wait_while_it_loads(start: Start, server: EmbeddingServer) -> None:
    """A client waits until the gateway's server has loaded its model."""
    server.loading = True
    gateway = await start(server.url)
    async with EmbeddingClient(gateway.url) as client:
        waiting = asyncio.create_task(client.embed_array(numbered(5)))
        await server.wait_for(lambda: len(server.requests) > 2)
        server.loading = False
        assert right(await waiting, numbered(5))


async def test_learn_which_text_is_refused(start: Start, server: EmbeddingServer) -> None:
    """A text that the gateway's server refuses has its index, its tokens and their limit; others are done."""
    server.script = poison(SECRET, answer=Answer.too_large(602, 512))
    gateway = await start(server.url)
    texts = [*numbered(20), SECRET, *numbered(20, "b")]
    async with EmbeddingClient(gateway.url) as client:
        with pytest.raises(TextRefused) as raised:
            await client.embed(texts)
    error = raised.value
    assert (error.index, error.too_long, error.tokens, error.limit) == (20, True, 602, 512)
    assert error.completed is not None
    assert len(error.completed.indexes) == 40
    assert list(error.failures) == [20]


async def test_cut_long_texts_through_it(start: Start, server: EmbeddingServer) -> None:
    """`too_long="truncate"` works through a gateway as it does at its server."""
    server.script = lambda request: (
        Answer.too_large(len(max(request.texts, key=len)), 512)
        if request.embeds and any(len(text) > 512 for text in request.texts)
        else None
    )
    gateway = await start(server.url)
    async with EmbeddingClient(gateway.url, too_long="truncate") as client:
        vectors = await client.embed_array(["short", "word " * 400])
        assert right(vectors[:1], ["short"])
        assert client.usage().truncated == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_outlive_it() -> None:
    """A gateway killed with 500 requests under way, and started again, costs no client a vector."""
    async with EmbeddingServer(latency=0.05, server_header="fast") as server:
        with process(server.url) as (gateway, url):
            client = EmbeddingClient(url, model="m")
            texts = [numbered(4, f"call {number}") for number in range(500)]
            assert right(await client.embed_array(["first"]), ["first"])
            calls = [asyncio.create_task(client.embed_array(some)) for some in texts]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            gateway.send_signal(signal.SIGKILL)
            gateway.wait()
            assert not all(call.done() for call in calls)
        with process(server.url, "--port", url.rpartition(":")[2]):
            done = await asyncio.gather(*calls)
        await client.close()
    assert all(right(vectors, some) for vectors, some in zip(done, texts, strict=True))
