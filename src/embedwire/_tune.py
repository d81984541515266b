"""Sizes that find themselves: how many texts per request, and how many requests, by trying and measuring. Pure.

A round is as many requests as may be in flight. Its rate, text done per second, is what counts. Larger sizes are
tried, one step a round, as long as the rate grows; what does not pay is taken back. Now and then a neighbouring
size is tried again, since servers change. The time is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from embedwire._config import Form, Kind
from embedwire._limits import MOST_REQUESTS, START, Learned, Sizes, concurrency, sizes

STEPS = (5, 8, 16, 32, 64, 128)  # texts per request; limits of servers are mostly powers of two
PER_TEXT = 40  # characters that a text counts for besides its own: what a server does for each
REST = (2, 4, 8, 16, 32)  # rounds between two trials, once the search is over: a trial may have had bad luck
# Rate after over rate before a step that is kept. Twice as many requests at a server that has no slot left for them
# change nothing, and at one that has double the rate; twice as many texts save the overhead of a request.
KEEP = {("requests", 1): 1.25, ("texts", 1): 1.08, ("requests", -1): 0.97, ("texts", -1): 0.97}
# Seconds. Where a request takes longer, it is not made larger, so that a query need not wait for it.
SLOWEST = 0.5


class Step(NamedTuple):
    """A change of one size, up (1) or down (-1)."""

    size: Literal["requests", "texts"]
    way: Literal[1, -1]


SEARCH = (Step("requests", 1), Step("texts", 1))  # each as often as it pays
LARGER, SMALLER = Step("texts", 1), Step("texts", -1)
# In turn, one after each rest.
CHECKS = (SMALLER, LARGER, Step("requests", 1), LARGER, Step("requests", -1), LARGER)


@dataclass(slots=True)
class _Round:
    """Requests that are measured together."""

    left: int  # of its requests, until it is over
    since: float
    work: int = 0


class Tuner:
    """Finds the sizes for one form and kind of requests, and writes them where `_limits` reads them.

    Args:
        form: What the user fixed; only what he left at "auto" is looked for.
        learned: What is known about the server; its sizes are the start.
        kind: The number of requests is looked for with documents alone, as queries seldom come in numbers.
    """

    def __init__(self, form: Form, learned: Learned, kind: Kind) -> None:
        self._form = form
        self._learned = learned
        self._kind: Kind = kind
        self._key = form.variant, kind
        self._kept = sizes(form, learned, kind)  # without the trial that may be going on
        self._rate: float | None = None  # of the kept sizes
        self._trial: Step | None = None
        self._search: Sequence[Step] = SEARCH if self._kept == START[kind] else ()
        self._rest, self._checks = REST[0], 0
        self._in_vain = 0  # trials of the present step of the search
        self._passing = False  # this round still has the last trial's requests in it
        self._round: _Round | None = None
        self._number = 0  # of the round
        self._took = 0.0  # seconds, of the last request

    @property
    def sizes(self) -> Sizes:
        """The sizes that hold now."""
        return sizes(self._form, self._learned, self._kind)

    def sent(self, now: float, *, full: bool) -> int:
        """A request goes out; what comes back belongs to `done`.

        Args:
            now: The time.
            full: It has as many texts as it may have: no rest, and no part of one that failed.
        """
        if not full or (self._form.batch is not None and self._form.concurrency is not None):
            return -1
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
        current = self._round
        if current is None:
            return
        current.work += chars + PER_TEXT * texts
        if number == self._number:
            self._took = took
            current.left -= 1
            if current.left <= 0 and now > current.since:
                self._judge(current.work / (now - current.since), now)

    def idle(self) -> None:
        """There is less work than could be in flight: nothing can be measured now."""
        if self._round is not None:
            self._round = None
            self._number += 1
            self._trial = None
            self._publish(self._kept)

    def trouble(self, texts: int) -> None:
        """A request of so many texts failed as a smaller one might not."""
        if self._form.batch is None and texts >= self.sizes.texts:
            smaller = max((step for step in STEPS if step < texts), default=STEPS[0])
            self._kept = replace(self._kept, texts=min(self._kept.texts, smaller))
            self._search = [step for step in self._search if step.size != "texts"]
            self._rate = None
            self._round = None
            self._number += 1
            self._trial = None
            self._publish(self._kept)

    def cap(self, texts: int) -> None:
        """Requests of so many texts went well where a larger one failed for its size."""
        if self._form.batch is None:
            self._kept = replace(self._kept, most=max(1, texts), texts=min(self._kept.texts, texts))
            self._publish(self._kept)

    def _begin(self, now: float) -> None:
        self._number += 1
        self._round = _Round(left=max(2, concurrency(self._form, self._learned)), since=now)

    def _judge(self, rate: float, now: float) -> None:
        """A round is over: keep its sizes or take them back, and decide about the next round."""
        step = self._trial
        if self._passing and step is None:
            self._passing = False
        elif step is None or self._rate is None:
            self._rate = rate
        elif rate >= KEEP[step] * self._rate:
            self._rate = rate
            self._kept = self.sizes
            self._search = [step, *(other for other in self._search if other != step)]
            self._in_vain = 0
        elif step == LARGER and step in self._search and not self._in_vain:
            self._in_vain, self._rate = (
                1,
                None,
            )  # the rate before may have been luck: measure it, and try again
        else:
            self._search = [other for other in self._search if other != step]
            self._in_vain = 0
        self._trial = None if self._rate is None else self._next()
        self._publish(self._kept if self._trial is None else self._stepped(self._trial))
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
            if self._form.batch is not None or (step.way > 0 and self._took > SLOWEST):
                return kept
            larger = [size for size in STEPS if size > kept.texts and size <= (kept.most or size)]
            smaller = [size for size in STEPS if START[self._kind].texts <= size < kept.texts]
            texts = next(iter(larger if step.way > 0 else smaller[::-1]), kept.texts)
            most = self._learned.max_texts
            return replace(kept, texts=texts) if most is None or texts <= most else kept
        if self._kind == "query" or not self._learned.free_requests(self._form):
            return kept
        now = kept.requests or concurrency(self._form, self._learned)
        return replace(kept, requests=min(MOST_REQUESTS, now * 2) if step.way > 0 else max(1, now // 2))

    def _publish(self, found: Sizes) -> None:
        self._learned.sizes[self._key] = found
