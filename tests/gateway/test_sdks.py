"""Other people's clients at the gateway, unchanged and as a user would set them up."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from embedwire.gateway import Limits
from embedwire.testing import Answer, EmbeddingServer
from tests.gateway.serving import SECRET, Start
from tests.gateway.test_failures import poison
from tests.helpers import needs, numbered, right


@pytest.fixture
def left_open() -> Iterator[None]:
    """What a client leaves open is found in this test, where it is no error: they have no way to close it."""
    yield
    gc.collect()


def leaves_connections_open(test: Any) -> Any:
    """Marks a test of a client that leaves its connections open."""
    for ignored in ("pytest.PytestUnraisableExceptionWarning", "ResourceWarning"):
        test = pytest.mark.filterwarnings(f"ignore::{ignored}")(test)
    return pytest.mark.usefixtures("left_open")(test)


@needs("openai")
class TestOpenAI:
    """The openai SDK."""

    def sdk(self, url: str) -> Any:
        """The SDK's client, its two repeats included."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(base_url=f"{url}/v1", api_key="key")

    async def test_gets_its_vectors(self, start: Start, server: EmbeddingServer) -> None:
        """A text and 3000 texts, more than OpenAI takes, get right vectors in float and in the SDK's base64."""
        gateway, texts = await start(server.url, api_keys=["key"], limits=Limits()), numbered(3000)
        async with self.sdk(gateway.url) as client:
            one = await client.embeddings.create(model="m", input="hello", user="me")
            assert right([one.data[0].embedding], ["hello"])
            many = await client.embeddings.create(model="m", input=texts)
            assert right([item.embedding for item in many.data], texts)
            assert many.usage.prompt_tokens == many.usage.total_tokens > 3000
            short = await client.embeddings.create(
                model="m", input=["a"], dimensions=4, encoding_format="float"
            )
            assert len(short.data[0].embedding) == 4
            assert [model.id for model in (await client.models.list()).data] == ["test-model"]

    async def test_gets_errors_of_its_own_kinds(self, start: Start, server: EmbeddingServer) -> None:
        """A poison text, a wrong key and a failing server are the SDK's errors, with the gateway's fields."""
        import openai

        server.script = poison(SECRET, answer=Answer.too_large(602, 512))
        gateway = await start(server.url, api_keys=["key"])
        async with self.sdk(gateway.url) as client:
            with pytest.raises(openai.BadRequestError) as refused:
                await client.embeddings.create(model="m", input=["a", SECRET])
            assert (refused.value.param, refused.value.code) == ("input[1]", "context_length_exceeded")
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="wrong").embeddings.create(model="m", input="a")
            server.script = lambda request: Answer.error(500, "no") if request.embeds else None
            with pytest.raises(openai.InternalServerError):
                await client.with_options(max_retries=0).embeddings.create(model="m", input="a")


@needs("langchain_openai")
@leaves_connections_open
async def test_langchain_openai_gets_its_vectors(start: Start, server: EmbeddingServer) -> None:
    """LangChain's OpenAIEmbeddings gets right vectors, once it is told to send texts and not tokens."""
    from langchain_openai import OpenAIEmbeddings

    gateway, texts = await start(server.url), numbered(500)
    embeddings = OpenAIEmbeddings(
        model="m", base_url=f"{gateway.url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    assert right(await embeddings.aembed_documents(texts), texts)
    assert right([await embeddings.aembed_query("query")], ["query"])


@needs("langchain_openai")
async def test_langchain_openai_is_told_about_tokens(start: Start, server: EmbeddingServer) -> None:
    """Token ids, which it sends where it counts tokens itself, are refused in words that say so."""
    gateway = await start(server.url)
    error = await gateway.refused({"input": [[15339, 1917]], "model": "m"}, 400)
    assert "texts, not token ids" in error["message"]


@leaves_connections_open
async def test_llama_index_openai_like_gets_its_vectors(start: Start, server: EmbeddingServer) -> None:
    """LlamaIndex's OpenAILikeEmbedding gets right vectors, in batches of 2048."""
    openai_like: Any = pytest.importorskip("llama_index.embeddings.openai_like")
    gateway, texts = await start(server.url, limits=Limits()), numbered(2500)
    embedding = openai_like.OpenAILikeEmbedding(
        model_name="m", api_base=f"{gateway.url}/v1", api_key="none", embed_batch_size=2048
    )
    assert right(await embedding.aget_text_embedding_batch(texts), texts)
    assert right([await asyncio.to_thread(embedding.get_query_embedding, "query")], ["query"])
