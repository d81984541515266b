"""Every client that is measured, each used as its own documentation says.

A class here is one way into one package. It is made with the server's URL, the texts in a request and the
requests in flight, and has some of these methods, sync or async as the package has them:

- ``lists(texts)``: a list of lists of Python floats;
- ``array(texts)``: one float32 matrix;
- ``stream(texts)``: an iterator, or an async one, over pieces ``(start, matrix)``;
- ``query(text)``: the vector of one query, a list of floats;
- ``close()``.

Packages are imported when a client is made, never together: their memory and their threads would add up.
"""

from __future__ import annotations

import asyncio
from typing import Any

MODEL = "bench"


def _load() -> None:
    """Loads what the first call would: where nothing is warmed up, imports would be measured too."""
    import embedwire._clients.engine  # noqa: F401


class Embedwire:
    """`EmbeddingClient`, on the caller's own loop."""

    def __init__(self, url: str | list[str], batch: int, concurrency: int) -> None:
        from embedwire import EmbeddingClient

        self.client = EmbeddingClient(url, model=MODEL, batch_size=batch, concurrency=concurrency)
        self._name_methods()

    def _name_methods(self) -> None:
        self.lists, self.array = self.client.embed, self.client.embed_array
        self.stream, self.query = self.client.stream, self.client.embed_query
        self.close = self.client.close


class EmbedwireBestFixed(Embedwire):
    """The same with the numbers that a sweep found, to compare default settings with."""

    def __init__(self, url: str | list[str], batch: int, concurrency: int) -> None:
        _load()
        super().__init__(url, batch, concurrency)


class EmbedwireDefaults(Embedwire):
    """`EmbeddingClient` as it is made without any option."""

    def __init__(self, url: str | list[str], batch: int, concurrency: int) -> None:
        from embedwire import EmbeddingClient

        _load()
        self.client = EmbeddingClient(url)
        self._name_methods()


class EmbedwireShared:
    """`SharedEmbeddingClient`, sync."""

    def __init__(self, url: str | list[str], batch: int, concurrency: int) -> None:
        from embedwire import SharedEmbeddingClient

        client = SharedEmbeddingClient(url, model=MODEL, batch_size=batch, concurrency=concurrency)
        self.lists, self.array = client.embed, client.embed_array
        self.stream, self.query = client.stream, client.embed_query
        self.close = client.close


class EmbedwireSharedDefaults:
    """`SharedEmbeddingClient` as it is made without any option, sync."""

    def __init__(self, url: str | list[str], batch: int, concurrency: int) -> None:
        from embedwire import SharedEmbeddingClient

        _load()
        client = SharedEmbeddingClient(url)
        self.lists, self.query, self.close = client.embed, client.embed_query, client.close


class EmbedwireSharedAsync:
    """`SharedEmbeddingClient`, from the caller's own loop."""

    def __init__(self, url: str | list[str], batch: int, concurrency: int) -> None:
        from embedwire import SharedEmbeddingClient

        client = SharedEmbeddingClient(url, model=MODEL, batch_size=batch, concurrency=concurrency)
        self.lists, self.query, self.close = client.aembed, client.aembed_query, client.aclose


class EmbedwireLangChain:
    """`EmbedwireEmbeddings`, sync."""

    def __init__(self, url: str | list[str], batch: int, concurrency: int) -> None:
        from embedwire.langchain import EmbedwireEmbeddings

        client = EmbedwireEmbeddings(base_url=url, model=MODEL, batch_size=batch, concurrency=concurrency)
        self._name_methods(client)

    def _name_methods(self, client: Any) -> None:
        self.lists, self.query, self.close = client.embed_documents, client.embed_query, client.close


class EmbedwireLangChainAsync(EmbedwireLangChain):
    """`EmbedwireEmbeddings`, async."""

    def _name_methods(self, client: Any) -> None:
        self.lists, self.query, self.close = client.aembed_documents, client.aembed_query, client.aclose


class EmbedwireLlamaIndex:
    """`EmbedwireEmbedding`, sync."""

    def __init__(self, url: str | list[str], batch: int, concurrency: int) -> None:
        from embedwire.llama_index import EmbedwireEmbedding

        client = EmbedwireEmbedding(base_url=url, model_name=MODEL, batch_size=batch, concurrency=concurrency)
        self._name_methods(client)

    def _name_methods(self, client: Any) -> None:
        self.lists, self.query = client.get_text_embedding_batch, client.get_query_embedding
        self.close = client.close


class EmbedwireLlamaIndexAsync(EmbedwireLlamaIndex):
    """`EmbedwireEmbedding`, async."""

    def _name_methods(self, client: Any) -> None:
        self.lists, self.query = client.aget_text_embedding_batch, client.aget_query_embedding
        self.close = client.aclose


class _Baseten:
    """baseten-performance-client."""

    encoding: str | None = None
    defaults = False

    def __init__(self, url: str, batch: int, concurrency: int) -> None:
        from baseten_performance_client import PerformanceClient, RequestProcessingPreference

        self.client: Any = PerformanceClient(url, api_key="none")
        self.options: dict[str, Any] = {"model": MODEL, "encoding_format": self.encoding}
        if not self.defaults:
            self.options["preference"] = RequestProcessingPreference(
                batch_size=batch,
                max_concurrent_requests=concurrency,
                max_chars_per_request=1_000_000,  # by default it would cut larger batches
            )


class Baseten(_Baseten):
    """Its sync methods. Vectors are lists, or a matrix by ``.numpy()``."""

    def lists(self, texts: list[str]) -> Any:
        return [item.embedding for item in self.client.embed(texts, **self.options).data]

    def array(self, texts: list[str]) -> Any:
        return self.client.embed(texts, **self.options).numpy()

    def query(self, text: str) -> Any:
        return self.client.embed([text], **self.options).data[0].embedding


class BasetenAsync(_Baseten):
    """Its async methods."""

    async def lists(self, texts: list[str]) -> Any:
        return [item.embedding for item in (await self.client.async_embed(texts, **self.options)).data]

    async def array(self, texts: list[str]) -> Any:
        return (await self.client.async_embed(texts, **self.options)).numpy()

    async def query(self, text: str) -> Any:
        return (await self.client.async_embed([text], **self.options)).data[0].embedding


class BasetenDefaults(Baseten):
    """Its sync methods with its own sizes: 8 texts, and 256 requests in flight."""

    defaults = True


class BasetenAsyncDefaults(BasetenAsync):
    """Its async methods with its own sizes."""

    defaults = True


class BasetenBase64(_Baseten):
    """Its sync method with vectors in base64, which it leaves for the user to decode."""

    encoding = "base64"

    def __init__(self, url: str, batch: int, concurrency: int) -> None:
        super().__init__(url, batch, concurrency)
        import numpy as np
        from pybase64 import b64decode

        self.decode: Any = lambda text: np.frombuffer(b64decode(text, validate=True), "<f4").tolist()

    def lists(self, texts: list[str]) -> Any:
        return [self.decode(item.embedding) for item in self.client.embed(texts, **self.options).data]


class LangChainOpenAI:
    """langchain-openai, sync; it sends one request at a time."""

    defaults = False

    def __init__(self, url: str, batch: int, concurrency: int) -> None:
        from langchain_openai import OpenAIEmbeddings
        from pydantic import SecretStr

        sizes: Any = {} if self.defaults else {"chunk_size": batch}
        client = OpenAIEmbeddings(
            base_url=f"{url}/v1",
            model=MODEL,
            api_key=SecretStr("none"),
            check_embedding_ctx_length=False,
            **sizes,
        )
        self._name_methods(client)

    def _name_methods(self, client: Any) -> None:
        self.lists, self.query = client.embed_documents, client.embed_query


class LangChainOpenAIAsync(LangChainOpenAI):
    """langchain-openai, async; it too sends one request at a time."""

    def _name_methods(self, client: Any) -> None:
        self.lists, self.query = client.aembed_documents, client.aembed_query


class LangChainOpenAIAsyncDefaults(LangChainOpenAIAsync):
    """langchain-openai, async, with its own size: 1,000 texts."""

    defaults = True


class LlamaIndexOpenAILike:
    """llama-index-embeddings-openai-like, sync; it sends one request at a time."""

    defaults = False

    def __init__(self, url: str, batch: int, concurrency: int) -> None:
        from llama_index.embeddings.openai_like import OpenAILikeEmbedding

        sizes: Any = {} if self.defaults else {"embed_batch_size": batch, "num_workers": concurrency}
        client = OpenAILikeEmbedding(model_name=MODEL, api_base=f"{url}/v1", **sizes)
        self._name_methods(client)

    def _name_methods(self, client: Any) -> None:
        self.lists, self.query = client.get_text_embedding_batch, client.get_query_embedding


class LlamaIndexOpenAILikeAsync(LlamaIndexOpenAILike):
    """llama-index-embeddings-openai-like, async."""

    def _name_methods(self, client: Any) -> None:
        self.lists, self.query = client.aget_text_embedding_batch, client.aget_query_embedding


class LlamaIndexOpenAILikeAsyncDefaults(LlamaIndexOpenAILikeAsync):
    """llama-index-embeddings-openai-like, async, with its own sizes: 10 texts, one request at a time."""

    defaults = True


class OpenAIAsync:
    """The openai SDK, which has no batches of its own: `asyncio.gather` and a semaphore, as its users write it."""

    def __init__(self, url: str, batch: int, concurrency: int) -> None:
        from openai import AsyncOpenAI

        client: Any = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
        self.create, self.close = client.embeddings.create, client.close
        self.batch, self.semaphore = batch, asyncio.Semaphore(concurrency)

    async def _send(self, texts: list[str]) -> list[list[float]]:
        async with self.semaphore:
            reply = await self.create(input=texts, model=MODEL)
        return [item.embedding for item in reply.data]

    async def lists(self, texts: list[str]) -> list[list[float]]:
        starts = range(0, len(texts), self.batch)
        parts = await asyncio.gather(*(self._send(texts[start : start + self.batch]) for start in starts))
        return [vector for part in parts for vector in part]

    async def query(self, text: str) -> list[float]:
        return (await self._send([text]))[0]


class BlogPost:
    """The client that embedwire began as."""

    def __init__(self, url: str, batch: int, concurrency: int) -> None:
        from benchmarks.speed.blog_post import CustomHTTPEmbedding

        client = CustomHTTPEmbedding(url, MODEL)
        self.lists, self.close = client.aembed, client.close

    async def query(self, text: str) -> list[float]:
        return (await self.lists([text]))[0]


BEST_FIXED = "embedwire, best fixed"  # with the numbers that a sweep found
OURS: dict[str, Any] = {
    "embedwire": Embedwire,
    "embedwire defaults": EmbedwireDefaults,
    BEST_FIXED: EmbedwireBestFixed,
    "embedwire shared": EmbedwireShared,
    "embedwire shared async": EmbedwireSharedAsync,
    "embedwire shared defaults": EmbedwireSharedDefaults,
    "embedwire LangChain": EmbedwireLangChain,
    "embedwire LangChain async": EmbedwireLangChainAsync,
    "embedwire LlamaIndex": EmbedwireLlamaIndex,
    "embedwire LlamaIndex async": EmbedwireLlamaIndexAsync,
}
PEERS: dict[str, Any] = {
    "baseten": Baseten,
    "baseten base64 by hand": BasetenBase64,
    "baseten async": BasetenAsync,
    "baseten defaults": BasetenDefaults,
    "baseten async defaults": BasetenAsyncDefaults,
    "langchain-openai": LangChainOpenAI,
    "langchain-openai async": LangChainOpenAIAsync,
    "langchain-openai async defaults": LangChainOpenAIAsyncDefaults,
    "llama-index-openai-like": LlamaIndexOpenAILike,
    "llama-index-openai-like async": LlamaIndexOpenAILikeAsync,
    "llama-index-openai-like async defaults": LlamaIndexOpenAILikeAsyncDefaults,
    "openai async": OpenAIAsync,
    "blog post": BlogPost,
}
