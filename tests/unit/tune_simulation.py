"""A sweep at a server of which everything is known: its plan, its clock and its samples, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from benchmarks.speed.kinds import KINDS
from benchmarks.speed.models import Behaviour
from benchmarks.speed.simulation import run
from benchmarks.speed.texts import texts
from embedwire._servers.kinds import Told
from embedwire.tune.plan import Time, automatic_texts, grid_of, next_move, rate_of_automatic
from embedwire.tune.records import Cell, Ending, Grid, Sample, Taken

FULL = grid_of(128, 64, None, Told())

Rate = Callable[[Cell], float]  # texts per second; 0 where the server refuses


@cache
def rate_at(name: str, batch: int, requests: int) -> float:
    """Texts per second of a model of the benchmarks, in simulated time."""
    server = KINDS[name].server
    assert isinstance(server, Behaviour)
    count = max(1000, 3 * batch * requests)
    lengths = [len(text) for text in texts(count, mixed=KINDS[name].mixed)]
    try:
        return run(server.made(), lengths, batch=batch, concurrency=requests).rate
    except ValueError:
        return 0.0


@dataclass
class Simulated:
    """A sweep in simulated time.

    Attributes:
        rate: Of the server.
        whole: Seconds for it.
        grid: What may be tried.
        noise: By what part a sample is off, by chance.
        taken: What was measured.
        moves: What was measured, in order; None: the automatic sizes.
        now: Seconds that it took.
    """

    rate: Rate
    whole: float = 60.0
    grid: Grid = FULL
    noise: float = 0.0
    taken: Taken = field(default_factory=Taken)
    moves: list[Cell | None] = field(default_factory=list)
    now: float = 7.0  # the first contact, and the automatic sizes from the start

    def run(self, seed: int = 0) -> Simulated:
        """Until the plan has nothing left."""
        chance = random.Random(seed)
        while (
            move := next_move(self.grid, self.taken, Time.of(self.whole, self.whole - self.now))
        ) is not None:
            piece = Time.of(self.whole, 0).piece
            if not isinstance(move, Cell):
                rate = rate_of_automatic(self.taken)
                seconds = automatic_texts(self.taken, piece) / rate
                self.now += seconds
                self.moves.append(None)
                sample = Sample(rate=rate, latency=None, seconds=seconds, texts=1)
                self.taken = Taken(
                    cells=self.taken.cells, ends=self.taken.ends, automatic=(*self.taken.automatic, sample)
                )
                continue
            self.moves.append(move)
            rate = self.rate(move)
            if not rate:
                self.now += 1.0
                self.taken = self.taken.ended(move, Ending(reason="refused", what="the server answered 429"))
                continue
            wait = move.in_flight / rate
            self.now += wait + max(piece, wait) + wait
            sample = Sample(
                rate=rate * chance.gauss(1, self.noise), latency=wait, seconds=piece, texts=round(rate)
            )
            self.taken = self.taken.measured(move, sample)
        return self
