"""What an error shows: the caller's line and the door's."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from embedwire import EmbeddingClient, EmbedwireError, InputError, RetryPolicy, SharedEmbeddingClient
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, EmbeddingServer

ONCE: dict[str, Any] = {"max_retries": RetryPolicy(attempts=1)}
HERE = Path(__file__).name


def frames(error: BaseException) -> list[tuple[str, str]]:
    """File and function of each frame from this file on, this file's left out."""
    found = [(Path(frame.filename).name, frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    while found[0][0] != HERE:  # whoever runs the test
        del found[0]
    return [one for one in found if one[0] != HERE]


@pytest.fixture
def broken(server: EmbeddingServer) -> EmbeddingServer:
    """A server that answers 500."""
    server.script = lambda _: Answer(status=500)
    return server


SYNC: dict[str, Callable[[SharedEmbeddingClient], object]] = {
    "embed": lambda client: client.embed(["x"]),
    "embed_query": lambda client: client.embed_query("x"),
    "embed_array": lambda client: client.embed_array(["x"]),
    "__next__": lambda client: next(client.stream(["x"])),
}


@pytest.mark.parametrize("name", SYNC)
def test_of_a_sync_door(broken: EmbeddingServer, name: str) -> None:
    """One frame of ours, and nothing that it came from."""
    with SharedEmbeddingClient(broken.url, **ONCE) as client, pytest.raises(EmbedwireError) as caught:
        SYNC[name](client)
    assert [function for _, function in frames(caught.value)] == [name]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


ASYNC: dict[str, Callable[[SharedEmbeddingClient], Awaitable[object]]] = {
    "aembed": lambda client: client.aembed(["x"]),
    "aembed_query": lambda client: client.aembed_query("x"),
    "aembed_array": lambda client: client.aembed_array(["x"]),
    "__anext__": lambda client: anext(client.astream(["x"])),
}


@pytest.mark.parametrize("name", ASYNC)
async def test_of_an_async_door(broken: EmbeddingServer, name: str) -> None:
    """The same on a loop."""
    async with SharedEmbeddingClient(broken.url, **ONCE) as client:
        with pytest.raises(EmbedwireError) as caught:
            await ASYNC[name](client)
    assert [function for _, function in frames(caught.value)] == [name]


OWN: dict[str, Callable[[EmbeddingClient], Awaitable[object]]] = {
    "embed": lambda client: client.embed(["x"]),
    "embed_query": lambda client: client.embed_query("x"),
    "embed_array": lambda client: client.embed_array(["x"]),
}


@pytest.mark.parametrize("name", OWN)
async def test_of_the_client_of_one_loop(broken: EmbeddingServer, name: str) -> None:
    """The same where the loop is the caller's own."""
    async with EmbeddingClient(broken.url, **ONCE) as client:
        with pytest.raises(EmbedwireError) as caught:
            await OWN[name](client)
    assert frames(caught.value) == [("own.py", name)]


def test_of_the_adapters(broken: EmbeddingServer) -> None:
    """An adapter adds its own method, and LlamaIndex what it has around that."""
    with pytest.raises(EmbedwireError) as caught:
        EmbedwireEmbeddings(broken.url, **ONCE).embed_documents(["x"])
    assert frames(caught.value) == [("langchain.py", "embed_documents"), ("shared.py", "embed")]
    with pytest.raises(EmbedwireError) as caught:
        EmbedwireEmbedding(broken.url, **ONCE).get_text_embedding("x")
    assert frames(caught.value)[-2:] == [("llama_index.py", "_get_text_embedding"), ("shared.py", "embed")]


def test_of_a_wrong_text(server: EmbeddingServer) -> None:
    """What is wrong before anything was sent is told as briefly."""
    with SharedEmbeddingClient(server.url) as client, pytest.raises(InputError) as caught:
        client.embed(["x", 1])  # type: ignore[list-item]
    assert frames(caught.value) == [("shared.py", "embed")]


async def test_what_the_callers_own_source_raises_is_told_in_full(here: EmbeddingServer) -> None:
    """An exception of the caller's keeps the line that raised it."""

    async def lines() -> AsyncIterator[str]:
        yield "one"
        raise KeyError("mine")

    async with EmbeddingClient(here.url) as client:
        with pytest.raises(KeyError) as caught:
            _ = [piece async for piece in client.stream(lines())]
    assert [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)][-1] == "lines"
