"""The clients through which texts go to the servers: one for each variant that is asked for, over one queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from embedwire._clients.own import EmbeddingClient
from embedwire._queue.usage import Ledger
from embedwire._settings.hooks import OnEvent
from embedwire._settings.options import ByKind, Timeouts
from embedwire._settings.settings import Settings
from embedwire.gateway.asked import Asked, Variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PLAIN = Variant(None, None, b"{}")
MOST_IDLE = 64  # clients that are kept although nobody uses them


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Embedded:
    """What came of a request.

    Attributes:
        vectors: One row a text.
        model: The name of the model that made them.
        tokens: In the texts; None where the server does not tell.
    """

    vectors: NDArray[np.float32]
    model: str
    tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class To:
    """Where texts go.

    Attributes:
        urls: Servers of one and the same model, at least one.
        key: What they want to see; None: the environment's ``EMBEDWIRE_API_KEY``.
        timeout: Seconds for one request; None: the client's defaults.
        queued: Most texts that may wait.
        same_model: As of a client, for several servers.
        hedge: The same.
        on_event: The same.
    """

    urls: Sequence[str]
    key: str | None = field(default=None, repr=False)
    timeout: float | None = None
    queued: int = 200_000
    same_model: float | None = None
    hedge: str | float | None = None
    on_event: OnEvent = None


class CountingClient(EmbeddingClient):
    """A client that tells of each call what it took."""

    async def embed_counted(self, asked: Asked) -> Embedded:
        """Embeds the texts of one request.

        Raises:
            EmbedwireError: As `embed_array` does.
        """
        ledger = Ledger()
        vectors = await self._embed(asked.texts, asked.kind, time.monotonic(), ledger)
        model = ledger.model or asked.variant.model or self.server_info().model or ""
        return Embedded(vectors=vectors, model=model, tokens=ledger.usage().tokens)


@dataclass(eq=False, slots=True)
class _Lent:
    client: CountingClient
    users: int = 0


class Upstream:
    """The clients in use. Those of one server share its queue, its connections and what is known of it.

    Its state is the clients, the least recently used ones first, and what closes those that were dropped.

    Args:
        to: Where texts go.
    """

    def __init__(self, to: To) -> None:
        self._to = to
        self._lent: OrderedDict[Variant, _Lent] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()
        self._plain = self._made(PLAIN)  # checks the arguments, and keeps the servers' queue and connections

    @property
    def settings(self) -> Settings:
        """Of the clients, but for what a variant asks for."""
        return self._plain._settings  # noqa: SLF001 - it shares the servers with them

    async def embed(self, asked: Asked) -> Embedded:
        """Embeds the texts of one request.

        Raises:
            EmbedwireError: There are no vectors; says why.
        """
        async with self._client(asked.variant) as client:
            return await client.embed_counted(asked)

    async def close(self) -> None:
        """Ends what is under way."""
        clients = [self._plain, *(lent.client for lent in self._lent.values())]
        self._lent.clear()
        await asyncio.gather(*(client.close() for client in clients), *self._closing)

    @contextlib.asynccontextmanager
    async def _client(self, variant: Variant) -> AsyncIterator[CountingClient]:
        lent = self._lent.get(variant)
        if lent is None:
            lent = self._lent[variant] = _Lent(self._made(variant))
        self._lent.move_to_end(variant)
        lent.users += 1
        try:
            yield lent.client
        finally:
            lent.users -= 1
            self._drop_idle()

    def _drop_idle(self) -> None:
        """Closes the clients that were not used for longest, where there are too many."""
        if len(self._lent) <= MOST_IDLE:
            return
        idle = [variant for variant, lent in self._lent.items() if not lent.users]
        for variant in idle[: len(self._lent) - MOST_IDLE]:
            task = asyncio.ensure_future(self._lent.pop(variant).client.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _made(self, variant: Variant) -> CountingClient:
        urls, extra = self._to.urls, orjson.loads(variant.extra)
        return CountingClient(
            urls[0] if len(urls) == 1 else list(urls),
            model=variant.model,
            api_key=self._to.key,
            dimensions=variant.dimensions,
            extra_body=ByKind(query=extra, document=extra),
            timeout=Timeouts() if self._to.timeout is None else self._to.timeout,
            max_queued=self._to.queued,
            same_model=self._to.same_model,
            hedge=self._to.hedge,
            on_event=self._to.on_event,
        )
