"""Typed use of every public door. Never run: mypy checks it, and each `type: ignore` is a wrong use it must find."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding
from numpy.typing import NDArray
from pydantic import SecretStr

from embedwire import (
    AuthenticationFailed,
    BadReply,
    BatchLimits,
    ByKind,
    Completed,
    ConnectionFailed,
    DeadlineExceeded,
    EmbeddingClient,
    EmbedwireError,
    InputError,
    Overloaded,
    Prompts,
    RateLimit,
    RequestError,
    RequestTimeout,
    RetryPolicy,
    Server,
    ServerInfo,
    ServerRefused,
    ServerUnavailable,
    SharedEmbeddingClient,
    TextRefused,
    Timeouts,
    UsageError,
    __version__,
)
from embedwire.events import Event, RequestFinished
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.telemetry import OpenTelemetry
from embedwire.testing import Answer, EmbeddingServer, Request, is_vector_of, vector

if TYPE_CHECKING:
    from typing_extensions import assert_type  # in typing from Python 3.11 on

URL = "http://localhost:8080"
Floats = NDArray[np.float32]

# What else each error is.
VALUE: type[ValueError] = InputError
RUNTIME: type[RuntimeError] = UsageError
TIMEOUT: list[type[TimeoutError]] = [DeadlineExceeded, RequestTimeout]
CONNECTION: type[ConnectionError] = ConnectionFailed
REQUEST: list[type[RequestError]] = [
    AuthenticationFailed,
    BadReply,
    ConnectionFailed,
    DeadlineExceeded,
    RequestTimeout,
    ServerRefused,
    ServerUnavailable,
    TextRefused,
]
ALL: list[type[EmbedwireError]] = [InputError, Overloaded, RequestError, UsageError]


def key() -> str:
    """A key that changes."""
    return "key"


def secret_key() -> SecretStr:
    """Likewise, in hiding."""
    return SecretStr("key")


def texts() -> Iterator[str]:
    """Texts of unknown number."""
    yield "text"


async def async_texts() -> AsyncIterator[str]:
    """Likewise, from a source that is waited for."""
    yield "text"


def simple_and_full_arguments() -> None:
    """Each knob takes the simple value or its policy object."""
    EmbeddingClient(URL)
    EmbeddingClient(
        URL,
        model="minilm",
        api_key="key",
        batch_size=16,
        concurrency=4,
        timeout=30,
        deadline=60.5,
        max_retries=0,
        dimensions=256,
        normalize=True,
        prompts="e5",
        encoding="base64",
        headers={"X-Team": "search"},
        ssl=False,
        proxy="http://proxy:3128",
        trust_env=True,
        max_queued=10_000,
        rate_limit=600,
        max_reply_bytes=10_000_000,
    )
    SharedEmbeddingClient(
        URL,
        model=None,
        api_key=SecretStr("key"),
        batch_size=BatchLimits(texts=32, chars=20_000),
        concurrency="auto",
        timeout=Timeouts(total=None, connect=2, sock_read=30.0),
        deadline=None,
        max_retries=RetryPolicy(attempts=5, base=1, throttled_base=2, multiplier=2, cap=30, jitter=False),
        dimensions=None,
        prompts=Prompts(query="query: ", document="passage: "),
        encoding="auto",
        headers=None,
        ssl=ssl.create_default_context(),
    )
    EmbeddingClient(URL, api_key=key, ssl="/path/of/ca.pem", timeout=None)
    SharedEmbeddingClient(URL, api_key=secret_key, batch_size="auto")

    EmbeddingClient()  # EMBEDWIRE_BASE_URL
    EmbeddingClient(URL, "minilm")  # type: ignore[call-arg]
    EmbeddingClient(URL, batchsize=5)  # type: ignore[call-arg]
    EmbeddingClient(URL, rate_limit="600")  # type: ignore[arg-type]
    EmbeddingClient(URL, batch_size="5")  # type: ignore[arg-type]
    EmbeddingClient(URL, encoding="hex")  # type: ignore[arg-type]
    Timeouts(30)  # type: ignore[call-arg]
    Timeouts().total = 5  # type: ignore[misc]


async def own_loop() -> None:
    """`EmbeddingClient`."""
    async with EmbeddingClient(URL) as client:
        assert_type(client, EmbeddingClient)
        assert_type(await client.embed(["text"]), list[list[float]])
        assert_type(await client.embed(["text"], "query"), list[list[float]])
        assert_type(await client.embed_query("text"), list[float])
        assert_type(await client.embed_array(["text"], kind="document"), Floats)
        assert_type(await client.wait_ready(timeout=5), ServerInfo)
        assert_type(client.server_info(), ServerInfo)
        async for start, rows in client.stream(texts(), "document", on_error="skip"):
            assert_type(start, int)
            assert_type(rows, Floats)
        stream = client.stream(async_texts())
        assert_type([piece async for piece in stream], list[tuple[int, Floats]])
        assert_type(stream.failures, dict[int, RequestError])
        await stream.aclose()

        assert_type(await client.embed(("one", "two")), list[list[float]])
        assert_type(await client.embed_array(("one", "two"), "query"), Floats)
        await client.embed(["text"], kind="passage")  # type: ignore[arg-type]
        await client.embed_query(["text"])  # type: ignore[arg-type]
        client.stream([1])  # type: ignore[list-item]
        client.stream(texts(), on_error="ignore")  # type: ignore[arg-type]
    await client.close()


def any_thread() -> None:
    """`SharedEmbeddingClient`, its sync doors."""
    with SharedEmbeddingClient(URL) as client:
        assert_type(client, SharedEmbeddingClient)
        assert_type(client.embed(["text"], kind="query"), list[list[float]])
        assert_type(client.embed_query("text"), list[float])
        assert_type(client.embed_array(["text"]), Floats)
        assert_type(client.wait_ready(), ServerInfo)
        assert_type(client.server_info(), ServerInfo)
        for start, rows in client.stream(texts(), on_error="raise"):
            assert_type(start, int)
            assert_type(rows, Floats)
        stream = client.stream(["text"], "query")
        assert_type(stream.failures, dict[int, RequestError])
        stream.close()

        client.stream(async_texts())  # type: ignore[arg-type]
    client.close()


async def any_loop() -> None:
    """`SharedEmbeddingClient`, its async doors."""
    async with SharedEmbeddingClient(URL) as client:
        assert_type(client, SharedEmbeddingClient)
        assert_type(await client.aembed(["text"], "query"), list[list[float]])
        assert_type(await client.aembed_query("text"), list[float])
        assert_type(await client.aembed_array(["text"], kind="query"), Floats)
        assert_type(await client.await_ready(3.5), ServerInfo)
        async for start, rows in client.astream(async_texts()):
            assert_type(start, int)
            assert_type(rows, Floats)
    await client.aclose()


def what_a_server_tells(info: ServerInfo) -> None:
    """`ServerInfo` is for reading."""
    assert_type(info.url, str)
    assert_type(info.software, str | None)
    assert_type(info.model, str | None)
    assert_type(info.dimensions, int | None)
    assert_type(info.slots, int | None)
    assert_type(info.context, int | None)
    assert_type(info.max_texts, int | None)
    assert_type(info.max_chars, int | None)
    assert_type(info.base64, bool | None)
    info.slots = 4  # type: ignore[misc]


def errors(client: SharedEmbeddingClient) -> None:
    """Errors carry data, and are what the standard library has for them too."""
    try:
        client.embed(["text"])
    except TextRefused as error:
        assert_type(error.index, int | None)
        assert_type(error.tokens, int | None)
        assert_type(error.limit, int | None)
        assert_type(error.completed, Completed | None)
        if error.completed is not None:
            assert_type(error.completed.indexes, list[int])
            assert_type(error.completed.vectors, Floats)
    except RequestError as error:
        assert_type(error.server, str)
        assert_type(error.status, int | None)
        assert_type(error.attempts, int)
        assert_type(error.retry_after, float | None)
        assert_type(error.failures, dict[int, RequestError])


def version() -> str:
    """The version is a str."""
    return __version__


def langchain() -> None:
    """The LangChain adapter."""
    embeddings: Embeddings = EmbedwireEmbeddings(base_url=URL)
    assert_type(embeddings.embed_query("text"), list[float])
    adapter = EmbedwireEmbeddings(
        base_url=URL,
        model="minilm",
        api_key="key",
        batch_size=BatchLimits(chars=20_000),
        concurrency=4,
        timeout=30,
        deadline=60,
        max_retries=RetryPolicy(attempts=5),
        dimensions=256,
        normalize=True,
        prompts="e5",
        encoding="float",
        headers={"X-Team": "search"},
        ssl=ssl.create_default_context(),
        proxy="http://proxy:3128",
        trust_env=True,
        max_queued=10_000,
        rate_limit=600,
        max_reply_bytes=10_000_000,
    )
    assert_type(adapter.embed_documents(["text"]), list[list[float]])
    assert_type(adapter.wait_ready(timeout=5), ServerInfo)
    assert_type(adapter.get_dimensions(), int)
    assert_type(adapter.cache_namespace, str)
    url: str | Server | Sequence[str | Server] = adapter.base_url
    assert url
    assert_type(adapter.close(), None)
    assert_type(adapter.model_copy(update={"model": "other"}), EmbedwireEmbeddings)
    EmbedwireEmbeddings(base_url=URL, api_key=SecretStr("key"), prompts=Prompts(query="query: "))
    EmbedwireEmbeddings(base_url=URL, api_key=key, timeout=Timeouts(total=5))
    EmbedwireEmbeddings(base_url=URL, api_key=secret_key, timeout=None)

    EmbedwireEmbeddings(URL)
    EmbedwireEmbeddings(URL, model_name="minilm", extra_body=ByKind(query={"task": "query"}))
    EmbedwireEmbeddings()  # EMBEDWIRE_BASE_URL
    EmbedwireEmbeddings(URL, "minilm")  # type: ignore[call-arg]
    EmbedwireEmbeddings(base_url=URL, batchsize=5)  # type: ignore[call-arg]
    EmbedwireEmbeddings(base_url=URL, encoding="hex")  # type: ignore[arg-type]


async def async_langchain(adapter: EmbedwireEmbeddings) -> None:
    """Its async doors."""
    assert_type(await adapter.aembed_documents(["text"]), list[list[float]])
    assert_type(await adapter.aembed_query("text"), list[float])
    await adapter.aclose()


def llama_index() -> None:
    """The LlamaIndex adapter."""
    model: BaseEmbedding = EmbedwireEmbedding(base_url=URL)
    assert_type(model.get_text_embedding("text"), list[float])
    adapter = EmbedwireEmbedding(
        base_url=URL,
        model_name="minilm",
        embed_batch_size=512,
        num_workers=2,
        api_key="key",
        batch_size=16,
        concurrency=4,
        timeout=30,
        deadline=60,
        max_retries=0,
        dimensions=256,
        normalize=True,
        prompts=Prompts(document="passage: "),
        encoding="base64",
        headers={"X-Team": "search"},
        ssl=False,
        proxy="http://proxy:3128",
        trust_env=True,
        max_queued=10_000,
        rate_limit=RateLimit(texts=6000),
        max_reply_bytes="auto",
    )
    assert_type(adapter.get_query_embedding("text"), list[float])
    assert_type(adapter.get_text_embedding_batch(["text"], show_progress=True), list[list[float]])
    assert_type(adapter.close(), None)
    EmbedwireEmbedding(base_url=URL, api_key=SecretStr("key"), prompts="e5")
    EmbedwireEmbedding(base_url=URL, api_key=key, batch_size="auto", timeout=Timeouts(total=5))
    EmbedwireEmbedding(base_url=URL, api_key=secret_key, batch_size=BatchLimits(texts=8), timeout=None)

    EmbedwireEmbedding()  # EMBEDWIRE_BASE_URL
    EmbedwireEmbedding(URL, model="minilm", extra_body={"truncate": True}, encoding=None)
    EmbedwireEmbedding(URL, "minilm")  # type: ignore[call-arg]
    EmbedwireEmbedding(base_url=URL, concurrency="many")  # type: ignore[arg-type]


async def async_llama_index(adapter: EmbedwireEmbedding) -> None:
    """Its async doors."""
    assert_type(await adapter.aget_query_embedding("text"), list[float])
    assert_type(await adapter.aget_text_embedding("text"), list[float])
    assert_type(await adapter.aget_text_embedding_batch(["text"]), list[list[float]])
    await adapter.aclose()


async def testing() -> None:
    """The server for tests of code that embeds."""

    def script(request: Request) -> Answer | None:
        assert_type(request, Request)
        return None

    with EmbeddingServer(dimensions=384, script=script) as server:
        assert_type(server, EmbeddingServer)
        assert_type(server.url, str)
        assert_type(server.batches, list[list[str]])
        server.answer(Answer.throttled(retry_after=1))
    async with EmbeddingServer() as server:
        assert_type(server.requests, list[Request])
    assert_type(vector("text", 8), list[float])
    assert_type(is_vector_of([0.5], "text"), bool)


def note(event: Event) -> None:
    """A hook."""
    if isinstance(event, RequestFinished):
        assert_type(event.seconds, float)
        assert_type(event.tokens, int | None)
        assert_type(event.error, str | None)


def hooks() -> None:
    """Functions that are told what happens."""
    EmbeddingClient(URL, on_event=note)
    SharedEmbeddingClient(URL, on_event=[note, print, OpenTelemetry()])
    EmbedwireEmbeddings(URL, on_event=OpenTelemetry(provider="vllm"))
    EmbedwireEmbedding(URL, on_event=note)
    SharedEmbeddingClient(URL, on_event="print")  # type: ignore[arg-type]
