"""`SharedEmbeddingClient`: sync and async doors for any thread and any event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
import weakref
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from embedwire._clients.asyncio_only import check_asyncio
from embedwire._clients.base import Client
from embedwire._clients.bridge import Bridge
from embedwire._clients.brief import brief
from embedwire._clients.lists import no_vectors, to_lists
from embedwire._clients.progress import Show, Watch, watch_of, watched
from embedwire._clients.stream import AsyncStream, Feed, OnError, Stream, check_source, sizes_of, threaded
from embedwire._clients.texts import check_kind, check_text, checked, prompted, with_prompt
from embedwire._http.steps import at_once, in_turns
from embedwire._servers.known import ServerInfo
from embedwire._settings.checks import check_seconds
from embedwire._settings.options import Kind
from embedwire._settings.settings import cache_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

T = TypeVar("T")


class SharedEmbeddingClient(Client):
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
    """

    def _begin(self) -> None:
        super()._begin()
        self._bridge = Bridge(self._settings, self._ledger, self._ears)
        weakref.finalize(self, Bridge.close_now, self._bridge).atexit = False

    def __eq__(self, other: object) -> bool:
        """Clients of equal settings are equal: they share everything."""
        return isinstance(other, SharedEmbeddingClient) and self._settings == other._settings

    def __hash__(self) -> int:
        return hash(self._settings)

    def __enter__(self) -> SharedEmbeddingClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> SharedEmbeddingClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def embed(
        self, texts: Sequence[str], kind: Kind = "document", *, progress: Show | bool | None = None
    ) -> list[list[float]]:
        """Embeds texts; blocks this thread.

        Args:
            texts: Any number; equal ones travel once.
            kind: ``"document"`` or ``"query"``: decides the prompt; queries go first.
            progress: True for a bar, or a function that gets a `Progress` twice a second and at the end.

        Returns:
            One vector per text, in their order, as Python floats.

        Raises:
            InputError: A text is not a str, or not valid Unicode; nothing was sent.
            RequestError: A text got no vector; ``completed`` on the error has those that did.
            Overloaded: The queue is full.
            UsageError: The client is closed, or this thread runs the loop that would do the work.
        """
        with brief:
            return at_once(to_lists(self.embed_array(texts, kind, progress=progress)))

    async def aembed(
        self, texts: Sequence[str], kind: Kind = "document", *, progress: Show | bool | None = None
    ) -> list[list[float]]:
        """Embeds texts, without blocking the loop.

        Args:
            texts: Any number; equal ones travel once.
            kind: ``"document"`` or ``"query"``: decides the prompt; queries go first.
            progress: True for a bar, or a function that gets a `Progress` twice a second and at the end.

        Returns:
            One vector per text, in their order, as Python floats.

        Raises:
            InputError: A text is not a str, or not valid Unicode; nothing was sent.
            RequestError: A text got no vector; ``completed`` on the error has those that did.
            Overloaded: The queue is full.
            UsageError: The client is closed.
        """
        with brief:
            return await in_turns(to_lists(await self.aembed_array(texts, kind, progress=progress)))

    def embed_query(self, text: str) -> list[float]:
        """Embeds one query, ahead of documents that wait; blocks this thread.

        Args:
            text: It gets the prompt for queries, where there is one.

        Returns:
            Its vector, as Python floats.

        Raises:
            InputError: The text is not a str, or not valid Unicode; nothing was sent.
            RequestError: It got no vector.
            Overloaded: The queue is full.
            UsageError: The client is closed, or this thread runs the loop that would do the work.
        """
        begun = time.monotonic()
        with brief:
            vectors = self._bridge.wait(self._submit([check_text(text)], "query", begun))
        vector: list[float] = vectors[0].tolist()
        return vector

    async def aembed_query(self, text: str) -> list[float]:
        """Embeds one query, ahead of documents that wait, without blocking the loop.

        Args:
            text: It gets the prompt for queries, where there is one.

        Returns:
            Its vector, as Python floats.

        Raises:
            InputError: The text is not a str, or not valid Unicode; nothing was sent.
            RequestError: It got no vector.
            Overloaded: The queue is full.
            UsageError: The client is closed.
        """
        begun = time.monotonic()
        with brief:
            vectors = await self._submit_async([check_text(text)], "query", begun)
        vector: list[float] = vectors[0].tolist()
        return vector

    def embed_array(
        self, texts: Sequence[str], kind: Kind = "document", *, progress: Show | bool | None = None
    ) -> NDArray[np.float32]:
        """Embeds texts into one array, the cheapest way for many; blocks this thread.

        Args:
            texts: Any number; equal ones travel once.
            kind: ``"document"`` or ``"query"``: decides the prompt; queries go first.
            progress: True for a bar, or a function that gets a `Progress` twice a second and at the end.

        Returns:
            float32, shape ``(len(texts), dimensions)``, in C order.

        Raises:
            InputError: A text is not a str, or not valid Unicode; nothing was sent.
            RequestError: A text got no vector; ``completed`` on the error has those that did.
            Overloaded: The queue is full.
            UsageError: The client is closed, or this thread runs the loop that would do the work.
        """
        begun = time.monotonic()
        with brief:
            listed = at_once(checked(texts))
            check_kind(kind)
            if not listed:
                return no_vectors(self.server_info().dimensions)
            self._bridge.check_waiter()
            watch = watch_of(progress, len(listed))
            return self._bridge.wait_watched(self._submit(listed, kind, begun, watch), watch)

    async def aembed_array(
        self, texts: Sequence[str], kind: Kind = "document", *, progress: Show | bool | None = None
    ) -> NDArray[np.float32]:
        """Embeds texts into one array, the cheapest way for many, without blocking the loop.

        Args:
            texts: Any number; equal ones travel once.
            kind: ``"document"`` or ``"query"``: decides the prompt; queries go first.
            progress: True for a bar, or a function that gets a `Progress` twice a second and at the end.

        Returns:
            float32, shape ``(len(texts), dimensions)``, in C order.

        Raises:
            InputError: A text is not a str, or not valid Unicode; nothing was sent.
            RequestError: A text got no vector; ``completed`` on the error has those that did.
            Overloaded: The queue is full.
            UsageError: The client is closed.
        """
        begun = time.monotonic()
        with brief:
            check_asyncio()
            listed = await in_turns(checked(texts))
            check_kind(kind)
            if not listed:
                return no_vectors(self.server_info().dimensions)
            watch = watch_of(progress, len(listed))
            return await watched(self._submit_async(listed, kind, begun, watch), watch)

    def stream(self, texts: Iterable[str], kind: Kind = "document", *, on_error: OnError = "raise") -> Stream:
        """Embeds texts of unknown number in bounded memory: at most four times ``concurrency`` batches.

        Args:
            texts: A list is read as it is needed, any other iterable of str in a thread of its own, as fast as vectors
                are taken.
            kind: ``"document"`` or ``"query"``.
            on_error: ``"raise"`` at the first text that fails, or ``"skip"`` it: then ``failures`` of the stream
                has its error, by index. Failures that are not one text's own are raised always.

        Returns:
            ``for start, vectors in client.stream(texts)``: vectors of the texts from index ``start``
            on, float32, in order.

        Raises:
            InputError: ``texts`` cannot be iterated; while iterating: a text is not a str, or not valid Unicode.
        """
        check_source(texts, asynchronous=False)
        check_kind(kind)

        async def feed() -> Feed:
            return Feed(sizes_of(self._settings, kind), partial(self._submit_here, kind))

        return Stream(AsyncStream(threaded(texts), feed, on_error=on_error), self._run)

    def astream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        kind: Kind = "document",
        *,
        on_error: OnError = "raise",
    ) -> AsyncStream:
        """Embeds texts of unknown number in bounded memory: at most four times ``concurrency`` batches.

        Args:
            texts: Any iterable or async iterable of str; read on the caller's loop, not faster than vectors are taken.
            kind: ``"document"`` or ``"query"``.
            on_error: ``"raise"`` at the first text that fails, or ``"skip"`` it: then ``failures`` of the stream
                has its error, by index. Failures that are not one text's own are raised always.

        Returns:
            ``async for start, vectors in client.astream(texts)``: vectors of the texts from index ``start``
            on, float32, in order.

        Raises:
            InputError: ``texts`` cannot be iterated; while iterating: a text is not a str, or not valid Unicode.
        """
        check_source(texts, asynchronous=True)
        check_kind(kind)

        def submit(texts: list[str], start: int) -> asyncio.Future[Vectors]:
            texts = with_prompt(texts, kind, self._settings.prompts)
            return asyncio.wrap_future(self._bridge.submit(texts, kind, begun=time.monotonic(), offset=start))

        async def feed() -> Feed:
            check_asyncio()
            return Feed(sizes_of(self._settings, kind), submit)

        return AsyncStream(texts, feed, on_error=on_error)

    def wait_ready(self, timeout: float = 60.0) -> ServerInfo:
        """Waits until the server embeds, and asks what it is; blocks this thread.

        Polls ``/health``, then embeds one word.

        Args:
            timeout: Seconds to wait in all.

        Returns:
            What the server is, as far as it tells: software, model, dimensions, slots, context.

        Raises:
            RequestError: The server was not ready in time, or never will be: the message says why.
        """
        with brief:
            self._bridge.check_waiter()
            return self._bridge.wait(self._waiting(timeout))

    async def await_ready(self, timeout: float = 60.0) -> ServerInfo:
        """Waits until the server embeds, and asks what it is, without blocking the loop.

        Polls ``/health``, then embeds one word.

        Args:
            timeout: Seconds to wait in all.

        Returns:
            What the server is, as far as it tells: software, model, dimensions, slots, context.

        Raises:
            RequestError: The server was not ready in time, or never will be: the message says why.
        """
        with brief:
            check_asyncio()
            return await asyncio.wrap_future(self._waiting(timeout))

    def close(self) -> None:
        """Ends this client's calls; the last client of a server closes its connections. Twice is fine."""
        self._bridge.check_waiter()
        closing = self._bridge.close()
        if closing is not None:
            self._bridge.wait(closing)

    async def aclose(self) -> None:
        """Ends this client's calls, without blocking the loop; the last client of a server closes its connections."""
        check_asyncio()
        closing = self._bridge.close()
        if closing is not None:
            await asyncio.wrap_future(closing)

    def tells_kinds_apart(self) -> bool:
        """Whether a query and a document of the same text are sent differently, and so have different vectors."""
        settings = self._settings
        return settings.prompts.query != settings.prompts.document or settings.form != settings.query_form

    def cache_name(self, kind: Kind) -> str:
        """What decides the vectors of this kind, as a name that a file may have."""
        return cache_name(self._settings, kind)

    def _submit(
        self, texts: list[str], kind: Kind, begun: float, watch: Watch | None = None
    ) -> concurrent.futures.Future[Vectors]:
        """For callers that will wait in this thread."""
        self._bridge.check_waiter()
        texts = at_once(prompted(texts, kind, self._settings.prompts))
        return self._bridge.submit(texts, kind, begun=begun, watch=watch)

    async def _submit_async(
        self, texts: list[str], kind: Kind, begun: float, watch: Watch | None = None
    ) -> Vectors:
        """For callers that wait on their loop."""
        check_asyncio()
        texts = await in_turns(prompted(texts, kind, self._settings.prompts))
        return await self._bridge.wait_async(self._bridge.submit(texts, kind, begun=begun, watch=watch))

    def _submit_here(self, kind: Kind, texts: list[str], start: int) -> asyncio.Future[Vectors]:
        """For what runs on the loop thread."""
        future: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        texts = with_prompt(texts, kind, self._settings.prompts)
        engine = self._bridge.engine()
        engine.submit(texts, kind, future, begun=time.monotonic(), offset=start)
        return future

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs a coroutine on the loop thread, and waits for it in this one."""
        self._bridge.check_waiter()
        return self._bridge.wait(self._bridge.thread().start(work()))

    def _waiting(self, timeout: float) -> concurrent.futures.Future[ServerInfo]:
        check_seconds("timeout", timeout, none=False)
        return self._bridge.start(lambda engine: engine.wait_ready(timeout))
