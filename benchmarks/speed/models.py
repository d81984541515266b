"""Embedding servers as pure models: no sockets, no loop, no clock. The mock server runs them by timers.

A model is told what arrives and how late it is, and tells which requests are done and when to look again:

    server.arrive(now, request, lengths)   # the characters of each text; the status: 200, or why it is refused
    server.next_event()                    # when something will happen, if nothing arrives before; None: never
    server.advance(now)                    # the requests that were done by then, in order, each once

Times are seconds on any clock; they must not go backwards. `benchmarks/speed/simulation.py` drives them in simulated
time, and `benchmarks/speed/measured.py` has the figures after which those of real servers are modelled.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WANDERING = 3.0  # seconds from fast over slow to fast again
PAUSE = 0.3  # seconds without a request, after which a server is as in the beginning


@dataclass(slots=True, eq=False)
class Request:
    """One request at a server; ``left`` are its texts that are not done."""

    name: int
    lengths: list[int]
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = len(self.lengths)


class Server:
    """What all models have in common: a heap of what will happen, and the requests that are done.

    Args:
        cap: Most texts in one request; more are refused with 422, as TEI does it.
        fails_above: Above so many texts, an unexplained 500.
    """

    software: str | None = None  # the ``Server`` header
    owned_by: str | None = None  # whose its list of models says that they are
    total_slots: int | None = None  # what ``/props`` tells; None: there is no such path

    def __init__(self, cap: int | None = None, fails_above: int | None = None) -> None:
        self.cap, self.fails_above = cap, fails_above
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._done: list[int] = []

    def arrive(self, now: float, request: int, lengths: list[int]) -> int:
        """A request of texts with so many characters each is there; any other status than 200 is its answer."""
        if self.cap is not None and len(lengths) > self.cap:
            return 422
        if self.fails_above is not None and len(lengths) > self.fails_above:
            return 500
        self._run(now)
        self._accept(now, Request(request, lengths))
        return 200

    def next_event(self) -> float | None:
        """When something will happen."""
        return self._events[0][0] if self._events else None

    def advance(self, now: float) -> list[int]:
        """Everything until then happens; the requests that it finished."""
        self._run(now)
        done, self._done = self._done, []
        return done

    def _run(self, now: float) -> None:
        while self._events and self._events[0][0] <= now:
            when, _, happen = heapq.heappop(self._events)
            happen(when)

    def _accept(self, now: float, request: Request) -> None:
        raise NotImplementedError

    def _at(self, when: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happen))

    def _answer(self, when: float, request: Request) -> None:
        """It is answered then."""
        self._at(when, lambda _: self._done.append(request.name))


class Workers(Server):
    """Each request holds one of the workers for its whole time, first come first served.

    Args:
        slots: Workers; None: one for each request.
        fixed: Seconds for a request.
        per_text: Seconds for each text in it.
        rising: Further seconds for each pair of texts in it.
        wander: The speed wanders between 1 and 1 + ``wander`` times slower, as on a server shared with others; in
            the same way after each pause.
        scale_after: Busy seconds after which the workers double, as often as up to ``scale_to``; None: never.
        scale_to: Most workers.
        cap: See `Server`.
        fails_above: See `Server`.
    """

    def __init__(
        self,
        *,
        slots: int | None = None,
        fixed: float = 0.0,
        per_text: float = 0.0,
        rising: float = 0.0,
        wander: float = 0.0,
        scale_after: float | None = None,
        scale_to: int = 64,
        cap: int | None = None,
        fails_above: int | None = None,
    ) -> None:
        super().__init__(cap, fails_above)
        self.slots = slots
        self.fixed, self.per_text, self.rising, self.wander = fixed, per_text, rising, wander
        self.scale_after, self.scale_to = scale_after, scale_to
        self._free: list[float] = []  # when each worker will be free: a heap
        self._begun = self._last = -math.inf  # the first request after a pause, and the end of the last one

    def seconds(self, texts: int, at: float = 0.0) -> float:
        """The time that a request of so many texts takes when it is begun ``at`` seconds after a pause."""
        slower = 1 + self.wander * math.sin(math.pi * at / WANDERING) ** 2
        return (self.fixed + self.per_text * texts + self.rising * texts * texts) * slower

    def _accept(self, now: float, request: Request) -> None:
        """Its end is fixed now, by when a worker will be free."""
        if now > self._last + PAUSE:
            self._begun = now
            self._free = [now] * (self.slots or 0)
        self._scale(now)
        start = max(now, self._free[0]) if self._free else now
        end = start + self.seconds(len(request.lengths), start - self._begun)
        self._last = max(self._last, end)
        if self._free:
            heapq.heapreplace(self._free, end)
        self._answer(end, request)

    def _scale(self, now: float) -> None:
        if self.slots is None or self.scale_after is None:
            return
        doublings = int((now - self._begun) / self.scale_after)
        wanted = min(self.scale_to, self.slots * 2 ** min(doublings, 20))
        for _ in range(wanted - len(self._free)):
            heapq.heappush(self._free, now)


def ideal(servers: Sequence[Workers], texts: int, batch: int) -> float:
    """The least time in which the workers of some servers can do so many texts in batches of this size.

    Each batch goes to who will have done it first.
    """
    sizes = [batch] * (texts // batch) + [texts % batch] * (texts % batch > 0)
    workers = [
        (place, server) for place, server in enumerate(servers) for _ in range(server.slots or len(sizes))
    ]
    done, last = [(server.seconds(batch), at, place) for at, (place, server) in enumerate(workers)], 0.0
    heapq.heapify(done)
    for size in sizes:
        end, at, place = done[0]
        last = max(last, end - servers[place].seconds(batch) + servers[place].seconds(size))
        heapq.heapreplace(done, (end + servers[place].seconds(batch), at, place))
    return last


class LlamaCpp(Server):
    """llama.cpp's server: texts occupy the slots, and one thread works on all slots together, turn by turn.

    A turn takes the texts that wait, at most one for each slot, first come first served. What a request takes outside
    of that thread (parsing, the reply) keeps no other one waiting.

    Args:
        slots: Texts computed together.
        turn: Seconds of a turn, however many texts it has.
        per_text: Seconds for each text in it.
        per_waiting: Seconds for each text in it and each one that waits meanwhile.
        per_request: Seconds for each request that it ends.
        outside: Seconds of a request outside the thread.
    """

    software = "llama.cpp"
    owned_by = "llamacpp"

    def __init__(
        self,
        slots: int,
        *,
        turn: float = 0.0007,
        per_text: float = 0.0018,
        per_waiting: float = 0.38e-6,
        per_request: float = 0.0002,
        outside: float = 0.0052,
    ) -> None:
        super().__init__()
        self.total_slots = slots
        self.turn, self.per_text, self.per_waiting = turn, per_text, per_waiting
        self.per_request, self.outside = per_request, outside
        self._waiting: deque[Request] = deque()  # each as often as it has texts that wait
        self._busy = False

    def _accept(self, now: float, request: Request) -> None:
        self._at(now + self.outside / 2, lambda when: self._queued(when, request))

    def _queued(self, now: float, request: Request) -> None:
        self._waiting.extend([request] * len(request.lengths))
        if not self._busy:
            self._begin(now)

    def _begin(self, now: float) -> None:
        assert self.total_slots
        taken = [self._waiting.popleft() for _ in range(min(self.total_slots, len(self._waiting)))]
        self._busy = bool(taken)
        if taken:
            for request in taken:
                request.left -= 1
            ended = [request for request in dict.fromkeys(taken) if not request.left]
            per_text = self.per_text + self.per_waiting * len(self._waiting)
            end = now + self.turn + per_text * len(taken) + self.per_request * len(ended)
            self._at(end, lambda when: self._end(when, ended))

    def _end(self, now: float, ended: list[Request]) -> None:
        for request in ended:
            self._answer(now + self.outside / 2, request)
        self._begin(now)


class Infinity(Server):
    """infinity: dynamic batching across requests.

    Its queue takes all texts that wait, up to ``most`` batches; sorts them by length; and the GPU works on them in
    batches, each padded to its longest text. What arrives meanwhile waits until all that were taken are done. A
    request is answered after its last text, by one thread that makes one answer after another.

    Args:
        batch: Texts on the GPU at once.
        most: Batches taken at once.
        gather: Seconds from the first text that waits to the taking.
        take: Seconds for each taking.
        launch: The least seconds of a batch.
        per_char: Seconds for each character, padding included.
        outside: Seconds of a request on the way in and out, which keep no other one waiting.
        answer: Seconds of the answering thread for each request.
        answer_text: The same for each text.
    """

    software = "uvicorn"
    owned_by = "infinity"

    def __init__(
        self,
        *,
        batch: int = 64,
        most: int = 32,
        gather: float = 0.005,
        take: float = 0.014,
        launch: float = 0.0093,
        per_char: float = 0.94e-6,
        outside: float = 0.033,
        answer: float = 0.019,
        answer_text: float = 0.00015,
    ) -> None:
        super().__init__()
        self.batch, self.most, self.gather, self.take = batch, most, gather, take
        self.launch, self.per_char = launch, per_char
        self.outside, self.answer, self.answer_text = outside, answer, answer_text
        self._waiting: deque[tuple[int, Request]] = deque()  # the length of a text, and whose it is
        self._busy = False
        self._answering = -math.inf  # until when the thread has answers to make

    def _accept(self, now: float, request: Request) -> None:
        self._waiting.extend((length, request) for length in request.lengths)
        if not self._busy:
            self._busy = True
            self._at(now + self.gather, self._take)

    def _take(self, now: float) -> None:
        count = min(self.batch * self.most, len(self._waiting))
        taken = sorted((self._waiting.popleft() for _ in range(count)), key=lambda text: text[0])
        now += self.take
        for start in range(0, count, self.batch):
            texts = taken[start : start + self.batch]
            now += max(self.launch, self.per_char * len(texts) * texts[-1][0])
            self._at(now, lambda when, texts=texts: self._computed(when, [whose for _, whose in texts]))  # type: ignore[misc]
        self._at(now, self._over)

    def _computed(self, now: float, texts: list[Request]) -> None:
        for request in texts:
            request.left -= 1
            if not request.left:
                cost = self.answer + self.answer_text * len(request.lengths)
                self._answering = max(now, self._answering) + cost
                self._answer(self._answering + self.outside, request)

    def _over(self, now: float) -> None:
        self._busy = bool(self._waiting)
        if self._waiting:
            self._take(now)


class Vllm(Server):
    """vLLM: continuous batching. With n texts under way they are done at ``rate`` n / (n + ``half``) a second.

    Args:
        rate: Texts per second with endless texts under way.
        half: With so many texts under way it has half that rate.
        most: Texts under way; further ones wait.
        outside: Seconds of a request outside of that.
    """

    software = "uvicorn"
    owned_by = "vllm"

    def __init__(
        self, *, rate: float = 2000.0, half: float = 32.0, most: int = 256, outside: float = 0.002
    ) -> None:
        super().__init__()
        self.rate, self.half, self.most, self.outside = rate, half, most, outside
        self._waiting: deque[Request] = deque()  # each as often as it has texts that wait
        self._under_way: list[tuple[float, int, Request]] = []  # by the progress at which each will be done
        self._progress = 0.0  # of a text that was under way since the beginning, in texts
        self._seen = 0.0

    def _accept(self, now: float, request: Request) -> None:
        self._waiting.extend([request] * len(request.lengths))
        self._admit()

    def next_event(self) -> float | None:
        """The next text's end, or the next answer's."""
        answer = super().next_event()
        if not self._under_way:
            return answer
        return self._next_end() if answer is None else min(self._next_end(), answer)

    def _run(self, now: float) -> None:
        while self._under_way and (end := self._next_end()) <= now:
            self._seen = end
            self._progress, _, request = heapq.heappop(self._under_way)
            request.left -= 1
            if not request.left:
                self._answer(end + self.outside, request)
            self._admit()
        self._move(now)
        super()._run(now)

    def _next_end(self) -> float:
        return self._seen + (self._under_way[0][0] - self._progress) / self._speed()

    def _speed(self) -> float:
        """Progress of each text, per second."""
        return self.rate / (len(self._under_way) + self.half)

    def _move(self, now: float) -> None:
        if self._under_way:
            self._progress += max(0.0, now - self._seen) * self._speed()
        self._seen = max(now, self._seen)

    def _admit(self) -> None:
        while self._waiting and len(self._under_way) < self.most:
            entry = (self._progress + 1.0, next(self._order), self._waiting.popleft())
            heapq.heappush(self._under_way, entry)


MODELS: dict[str, Callable[..., Server]] = {
    "workers": Workers,
    "llama.cpp": LlamaCpp,
    "infinity": Infinity,
    "vllm": Vllm,
}


@dataclass(frozen=True)
class Behaviour:
    """What a server is like, in a form that can be sent to its process: a name in `MODELS`, and its arguments."""

    model: str = "workers"
    options: Mapping[str, Any] = field(default_factory=dict)

    def made(self) -> Server:
        """A fresh one."""
        return MODELS[self.model](**self.options)
