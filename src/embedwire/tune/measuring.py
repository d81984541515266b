"""What is measured: fixed sizes over a piece of time, and the automatic ones on a stream of texts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, suppress
from typing import TypeAlias

from embedwire._clients.own import EmbeddingClient
from embedwire.exceptions import RequestError, RequestTimeout, ServerUnavailable, TextRefused
from embedwire.tune.rates import Span, latency, rate, steady
from embedwire.tune.records import Cell, Ending, Sample
from embedwire.tune.texts import Pool

Measured: TypeAlias = "Sample | Ending | None"  # None: there was not time enough
DIGITS = 3  # of a second
OVERLOADED = (429, 503)


class Load:
    """Requests of one size, so many in flight, over a piece of time.

    Its state is which requests were answered, when the first of each place was, and whether a text was refused.

    The first request of each place on the wire does not count: connections are made meanwhile, and what is in flight
    grows. From then on, to the end of the piece, as much as may be is in flight at every moment.

    Args:
        client: With a fixed ``batch_size`` and ``concurrency``.
        cell: The same.
        pool: Gives the texts.
        piece: Seconds, at least as many as the first requests take.
    """

    def __init__(self, client: EmbeddingClient, cell: Cell, pool: Pool, piece: float) -> None:
        self._client, self._cell, self._pool, self._piece = client, cell, pool, piece
        self._now = asyncio.get_running_loop().time
        self._spans: list[Span] = []
        self._texts = 0
        self._begun, self._waiting = self._now(), cell.requests
        self._since = self._until = 0.0
        self.refused = False

    async def run(self, patience: float, left: float) -> Measured:
        """Sends until the piece is over.

        Args:
            patience: Seconds after which the sizes count as too slow.
            left: Seconds after which nothing counts.
        """
        workers = [asyncio.ensure_future(self._worker()) for _ in range(self._cell.requests)]
        try:
            timeout = round(min(patience, left), DIGITS)
            done, pending = await asyncio.wait(workers, timeout=timeout, return_when=asyncio.FIRST_EXCEPTION)
            for worker in done:
                if (error := worker.exception()) is not None:
                    return ending_of(error)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if pending:
            slow = Ending(reason="slow", what=f"not done after {timeout:.3g} s")
            return slow if patience < left else None
        return self._sample()

    async def _worker(self) -> None:
        first = True
        while not self._until or self._now() < self._until:
            texts, begin = self._pool.take(self._cell.batch), self._now()
            try:
                await self._client.embed_array(texts)
            except TextRefused as error:
                self.refused = True
                self._pool.drop(refused(error, texts))
                continue
            now = self._now()
            self._spans.append(Span(begin, now, self._pool.work(texts)))
            self._texts += len(texts)
            if first:
                first = False
                self._waiting -= 1
                if not self._waiting:
                    self._since = now
                    self._until = now + max(self._piece, now - self._begun)

    def _sample(self) -> Sample:
        return Sample(
            rate=rate(self._spans, self._since, self._until),
            latency=latency(self._spans),
            seconds=self._until - self._since,
            texts=self._texts,
        )


def refused(error: TextRefused, texts: list[str]) -> list[str]:
    """Those of some texts that were refused."""
    return [texts[index] for index in error.failures or [error.index or 0]]


def ending_of(error: BaseException) -> Ending:
    """What an error says of sizes.

    Raises:
        BaseException: It says nothing of them: it is raised again.
    """
    if isinstance(error, ServerUnavailable) and error.status in OVERLOADED:
        return Ending(reason="refused", what=f"the server answered {error.status}")
    if isinstance(error, RequestTimeout):
        return Ending(reason="slow", what="a request ran into its timeout")
    if isinstance(error, RequestError):
        return Ending(reason="failed", what=str(error))
    raise error


class Automatic:
    """The automatic sizes on a stream of texts, which is what `embedwire embed` sends.

    Its state is the texts that were sent, and when their vectors came.

    Args:
        client: With automatic sizes.
        pool: Gives the texts.
    """

    def __init__(self, client: EmbeddingClient, pool: Pool) -> None:
        self._client, self._pool = client, pool
        self._now = asyncio.get_running_loop().time
        self._begun = self._now()
        self._texts: list[str] = []
        self._marks: list[tuple[float, float]] = []

    async def from_the_start(self, seconds: float, left: float) -> Sample | None:
        """The rate of all that came, connections and the search for sizes included; None where nothing came.

        Args:
            seconds: For which texts are read.
            left: Seconds after which it is broken off; what came until then counts.

        Raises:
            RequestError: The server failed.
        """
        await self._stream(iter(lambda: self._now() - self._begun < seconds, False), left)
        if not self._marks:
            return None
        took = self._marks[-1][0] - self._begun
        return self._sample(sum(work for _, work in self._marks) / took)

    async def warm(self, count: int, left: float) -> Sample | None:
        """The rate on so many texts; None where too few came.

        The first and the last of them, as many as are in flight, do not count.

        Args:
            count: Texts.
            left: Seconds after which it is broken off.

        Raises:
            RequestError: The server failed.
        """
        first = sizes_of(self._client).in_flight
        await self._stream(iter(range(count)), left)
        rate = steady(self._marks, first)
        return None if rate is None else self._sample(rate)

    async def _stream(self, turns: Iterator[object], left: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._embed(turns), round(left, DIGITS))

    async def _embed(self, turns: Iterator[object]) -> None:
        stream = self._client.stream(self._source(turns), on_error="skip")
        async with aclosing(stream):
            async for start, vectors in stream:
                texts = self._texts[start : start + len(vectors)]
                self._marks.append((self._now(), self._pool.work(texts)))
        self._pool.drop(self._texts[index] for index in stream.failures)

    def _source(self, turns: Iterator[object]) -> Iterator[str]:
        for _ in turns:
            self._texts += self._pool.take(1)
            yield self._texts[-1]

    def _sample(self, rate: float) -> Sample:
        took = self._marks[-1][0] - self._begun
        return Sample(rate=rate, latency=None, seconds=took, texts=len(self._texts))


def sizes_of(client: EmbeddingClient) -> Cell:
    """The sizes that are in use now."""
    info = client.server_info()
    return Cell(info.batch_size or 1, info.concurrency or 1)


async def only_what_is_taken(client: EmbeddingClient, pool: Pool) -> None:
    """Leaves out the texts that are too long for the model: a handful of requests tells.

    Raises:
        TextRefused: The model takes not even the shortest.
        RequestError: The server failed.
    """
    texts = pool.by_length()
    low, high = -1, len(texts)  # the longest that is known to be taken, the shortest that is not
    probe = high - 1
    while high - low > 1:
        try:
            await client.embed_array([texts[probe]])
            low = probe
        except TextRefused as error:
            if not error.too_long:
                pool.drop([texts[probe]])
                texts.pop(probe)
                high -= 1
                probe = min(probe, high - 1)
                if not texts:
                    raise
                continue
            if probe == 0:
                raise
            high = probe
        probe = (low + high) // 2
    pool.drop(texts[high:])
