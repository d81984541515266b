"""What the tests of both adapters need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from embedwire import EmbeddingClient
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding

KEY = "sk-do-not-show-4711"
NOBODY = "http://127.0.0.1:9"  # for objects that are looked at and send nothing


async def result_of(value: Any) -> Any:
    """The value of a sync or an async call."""
    return await value if isinstance(value, Awaitable) else value


def last_words_without(framework: str, adapter: str) -> str:
    """The last line that Python says when an adapter is imported and its framework is not installed."""
    code = f"import sys; sys.modules[{framework!r}] = None; import {adapter}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


async def by_client(url: str | None, texts: list[str], **options: Any) -> list[list[float]]:
    """Vectors by the async client."""
    async with EmbeddingClient(url, **options) as client:
        return await client.embed(texts)


async def by_langchain(url: str | None, texts: list[str], **options: Any) -> list[list[float]]:
    """Vectors by LangChain's adapter."""
    embeddings = EmbedwireEmbeddings(base_url=url, **options)
    try:
        return await embeddings.aembed_documents(texts)
    finally:
        await embeddings.aclose()


async def by_llama_index(url: str | None, texts: list[str], **options: Any) -> list[list[float]]:
    """Vectors by LlamaIndex's adapter."""
    options = {{"model": "model_name"}.get(name, name): value for name, value in options.items()}
    embed_model = EmbedwireEmbedding(base_url=url, **options)
    try:
        return await embed_model.aget_text_embedding_batch(texts)
    finally:
        await embed_model.aclose()


every_door = pytest.mark.parametrize("door", [by_client, by_langchain, by_llama_index])
Door = Callable[..., Awaitable[list[list[float]]]]
