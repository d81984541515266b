"""`EmbeddingClient`: for those who own their event loop."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterable, Iterable, Sequence
from typing import TYPE_CHECKING

from embedwire._clients import fork
from embedwire._clients.asyncio_only import check_asyncio
from embedwire._clients.base import Client
from embedwire._clients.brief import brief
from embedwire._clients.first_use import too_late
from embedwire._clients.lists import no_vectors, to_lists
from embedwire._clients.progress import Show, Watch, watch_of, watched
from embedwire._clients.stream import AsyncStream, Feed, OnError, check_source, sizes_of
from embedwire._clients.texts import check_kind, check_text, checked, prompted, with_prompt
from embedwire._http.steps import in_turns
from embedwire._http.threads import in_thread
from embedwire._queue.usage import Ledger
from embedwire._servers.known import ServerInfo
from embedwire._settings.checks import check_seconds
from embedwire._settings.options import Kind
from embedwire._settings.settings import CLOSED
from embedwire.exceptions import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedwire._clients.engine import Engine


class EmbeddingClient(Client):
    """Turns texts into vectors over the OpenAI-compatible ``/v1/embeddings`` of one server, or of several.

    It belongs to the event loop that first uses it, as aiohttp's sessions do: make one per application, for
    instance in FastAPI's lifespan. `SharedEmbeddingClient` works from any thread and loop.

    Example:
        ```python
        async with EmbeddingClient("http://localhost:8080") as client:
            vectors = await client.embed(["first text", "second text"])
        ```
    """

    def _begin(self) -> None:
        super()._begin()
        self._engine: Engine | None = None
        self._finalizer: weakref.finalize[..., EmbeddingClient] | None = None  # lets go of the engine
        self._closed = False

    if not TYPE_CHECKING:  # type checkers say it by themselves

        def __enter__(self) -> None:
            raise UsageError(
                "EmbeddingClient is for async code: async with EmbeddingClient(…) as client; for sync code there is "
                "SharedEmbeddingClient"
            )

        def __exit__(self, *exc: object) -> None: ...

    async def __aenter__(self) -> EmbeddingClient:
        await self._attach(time.monotonic())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def embed(
        self, texts: Sequence[str], kind: Kind = "document", *, progress: Show | bool | None = None
    ) -> list[list[float]]:
        """Embeds texts.

        Args:
            texts: Any number; equal ones travel once.
            kind: ``"document"`` or ``"query"``: decides the prompt; queries go first.
            progress: A function that gets a `Progress` twice a second and at the end, where the caller waits: on its
                loop, or in its thread. What it raises ends the call. True: a bar on stderr; without rich, or without a
                terminal, lines. Default: nobody is told.

        Returns:
            One vector per text, in their order, as Python floats.

        Raises:
            InputError: A text is not a str, or not valid Unicode; nothing was sent.
            RequestError: A text got no vector; ``completed`` on the error has those that did.
            Overloaded: The queue is full.
            UsageError: The client is closed, or belongs to another loop.
        """
        with brief:
            return await in_turns(to_lists(await self.embed_array(texts, kind, progress=progress)))

    async def embed_query(self, text: str) -> list[float]:
        """Embeds one query, ahead of documents that wait.

        Args:
            text: It gets the prompt for queries, where there is one.

        Returns:
            Its vector, as Python floats.

        Raises:
            InputError: The text is not a str, or not valid Unicode; nothing was sent.
            RequestError: It got no vector.
            Overloaded: The queue is full.
            UsageError: The client is closed, or belongs to another loop.
        """
        begun = time.monotonic()
        with brief:
            vectors = await self._embed([check_text(text)], "query", begun)
        vector: list[float] = vectors[0].tolist()
        return vector

    async def embed_array(
        self, texts: Sequence[str], kind: Kind = "document", *, progress: Show | bool | None = None
    ) -> NDArray[np.float32]:
        """Embeds texts into one array; the cheapest way for many.

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
            UsageError: The client is closed, or belongs to another loop.
        """
        begun = time.monotonic()
        with brief:
            check_asyncio()
            listed = await in_turns(checked(texts))
            check_kind(kind)
            if not listed:
                return no_vectors(self.server_info().dimensions)
            watch = watch_of(progress, len(listed))
            return await watched(self._embed(listed, kind, begun, watch=watch), watch)

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
        return AsyncStream(texts, lambda: self._feed(kind), on_error=on_error)

    async def wait_ready(self, timeout: float = 60.0) -> ServerInfo:
        """Waits until the server embeds, and asks what it is; for the start of an application.

        Polls ``/health``, then embeds one word.

        Args:
            timeout: Seconds to wait in all.

        Returns:
            What the server is, as far as it tells: software, model, dimensions, slots, context.

        Raises:
            RequestError: The server was not ready in time, or never will be: the message says why.
        """
        with brief:
            check_seconds("timeout", timeout, none=False)
            return await (await self._attach(time.monotonic())).wait_ready(timeout)

    async def close(self) -> None:
        """Closes the connections; calls under way end with `UsageError`. Closing twice is fine."""
        engine = self._engine
        if engine is not None:
            check_asyncio()
        here = engine is None or engine.here()
        self._closed = True
        if engine is not None and here:
            await engine.close()
        self._forget_engine()

    async def _embed(
        self,
        texts: list[str],
        kind: Kind,
        begun: float,
        ledger: Ledger | None = None,
        watch: Watch | None = None,
    ) -> NDArray[np.float32]:
        texts = await in_turns(prompted(texts, kind, self._settings.prompts))
        engine = await self._attach(begun)
        future: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        engine.submit(texts, kind, future, begun=begun, ledger=ledger, watch=watch)
        return await future

    async def _feed(self, kind: Kind) -> Feed:
        await self._attach(time.monotonic())  # loads what it takes, or says that the client is closed

        def submit(texts: list[str], start: int) -> asyncio.Future[NDArray[np.float32]]:
            future: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
            texts = with_prompt(texts, kind, self._settings.prompts)
            self._engine_here().submit(texts, kind, future, begun=time.monotonic(), offset=start)
            return future

        return Feed(sizes_of(self._settings, kind), submit)

    async def _attach(self, begun: float) -> Engine:
        """The engine on the running loop; a new one where the last one's loop is over.

        At the first use of the process aiohttp and numpy are loaded, which takes a second: off the loop, and under the
        call's deadline.
        """
        check_asyncio()
        if self._closed:
            raise UsageError(CLOSED)
        if not fork.engine_is_loaded():
            deadline = self._settings.deadline
            left = None if deadline is None else deadline - (time.monotonic() - begun)
            try:
                await asyncio.wait_for(in_thread(fork.engine), left)
            except asyncio.TimeoutError:
                raise too_late(self._settings) from None
        return self._engine_here()

    def _engine_here(self) -> Engine:
        if self._closed:
            raise UsageError(CLOSED)
        engine = self._engine
        if engine is None or not engine.here():
            self._forget_engine()
            engine = self._engine = fork.engine().Engine(self._settings, self._ledger, self._ears)
            self._finalizer = weakref.finalize(self, engine.close_now)
        return engine

    def _forget_engine(self) -> None:
        self._engine = None
        if self._finalizer is not None:
            self._finalizer()
            self._finalizer = None
