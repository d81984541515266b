"""The arithmetic of pace: a window that shrinks and grows, a budget of repeats, a common pause."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from embedwire._servers.pace import BUDGET, TRANSIENT, Budget, Throttle, Window


class TestBudget:
    """Repeats cost, successes earn."""

    def test_runs_out(self) -> None:
        """35 repeats after passing failures, and then none."""
        budget = Budget()
        assert [budget.spend(TRANSIENT) for _ in range(36)] == [True] * 35 + [False]

    def test_comes_back(self) -> None:
        """14 successes pay for one more repeat, and there is never more than at the start."""
        budget = Budget()
        while budget.spend(TRANSIENT):
            pass
        for _ in range(TRANSIENT):
            budget.earn()
        assert budget.spend(TRANSIENT)
        for _ in range(2 * BUDGET):
            budget.earn()
        assert budget.left == BUDGET


class TestWindow:
    """Fewer in flight after trouble, and more again with success."""

    def test_shrinks_once_a_round_trip(self) -> None:
        """Ten overloads at once, of ten requests in flight, are one discovery: seven may be in flight."""
        window = Window()
        sent_at = [window.age for _ in range(10)]
        for left, age in enumerate(sent_at):
            window.overload(age, 10 - left)
        assert window.allowed == 7
        window.overload(window.age, 1)  # sent after the first, so it counts again
        assert window.allowed == 1

    def test_never_counts_more_in_flight_than_it_allowed(self) -> None:
        """What was on the wire before the window shrank does not make it grow."""
        window = Window()
        window.overload(window.age, 10)
        window.overload(window.age, 100)
        assert window.allowed == 4

    def test_grows_by_one_each_round(self) -> None:
        """After as many successes as may be in flight, one more may be."""
        window = Window()
        window.overload(window.age, 1)
        sizes = []
        for _ in range(1 + 2 + 3 + 4):
            window.success(window.age)
            sizes.append(window.allowed)
        assert sizes == [2, 2, 3, 3, 3, 4, 4, 4, 4, 5]

    def test_what_was_sent_before_trouble_does_not_count(self) -> None:
        """A success of a request that was sent before the window shrank says nothing about the smaller one."""
        window, sent_at = Window(), 0
        window.overload(sent_at, 1)
        window.success(sent_at)
        assert window.allowed == 1

    def test_without_trouble_it_changes_nothing(self) -> None:
        """Successes, and failures that say nothing about the load, set no limit."""
        window = Window()
        for _ in range(100):
            window.success(window.age)
        assert window.allowed is None

    @given(st.lists(st.sampled_from(["begin", "good", "bad", "overload"]), max_size=200))
    def test_is_never_below_one(self, steps: list[str]) -> None:
        """Whatever happens in whatever order, at least one request may be sent."""
        window, sent_at = Window(), deque[int]()
        for step in steps:
            if step == "begin":
                sent_at.append(window.age)
            elif sent_at:
                in_flight, age = len(sent_at), sent_at.popleft()
                if step == "good":
                    window.success(age)
                elif step == "overload":
                    window.overload(age, in_flight)
            assert window.allowed is None or window.allowed >= 1


class TestThrottle:
    """A server that holds requests off is asked by one at a time."""

    def test_counts_pauses(self) -> None:
        """Of the refusals that come in one pause only the first counts, and the next after the pause is the second."""
        throttle = Throttle()
        for moment, row in ((1.0, 1), (1.1, 1), (1.9, 1), (2.0, 2), (2.5, 2), (4.0, 3)):
            throttle.refused(moment, alone=True, most=120)
            assert throttle.row == row
            throttle.pause(2.0 ** (row - 1), moment if moment in (1.0, 2.0, 4.0) else 0.0)
        assert throttle.since == 1.0
        assert throttle.until == 8.0

    def test_a_refusal_among_others_is_no_pause(self) -> None:
        """What was refused beside others on the wire says that it was too many, not that it was too early."""
        throttle = Throttle()
        for moment in range(1, 9):
            throttle.refused(moment, alone=False, most=120)
        assert (throttle.row, throttle.since, throttle.until) == (0, 1, 0)

    def test_a_success_ends_it(self) -> None:
        """After a request was taken the next refusal is a first one; a pause that was asked for goes on."""
        throttle = Throttle()
        throttle.refused(1, alone=True, most=120)
        throttle.pause(9, 1)
        throttle.accepted()
        throttle.refused(20, alone=True, most=120)
        assert (throttle.row, throttle.since, throttle.until) == (1, 20, 10)

    def test_what_is_long_ago_does_not_count(self) -> None:
        """A refusal hours after the last one is a first one, unless the user's patience has no end."""
        for most, since in ((120, 200), (None, 1)):
            throttle = Throttle()
            throttle.refused(1, alone=True, most=most)
            throttle.refused(79, alone=True, most=most)
            throttle.refused(200, alone=True, most=most)
            assert throttle.since == since
