"""`embedwire serve`: a model that loads, fails or is busy, behind the application on real sockets."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tools.serving import SECRET, Start, applications, encode


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Serve any `encode` on a free port."""
    async with applications() as start:
        yield start


# Loading


async def test_the_port_is_open_while_the_model_loads(start: Start) -> None:
    """Until the model is loaded every endpoint answers llama.cpp's 503 at once, and afterwards 200."""
    loads = threading.Event()

    def slow(texts: list[str]) -> NDArray[np.float32]:
        loads.wait()
        return encode(texts)

    client = await start(slow, wait=False)
    loading = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
    try:
        assert await client.ask("GET", "/health") == (503, loading)
        assert await client.ask("GET", "/v1/models") == (503, loading)
        assert await client.ask("POST", "/v1/embeddings", json={"input": "a"}) == (503, loading)
    finally:
        loads.set()
    await client.loaded()
    assert await client.ask("GET", "/health") == (200, {"status": "ok"})
    await client.embed("a")


async def test_the_key_is_not_asked_for_health_while_loading(start: Start) -> None:
    """A readiness check needs no key, and a wrong key is told so before the model is there."""
    loads = threading.Event()
    client = await start(lambda texts: loads.wait() and encode(texts), wait=False, api_key="key")
    try:
        assert (await client.ask("GET", "/health"))[0] == 503
        assert (await client.ask("GET", "/v1/models"))[0] == 401
    finally:
        loads.set()


async def test_a_model_that_does_not_load_is_no_secret(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that fails to load is a 500 on every endpoint, not an eternal 503, and is logged."""

    def broken(_: list[str]) -> NDArray[np.float32]:
        raise MemoryError

    client = await start(broken)
    for method, path in [("GET", "/health"), ("GET", "/v1/models"), ("POST", "/v1/embeddings")]:
        status, reply = await client.ask(method, path)
        assert (status, reply["error"]["type"]) == (500, "server_error")
        assert "could not be loaded" in reply["error"]["message"]
    assert "could not be loaded with MemoryError" in caplog.text


# Failures and load


async def test_a_failure_shows_neither_traceback_nor_text(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing model is a plain 500; the log says where it failed; the text is in neither."""

    def fails(texts: list[str]) -> NDArray[np.float32]:
        if texts == [SECRET]:
            raise KeyError(SECRET)
        return encode(texts)

    client = await start(fails)
    status, reply = await client.ask("POST", "/v1/embeddings", json={"input": SECRET})
    message = "The server failed; its log says where."
    assert (status, reply) == (500, {"error": {"message": message, "type": "server_error", "code": 500}})
    assert "KeyError" in caplog.text
    assert "in fails" in caplog.text
    assert SECRET not in caplog.text
    await client.embed("the next one")


@pytest.mark.parametrize(
    "answer",
    [np.full((2, 8), np.nan), np.zeros((1, 8)), np.zeros((2, 7))],
    ids=["not a number", "too few", "too narrow"],
)
async def test_bad_vectors_never_leave(start: Start, answer: NDArray[Any]) -> None:
    """A model that returns too little, another width or NaN is a 500, and no vector is sent."""
    client = await start(lambda texts: answer.astype(np.float32) if len(texts) == 2 else encode(texts))
    assert (await client.ask("POST", "/v1/embeddings", json={"input": ["a", "b"]}))[0] == 500


async def test_health_answers_while_the_model_works(start: Start) -> None:
    """A busy model does not hold up the event loop."""
    go_on = threading.Event()
    client = await start(lambda texts: (texts == [""] or go_on.wait()) and encode(texts))
    busy = asyncio.create_task(client.embed("a"))
    await asyncio.sleep(0.1)
    assert (await client.ask("GET", "/health"))[0] == 200
    assert not busy.done()
    go_on.set()
    await busy


async def test_requests_take_turns(start: Start) -> None:
    """One text does not wait until a large batch before it is done."""
    seen: list[str] = []
    first, go_on = threading.Event(), threading.Event()

    def notes(texts: list[str]) -> NDArray[np.float32]:
        if texts != [""]:
            first.set()
            go_on.wait()
        seen.append(texts[0])
        return encode(texts)

    client = await start(notes)
    large = asyncio.create_task(client.embed(["large"] * 320))
    await asyncio.to_thread(first.wait)
    small = asyncio.create_task(client.embed("small"))
    await asyncio.sleep(0.2)  # the small request is in the queue
    go_on.set()
    await asyncio.gather(small, large)
    assert seen.index("small") <= 3
    assert seen.count("large") == 10


async def test_work_nobody_waits_for_stops(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """The rest of a batch is not computed when its client goes away; nothing is logged, others are served."""
    calls: list[int] = []
    first, go_on = threading.Event(), threading.Event()

    def notes(texts: list[str]) -> NDArray[np.float32]:
        if texts[0] == "large":
            calls.append(len(texts))
            first.set()
            go_on.wait()
        return encode(texts)

    client = await start(notes)
    large = asyncio.create_task(client.embed(["large"] * 320))
    await asyncio.to_thread(first.wait)
    large.cancel()
    await asyncio.wait([large])
    await asyncio.sleep(0.2)  # the server notices
    go_on.set()
    await client.embed("small")
    assert calls == [32]
    assert not caplog.records
