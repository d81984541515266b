"""One sweep: the first contact, the automatic sizes from the start, then cell after cell."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from embedwire._clients.own import EmbeddingClient
from embedwire._servers.known import ServerInfo, forget, server_facts
from embedwire._settings.options import RetryPolicy
from embedwire._settings.settings import timeouts_of
from embedwire.exceptions import ConnectionFailed, EmbedwireError, InputError, RequestError
from embedwire.tune.measuring import (
    DIGITS,
    Automatic,
    Load,
    Measured,
    only_what_is_taken,
    sizes_of,
)
from embedwire.tune.plan import (
    SHARE,
    Time,
    automatic_texts,
    complete,
    cost,
    grid_of,
    next_move,
    rate_of_automatic,
)
from embedwire.tune.records import Cell, Ending, Grid, Look, Move, Outcome, Sample, Taken, words
from embedwire.tune.texts import Pool

Show: TypeAlias = Callable[[Look], object]

START = 0.08  # of the time, for the automatic sizes from the start
PATIENCE = 2  # times what a measurement should take, after which its sizes are too slow
REST = 1.0  # seconds for a server that had too much
READY = 15.0  # seconds that it then has to be there again
FAILURES = 3  # in a row, and it is given up
MOMENT = 0.01  # seconds
TRIES = 3  # of a cell of which texts were refused meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one may tell the sweep.

    Attributes:
        url: Of the server; None: the environment's.
        model: As for the clients, like all of these.
        dimensions: See there.
        prompts: See there.
        extra_body: See there.
        timeout: Seconds for a request; None: the clients' default.
        seconds: For all of it.
        batch: Most texts in a request that are tried.
        requests: Most requests in flight that are tried.
    """

    url: str | None = None
    model: str | None = None
    dimensions: int | None = None
    prompts: Any = None
    extra_body: Mapping[str, Any] | None = field(default=None, repr=False)
    timeout: float | None = None
    seconds: float = 60.0
    batch: int = 128
    requests: int = 64

    def arguments(self) -> dict[str, Any]:
        """Those of the clients that say what is embedded, beside the model, where they were passed."""
        given = {"dimensions": self.dimensions, "prompts": self.prompts, "extra_body": self.extra_body}
        return {name: value for name, value in given.items() if value}

    def client(self, cell: Cell | None = None) -> EmbeddingClient:
        """A client with these sizes, which sends nothing again; None: with automatic ones, as a user would have it.

        Raises:
            InputError: One of the arguments is wrong.
        """
        limits = timeouts_of(120.0 if self.timeout is None else self.timeout)
        return EmbeddingClient(
            self.url,
            model=self.model,
            **self.arguments(),
            timeout=replace(limits, restart=0.0),
            batch_size="auto" if cell is None else cell.batch,
            concurrency="auto" if cell is None else cell.requests,
            max_retries=2 if cell is None else RetryPolicy(attempts=1),
        )


class GaveUp(EmbedwireError):
    """Nothing more can be measured; the message says why."""


class Sweep:
    """One sweep of one server. Its state is what was measured so far, and the client with automatic sizes.

    That client stays while others come and go, so that they share its connections.

    Args:
        options: See there.
        pool: The texts.

    Raises:
        InputError: An option is wrong, or there are several servers; nothing was sent.
    """

    def __init__(self, options: Options, pool: Pool) -> None:
        self._options, self._pool = options, pool
        self._show: Show = lambda _: None
        self._client = options.client()
        targets = self._client._settings.fleet.visited().targets  # noqa: SLF001 - asks nothing
        if len(targets) > 1:
            raise InputError(
                "sizes are those of one server; name one of them, and tune the others one after another"
            )
        self._url = targets[0].base_url
        self._piece = Time.of(options.seconds, 0.0).piece
        self._grid = Grid(batches=(), requests=())
        self._taken = Taken()
        self._info: ServerInfo | None = None
        self._error: str | None = None
        self._tainted: dict[Cell, int] = {}
        self._failed = 0
        self._begun: float | None = None
        self._end = 0.0

    async def run(self, show: Show) -> None:
        """Measures until nothing is left that would tell anything, or the time is over.

        Args:
            show: Is told how far it is.

        Raises:
            EmbedwireError: The server embeds nothing.
        """
        self._show = show
        self._begun = self._now()
        self._end = self._begun + self._options.seconds
        try:
            self._look("asking the server what it is")
            await self._meet()
            self._look("automatic sizes, from the start")
            await self._from_the_start()
            while (move := self._next()) is not None:
                await self._step(move)
            self._look("")
        except EmbedwireError as error:
            if not self._taken.cells:
                raise
            self._error = str(error)
        finally:
            await self._client.close()

    def outcome(self) -> Outcome:
        """What was found so far."""
        return Outcome(
            url=self._url,
            info=self._info,
            grid=self._grid,
            taken=self._taken,
            texts=self._pool.told(),
            seconds=0.0 if self._begun is None else self._now() - self._begun,
            budget=self._options.seconds,
            complete=complete(self._grid, self._taken),
            error=self._error,
            arguments=self._options.arguments(),
        )

    # Its steps

    async def _meet(self) -> None:
        """Who it is, and which texts it takes."""
        self._info = await self._client.wait_ready(max(0.1, self._left() / 2))
        try:
            await asyncio.wait_for(
                only_what_is_taken(self._client, self._pool), round(self._left() / 2, DIGITS)
            )
        except asyncio.TimeoutError:
            raise InputError(
                f"a handful of texts, one by one, took longer than {self._options.seconds / 2:.3g} s: give it "
                "more time, with --seconds"
            ) from None
        facts = server_facts(self._url)
        self._grid = grid_of(self._options.batch, self._options.requests, facts.kind, facts.told)

    async def _from_the_start(self) -> None:
        """The automatic sizes as in a new process."""
        await self._anew()
        seconds = START * self._options.seconds
        most = min(2 * seconds, self._left())
        sample = await self._automatic(lambda sizes: sizes.from_the_start(seconds, most), most)
        self._taken = replace(self._taken, start=sample)
        await self._ready()

    async def _automatic(
        self, measure: Callable[[Automatic], Awaitable[Sample | None]], most: float
    ) -> Sample | None:
        before = self._now()
        try:
            sample = await measure(Automatic(self._client, self._pool))
        except RequestError:
            sample = None
        self._taken = replace(self._taken, found=sizes_of(self._client))
        if sample is None or self._now() - before >= most:
            await self._anew()  # what was given up is no longer in its way
            await self._ready()
        return sample

    def _next(self) -> Move:
        return next_move(self._grid, self._taken, Time.of(self._options.seconds, self._left()))

    async def _step(self, move: Move) -> None:
        if isinstance(move, Cell):
            self._look(words(move), move)
            await self._measure(move)
            return
        self._look("automatic sizes")
        count, most = automatic_texts(self._taken, self._piece), self._left()
        if (rate := rate_of_automatic(self._taken)) > 0:
            most = min(most, self._patience(count / rate))
        sample = await self._automatic(lambda sizes: sizes.warm(count, most), most)
        if sample is not None:
            self._taken = replace(self._taken, automatic=(*self._taken.automatic, sample))
        elif self._left() > 0:
            self._taken = replace(self._taken, without=True)

    async def _measure(self, cell: Cell) -> None:
        patience = math.inf
        if cell.in_flight > 1:
            patience = self._patience(cost(cell, self._taken, self._piece))
        async with self._options.client(cell) as client:
            load = Load(client, cell, self._pool, self._piece)
            measured = await load.run(patience, self._left())
            most = client.server_info().max_texts
        if most is not None and most < cell.batch:
            measured = Ending(reason="cap", what=f"the server takes {most} texts in a request")
            self._taken = self._taken.ended(Cell(cell.batch, 1), measured)
            return
        if load.refused and self._again(cell):
            return
        await self._took(cell, measured)

    def _again(self, cell: Cell) -> bool:
        """Whether it is measured once more, as texts were refused, which took time."""
        self._tainted[cell] = self._tainted.get(cell, 0) + 1
        return self._tainted[cell] < TRIES

    async def _took(self, cell: Cell, measured: Measured) -> None:
        if isinstance(measured, Sample):
            self._failed = 0
            self._taken = self._taken.measured(cell, measured)
        elif isinstance(measured, Ending):
            self._failed += measured.reason == "failed"
            if self._failed >= FAILURES or cell.in_flight == 1:
                raise GaveUp(f"{self._url}, {words(cell)}: {measured.what}")
            self._taken = self._taken.ended(cell, measured)
            await asyncio.sleep(min(REST, max(0.0, self._left())))
            await self._anew()
            await self._ready()

    async def _anew(self) -> None:
        """As in a new process: of trouble nothing is remembered, and nothing that was given up counts as in flight."""
        await self._client.close()
        forget()
        self._client = self._options.client()

    async def _ready(self) -> None:
        """Until the server is there again; one that is slow may take all of the time that is left."""
        for most in (READY, self._options.seconds):
            if (left := self._left()) <= 0:
                return
            try:
                await self._client.wait_ready(min(most, left))
                return
            except ConnectionFailed:
                raise
            except RequestError:
                if most > READY and self._left() > MOMENT:
                    raise

    # The time

    def _now(self) -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:  # after the end
            return time.monotonic()

    def _patience(self, seconds: float) -> float:
        """Seconds after which a measurement that should take so many is too slow."""
        return PATIENCE * max(2 * self._piece, min(seconds, self._options.seconds / SHARE))

    def _left(self) -> float:
        return self._end - self._now()

    def _look(self, phase: str, cell: Cell | None = None) -> None:
        end = time.monotonic() + self._left()
        grid = self._grid if self._grid.batches else None
        self._show(Look(phase=phase, grid=grid, taken=self._taken, current=cell, end=end))
