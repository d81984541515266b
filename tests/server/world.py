"""A loop thread on simulated time with a server on it, and the doors that lead there: the client and both adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import looptime
import pytest

from embedwire import EmbeddingClient
from embedwire._clients import loop_thread
from embedwire._queue import calls
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import EmbeddingServer

Vectors = list[list[float]]


class World:
    """A loop thread with simulated time, and a server on it."""

    def __init__(self, thread: loop_thread.LoopThread) -> None:
        self.thread = thread
        self.ended = 0.0  # when the last call did, in the loop's time
        self.server = EmbeddingServer()
        self.do(self.server.astart())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs something on the loop."""
        return self.thread.start(work).result(timeout=50)

    def time(self) -> float:
        """The loop's time, in seconds."""
        return self.thread.loop.time()


@contextmanager
def a_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """What the doors of a test run on."""
    monkeypatch.setattr(loop_thread, "_threads", {})
    loop = looptime.new_event_loop()
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", lambda: loop)
        world = World(loop_thread.loop_thread())

    def note_the_time(*args: Any, **kwargs: Any) -> None:
        world.ended = loop.time()
        resolve(*args, **kwargs)

    resolve = calls._resolve
    monkeypatch.setattr(calls, "_resolve", note_the_time)
    yield world
    world.do(world.server.astop())
    world.thread.close()


def by_client(world: World, url: str, texts: list[str], **options: Any) -> Vectors:
    """`EmbeddingClient`."""

    async def embed() -> Vectors:
        async with EmbeddingClient(url, **options) as client:
            return await client.embed(texts)

    vectors: Vectors = world.do(embed())
    return vectors


def by_langchain(world: World, url: str, texts: list[str], **options: Any) -> Vectors:
    """The LangChain adapter."""
    embeddings = EmbedwireEmbeddings(url, **options)
    try:
        return embeddings.embed_documents(texts)
    finally:
        embeddings.close()


def by_llama_index(world: World, url: str, texts: list[str], **options: Any) -> Vectors:
    """The LlamaIndex adapter."""
    embed_model = EmbedwireEmbedding(url, **options)
    try:
        return embed_model.get_text_embedding_batch(texts)
    finally:
        embed_model.close()


Door = Callable[..., Vectors]
every_door = pytest.mark.parametrize("door", [by_client, by_langchain, by_llama_index])
