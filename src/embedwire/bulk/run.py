"""One run from its first question to the server to its report; what it shows meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from embedwire._clients.own import EmbeddingClient
from embedwire._http.threads import in_thread
from embedwire.bulk.embedding import Embedding
from embedwire.bulk.output import Output
from embedwire.bulk.progress import Pace
from embedwire.bulk.records import Chunk, Progress, Report
from embedwire.bulk.showing import Shower

READY = 60.0  # seconds for which a server is waited for at the beginning


class CorpusClient(EmbeddingClient):
    """The client of a run."""

    async def model(self) -> str | None:
        """The name of the model, once the server embeds; with a cache, for which it may not have to, once it tells.

        Raises:
            RequestError: It was not ready in time, or never will be.
        """
        named, cached = self._settings.form.model, self._settings.cache is not None
        if cached and named is not None:
            return named  # perhaps nothing is to be embedded
        engine = await self._attach(time.monotonic())
        info = await engine.wait_ready(READY, embeds=not cached)
        return named or info.model


class Run:
    """One run, and what is known of it. Its state is how far it is.

    Args:
        client: Not used before.
        output: Locked and compared.
        chunks: The input.
        identity: Of the job; the model is None where the server is to tell.
        total: Of what the chunks count that was read; 0 where it is not known.
        rejects: Whether rows without a vector are passed on.
    """

    def __init__(
        self,
        client: CorpusClient,
        output: Output,
        chunks: Iterator[Chunk],
        identity: dict[str, Any],
        total: int,
        *,
        rejects: bool,
    ) -> None:
        self._client, self._output, self._chunks = client, output, chunks
        self._identity, self._total, self._rejects = identity, total, rejects
        self._begun = time.monotonic()
        self._embedding: Embedding | None = None
        self._resumed = output.position.rows if output.complete else 0
        self._done = output.complete
        self._pace = Pace()

    async def run(self, showing: Shower) -> None:
        """Embeds what is not embedded yet."""
        async with self._client:
            work = asyncio.create_task(self._work())
            look = asyncio.create_task(self._look(showing))
            try:
                await asyncio.wait({work, look}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                work.cancel()
                look.cancel()
                await asyncio.gather(work, look, return_exceptions=True)
            if not look.cancelled():
                look.result()  # what showing raised
            work.result()
            self._done = True
            showing.show(self.progress())

    def report(self) -> Report:
        """What was done."""
        position = self._output.position
        return Report(
            rows=position.rows,
            resumed=self._resumed,
            rejects=position.rejects,
            repeats=self._embedding.repeats if self._embedding else 0,
            seconds=time.monotonic() - self._begun,
            usage=self._client.usage(),
            files=self._output.files,
        )

    def progress(self) -> Progress:
        """How far it is now."""
        embedding, now = self._embedding, time.monotonic()
        if embedding is None:
            return Progress(phase="waiting", seconds=now - self._begun)
        position = self._output.position
        fraction = min(1.0, embedding.read / self._total) if self._total else None
        if embedding.skipping:
            return Progress(
                phase="skipping", rows=position.rows, resumed=self._resumed, seconds=now - self._begun
            )
        self._pace.see(now, position.rows, fraction)
        usage = self._client.usage()
        return Progress(
            phase="done" if self._done else "embedding",
            rows=position.rows,
            resumed=self._resumed,
            rejects=position.rejects,
            repeats=embedding.repeats,
            rate=self._pace.rate,
            cached=usage.cached,
            tokens=usage.tokens,
            fraction=1.0 if self._done else fraction,
            seconds=now - self._begun,
            left=self._pace.left,
        )

    async def _work(self) -> None:
        self._output.begin({**self._identity, "model": await self._client.model()})
        self._resumed = self._output.position.rows
        self._embedding = Embedding(self._client, self._output, self._chunks, rejects=self._rejects)
        await self._embedding.run()
        await asyncio.to_thread(self._output.finish)

    async def _look(self, showing: Shower) -> None:
        while True:
            await asyncio.sleep(showing.every)
            if showing.blocks:
                await in_thread(showing.show, self.progress())
            else:
                showing.show(self.progress())
