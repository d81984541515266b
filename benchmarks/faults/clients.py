"""The clients that are compared, each behind the same door: made, asked, dumped."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl

from baseten_performance_client import (
    Endpoint,
    EndpointPool,
    HttpClientWrapper,
    PerformanceClient,
    RequestProcessingPreference,
)
from langchain_openai import OpenAIEmbeddings
from litellm import Router
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from openai import AsyncOpenAI, OpenAI

from embedwire import EmbeddingClient
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding

MODEL = "test-model"

# What they import at first use: no cell shall be timed with that in it.
for late in ("embedwire._clients.engine", "openai.resources.embeddings", "anyio", "h11"):
    importlib.import_module(late)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is set; None: left at the client's own default.

    Attributes:
        url: The server, without `/v1`.
        others: Further servers of the same model.
        key: The key; None: the client finds it in the environment.
        timeout: Seconds for a request.
        retries: Repeats of a request.
        batch: Texts in a request.
        concurrency: Requests in flight.
        model: The name of the model.
        header: Value of the header `x-tenant`.
        dimensions: Numbers a vector is asked to have.
        prefix: What stands before `/embeddings` in the server's paths; None: `/v1`, as each client has it.
        query: Of the URL, without "?".
        trust_env: Whether to look into the environment, where that is not the default.
    """

    url: str
    key: str | None
    timeout: Any = None  # a number, but for mistakes
    retries: int | None = None
    batch: int | None = None
    concurrency: int | None = None
    model: str = MODEL
    header: str | None = None
    dimensions: int | None = None
    prefix: str | None = None
    query: str = ""
    trust_env: bool = False
    others: tuple[str, ...] = ()

    @property
    def headers(self) -> dict[str, str] | None:
        """What is sent beside the client's own headers."""
        return None if self.header is None else {"X-Tenant": self.header}

    def base_url(self, prefix: str, *, query: bool = True) -> str:
        """The URL as the client wants it: with this before `/embeddings` where the server has nothing else there."""
        asked = f"?{self.query}" if self.query and query else ""
        return f"{self.url}{prefix if self.prefix is None else self.prefix}{asked}"

    @property
    def questions(self) -> dict[str, str] | None:
        """The query, for a client that has an option for it."""
        return dict(parse_qsl(self.query)) or None


class Door:
    """One client, with the options it was made with.

    Attributes:
        column: The column of the table that it belongs to.
        label: Its name among the doors of that column.
        key_variable: Where it looks for a key; None: nowhere.
        limits_concurrency: Whether there is an option for the requests in flight.
        servers: How many it can be made with.
        client: What a user of the package holds in hands.
    """

    column: ClassVar[str]
    label: ClassVar[str]
    key_variable: ClassVar[str | None] = "OPENAI_API_KEY"
    limits_concurrency: ClassVar[bool] = False
    servers: ClassVar[Literal["one", "several", "any"]] = "one"
    client: Any

    def __init__(self, options: Options) -> None:
        self.options = options
        self.client = self.make()

    def make(self) -> Any:
        """The client."""
        raise NotImplementedError

    def embed(self, client: Any, texts: list[str]) -> Any:
        """The vectors, by the door for sync code; nothing is taken for granted about them."""
        raise NotImplementedError

    def embed_in_child(self, client: Any, texts: list[str]) -> Any:
        """The vectors, in a process that was forked from the one that made the client."""
        return self.embed(client, texts)

    async def aembed(self, client: Any, texts: list[str]) -> Any:
        """The vectors, by the door for async code."""
        raise NotImplementedError

    async def aquery(self, client: Any, text: str) -> Any:
        """The vector of one query, by the door for async code."""
        return (await self.aembed(client, [text]))[0]

    def for_loops(self) -> Any:
        """The client for async code, where that is another one."""
        return self.client

    def dumps(self) -> Iterator[str]:
        """What the client can be dumped to; nothing where there is no such thing."""
        yield from ()


class EmbedwireLangChain(Door):
    column, label, key_variable = "embedwire", "LangChain", "EMBEDWIRE_API_KEY"
    limits_concurrency, servers = True, "any"

    def make(self) -> Any:
        return EmbedwireEmbeddings(model=self.options.model, **_for_embedwire(self.options))

    def embed(self, client: Any, texts: list[str]) -> Any:
        return client.embed_documents(texts)

    async def aembed(self, client: Any, texts: list[str]) -> Any:
        return await client.aembed_documents(texts)

    async def aquery(self, client: Any, text: str) -> Any:
        return await client.aembed_query(text)

    def dumps(self) -> Iterator[str]:
        yield from _pydantic_dumps(self.client)


class EmbedwireLlamaIndex(Door):
    column, label, key_variable = "embedwire", "LlamaIndex", "EMBEDWIRE_API_KEY"
    limits_concurrency, servers = True, "any"

    def make(self) -> Any:
        return EmbedwireEmbedding(model_name=self.options.model, **_for_embedwire(self.options))

    def embed(self, client: Any, texts: list[str]) -> Any:
        return client.get_text_embedding_batch(texts)

    async def aembed(self, client: Any, texts: list[str]) -> Any:
        return await client.aget_text_embedding_batch(texts)

    async def aquery(self, client: Any, text: str) -> Any:
        return await client.aget_query_embedding(text)

    def dumps(self) -> Iterator[str]:
        yield from _pydantic_dumps(self.client)
        yield from (str(self.client.to_dict()), self.client.to_json())


class EmbedwireAsync(Door):
    column, label, key_variable = "embedwire", "EmbeddingClient", "EMBEDWIRE_API_KEY"
    limits_concurrency, servers = True, "any"

    def make(self) -> Any:
        self._loop = asyncio.new_event_loop()
        return EmbeddingClient(model=self.options.model, **_for_embedwire(self.options))

    def embed(self, client: Any, texts: list[str]) -> Any:
        """Always on the same loop, as in an application that owns one."""
        return self._loop.run_until_complete(client.embed(texts))

    def embed_in_child(self, client: Any, texts: list[str]) -> Any:
        """On loops of its own: the parent's is not for use here."""
        return asyncio.run(client.embed(texts))

    async def aembed(self, client: Any, texts: list[str]) -> Any:
        return await client.embed(texts)

    async def aquery(self, client: Any, text: str) -> Any:
        return await client.embed_query(text)


class LangChainOpenAI(Door):
    column = label = "langchain-openai"

    def make(self) -> Any:
        o = self.options
        return OpenAIEmbeddings(
            base_url=o.base_url("/v1", query=False),
            model=o.model,
            check_embedding_ctx_length=False,  # by default it sends token ids, which a local server may not know
            **_set(
                api_key=o.key,
                timeout=o.timeout,
                max_retries=o.retries,
                chunk_size=o.batch,
                dimensions=o.dimensions,
                default_headers=o.headers,
                default_query=o.questions,
            ),
        )

    def embed(self, client: Any, texts: list[str]) -> Any:
        return client.embed_documents(texts)

    async def aembed(self, client: Any, texts: list[str]) -> Any:
        return await client.aembed_documents(texts)

    async def aquery(self, client: Any, text: str) -> Any:
        return await client.aembed_query(text)

    def dumps(self) -> Iterator[str]:
        yield from _pydantic_dumps(self.client)


class LlamaIndexOpenAILike(Door):
    column = label = "llama-index openai-like"
    key_variable = None

    def make(self) -> Any:
        o = self.options
        return OpenAILikeEmbedding(
            api_base=o.base_url("/v1"),
            model_name=o.model,
            **_set(
                api_key=o.key,
                timeout=o.timeout,
                max_retries=o.retries,
                embed_batch_size=o.batch,
                dimensions=o.dimensions,
                default_headers=o.headers,
            ),
        )

    def embed(self, client: Any, texts: list[str]) -> Any:
        return client.get_text_embedding_batch(texts)

    async def aembed(self, client: Any, texts: list[str]) -> Any:
        return await client.aget_text_embedding_batch(texts)

    async def aquery(self, client: Any, text: str) -> Any:
        return await client.aget_query_embedding(text)

    def dumps(self) -> Iterator[str]:
        yield from _pydantic_dumps(self.client)
        yield from (str(self.client.to_dict()), self.client.to_json())


class OpenAISDK(Door):
    column = label = "openai"

    def make(self) -> Any:
        return OpenAI(**self._arguments())

    def for_loops(self) -> Any:
        return AsyncOpenAI(**self._arguments())

    def embed(self, client: Any, texts: list[str]) -> Any:
        reply = client.embeddings.create(**self._asked(texts))
        return [item.embedding for item in reply.data]

    async def aembed(self, client: Any, texts: list[str]) -> Any:
        reply = await client.embeddings.create(**self._asked(texts))
        return [item.embedding for item in reply.data]

    def _asked(self, texts: list[str]) -> dict[str, Any]:
        return _set(model=self.options.model, input=texts, dimensions=self.options.dimensions)

    def _arguments(self) -> dict[str, Any]:
        o = self.options
        return _set(
            base_url=o.base_url("/v1", query=False),
            default_query=o.questions,
            api_key=o.key,
            timeout=o.timeout,
            max_retries=o.retries,
            default_headers=o.headers,
        )


class Baseten(Door):
    column = label = "baseten-performance-client"
    key_variable = "BASETEN_API_KEY"
    limits_concurrency, servers = True, "any"

    def make(self) -> Any:
        o = self.options
        if not o.others:
            return PerformanceClient(**_set(base_url=o.base_url(""), api_key=o.key))
        wrapper = HttpClientWrapper(http_version=1)
        endpoints = [Endpoint(url, o.key or "", wrapper) for url in (o.base_url(""), *o.others)]
        return PerformanceClient(
            **_set(base_url=o.base_url(""), api_key=o.key),
            client_wrapper=wrapper,
            endpoint_pool=EndpointPool(endpoints),
        )

    def embed(self, client: Any, texts: list[str]) -> Any:
        return client.embed(texts, **self._asked()).numpy().tolist()

    async def aembed(self, client: Any, texts: list[str]) -> Any:
        return (await client.async_embed(texts, **self._asked())).numpy().tolist()

    def _asked(self) -> dict[str, Any]:
        o = self.options
        return _set(model=o.model, dimensions=o.dimensions, preference=self._preference())

    def _preference(self) -> RequestProcessingPreference | None:
        o = self.options
        chosen = _set(
            timeout_s=o.timeout,
            max_retries=o.retries,
            batch_size=o.batch,
            max_concurrent_requests=o.concurrency,
            extra_headers=o.headers,
        )
        return RequestProcessingPreference(**chosen) if chosen else None


class LiteLLM(Door):
    column = label = "litellm"
    servers = "several"

    def make(self) -> Any:
        o = self.options
        models = [
            {
                "model_name": o.model,
                "litellm_params": _set(model=f"openai/{o.model}", api_base=f"{url}/v1", api_key=o.key),
            }
            for url in (o.url, *o.others)
        ]
        return Router(model_list=models, **_set(timeout=o.timeout, num_retries=o.retries))

    def embed(self, client: Any, texts: list[str]) -> Any:
        return [item["embedding"] for item in client.embedding(model=self.options.model, input=texts).data]

    async def aembed(self, client: Any, texts: list[str]) -> Any:
        reply = await client.aembedding(model=self.options.model, input=texts)
        return [item["embedding"] for item in reply.data]


def _for_embedwire(o: Options) -> dict[str, Any]:
    return _set(
        base_url=[o.base_url(""), *o.others] if o.others else o.base_url(""),
        api_key=o.key,
        timeout=o.timeout,
        max_retries=o.retries,
        batch_size=o.batch,
        concurrency=o.concurrency,
        headers=o.headers,
        dimensions=o.dimensions,
        trust_env=o.trust_env or None,
    )


def _set(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _pydantic_dumps(client: Any) -> Iterator[str]:
    yield from (str(client.model_dump()), client.model_dump_json())


DOORS: dict[str, type[Door]] = {
    door.__name__: door
    for door in (
        EmbedwireLangChain,
        EmbedwireLlamaIndex,
        EmbedwireAsync,
        LangChainOpenAI,
        LlamaIndexOpenAILike,
        OpenAISDK,
        Baseten,
        LiteLLM,
    )
}

PACKAGES = {  # column → what is installed for it
    "embedwire": ["embedwire", "aiohttp", "langchain-core", "llama-index-core"],
    "langchain-openai": ["langchain-openai"],
    "llama-index openai-like": ["llama-index-embeddings-openai-like", "llama-index-embeddings-openai"],
    "openai": ["openai"],
    "baseten-performance-client": ["baseten-performance-client"],
    "litellm": ["litellm"],
}
