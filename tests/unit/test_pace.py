"""The arithmetic of pace: a window that shrinks and grows, a budget of repeats, the last minute."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from embedwire import RateLimit
from embedwire._pace import BUDGET, THROTTLED, TRANSIENT, Budget, LastMinute, Window


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
        begun = [window.begin() for _ in range(10)]
        for one in begun:
            window.end(one, good=False, overload=True)
        assert window.allowed == 7
        assert window.in_flight == 0
        window.end(window.begin(), good=False, overload=True)  # sent after the first, so it counts again
        assert window.allowed == 1

    def test_grows_by_one_each_round(self) -> None:
        """After as many successes as may be in flight, one more may be."""
        window = Window()
        window.end(window.begin(), good=False, overload=True)
        sizes = []
        for _ in range(1 + 2 + 3 + 4):
            window.end(window.begin(), good=True, overload=False)
            sizes.append(window.allowed)
        assert sizes == [2, 2, 3, 3, 3, 4, 4, 4, 4, 5]

    def test_other_failures_change_nothing(self) -> None:
        """A text that is refused says nothing about the load."""
        window = Window()
        window.end(window.begin(), good=False, overload=False)
        assert window.allowed is None

    @given(st.lists(st.sampled_from(["begin", "good", "bad", "overload"]), max_size=200))
    def test_is_never_below_one(self, steps: list[str]) -> None:
        """Whatever happens in whatever order, at least one request may be sent."""
        window, begun = Window(), deque[int]()
        for step in steps:
            if step == "begin":
                begun.append(window.begin())
            elif begun:
                window.end(begun.popleft(), good=step == "good", overload=step == "overload")
            assert window.allowed is None or window.allowed >= 1
            assert window.in_flight == len(begun)


class TestRate:
    """`rate_limit=` holds in every minute, whenever it begins."""

    @given(
        st.lists(st.tuples(st.floats(0, 20), st.integers(1, 9)), max_size=60),
        st.integers(1, 20),
        st.integers(1, 40),
    )
    def test_no_minute_has_more(self, calls: list[tuple[float, int]], requests: int, texts: int) -> None:
        """The moments that are given never hold more in any 60 seconds, and come in order."""
        minute, now = LastMinute(RateLimit(requests=requests, texts=texts)), 0.0
        sent: list[tuple[float, int]] = []
        for pause, count in calls:
            now += pause
            batch = ["t"] * min(count, texts)
            sent.append((minute.reserve(batch, now).moment, len(batch)))
            assert sent[-1][0] >= now
        assert sent == sorted(sent, key=lambda one: one[0])
        for start, _ in sent:
            within = [count for moment, count in sent if start <= moment < start + 59.999]
            assert len(within) <= requests
            assert sum(within) <= texts

    def test_a_text_over_the_limit_waits_for_a_free_minute(self) -> None:
        """A text longer than a minute's characters goes alone instead of never."""
        minute = LastMinute(RateLimit(chars=10))
        minute.reserve(["abc"], 0)
        assert minute.reserve(["x" * 50], 1).moment == 60
        assert minute.reserve(["x"], 61).moment == 120

    def test_a_moment_that_is_not_used_is_free_again(self) -> None:
        """Who gives a moment back harms nobody."""
        minute = LastMinute(RateLimit(requests=1))
        minute.reserve([], 0)
        minute.release(minute.reserve([], 0))
        assert minute.reserve([], 0).moment == 60
