"""The sizes of requests: what they are, and which steps lead from one to another within what a server takes. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

from embedwire._settings.options import Kind

STEPS = (1, 2, 3, 5, 8, 16, 32, 64, 128)  # texts per request; limits of servers are mostly powers of two
MOST_REQUESTS = 128


class Step(Enum):
    """A change of the sizes."""

    BOTH = "requests four times as large, and twice as many"
    MANY = "four times the requests"
    LARGER = "more texts in a request"
    MORE = "twice the requests"
    SMALLER = "fewer texts in a request"
    FEWER = "three quarters of the requests"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What "auto" stands for now, at one server, for one model and one kind of texts.

    Attributes:
        texts: Most texts in one request.
        requests: Most requests in flight.
    """

    texts: int
    requests: int

    @property
    def in_flight(self) -> int:
        """Texts in flight."""
        return self.texts * self.requests


PER_SLOT = 2  # texts in flight for each slot of a server: one that it works on, and one to go on with
# Texts in flight at a server with many slots, for each request that may be in flight.
PER_REQUEST_OF_MANY = 16
# Documents: the batch that kept the first llama.cpp server alive, and as many requests as a server with one slot has
# threads for. Queries are short, and wait together only when many ask at once.
START: dict[Kind, Sizes] = {"document": Sizes(5, 4), "query": Sizes(32, 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What may be tried at a server.

    Attributes:
        known: Whether it is known what is over there; nothing grows before.
        fixed_texts: The user's number of texts in a request.
        fixed_requests: The user's number of requests in flight.
        texts: Most texts that it takes in one request.
        requests: Most requests that it serves at a time.
        slots: Texts that it works on at a time, where it tells.
        fragile: Whether its connections cost it threads, of which it may have few.
        counted: Whether requests are counted by a limit of the user's, so that each should carry many texts.
    """

    known: bool = False
    fixed_texts: int | None = None
    fixed_requests: int | None = None
    texts: int | None = None
    requests: int = MOST_REQUESTS
    slots: int | None = None
    fragile: bool = False
    counted: bool = False

    @property
    def nature(self) -> object:
        """What a server is, as far as its first sizes depend on it; None where that is not known."""
        return (self.known, self.slots) if self.known or self.fragile else None

    def first(self, kind: Kind) -> Sizes:
        """The sizes that any server gets at first."""
        return START["query" if self.counted else kind]

    def start(self, kind: Kind) -> Sizes:
        """The sizes to begin with: small ones, and no more in flight than the server can use."""
        begin = self.first(kind)
        most = None if self.counted else self.slots and PER_SLOT * self.slots
        texts, requests = self.fixed_texts or begin.texts, self.fixed_requests or begin.requests
        if most is not None and kind == "document":
            if self.fixed_texts is None:
                texts = max(1, min(texts, most // requests))
            if self.fixed_requests is None:
                requests = max(requests, most // PER_REQUEST_OF_MANY)
                requests = min(self.requests, max(2, min(requests, most // texts)))
        return Sizes(texts, requests)

    def _most_in_flight(self) -> int | None:
        """Most texts in flight, so that no more wait at the server than keep it busy."""
        return self.slots and max(PER_SLOT * self.slots, START["document"].in_flight)

    def after(self, sizes: Sizes, step: Step, *, growth: float = 1.0, below: float = math.inf) -> Sizes:
        """The sizes after a step; the same ones where it cannot be taken.

        Args:
            sizes: Before it.
            step: The step.
            growth: How many times as many texts a request has at least after `Step.LARGER`.
            below: Texts in a request that failed.
        """
        if step in (Step.BOTH, Step.MANY):
            more = self.after(sizes, Step.MORE)
            larger = more if step is Step.MANY else self.after(more, Step.LARGER, growth=4.0, below=below)
            return self.after(more, Step.MORE) if larger == more else larger
        if step in (Step.MORE, Step.FEWER):
            requests = sizes.requests if self.fixed_requests else self._requests(sizes, step)
            return replace(sizes, requests=requests)
        texts = sizes.texts if self.fixed_texts else self._texts(sizes, step, growth, below)
        return replace(sizes, texts=texts)

    def _requests(self, sizes: Sizes, step: Step) -> int:
        if step is Step.FEWER:
            return max(1, sizes.requests * 3 // 4)
        most = self._most_in_flight()
        room = self.requests if most is None else min(self.requests, most // sizes.texts)
        return max(sizes.requests, min(sizes.requests * 2, room))

    def _texts(self, sizes: Sizes, step: Step, growth: float, below: float) -> int:
        if step is Step.SMALLER:
            return next((size for size in reversed(STEPS) if size < sizes.texts), sizes.texts)
        least = min(STEPS[-1], growth * sizes.texts)
        larger = (size for size in STEPS if size > sizes.texts and size >= least)
        step_up = next((size for size in larger if size < below), sizes.texts)
        most = self._most_in_flight()
        limits = step_up, self.texts, most and most // sizes.requests
        return max(sizes.texts, min(limit for limit in limits if limit is not None))
