"""How one of several servers has done of late, beside the others: pure decisions."""

from __future__ import annotations

import pytest

from embedwire._queue.hedging import ENOUGH, Hedges
from embedwire._servers.health import FRESH, LAST, Health, is_outlier
from embedwire._settings.servers import Hedge


def health(*ends: bool) -> Health:
    """That of a server whose last batches ended so."""
    one = Health()
    for end in ends:
        one.ended(well=end)
    return one


class TestOutlier:
    """A server that fails most of the time is set aside, unless all do."""

    @pytest.mark.parametrize(("failed", "out"), [(0, False), (4, False), (5, True), (10, True)])
    def test_half_of_the_last_ten(self, failed: int, out: bool) -> None:
        """Five failures of the last ten batches are too many beside a server that has none."""
        ends = [False] * failed + [True] * (LAST - failed)
        assert is_outlier(health(*ends), [health(*[True] * LAST)]) is out

    def test_where_all_fail_none_is(self) -> None:
        """Beside servers that fail as often it is none, nor alone."""
        bad = [False] * LAST
        assert not is_outlier(health(*bad), [health(*bad)])
        assert not is_outlier(health(*bad), [])
        assert is_outlier(health(*bad), [health(*bad), health(True)])

    def test_only_the_last_count(self) -> None:
        """What is longer ago is forgotten, and all of it where the server was away."""
        one = health(*[False] * LAST, *[True] * LAST)
        assert one.failed == 0
        one.ended(well=False)
        one.begin_anew()
        assert one.failed == 0


class TestExpected:
    """How long a query is expected to take."""

    def test_an_unknown_server_is_tried_once(self) -> None:
        """It is tried where nothing is under way there, and is the last choice while it is."""
        assert Health().expected(0.0, asked=False) == 0
        assert Health().expected(0.0, asked=True) == float("inf")

    def test_an_old_estimate_is_tried_again(self) -> None:
        """What was seen holds for ten seconds; then one query finds out more."""
        one = Health()
        one.answered(2.0, 100.0)
        assert one.expected(100.0 + FRESH / 2, asked=False) == 2.0
        assert one.expected(100.0 + FRESH, asked=False) == 0
        assert one.expected(100.0 + FRESH, asked=True) == 2.0

    def test_is_an_average_of_late(self) -> None:
        """Later queries count more."""
        one = Health()
        one.answered(1.0, 0.0)
        one.answered(2.0, 1.0)
        assert one.expected(1.0, asked=False) == pytest.approx(1.3)


class TestHedges:
    """When a query has taken long, and whether there may be one more request."""

    def test_a_percentile_takes_twenty(self) -> None:
        """Before twenty queries were seen none is long; then those are that take longer than so many others."""
        hedges = Hedges(Hedge(share=0.95))
        for number in range(ENOUGH):
            assert hedges.after() is None
            hedges.answered(float(number))
        assert hedges.after() == 19.0

    def test_seconds_hold_at_once(self) -> None:
        """A number of seconds needs nothing to be seen."""
        assert Hedges(Hedge(seconds=0.3)).after() == 0.3

    def test_one_in_twenty(self) -> None:
        """Each query earns a twentieth of a second request, and ten in a row at most."""
        hedges = Hedges(Hedge(seconds=1.0))
        assert not hedges.spend()
        for _ in range(21):
            hedges.after()
        assert hedges.spend()
        assert not hedges.spend()
        for _ in range(1000):
            hedges.after()
        assert sum(hedges.spend() for _ in range(20)) == 10
