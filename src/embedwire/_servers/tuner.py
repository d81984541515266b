"""Sizes that find themselves: how many texts per request, and how many requests, by trying and measuring. Pure.

A round is as many requests as may be in flight. Its rate, text done per second, is what counts. Larger sizes are
tried, one step a round, as long as the rate grows; what does not pay is taken back. Now and then a neighbouring
size is tried again, since servers change. The time is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from embedwire._settings.options import Kind

STEPS = (5, 8, 16, 32, 64, 128)  # texts per request; limits of servers are mostly powers of two
PER_TEXT = 40  # characters that a text counts for besides its own: what a server does for each
REST = (2, 4, 8, 16, 32)  # rounds between two trials, once the search is over: a trial may have had bad luck
# Seconds. Where a request takes longer, it is not made larger, so that a query need not wait for it.
SLOWEST = 0.5


class Step(NamedTuple):
    """A change of one size, up (1) or down (-1)."""

    size: Literal["requests", "texts"]
    way: Literal[1, -1]


LARGER, SMALLER = Step("texts", 1), Step("texts", -1)
MORE, FEWER = Step("requests", 1), Step("requests", -1)
SEARCH = (MORE, LARGER)  # each as often as it pays
CHECKS = (SMALLER, LARGER, MORE, LARGER, FEWER, LARGER)  # in turn, one after each rest
# Rate after over rate before a step that is kept. Twice as many requests at a server that has no slot left for them
# change nothing, and at one that has double the rate; twice as many texts save the overhead of a request.
KEEP = {MORE: 1.25, LARGER: 1.08, FEWER: 0.97, SMALLER: 0.97}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What "auto" stands for now, at one server, for one model and one kind of texts.

    Attributes:
        texts: Most texts in one request.
        requests: Most requests in flight; None: the start.
    """

    texts: int
    requests: int | None = None


# Documents: the number that kept the first llama.cpp server alive. Queries are short, and wait together only when
# many ask at once.
START: dict[Kind, Sizes] = {"document": Sizes(texts=5), "query": Sizes(texts=32)}
MOST_REQUESTS = 128


@dataclass(slots=True)
class _Round:
    """Requests that are measured together. Written by `Tuner`."""

    left: int  # of its requests, until it is over
    since: float
    work: int = 0


class Tuner:
    """Finds the sizes for one kind of requests. Written by `_queue`.

    Its state is the sizes that were kept, the trial that may be going on, and the round that is being measured.

    Args:
        kind: The number of requests is looked for with documents alone, as queries seldom come in numbers.
        auto_texts: Whether the texts per request are to be found.
        requests: The requests that may be in flight now.
        auto_requests: Whether their number is to be found.
        most_texts: The most texts that the server takes in one request.

    Attributes:
        sizes: The sizes that hold now.
        work: The most work in a request that is not small: what takes half a second, as far as was seen.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        auto_texts: bool,
        requests: Callable[[], int],
        auto_requests: Callable[[], bool],
        most_texts: Callable[[], int | None],
    ) -> None:
        self.sizes = START[kind]
        self.work = 0.0
        self._kind: Kind = kind
        self._auto_texts = auto_texts
        self._requests = requests
        self._auto_requests = auto_requests
        self._most_texts = most_texts
        self._kept = self.sizes  # without the trial that may be going on
        self._rate: float | None = None  # of the kept sizes
        self._trial: Step | None = None
        self._search: Sequence[Step] = SEARCH
        self._rest, self._checks = REST[0], 0
        self._in_vain = 0  # trials of the present step of the search
        self._round: _Round | None = None
        self._number = 0  # of the round
        self._took = 0.0  # seconds, of the last request
        self._was_auto = auto_requests()

    def sent(self, now: float, *, full: bool) -> int:
        """A request goes out; what comes back belongs to `done`.

        Args:
            now: The time.
            full: It has as many texts as it may have: no rest, and no part of one that failed.
        """
        if not full or not (self._auto_texts or self._auto_requests()):
            return -1
        if self._auto_requests() != self._was_auto:  # only now it is known what is over there: measure anew
            self._was_auto, self._rate, self._search = not self._was_auto, None, SEARCH
            self._drop_round()
        if self._round is None:
            self._begin(now)
        return self._number

    def done(self, number: int, chars: int, texts: int, took: float, now: float) -> None:
        """A request succeeded.

        Args:
            number: What `sent` said.
            chars: Characters in it.
            texts: Texts in it.
            took: Seconds from sending to the last vector.
            now: The time.
        """
        work = chars + PER_TEXT * texts
        self._limit_work(work, took)
        current = self._round
        if current is None:
            return
        current.work += work
        if number == self._number:
            self._took = took
            current.left -= 1
            if current.left <= 0 and now > current.since:
                self._judge(current.work / (now - current.since), now)

    def idle(self) -> None:
        """There is less work than could be in flight: nothing can be measured now."""
        if self._round is not None:
            self._drop_round()

    def trouble(self, texts: int) -> None:
        """A request of so many texts failed as a smaller one might not."""
        if self._auto_texts and texts >= self.sizes.texts:
            smaller = max((step for step in STEPS if step < texts), default=STEPS[0])
            self._kept = replace(self._kept, texts=min(self._kept.texts, smaller))
            self._search = [step for step in self._search if step.size != "texts"]
            self._rate = None
            self._drop_round()

    def _limit_work(self, work: int, took: float) -> None:
        """Work at which the half second held may double; what took longer steps down to what would not have."""
        if took > SLOWEST:
            self.work = min(self.work, work * SLOWEST / took)
        else:
            self.work = max(self.work, work * (2 if took * 2 <= SLOWEST else 1))

    def _drop_round(self) -> None:
        """Measures nothing of the present round, and takes a trial back."""
        self._round, self._trial = None, None
        self._number += 1
        self.sizes = self._kept

    def _begin(self, now: float) -> None:
        self._number += 1
        self._round = _Round(left=max(2, self._requests()), since=now)

    def _judge(self, rate: float, now: float) -> None:
        """A round is over: keep its sizes or take them back, and decide about the next round."""
        step = self._trial
        if step is None or self._rate is None:
            self._rate = rate
        elif rate >= KEEP[step] * self._rate:
            self._rate = rate
            self._kept = self.sizes
            self._search = [step, *(other for other in self._search if other != step)]
            self._in_vain = 0
        elif step == LARGER and step in self._search and not self._in_vain:
            # The rate before may have been luck: measure it, and try again.
            self._in_vain, self._rate = 1, None
        else:
            self._search = [other for other in self._search if other != step]
            self._in_vain = 0
        self._trial = None if self._rate is None else self._next()
        self.sizes = self._kept if self._trial is None else self._stepped(self._trial)
        self._begin(now)

    def _next(self) -> Step | None:
        """The next size to try; None to rest."""
        for step in self._search:
            if self._stepped(step) != self._kept:
                return step
        self._search = ()
        self._rest -= 1
        if self._rest > 0:
            return None
        self._checks += 1
        self._rest = REST[min(self._checks, len(REST) - 1)]
        step = CHECKS[self._checks % len(CHECKS)]
        return step if self._stepped(step) != self._kept else None

    def _stepped(self, step: Step) -> Sizes:
        """The kept sizes after a step; the same ones where it cannot be taken."""
        kept = self._kept
        if step.size == "texts":
            return replace(kept, texts=self._texts_after(step.way))
        if self._kind == "query" or not self._auto_requests():
            return kept
        now = kept.requests or self._requests()
        return replace(kept, requests=min(MOST_REQUESTS, now * 2) if step.way > 0 else max(1, now // 2))

    def _texts_after(self, way: Literal[1, -1]) -> int:
        now, most = self._kept.texts, self._most_texts()
        if not self._auto_texts or (way > 0 and self._took > SLOWEST):
            return now
        if way > 0:
            return next((size for size in STEPS if size > now and (most is None or size <= most)), now)
        return next((size for size in reversed(STEPS) if START[self._kind].texts <= size < now), now)
