"""Sizes that find themselves: how many texts per request, and how many requests, by trying and measuring. Pure.

The rule, of which docs/SIZES.md tells more:

1. Slow start: round after round requests are four times as large, and twice as many, while the rate grows nearly as
   the texts in flight do (Little's law: then nothing waits at the server). Where that made requests slow, more of
   them alone. After that larger requests by doublings, then more of them, while a doubling brings a tenth. The step
   that did not pay is taken back.
2. Hill climbing: now and then a neighbour of the sizes is tried for a round, and compared with the rounds before and
   after it. Of all that was tried, the sizes with least in flight are kept whose rate is as good as the best one's.
3. While queries come, a little less is as good: less is in flight, and a query waits for less.

After trouble fewer requests may be in flight than these: see `pace.Window` (AIMD).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from embedwire._servers.bounds import MOST_REQUESTS, STEPS, Bounds, Sizes, Step
from embedwire._servers.meter import Meter, Round
from embedwire._servers.tried import Found, Load, Tolerance, Tried
from embedwire._settings.options import Kind

PER_TEXT = 40  # characters that a text counts for besides its own: what a server does for each
PAYS = 1.1  # what a doubling must bring in the slow start
# What a large step must bring, as a power of what it added to the texts in flight; less than well: larger requests
# took that much longer that only more of them are tried next.
LARGE_PAYS, LARGE_PAYS_WELL = 0.45, 0.65
CLEAR = 1.2  # times the rate, which no second look is needed for
CHANGED = 1.5  # times the rate of the same sizes before, or one such part of it
REST = (3, 6, 12)  # rounds between two trials
PATIENCE = 2  # times that the window shrinks before a round is over, until fewer requests are kept
MOST_DOUBLINGS = 4  # of the first rest, before what failed is tried again
# The least of a round, in the slow start and later: seconds, and requests where they do not take more than so many
# seconds; a few requests more or less must not count.
SHORT, LONG = (0.0, 0, 0.0), (0.1, 32, 0.5)

LARGE = (Step.BOTH, Step.MANY)  # steps; one or the other is the first one of the slow start
SLOW_START = (Step.BOTH, Step.LARGER, Step.MORE)  # each as often as it pays
NEIGHBOURS = (Step.FEWER, Step.LARGER, Step.SMALLER, Step.MORE)
# In turn, one after each rest.
CHECKS = (Step.FEWER, Step.MORE, Step.LARGER, Step.MORE, Step.SMALLER, Step.MORE)


def nothing_found(kind: Kind, bounds: Bounds) -> Found:
    """What holds at a server before anything was tried."""
    start = bounds.start(kind)
    return Found(bounds.nature, start, start, slow_start_at(bounds), 0.0)


def slow_start_at(bounds: Bounds) -> tuple[Step, ...]:
    """The steps of the slow start; none at a server that tells its slots."""
    return SLOW_START if bounds.slots is None else ()


class Tuner:
    """Finds the sizes for one kind of requests, on one loop. Written by `_queue`.

    Its state is how sizes compare, the trial that is going on, and what the rounds showed.

    Args:
        kind: Queries begin with larger requests.
        bounds: What may be tried now.
        found: What was found before.
        keep: Told what is found.

    Attributes:
        load: How much work a request may carry.
    """

    def __init__(
        self, kind: Kind, bounds: Callable[[], Bounds], found: Found | None, keep: Callable[[Found], None]
    ) -> None:
        self._kind: Kind = kind
        self._bounds, self._keep_found = bounds, keep
        self._meter = Meter()
        self._measures: object = None  # whose requests the last round was of
        self._tolerance = Tolerance()
        self._below, self._failures = math.inf, 0  # texts in a request that failed, and how often
        self._overloads = 0  # since a round was over
        self._allowed = MOST_REQUESTS  # by the window
        begin = bounds()
        found = found or nothing_found(kind, begin)
        self._met, self.load = found.nature, Load(found.work)
        self._begin(found.sizes, found.slow_start)

    @property
    def sizes(self) -> Sizes:
        """The sizes that hold now."""
        bounds = self._bounds()
        if (nature := bounds.nature) not in (None, self._met):  # only now it is known what is over there
            self._met = nature
            if (sizes := bounds.start(self._kind)) != self._tried.kept or bounds.slots is not None:
                self._begin(sizes, slow_start_at(bounds))
        return self._sizes

    @property
    def share(self) -> int:
        """The least texts of a request where few are spread over several; in the slow start, what paid so far."""
        least = self._tried.kept if self._climbing and self._trial else self._bounds().first(self._kind)
        return min(least.texts, self._sizes.texts)

    def _begin(self, sizes: Sizes, slow_start: tuple[Step, ...]) -> None:
        """Begins the search anew, with these sizes."""
        self._slow_start, self._climbing = slow_start, bool(slow_start)
        self._momentum = Step.FEWER
        self._trials, self._rest = 0, REST[0]
        self._meter.at_least(*(SHORT if slow_start else LONG))
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

    def sent(self, who: object, work: float, now: float, *, all_taken: bool, allowed: int | None) -> int:
        """A request goes out; its number.

        Args:
            who: Sends it.
            work: In it.
            now: The time.
            all_taken: It is full, and as many requests are in flight as may be.
            allowed: The most requests that may be in flight after trouble; None: there was none.
        """
        self._allowed = allowed or MOST_REQUESTS
        all_taken = all_taken and self._sizes.requests <= self._allowed  # else the window would be measured
        self._measures = who if all_taken else self._measures
        return self._meter.sent(work, now, all_taken=all_taken)

    def done(self, number: int, work: float, took: float) -> None:
        """A request of so much work succeeded, in so many seconds; it is in flight until it `left`."""
        self._meter.came_back(number)
        # Its part of the time: what else was in flight is not its doing.
        self.load.took(work, took * work / max(work, self._meter.in_flight))

    def left(self, number: int, now: float) -> None:
        """A request is not in flight any more, whatever became of it."""
        if (found := self._meter.left(number, now)) is not None:
            self._judge(found, now)
            self._tell()

    def measures(self, who: object) -> bool:
        """Whether the last round was of somebody's requests."""
        return self._measures is who

    def idle(self, who: object) -> None:
        """Somebody has less work than could be in flight: nothing can be measured now, if it was his."""
        if self._measures is who:
            if self._trial or self._pending:
                self._take_back()
                self._tell()
            self._meter.stop()

    def parted(self) -> None:
        """A part of a request that failed goes out: while it is in flight, nothing tells how good the sizes are."""
        self._meter.change(1.0)

    def _tell(self) -> None:
        self._keep_found(Found(self._met, self._tried.kept, self._sizes, self._slow_start, self.load.most))

    def query(self, now: float) -> None:
        """A query is sent beside the documents that this is about."""
        if self._tolerance.query(now):
            self._rest = 0

    def failed(self, texts: int) -> None:
        """A request of so many texts failed as a smaller one might not."""
        if texts >= self._sizes.texts and not self._bounds().fixed_texts:
            smaller = max((size for size in STEPS if size < texts), default=STEPS[0])
            self._below = texts
            self._slow_start = tuple(step for step in self._slow_start if step not in LARGE)
            self._failures += 1
            self._momentum, self._rest = Step.LARGER, REST[0] * 2 ** min(self._failures, MOST_DOUBLINGS)
            self._restart(replace(self._tried.kept, texts=min(self._tried.kept.texts, smaller)))

    def overloaded(self, allowed: int) -> None:
        """The server had too much to do: so many requests may be in flight now, and the slow start ends."""
        self._slow_start = tuple(step for step in self._slow_start if step is Step.LARGER)
        self._overloads, kept = self._overloads + 1, self._tried.kept
        # One at a time is not what it takes, but how a text is found that brings it down.
        lower = self._overloads > PATIENCE and allowed > 1 and not self._bounds().fixed_requests
        self._restart(replace(kept, requests=min(kept.requests, allowed)) if lower else kept)

    def _judge(self, found: Round, now: float) -> None:
        """A round is over."""
        trial, self._trial = self._trial, None
        self._overloads = 0
        if trial is None or self._rate is None:
            self._measure(found.rate, now)
        elif self._climbing:
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
            self._begin(self._tried.kept, slow_start_at(self._bounds())[1:])  # by doublings: it is in use
            before = self._rate = rate
        self._rate = (before + rate) / 2
        self._tolerance.same_sizes(rate / before)
        if self._pending is not None:
            sizes, tried = self._pending
            self._pending = None
            self._tried.note(sizes, tried / self._rate, as_good=self._tolerance.as_good(now))

    def _climb(self, step: Step, ratio: float, grew: float, now: float) -> None:
        """A step of the slow start was tried."""
        large = step in LARGE
        if ratio >= (grew**LARGE_PAYS if large else PAYS):
            self._keep(self._sizes, ratio)
            if large:
                well = ratio >= grew**LARGE_PAYS_WELL
                self._slow_start = (Step.BOTH if well else Step.MANY, *SLOW_START[1:])
            return
        self._slow_start = tuple(other for other in self._slow_start if other is not step)
        larger = replace(self._sizes, requests=self._tried.kept.requests)
        if large and ratio >= PAYS and larger != self._tried.kept:
            # No slot was left for more requests, so that what paid was that they are larger.
            self._keep(larger, ratio)
        elif not large and ratio * self._tolerance.as_good(now) > 1:
            self._keep(self._sizes, ratio)
        else:
            self._tried.note(self._sizes, ratio, as_good=1.0)

    def _keep(self, sizes: Sizes, ratio: float) -> None:
        self._tried.keep(sizes, ratio)
        self._rate = ratio * (self._rate or 0.0)

    def _go_on(self, now: float) -> None:
        """Decides about the sizes of the next round."""
        best = self._tried.best(self._tolerance.as_good(now))
        if best != self._tried.kept and not self._climbing:
            self._tried.keep(best)
            self._rate = None
        self._trial = None if self._rate is None or self._pending is not None else self._next(now)
        self._meter.at_least(*(SHORT if self._climbing else LONG))
        sizes = self._tried.kept if self._trial is None else self._after(self._trial)
        self.load.forget()
        if sizes != self._sizes:
            self._sizes = sizes
            self._meter.change(0.5 if self._trial in (*LARGE, Step.MORE) else 1.0)

    def _next(self, now: float) -> Step | None:
        """The step to try in the next round; None to rest."""
        if not self._bounds().known:
            return None
        up = next((step for step in self._slow_start if self._after(step) != self._tried.kept), None)
        self._climbing = up is not None
        if self._climbing:
            return up
        self._rest -= 1
        if self._rest > 0:
            return None
        self._below = math.inf
        self._rest = REST[min(self._trials // len(CHECKS), len(REST) - 1)]
        self._trials += 1
        steps = [step for step in (self._momentum, *NEIGHBOURS) if not self._tried.knows(self._after(step))]
        again = CHECKS[self._trials % len(CHECKS)]  # since servers change
        return next((step for step in (*steps, again) if self._may(step, now)), None)

    def _may(self, step: Step, now: float) -> bool:
        """Whether a step may be tried: it changes something, and no query waits for what it brings into flight."""
        sizes, kept, bounds = self._after(step), self._tried.kept, self._bounds()
        room = max(kept.in_flight, bounds.start(self._kind).in_flight)
        beside = bounds.slots is not None and self._tolerance.queries_come(now)
        return sizes != kept and (sizes.in_flight <= room or not beside)

    def _after(self, step: Step) -> Sizes:
        """The kept sizes after a step; the same ones where it cannot be taken."""
        kept, growth = self._tried.kept, 2.0 if self._climbing else 1.0
        if step in (Step.LARGER, Step.BOTH) and self.load.is_slow:
            return kept
        sizes = self._bounds().after(kept, step, growth=growth, below=self._below)
        return sizes if sizes.requests <= max(kept.requests, self._allowed) else kept
