"""Sizes that find themselves: how many texts per request, and how many requests, by trying and measuring. Pure.

The rule, of which docs/SIZES.md tells more:

1. Slow start: both sizes double, round after round, while the rate grows nearly as the texts in flight do (Little's
   law: then nothing waits at the server). After that larger requests alone, then more of them, while a doubling
   brings a tenth. The step that did not pay is taken back.
2. Hill climbing: now and then a neighbour of the sizes is tried for a round, and compared with the rounds before and
   after it. Of all that was tried, the sizes with least in flight are kept whose rate is as good as the best one's.
3. While queries come, a twentieth less is as good: less is in flight, and a query waits for less.

After trouble fewer requests may be in flight than these: see `pace.Window` (AIMD).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from embedwire._servers.meter import Meter, Round
from embedwire._servers.steps import MOST_REQUESTS, STEPS, Bounds, Sizes, Step
from embedwire._settings.options import Kind

PER_TEXT = 40  # characters that a text counts for besides its own: what a server does for each
PAYS = 1.1  # what a doubling must bring in the slow start
CLEAR = 1.2  # times the rate, which no second look is needed for
CHANGED = 2.0  # times the rate of the same sizes before, or one such part of it
AS_GOOD, AS_GOOD_FOR_QUERIES = 0.98, 0.97  # of the best rate
AS_GOOD_LEAST = 0.97  # where the rates differ among themselves by more than that
REST = (4, 8, 16)  # rounds between two trials
MOST_DOUBLINGS = 4  # of the first rest, before what failed is tried again
# Of a round, once the slow start is over: seconds, and requests where they do not take longer than so many seconds.
LEAST, LEAST_REQUESTS, ENOUGH = 0.1, 16, 0.5
QUERIES_COME = 2.0  # seconds since the last one
# Seconds of the server. A request that takes more is not made larger: a query would wait for it.
SLOWEST = 0.5


SLOW_START = (Step.BOTH, Step.LARGER, Step.MORE)  # each as often as it pays
NEIGHBOURS = (Step.FEWER, Step.LARGER, Step.SMALLER, Step.MORE)
CHECKS = (
    Step.FEWER,
    Step.MORE,
    Step.LARGER,
    Step.MORE,
    Step.SMALLER,
    Step.MORE,
)  # in turn, one after each rest


class Tried:
    """How the sizes that were tried compare with the kept ones. Written by `Tuner`.

    Its state is the kept sizes, and the rate of each that was tried, in parts of theirs.
    """

    def __init__(self, kept: Sizes) -> None:
        self.kept = kept
        self._ratios: dict[Sizes, float] = {}
        self._doubts: dict[Sizes, float] = {}

    def knows(self, sizes: Sizes) -> bool:
        """Whether nothing is to be learnt by trying these."""
        return sizes == self.kept or sizes in self._ratios

    def note(self, sizes: Sizes, ratio: float, *, as_good: float) -> None:
        """Takes note of a trial; what seems to pay is believed the second time, on the average of both."""
        if sizes in self._doubts:
            self._ratios[sizes] = (ratio + self._doubts.pop(sizes)) / 2
        elif ratio * as_good > 1:
            self._doubts[sizes] = ratio
        else:
            self._ratios[sizes] = ratio

    def keep(self, sizes: Sizes, ratio: float | None = None) -> None:
        """These sizes are the kept ones from now on; ``ratio``, where it was not noted, is that of their rate."""
        known = {**self._ratios, self.kept: 1.0}
        ratio = known.pop(sizes, 1.0) if ratio is None else ratio
        self._ratios = {other: one / ratio for other, one in known.items() if other != sizes}
        self._doubts = {}
        self.kept = sizes

    def best(self, as_good: float) -> Sizes:
        """The sizes with least in flight, of those whose rate is as good as the best one's."""
        known = {**self._ratios, self.kept: 1.0}
        enough = as_good * max(known.values())
        good = [sizes for sizes, ratio in known.items() if ratio >= enough]
        return min(good, key=lambda sizes: (sizes.in_flight, sizes.requests))


class Tolerance:
    """How much less than the best rate is as good. Written by `Tuner`.

    Its state is by how much rates of the same sizes differ, on the average of late, and when the last query came.
    """

    def __init__(self) -> None:
        self._noise = 0.0
        self._last_query = -QUERIES_COME

    def same_sizes(self, ratio: float) -> None:
        """Two rates of the same sizes, one after the other, have this ratio."""
        self._noise += 0.3 * (abs(ratio - 1) - self._noise)

    def query(self, now: float) -> bool:
        """A query came; whether it is the first one for a while."""
        before, self._last_query = self._last_query, now
        return now - before > QUERIES_COME

    def as_good(self, now: float) -> float:
        """The part of the best rate that is as good: what rates differ by among themselves makes none worse."""
        as_good = max(AS_GOOD_LEAST, min(AS_GOOD, 1 - 1.5 * self._noise))
        return min(as_good, AS_GOOD_FOR_QUERIES) if now - self._last_query < QUERIES_COME else as_good


class Tuner:
    """Finds the sizes for one kind of requests. Written by `_queue`.

    Its state is how sizes compare, the trial that is going on, and what the rounds showed.

    Args:
        kind: Queries begin with larger requests.
        bounds: What may be tried now.

    Attributes:
        work: The most work in a request that is not small: what takes `SLOWEST`, as far as was seen.
    """

    def __init__(self, kind: Kind, bounds: Callable[[], Bounds]) -> None:
        self.work = 0.0
        self._kind: Kind = kind
        self._bounds = bounds
        self._meter = Meter()
        self._tolerance = Tolerance()
        self._below, self._failures = math.inf, 0  # texts in a request that failed, and how often
        self._took = 0.0  # seconds of the server for the last request
        self._allowed = MOST_REQUESTS  # by the window
        self._met = False, bounds().slots
        self._begin(bounds().start(kind))

    @property
    def sizes(self) -> Sizes:
        """The sizes that hold now."""
        bounds = self._bounds()
        if (bounds.known, bounds.slots) != self._met:  # only now it is known what is over there
            self._met = bounds.known, bounds.slots
            if (sizes := bounds.start(self._kind)) != self._tried.kept:
                self._begin(sizes)
        return self._sizes

    def _begin(self, sizes: Sizes) -> None:
        """Begins the search anew, with these sizes."""
        self._slow_start: tuple[Step, ...] = SLOW_START if self._bounds().slots is None else ()
        self._momentum = Step.FEWER
        self._trials, self._rest = 0, REST[0]
        self._restart(sizes)

    def _restart(self, sizes: Sizes) -> None:
        """Begins with these sizes, and measures anew."""
        self._tried = Tried(sizes)
        self._rate: float | None = None  # of the kept sizes
        self._in_flight = 0.0  # work, in the last round
        self._take_back()

    def _take_back(self) -> None:
        """Ends the trial, if there is one, without a result."""
        self._trial: Step | None = None
        # A trial's rate, until the kept sizes are measured again.
        self._pending: tuple[Sizes, float] | None = None
        self._sizes = self._tried.kept
        self._meter.change(1.0)

    def sent(self, work: float, now: float, *, all_taken: bool, allowed: int | None) -> int:
        """A request goes out; its number.

        Args:
            work: In it.
            now: The time.
            all_taken: It is full, and as many requests are in flight as may be.
            allowed: The most requests that may be in flight after trouble; None: there was none.
        """
        self._allowed = allowed or MOST_REQUESTS
        may = self._sizes.requests <= self._allowed  # else the window is measured, and not the sizes
        return self._meter.sent(work, now, all_taken=all_taken and may)

    def done(self, number: int, work: float, took: float) -> None:
        """A request succeeded; it is in flight until it `left`.

        Args:
            number: What `sent` said.
            work: In it.
            took: Seconds from sending to the last vector.
        """
        self._meter.came_back(number)
        # Its part of the time: what else was in flight is not its doing.
        took *= work / max(work, self._meter.in_flight)
        self._took = took
        if took > SLOWEST:
            self.work = min(self.work, work * SLOWEST / took)
        else:
            self.work = max(self.work, work * (2 if took * 2 <= SLOWEST else 1))

    def left(self, number: int, now: float) -> None:
        """A request is not in flight any more, whatever became of it."""
        found = self._meter.left(number, now)
        if found is not None:
            self._judge(found, now)

    def idle(self) -> None:
        """There is less work than could be in flight: nothing can be measured now."""
        if self._trial or self._pending:
            self._take_back()
        self._meter.stop()

    def query(self, now: float) -> None:
        """A query is sent beside the documents that this is about."""
        if self._tolerance.query(now):
            self._rest = 0

    def failed(self, texts: int) -> None:
        """A request of so many texts failed as a smaller one might not."""
        if texts >= self._sizes.texts and not self._bounds().fixed_texts:
            smaller = max((size for size in STEPS if size < texts), default=STEPS[0])
            self._below = texts
            self._slow_start = tuple(step for step in self._slow_start if step is Step.MORE)
            self._failures += 1
            self._momentum, self._rest = Step.LARGER, REST[0] * 2 ** min(self._failures, MOST_DOUBLINGS)
            self._restart(replace(self._tried.kept, texts=min(self._tried.kept.texts, smaller)))

    def overloaded(self) -> None:
        """The server had too much to do: its window shrank, and the slow start ends."""
        self._slow_start = tuple(step for step in self._slow_start if step is Step.LARGER)
        self._restart(self._tried.kept)

    def _judge(self, found: Round, now: float) -> None:
        """A round is over."""
        trial, self._trial = self._trial, None
        if trial is None or self._rate is None:
            self._measure(found.rate, now)
        elif self._slow_start:
            self._climb(trial, found.rate / self._rate, found.in_flight / self._in_flight, now)
        elif found.rate > CLEAR * self._rate:
            self._keep(self._sizes, found.rate / self._rate)
            self._momentum, self._rest = trial, 0
        else:
            self._pending = self._sizes, found.rate
        self._in_flight = found.in_flight
        self._go_on(now)

    def _measure(self, rate: float, now: float) -> None:
        """The kept sizes had this rate, after the trial if one is pending."""
        before, self._rate = self._rate or rate, rate
        if not 1 / CHANGED < rate / before < CHANGED:  # it is another server, or has other work
            self._begin(self._tried.kept)
            before = self._rate = rate
        self._rate = (before + rate) / 2
        self._tolerance.same_sizes(rate / before)
        if self._pending is not None:
            sizes, tried = self._pending
            self._pending = None
            self._tried.note(sizes, tried / self._rate, as_good=self._tolerance.as_good(now))

    def _climb(self, step: Step, ratio: float, grew: float, now: float) -> None:
        """A step of the slow start was tried."""
        if ratio >= (math.sqrt(grew) if step is Step.BOTH else PAYS):
            self._keep(self._sizes, ratio)
            return
        self._slow_start = self._slow_start[1:]
        if step is Step.BOTH and ratio >= PAYS:
            # No slot was left for twice the requests, so that what paid was that they are larger.
            self._keep(replace(self._sizes, requests=self._tried.kept.requests), ratio)
        elif step is not Step.BOTH and ratio * self._tolerance.as_good(now) > 1:
            self._keep(self._sizes, ratio)
        else:
            self._tried.note(self._sizes, ratio, as_good=1.0)

    def _keep(self, sizes: Sizes, ratio: float) -> None:
        assert self._rate is not None  # noqa: S101 - there is a ratio to it
        self._tried.keep(sizes, ratio)
        self._rate *= ratio

    def _go_on(self, now: float) -> None:
        """Decides about the sizes of the next round."""
        best = self._tried.best(self._tolerance.as_good(now))
        if best != self._tried.kept and not self._slow_start:
            self._tried.keep(best)
            self._rate = None
        self._trial = None if self._rate is None or self._pending is not None else self._next()
        self._meter.at_least(*((0.0, 0, 0.0) if self._slow_start else (LEAST, LEAST_REQUESTS, ENOUGH)))
        sizes = self._tried.kept if self._trial is None else self._after(self._trial)
        if sizes != self._sizes:
            self._sizes = sizes
            self._meter.change(0.5 if self._trial in (Step.BOTH, Step.MORE) else 1.0)

    def _next(self) -> Step | None:
        """The step to try in the next round; None to rest."""
        if not self._bounds().known:
            return None
        while self._slow_start:
            if self._after(self._slow_start[0]) != self._tried.kept:
                return self._slow_start[0]
            self._slow_start = self._slow_start[1:]
        self._rest -= 1
        if self._rest > 0:
            return None
        self._below = math.inf
        self._rest = REST[min(self._trials // len(CHECKS), len(REST) - 1)]
        self._trials += 1
        for step in (self._momentum, *NEIGHBOURS):
            if not self._tried.knows(self._after(step)):
                return step
        step = CHECKS[self._trials % len(CHECKS)]  # once more, since servers change
        return None if self._after(step) == self._tried.kept else step

    def _after(self, step: Step) -> Sizes:
        """The kept sizes after a step; the same ones where it cannot be taken."""
        kept, growth = self._tried.kept, 2.0 if self._slow_start else 1.0
        if step in (Step.LARGER, Step.BOTH) and self._took > SLOWEST:
            return kept
        sizes = self._bounds().after(kept, step, growth=growth, below=self._below)
        return sizes if sizes.requests <= max(kept.requests, self._allowed) else kept
