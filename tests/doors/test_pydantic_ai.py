"""pydantic-ai, with the real package: vectors, usage of each call, settings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_ai import Embedder
from pydantic_ai.embeddings import EmbeddingSettings

from embedwire import RequestError
from embedwire.pydantic_ai import EmbedwireEmbeddingModel
from embedwire.testing import EmbeddingServer, is_vector_of
from tests.doors.running import printed
from tests.helpers import numbered, right
from tests.servers import free_port


def test_the_example_finds_the_right_text(local_url: str, tmp_path: Path) -> None:
    """Both questions find their text, and the tokens that the server counted are shown."""
    first, *rest = printed("doors/pydantic_ai_embedder.py", local_url, tmp_path)
    assert first.endswith(" tokens")
    answer = "  Books may be kept for three weeks; each further day costs ten cents."
    assert rest[1::2] == [answer, answer]


async def test_kinds_are_told_apart(server: EmbeddingServer) -> None:
    """Documents and queries have their prompts, and a result gives each text its vector."""
    embedder = Embedder(EmbedwireEmbeddingModel(server.url, prompts="e5"))
    documents = await embedder.embed_documents(["one", "two"])
    query = await embedder.embed_query("one")
    assert server.batches == [["passage: one", "passage: two"], ["query: one"]]
    assert is_vector_of(documents["two"], "passage: two")
    assert is_vector_of(query[0], "query: one")
    assert documents.inputs == ["one", "two"]
    assert (documents.input_type, query.input_type) == ("document", "query")


async def test_usage_is_of_one_call(server: EmbeddingServer) -> None:
    """Calls that share requests are charged for their own texts alone."""
    embedder = Embedder(EmbedwireEmbeddingModel(server.url))
    await embedder.embed_query("warm")
    texts = numbered(40)
    results = await asyncio.gather(*(embedder.embed_documents([text]) for text in texts))
    for text, result in zip(texts, results, strict=True):
        assert right(result.embeddings, [text])
        assert result.usage.input_tokens == 4  # two words, and two more that this server counts
    assert len(server.batches) < 40


async def test_who_answered_is_told(server: EmbeddingServer) -> None:
    """The model's name, the provider and the URL are what spans and prices need."""
    model = EmbedwireEmbeddingModel(server.url)
    assert model.model_name == "unknown"
    result = await Embedder(model).embed_query("one")
    assert (result.model_name, result.provider_name) == ("test-model", "embedwire")
    assert (model.model_name, model.system, model.base_url) == ("test-model", "embedwire", f"{server.url}/v1")
    assert await Embedder(model).max_input_tokens() == 512
    assert EmbedwireEmbeddingModel(server.url, model="mine").model_name == "mine"


async def test_settings_of_a_call(server: EmbeddingServer) -> None:
    """Each of the common settings reaches the request, for that call alone."""
    embedder = Embedder(EmbedwireEmbeddingModel(server.url, settings=EmbeddingSettings(dimensions=4)))
    assert len((await embedder.embed_query("one")).embeddings[0]) == 4
    settings = EmbeddingSettings(dimensions=2, extra_headers={"X-Who": "me"}, extra_body={"user": "kim"})
    assert len((await embedder.embed_query("two", settings=settings)).embeddings[0]) == 2
    last = [request for request in server.requests if request.embeds][-1]
    assert (last.headers["x-who"], last.json["user"]) == ("me", "kim")
    assert len((await embedder.embed_query("three")).embeddings[0]) == 4


async def test_connections_are_kept(server: EmbeddingServer) -> None:
    """Calls one after another, with settings or without, use one connection."""
    embedder = Embedder(EmbedwireEmbeddingModel(server.url))
    for number in range(10):
        await embedder.embed_query(f"text {number}")
        await embedder.embed_query(f"text {number}", settings={"dimensions": 4})
    assert server.connections == 1


def test_sync_doors(server: EmbeddingServer) -> None:
    """The sync twins work, without a loop that runs."""
    embedder = Embedder(EmbedwireEmbeddingModel(server.url))
    try:
        for text in numbered(3):
            assert right(embedder.embed_documents_sync(text).embeddings, [text])
    finally:
        asyncio.get_event_loop().close()  # which pydantic-ai has made
        asyncio.set_event_loop(None)


async def test_errors_are_the_packages_own() -> None:
    """A server that is gone is told with its URL; a wrong argument when the model is made."""
    model = EmbedwireEmbeddingModel(f"http://127.0.0.1:{free_port()}", max_retries=0)
    with pytest.raises(RequestError, match="no connection could be made"):
        await Embedder(model).embed_query("one")
    with pytest.raises(ValidationError, match="pass api_key="):
        EmbedwireEmbeddingModel("http://h", openai_api_key="k")
