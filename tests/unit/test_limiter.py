"""`rate_limit=` holds in every minute, whenever it begins, and without bursts."""

from __future__ import annotations

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire import RateLimit
from embedwire._servers import known
from embedwire._servers.limiter import MARGIN_MOST, MINUTE, RateLimiter, Room
from embedwire._settings.address import Target
from tests.unit.arguments import kept

WINDOW = MINUTE + MARGIN_MOST  # after which a minute's worth may be sent again


def target(**arguments: object) -> Target:
    """Where a client with these arguments sends to."""
    return kept(**arguments).fleet.targets[0]


def fresh(**most: int) -> RateLimiter:
    """What holds a visitor to a limit who has sent nothing yet."""
    known.forget()
    return known.rate_limiter(target(), RateLimit(**most), 0.0)


class TestMoments:
    """Each request gets the first moment at which the limit lets it through."""

    @given(
        st.lists(st.tuples(st.floats(0, 20), st.integers(1, 9)), max_size=60),
        st.integers(1, 20),
        st.integers(1, 40),
    )
    def test_no_minute_has_more(self, calls: list[tuple[float, int]], requests: int, texts: int) -> None:
        """The moments that are given never hold more in any 60 seconds, and come in order."""
        limiter, now = fresh(requests=requests, texts=texts), 0.0
        sent: list[tuple[float, int]] = []
        for pause, count in calls:
            now += pause
            batch = ["t"] * min(count, texts)
            sent.append((limiter.reserve(batch, now).moment, len(batch)))
            assert sent[-1][0] >= now
        assert sent == sorted(sent, key=lambda one: one[0])
        for start, _ in sent:
            within = [count for moment, count in sent if start <= moment < start + 59.999]
            assert len(within) <= requests
            assert sum(within) <= texts

    @given(
        st.lists(st.tuples(st.floats(0, 20), st.integers(1, 9), st.booleans(), st.booleans()), max_size=60),
        st.integers(1, 20),
        st.integers(1, 40),
    )
    def test_two_limits_of_the_same_number_are_one(
        self, calls: list[tuple[float, int, bool, bool]], requests: int, texts: int
    ) -> None:
        """Where two clients of one visitor name the same number, what one sends counts for the other."""
        known.forget()
        now = 0.0
        limits = RateLimit(requests=requests), RateLimit(requests=requests, texts=texts)
        moments: list[float] = []
        for pause, count, other, gives_back in calls:
            now += pause
            limiter = known.rate_limiter(target(), limits[other], now)
            sent = limiter.reserve(["t"] * min(count, texts), now)
            if gives_back:
                limiter.release(sent)
            else:
                moments.append(sent.moment)
        for start in moments:
            assert sum(start <= moment < start + 59.999 for moment in moments) <= requests

    @given(
        st.lists(st.tuples(st.floats(0, 20), st.integers(1, 9), st.booleans()), max_size=60),
        st.integers(1, 20),
        st.integers(9, 40),
        st.integers(1, 4),
    )
    def test_are_spread(
        self, calls: list[tuple[float, int, bool]], requests: int, texts: int, per_second: int
    ) -> None:
        """Between two moments lies the first one's share of the window, also where others were given back."""
        limiter, now = fresh(per_minute=requests, texts=texts, per_second=per_second), 0.0
        sent: list[tuple[float, int]] = []
        for pause, count, gives_back in calls:
            now += pause
            moment = limiter.reserve(["t"] * count, now)
            if gives_back:
                limiter.release(moment)
            else:
                sent.append((moment.moment, count))
        for (one, count), (other, _) in itertools.pairwise(sent):
            assert other - one > max(60 / requests, 60 * count / texts, 1 / per_second) - 1e-6

    def test_one_after_a_rest_is_now(self) -> None:
        """What was sent long enough ago, and what is rare, waits for nothing."""
        limiter = fresh(per_second=1)
        assert [limiter.reserve(["t"], moment).moment for moment in (5, 7, 9.5)] == [5, 7, 9.5]

    @pytest.mark.parametrize(
        ("most", "least", "longest"),
        [
            ({"per_second": 1}, 1.03, 1.1),
            ({"per_minute": 3}, 20.03, 20.2),
            ({"per_minute": 6000}, 0.01, 0.011),
        ],
    )
    def test_are_a_little_late(self, most: dict[str, int], least: float, longest: float) -> None:
        """A request that is on its way for longer than the next one does not bring them too close together."""
        limiter = fresh(**most)
        first = limiter.reserve(["t"], 0).moment
        assert least < limiter.reserve(["t"], 0).moment - first < longest

    def test_without_a_limit_the_moment_is_now(self) -> None:
        """A limit of no kind lets everything through at once."""
        limiter = fresh()
        assert [limiter.reserve(["t"] * 100, 5.0).moment for _ in range(100)] == [5.0] * 100
        assert limiter.next_moment(5.0) == 5.0
        assert limiter.room(5.0) == Room(None, None)

    def test_a_text_over_the_limit_waits_for_a_free_minute(self) -> None:
        """A text longer than a minute's characters goes alone instead of never."""
        limiter = fresh(chars=10)
        limiter.reserve(["abc"], 0)
        assert limiter.reserve(["x" * 50], 1).moment == WINDOW
        assert limiter.reserve(["x"], 61).moment == 2 * WINDOW

    def test_a_moment_that_is_not_used_is_free_again(self) -> None:
        """Who gives a moment back harms nobody; giving it back twice neither."""
        limiter = fresh(requests=1)
        limiter.reserve([], 0)
        unused = limiter.reserve([], 0)
        limiter.release(unused)
        limiter.release(unused)
        assert limiter.reserve([], 0).moment == WINDOW

    def test_a_repeat_that_nobody_reserved_counts(self) -> None:
        """What is sent whatever the limit says makes the next one wait."""
        limiter = fresh(requests=2, texts=5)
        limiter.note(["a", "b"], 3)
        assert limiter.room(3) == Room(3, None)
        assert limiter.reserve(["a", "b", "c"], 3).moment == pytest.approx(33, abs=2 * MARGIN_MOST)
        assert limiter.reserve(["a"], 3).moment == pytest.approx(69, abs=3 * MARGIN_MOST)


class TestLooking:
    """What a limit lets through can be asked without taking it."""

    @given(
        st.lists(st.tuples(st.floats(0, 20), st.integers(1, 9)), max_size=40),
        st.integers(1, 5),
        st.integers(1, 20),
    )
    def test_the_next_moment_is_the_one_that_is_given(
        self, calls: list[tuple[float, int]], requests: int, texts: int
    ) -> None:
        """One short text gets the very moment that was told, and asking changes nothing."""
        limiter, now = fresh(requests=requests, texts=texts, chars=50), 0.0
        for pause, count in calls:
            now += pause
            limiter.reserve(["text"] * min(count, texts), now)
            told = limiter.next_moment(now)
            assert told == limiter.next_moment(now)
            sent = limiter.reserve(["x"], now)
            assert sent.moment == told
            limiter.release(sent)

    @given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 9)), max_size=40), st.integers(1, 20))
    def test_what_there_is_room_for_is_sent_now(self, calls: list[tuple[float, int]], texts: int) -> None:
        """A request with as many texts as there is room for goes at once, where one may go at all."""
        limiter, now = fresh(texts=texts), 0.0
        for pause, count in calls:
            now += pause
            limiter.reserve(["t"] * min(count, texts), now)
            if limiter.next_moment(now) > now:
                continue
            room = limiter.room(now).texts
            assert room is not None
            assert 1 <= room <= texts
            assert limiter.reserve(["t"] * room, now).moment == now

    def test_there_is_always_room_for_one(self) -> None:
        """A limit that is used up lets one text and one character wait for their moment."""
        limiter = fresh(texts=2, chars=9)
        limiter.reserve(["abcde", "abcdefgh"], 0)
        assert limiter.room(1) == Room(1, 1)

    def test_room_comes_back_after_a_minute(self) -> None:
        """What was sent a minute ago counts no more."""
        limiter = fresh(texts=5, chars=100)
        limiter.reserve(["abc"] * 4, 0)
        assert limiter.room(WINDOW - 0.001) == Room(1, 88)
        assert limiter.room(WINDOW) == Room(5, 100)


class TestVisitors:
    """Whose requests count for whom."""

    @pytest.mark.parametrize(
        ("other", "rate"),
        [
            ({"api_key": "other"}, RateLimit(requests=1)),
            ({"headers": {"X-Tenant": "other"}}, RateLimit(requests=1)),
            ({"base_url": "http://other"}, RateLimit(requests=1)),
            ({}, RateLimit(requests=2)),
            ({}, RateLimit(texts=1)),
            ({}, RateLimit(per_second=1)),
        ],
        ids=["key", "headers", "server", "number", "unit", "window"],
    )
    def test_another_one_has_a_limit_of_its_own(self, other: dict[str, object], rate: RateLimit) -> None:
        """What one visitor sends under one number takes nothing from another visitor, or from another number."""
        fresh(requests=1).reserve(["t"], 0)
        assert known.rate_limiter(target(**other), rate, 0).next_moment(0) == 0
        assert known.rate_limiter(target(), RateLimit(requests=1), 0).next_moment(0) == WINDOW

    def test_a_minute_has_two_names(self) -> None:
        """``requests`` and ``per_minute`` are one limit, and so is a plain number."""
        fresh(requests=1).reserve(["t"], 0)
        assert known.rate_limiter(target(), RateLimit(per_minute=1), 0).next_moment(0) == WINDOW

    def test_is_kept_while_it_counts(self) -> None:
        """What was sent is remembered for a minute, also while others come, and what lies ahead longer."""
        limiter, rate = fresh(requests=1), RateLimit(requests=1)
        limiter.reserve(["t"], 0)
        limiter.reserve(["t"], 0)
        end = 2 * WINDOW
        for now, moment in ((59, end), (61, end), (119, end), (120, end), (121, 121)):
            known.rate_limiter(target(api_key=f"visitor at {now}"), rate, now)
            assert known.rate_limiter(target(), rate, now).next_moment(now) == moment

    def test_visitors_who_left_are_forgotten(self) -> None:
        """A process that meets a new key with each of its users does not grow for ever."""
        known.forget()
        for number in range(100):
            key = target(api_key=f"key {number}")
            known.rate_limiter(key, RateLimit(requests=1, texts=9), number * 30.0).reserve(
                ["t"], number * 30.0
            )
        assert len(known._quotas) <= 6


@pytest.mark.parametrize("most", [{"requests": 7}, {"texts": 20}])
def test_loops_in_several_threads_share_a_limit(most: dict[str, int]) -> None:
    """Threads that reserve at the same time never get more in a minute than was said."""
    known.forget()
    rate, moments, start = RateLimit(**most), list[float](), threading.Barrier(8)

    def reserve() -> None:
        start.wait()
        for _ in range(50):
            limiter = known.rate_limiter(target(), rate, 0.0)
            moments.append(limiter.reserve(["a", "b", "c"], 0.0).moment)
            limiter.release(limiter.reserve(["a"], 0.0))

    threads = [threading.Thread(target=reserve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(moments) == 400
    assert max(moments.count(moment) for moment in moments) <= (rate.requests or 20 // 3)
