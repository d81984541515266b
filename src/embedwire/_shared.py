"""`SharedEmbeddingClient`: sync and async doors for any thread and any event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import threading
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

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
from embedwire._stream import (
    AsyncStream,
    OnError,
    Stream,
    check_source,
    stream_chunk,
    stream_window,
)
from embedwire.exceptions import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedwire._engine import Engine
    from embedwire._loop import LoopThread

    Vectors = NDArray[np.float32]

T = TypeVar("T")


# A fork while another thread is inside the first import of aiohttp would leave the child with a module lock
# that nobody releases, so forks wait for that import.
_importing = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release
    )


class _Hold:
    """A shared client's engine on the loop thread. Only that thread touches the engine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._closed = False
        self._thread: LoopThread | None = None  # that has, or will have, the engine
        self._engine: Engine | None = None

    def submit(
        self, texts: list[str], kind: Kind, offset: int | None = None
    ) -> concurrent.futures.Future[Vectors]:
        """Queues a call, from any thread."""
        thread = self.thread()
        texts = with_prompt(texts, kind, self.settings.prompts)
        future: concurrent.futures.Future[Vectors] = concurrent.futures.Future()

        def begin() -> None:
            try:
                self._on(thread).submit(texts, kind, future, offset)
            except Exception as error:  # it belongs to the caller, not to the loop
                if not future.cancelled():
                    # Without this frame, which still runs while the caller looks at the traceback.
                    future.set_exception(error.with_traceback(None))

        # Without arguments: asyncio's debug log shows those of slow callbacks.
        thread.loop.call_soon_threadsafe(begin)
        return future

    def wait_ready(self, timeout: float) -> concurrent.futures.Future[ServerInfo]:
        """Asks the server, from any thread."""
        thread = self.thread()

        async def ask() -> ServerInfo:
            return await self._on(thread).wait_ready(timeout)

        return thread.start(ask())

    def check_waiter(self) -> None:
        """Raises UsageError on the loop thread, where waiting would never end."""
        # Before `_loop` is imported, or half-way through, there is no such thread.
        on_loop_thread = getattr(sys.modules.get("embedwire._loop"), "on_loop_thread", None)
        if on_loop_thread is not None and on_loop_thread():
            raise UsageError(
                "a sync method was called on embedwire's own loop thread; use its async twin there"
            )

    def thread(self) -> LoopThread:
        """The loop thread of this process."""
        if self._closed:
            raise UsageError(CLOSED)
        with _importing:  # aiohttp and numpy come with it, so not before they are needed
            from embedwire._loop import loop_thread

        self._thread = loop_thread()
        return self._thread

    def end(self) -> concurrent.futures.Future[None] | None:
        """Closes the client, from any thread; None where there is nothing to wait for."""
        self._closed = True
        if self._thread is None or not self._thread.here():
            return None
        return self._thread.start(self._close())

    def abandon(self) -> None:
        """The client was dropped. From any thread, the garbage collector's too."""
        self._closed = True
        if self._thread is not None and self._thread.here():
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._thread.loop.call_soon_threadsafe(self._let_go)

    def _on(self, thread: LoopThread) -> Engine:
        """The engine; a forked child's thread gets one of its own."""
        if self._closed:
            raise UsageError(CLOSED)
        if self._engine is None or not self._engine.here():
            from embedwire._engine import Engine

            self._engine = Engine(self.settings, thread.origins)
        return self._engine

    async def _close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None and engine.here():
            await engine.close()

    def _let_go(self) -> None:
        if self._engine is not None:
            self._engine.abandon()


class SharedEmbeddingClient:
    """Turns texts into vectors, for callers on any thread and any event loop.

    Everything runs on one loop thread per process, so connections outlive ``asyncio.run``, clients of equal
    settings share them, concurrent callers share requests, and the limits hold for the whole process. It goes
    through a fork and a pickle: a pickle carries the arguments only, an explicit ``api_key`` among them, never
    one that came from the environment.

    Example:
        ```python
        client = SharedEmbeddingClient("http://localhost:8080")
        vectors = client.embed(["first text", "second text"])
        vectors = await client.aembed(["first text", "second text"])
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
        self._adopt(
            settings(
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
        )

    def _adopt(self, settings: Settings) -> None:
        self._hold = _Hold(settings)
        weakref.finalize(self, _Hold.abandon, self._hold).atexit = False

    def __repr__(self) -> str:
        if not hasattr(self, "_hold"):  # its arguments were refused
            return "SharedEmbeddingClient()"
        settings = self._hold.settings
        return f"SharedEmbeddingClient({settings.base_url!r}, model={settings.form.model!r})"

    def __eq__(self, other: object) -> bool:
        """Clients of equal settings are equal: they share everything."""
        return isinstance(other, SharedEmbeddingClient) and self._hold.settings == other._hold.settings

    def __hash__(self) -> int:
        return hash(self._hold.settings)

    def __reduce__(self) -> tuple[Callable[[Settings], SharedEmbeddingClient], tuple[Settings]]:
        return _from_settings, (self._hold.settings,)

    def __enter__(self) -> SharedEmbeddingClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> SharedEmbeddingClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    @discreet
    def embed(self, texts: list[str], kind: Kind = "document") -> list[list[float]]:
        """As `EmbeddingClient.embed`; blocks this thread."""
        return to_lists(self.embed_array(texts, kind))

    @discreet
    async def aembed(self, texts: list[str], kind: Kind = "document") -> list[list[float]]:
        """As `EmbeddingClient.embed`."""
        return to_lists(await self.aembed_array(texts, kind))

    @discreet
    def embed_query(self, text: str) -> list[float]:
        """As `EmbeddingClient.embed_query`; blocks this thread."""
        vector: list[float] = self._wait(self._submit([check_text(text)], "query"))[0].tolist()
        return vector

    @discreet
    async def aembed_query(self, text: str) -> list[float]:
        """As `EmbeddingClient.embed_query`."""
        vector: list[float] = (await asyncio.wrap_future(self._hold.submit([check_text(text)], "query")))[
            0
        ].tolist()
        return vector

    @discreet
    def embed_array(self, texts: list[str], kind: Kind = "document") -> NDArray[np.float32]:
        """As `EmbeddingClient.embed_array`; blocks this thread."""
        texts = check_texts(texts)
        check_kind(kind)
        return self._wait(self._submit(texts, kind)) if texts else no_vectors(self.server_info().dimensions)

    @discreet
    async def aembed_array(self, texts: list[str], kind: Kind = "document") -> NDArray[np.float32]:
        """As `EmbeddingClient.embed_array`."""
        texts = check_texts(texts)
        check_kind(kind)
        return (
            await asyncio.wrap_future(self._hold.submit(texts, kind))
            if texts
            else no_vectors(self.server_info().dimensions)
        )

    @discreet
    def stream(self, texts: Iterable[str], kind: Kind = "document", *, on_error: OnError = "raise") -> Stream:
        """As `EmbeddingClient.stream`: ``for start, vectors in client.stream(texts)``."""
        check_source(texts, asynchronous=False)
        check_kind(kind)
        return Stream(
            texts,
            lambda chunk, start: self._submit(check_texts(chunk, start), kind, start),
            size=lambda: stream_chunk(self._hold.settings),
            window=lambda: stream_window(self._hold.settings),
            on_error=on_error,
        )

    @discreet
    def astream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        kind: Kind = "document",
        *,
        on_error: OnError = "raise",
    ) -> AsyncStream:
        """As `EmbeddingClient.stream`. The texts are read on the caller's loop."""
        check_source(texts, asynchronous=True)
        check_kind(kind)
        return AsyncStream(
            texts,
            lambda chunk, start: asyncio.wrap_future(
                self._hold.submit(check_texts(chunk, start), kind, start)
            ),
            size=lambda: stream_chunk(self._hold.settings),
            window=lambda: stream_window(self._hold.settings),
            on_error=on_error,
        )

    @discreet
    def wait_ready(self, timeout: float = 60.0) -> ServerInfo:
        """As `EmbeddingClient.wait_ready`; blocks this thread."""
        self._hold.check_waiter()
        return self._wait(self._waiting(timeout))

    @discreet
    async def await_ready(self, timeout: float = 60.0) -> ServerInfo:
        """As `EmbeddingClient.wait_ready`."""
        return await asyncio.wrap_future(self._waiting(timeout))

    def server_info(self) -> ServerInfo:
        """What is known about the server so far; asks nothing."""
        settings = self._hold.settings
        return learned(settings.base_url).info(settings.form.model, settings.form.dimensions)

    def close(self) -> None:
        """Ends this client's calls; the last client of a server closes its connections. Twice is fine."""
        self._hold.check_waiter()
        closing = self._hold.end()
        if closing is not None:
            self._wait(closing)

    async def aclose(self) -> None:
        """As `close`."""
        closing = self._hold.end()
        if closing is not None:
            await asyncio.wrap_future(closing)

    def _submit(
        self, texts: list[str], kind: Kind, offset: int | None = None
    ) -> concurrent.futures.Future[Vectors]:
        """For callers that will wait in this thread."""
        self._hold.check_waiter()
        return self._hold.submit(texts, kind, offset)

    def _waiting(self, timeout: float) -> concurrent.futures.Future[ServerInfo]:
        check_seconds("timeout", timeout, none=False)
        return self._hold.wait_ready(timeout)

    def _wait(self, future: concurrent.futures.Future[T]) -> T:
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupt: what nobody waits for is not sent
            raise


def _from_settings(settings: Settings) -> SharedEmbeddingClient:
    """The other end of a pickle."""
    client = SharedEmbeddingClient.__new__(SharedEmbeddingClient)
    client._adopt(settings)  # noqa: SLF001 - the class's own second constructor
    return client
