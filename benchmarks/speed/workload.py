"""What a workload is, and what a target."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from benchmarks.speed.clients import BEST_FIXED
from benchmarks.speed.models import Behaviour
from benchmarks.speed.waiting import EVERY

LLAMA_CPP, BUNDLED = "llama.cpp", "embedwire serve"  # real servers, on this machine's CPU


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a figure of one of our clients must not exceed, or must reach.

    Targets of several workloads with the same text are one in the table, which shows the worst of them.

    Attributes:
        text: What it says, for the table.
        figure: A name in `FIGURES`.
        at_most: The limit: of the ratio if there is a peer, else of the figure itself.
        at_least: The same from below; one of the two is given.
        client: Ours.
        peer: Theirs; None: the figure stands alone.
    """

    text: str
    figure: str
    at_most: float | None = None
    at_least: float | None = None
    client: str = "embedwire"
    peer: str | None = None

    @property
    def limit(self) -> str:
        """It as it is written."""
        return f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"

    def over(self, value: float) -> float:
        """How much of the limit was used; more than 1: it was missed."""
        if self.at_most is not None:
            return value / self.at_most
        assert self.at_least is not None
        return self.at_least / value if value else math.inf


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One job for several clients.

    Attributes:
        name: For ``--only``, which also takes its beginning up to any ``-``.
        title: For the table.
        do: What `worker.Job` calls it; or ``"import"``.
        figures: The columns of its table: names in `FIGURES`.
        clients: In the order in which they run: names in `clients`, or what is imported. `BEST_FIXED` is
            embedwire with the numbers that a sweep found best.
        texts: How many.
        mixed: They have 8 to 240 words instead of a sentence each.
        batch: Texts in one request.
        concurrency: Requests in flight.
        warm_up: Texts embedded before.
        every: Seconds between two queries, where there are some beside.
        server: What the mock server is like; or a real server: `LLAMA_CPP` or `BUNDLED`.
        further: Further mock servers of the same model, which the client is given too.
        numbers_of: The workload whose sweep holds for this one too; None: it has its own, if it needs one.
        targets: What embedwire aims at.
    """

    name: str
    title: str
    do: str
    figures: tuple[str, ...]
    clients: tuple[str, ...]
    texts: int
    mixed: bool = False
    batch: int = 32
    concurrency: int = 8
    warm_up: int = 640
    every: float = EVERY
    server: Behaviour | str = field(default_factory=Behaviour)
    further: tuple[Behaviour, ...] = ()
    numbers_of: str | None = None
    targets: tuple[Target, ...] = ()

    @property
    def servers(self) -> tuple[Behaviour | str, ...]:
        """All of them."""
        return self.server, *self.further

    @property
    def is_swept(self) -> bool:
        """Whether it needs the best fixed numbers."""
        return BEST_FIXED in self.clients

    def is_called(self, name: str) -> bool:
        """Whether that is its name, or the beginning of it."""
        return self.name == name or self.name.startswith(f"{name}-")
