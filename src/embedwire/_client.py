"""`EmbeddingClient`: for those who own their event loop."""

from __future__ import annotations

import asyncio
import importlib
import weakref
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from embedwire._config import (
    CLOSED,
    MAX_QUEUED,
    SSL,
    ApiKey,
    BatchLimits,
    Encoding,
    Kind,
    OnFull,
    Prompts,
    RateLimit,
    RetryPolicy,
    Settings,
    Timeouts,
    check_seconds,
    settings,
)
from embedwire._discreet import discreet
from embedwire._limits import ServerInfo, learned
from embedwire._lists import no_vectors, to_lists
from embedwire._prepare import check_kind, check_text, check_texts, with_prompt
from embedwire._stream import AsyncStream, OnError, check_source, stream_chunk, stream_window
from embedwire.exceptions import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedwire._engine import Engine


class EmbeddingClient:
    """Turns texts into vectors over one server's OpenAI-compatible ``/v1/embeddings``.

    It belongs to the event loop that first uses it, as aiohttp's sessions do: make one per application, for
    instance in FastAPI's lifespan. `SharedEmbeddingClient` works from any thread and loop.

    Example:
        ```python
        async with EmbeddingClient("http://localhost:8080") as client:
            vectors = await client.embed(["first text", "second text"])
        ```

    Args:
        base_url: The server, with or without ``/v1``.
        model: Name of the model; None for the one that the server serves (asked once).
        api_key: Sent as ``Authorization: Bearer``. A str, a SecretStr, or a function without arguments that
            returns one and is called for each request, on the loop: it must not block. None: the environment's
            ``EMBEDWIRE_API_KEY`` (for ``https://api.openai.com`` also ``OPENAI_API_KEY``).
        batch_size: Most texts in one request, or `BatchLimits` for characters too. ``"auto"``: starts at 5 and
            grows to at most 128 while that pays; 32 queries that wait together.
        concurrency: Most requests in flight at the server. ``"auto"``: 4 at first; then twice the slots of a
            llama-server, at most 4 more than its slots; at other servers 8, and to at most 128 while that pays.
        timeout: Seconds for one request, or `Timeouts`. Default: 120 in all, 10 to connect, 60 of silence.
        deadline: Seconds for one whole call: queue, attempts, pauses and body. Default: none.
        max_retries: Repeats of a request that failed for a passing reason, or a `RetryPolicy`. Default: 2.
        dimensions: Numbers per vector. A server that ignores it gets its vectors cut, and brought back to unit
            length, here. Default: as many as the model has.
        normalize: Bring each vector to unit length. Default: as the server sends them.
        prompts: What stands before each query and document: `Prompts`, or the name of a family of models:
            ``"e5"``, ``"nomic"``, ``"bge"``, ``"mxbai"``, ``"arctic"``, ``"embeddinggemma"``, ``"qwen3"``.
        encoding: How vectors travel: ``"float"``, ``"base64"``, or ``"auto"``.
        headers: Further headers of each request.
        ssl: An ``ssl.SSLContext``, the path of a CA file, or False to verify nothing.
        proxy: URL of an HTTP proxy.
        trust_env: Take the proxy from the environment (``HTTPS_PROXY`` and the like).
        max_queued: Most texts that wait at one server. Default: 1,000,000.
        on_full: What a call does that meets a full queue: ``"wait"`` for room, or ``"raise"`` `Overloaded`.
        rate_limit: Most requests per minute, or a `RateLimit` for texts or characters too. Default: none.
        max_reply_bytes: Most bytes read of one reply. ``"auto"``: 4 MiB and 256 KiB for each of its texts.

    Raises:
        InputError: An argument is wrong; the message names it and says the cure.
    """

    @discreet
    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: ApiKey | None = None,
        batch_size: int | BatchLimits | Literal["auto"] = "auto",
        concurrency: int | Literal["auto"] = "auto",
        timeout: float | Timeouts | None = Timeouts(),
        deadline: float | None = None,
        max_retries: int | RetryPolicy = 2,
        dimensions: int | None = None,
        normalize: bool = False,
        prompts: Prompts | str | None = None,
        encoding: Encoding = "auto",
        headers: Mapping[str, str] | None = None,
        ssl: SSL = None,
        proxy: str | None = None,
        trust_env: bool = False,
        max_queued: int = MAX_QUEUED,
        on_full: OnFull = "wait",
        rate_limit: int | RateLimit | None = None,
        max_reply_bytes: int | Literal["auto"] = "auto",
    ) -> None:
        self._settings = settings(
            base_url,
            model=model,
            api_key=api_key,
            batch_size=batch_size,
            concurrency=concurrency,
            timeout=timeout,
            deadline=deadline,
            max_retries=max_retries,
            dimensions=dimensions,
            normalize=normalize,
            prompts=prompts,
            encoding=encoding,
            headers=headers,
            ssl=ssl,
            proxy=proxy,
            trust_env=trust_env,
            max_queued=max_queued,
            on_full=on_full,
            rate_limit=rate_limit,
            max_reply_bytes=max_reply_bytes,
        )
        self._engine: Engine | None = None
        self._finalizer: weakref.finalize[..., EmbeddingClient] | None = None  # lets go of the engine
        self._closed = False

    def __getstate__(self) -> Settings:
        """A pickle, or a copy, carries the arguments only; never a key that came from the environment."""
        return self._settings

    def __setstate__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine, self._finalizer, self._closed = None, None, False

    def __repr__(self) -> str:
        if not hasattr(self, "_settings"):  # its arguments were refused
            return "EmbeddingClient()"
        return f"EmbeddingClient({self._settings.base_url!r}, model={self._settings.form.model!r})"

    async def __aenter__(self) -> EmbeddingClient:
        # aiohttp and numpy take some 150 ms to import, which need not stop the loop.
        await asyncio.to_thread(importlib.import_module, "embedwire._engine")
        self._attach()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @discreet
    async def embed(self, texts: list[str], kind: Kind = "document") -> list[list[float]]:
        """Embeds texts.

        Args:
            texts: Any number; equal ones travel once.
            kind: ``"document"`` or ``"query"``: decides the prompt; queries go first.

        Returns:
            One vector per text, in their order, as Python floats.

        Raises:
            InputError: A text is not a str, or not valid Unicode; nothing was sent.
            RequestError: A text got no vector; ``completed`` on the error has those that did.
            Overloaded: The queue is full, with ``on_full="raise"``.
            UsageError: The client is closed, or belongs to another loop.
        """
        return to_lists(await self.embed_array(texts, kind))

    @discreet
    async def embed_query(self, text: str) -> list[float]:
        """Embeds one query.

        Returns:
            Its vector, as Python floats.

        Raises:
            InputError: The text is not a str, or not valid Unicode; nothing was sent.
            RequestError: It got no vector.
        """
        vector: list[float] = (await self._start([check_text(text)], "query"))[0].tolist()
        return vector

    @discreet
    async def embed_array(self, texts: list[str], kind: Kind = "document") -> NDArray[np.float32]:
        """Embeds texts into one array; the cheapest way for many.

        Returns:
            float32, shape ``(len(texts), dimensions)``, in C order.

        Raises:
            InputError: A text is not a str, or not valid Unicode; nothing was sent.
            RequestError: A text got no vector; ``completed`` on the error has those that did.
        """
        texts = check_texts(texts)
        check_kind(kind)
        if not texts:
            return no_vectors(self.server_info().dimensions)
        return await self._start(texts, kind)

    @discreet
    def stream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        kind: Kind = "document",
        *,
        on_error: OnError = "raise",
    ) -> AsyncStream:
        """Embeds texts of unknown number in bounded memory: at most four times ``concurrency`` batches.

        Args:
            texts: Any iterable or async iterable of str; read as fast as vectors are taken, not faster.
            kind: ``"document"`` or ``"query"``.
            on_error: ``"raise"`` at the first text that fails, or ``"skip"`` it: then ``failures`` of the stream
                has its error, by index. Failures that are not one text's own are raised always.

        Returns:
            ``async for start, vectors in client.stream(texts)``: vectors of the texts from index ``start`` on,
            float32, in order.

        Raises:
            InputError: ``texts`` cannot be iterated; while iterating: a text is not a str, or not valid Unicode.
        """
        check_source(texts, asynchronous=True)
        check_kind(kind)
        return AsyncStream(
            texts,
            lambda chunk, start: self._start(check_texts(chunk, start), kind, start),
            size=lambda: stream_chunk(self._settings),
            window=lambda: stream_window(self._settings),
            on_error=on_error,
        )

    @discreet
    async def wait_ready(self, timeout: float = 60.0) -> ServerInfo:
        """Waits until the server embeds, and asks what it is; for the start of an application.

        Polls ``/health``, then embeds one word.

        Args:
            timeout: Seconds to wait in all.

        Raises:
            RequestError: The server was not ready in time, or never will be: the message says why.
        """
        check_seconds("timeout", timeout, none=False)
        return await self._attach().wait_ready(timeout)

    def server_info(self) -> ServerInfo:
        """What is known about the server so far; asks nothing."""
        return learned(self._settings.base_url).info(
            self._settings.form.model, self._settings.form.dimensions
        )

    async def close(self) -> None:
        """Closes the connections; calls under way end with `UsageError`. Closing twice is fine."""
        engine = self._engine
        here = engine is None or engine.here()
        self._closed, self._engine = True, None
        if engine is not None and here:
            await engine.close()
        self._forget_engine()

    def _start(
        self, texts: list[str], kind: Kind, offset: int | None = None
    ) -> asyncio.Future[NDArray[np.float32]]:
        future: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        self._attach().submit(with_prompt(texts, kind, self._settings.prompts), kind, future, offset)
        return future

    def _attach(self) -> Engine:
        """The engine on the running loop; a new one where the last one's loop is over."""
        if self._closed:
            raise UsageError(CLOSED)
        engine = self._engine
        if engine is None or not engine.here():
            from embedwire._engine import (
                Engine,
            )  # aiohttp and numpy come with it, so not before they are needed

            self._forget_engine()
            engine = self._engine = Engine(self._settings)
            self._finalizer = weakref.finalize(self, engine.abandon)
        return engine

    def _forget_engine(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
            self._finalizer = None
