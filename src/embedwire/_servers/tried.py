"""What was tried: how sizes compare, what difference tells anything, and how much work a request may carry. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from embedwire._servers.bounds import Sizes, Step

AS_GOOD, AS_GOOD_FOR_QUERIES = 0.98, 0.97  # of the best rate
AS_GOOD_LEAST = 0.97  # where the rates differ among themselves by more than that
QUERIES_COME = 2.0  # seconds since the last one
# Seconds of the server. A request that takes more is not made larger: a query would wait for it.
SLOWEST = 0.5
GROWTH = 8.0  # times the work that a request was seen to carry, which the next one may carry


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
        """Takes note of a trial; what seems as good is believed the second time, on the average of both."""
        if sizes in self._doubts:
            self._ratios[sizes] = (ratio + self._doubts.pop(sizes)) / 2
        elif ratio >= as_good:
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

    def queries_come(self, now: float) -> bool:
        """Whether one came of late."""
        return now - self._last_query < QUERIES_COME

    def as_good(self, now: float) -> float:
        """The part of the best rate that is as good: what rates differ by among themselves makes none worse."""
        as_good = max(AS_GOOD_LEAST, min(AS_GOOD, 1 - 1.5 * self._noise))
        return min(as_good, AS_GOOD_FOR_QUERIES) if self.queries_come(now) else as_good


class Load:
    """How much work a request may carry. Written by `Tuner`.

    Its state is that work, and the seconds of the server for the requests since the last round.

    Args:
        most: As far as was seen before.

    Attributes:
        most: The most work in a request that is not small: what takes `SLOWEST`, as far as was seen.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self._seconds, self._requests = 0.0, 0

    def took(self, work: float, seconds: float) -> None:
        """A request of so much work took the server so long."""
        self._seconds, self._requests = self._seconds + seconds, self._requests + 1
        if seconds > SLOWEST:
            self.most = min(self.most, work * SLOWEST / seconds)
        else:
            self.most = max(self.most, work * SLOWEST / max(seconds, SLOWEST / GROWTH))

    @property
    def is_slow(self) -> bool:
        """Whether requests take so long that they should not become larger."""
        return self._seconds > SLOWEST * self._requests

    def forget(self) -> None:
        """A round is over."""
        self._seconds, self._requests = 0.0, 0


@dataclass(frozen=True, slots=True)
class Found:
    """What was found at a server: with it the next loop begins.

    Attributes:
        nature: Of the server.
        sizes: The kept sizes.
        now: The sizes that hold now, which may be a trial's.
        slow_start: Steps of it that still pay.
        work: See `Load`.
    """

    nature: object
    sizes: Sizes
    now: Sizes
    slow_start: tuple[Step, ...]
    work: float
