"""The arithmetic of pace: a window that shrinks and grows, a budget of repeats."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from embedwire._servers.pace import BUDGET, THROTTLED, TRANSIENT, Budget, Window


class TestBudget:
    """Repeats cost, successes earn."""

    def test_runs_out(self) -> None:
        """35 repeats after passing failures, or 100 after throttling, and then none."""
        for cost, repeats in ((TRANSIENT, 35), (THROTTLED, 100)):
            budget = Budget()
            assert [budget.spend(cost) for _ in range(repeats + 1)] == [True] * repeats + [False]

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
