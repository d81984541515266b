"""`rate_limit=` holds in every minute, whenever it begins."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire import RateLimit
from embedwire._servers.limiter import MINUTE, Minute, Room

NO_LIMIT = RateLimit()


class TestMoments:
    """Each request gets the first moment at which the limit lets it through."""

    @given(
        st.lists(st.tuples(st.floats(0, 20), st.integers(1, 9)), max_size=60),
        st.integers(1, 20),
        st.integers(1, 40),
    )
    def test_no_minute_has_more(self, calls: list[tuple[float, int]], requests: int, texts: int) -> None:
        """The moments that are given never hold more in any 60 seconds, and come in order."""
        minute, limit, now = Minute(), RateLimit(requests=requests, texts=texts), 0.0
        sent: list[tuple[float, int]] = []
        for pause, count in calls:
            now += pause
            batch = ["t"] * min(count, texts)
            sent.append((minute.reserve(limit, batch, now).moment, len(batch)))
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
    def test_two_limits_hold_against_the_same_record(
        self, calls: list[tuple[float, int, bool, bool]], requests: int, texts: int
    ) -> None:
        """Where two clients of one visitor have limits of their own, what one sends counts for the other."""
        minute, now = Minute(), 0.0
        limits = RateLimit(requests=requests), RateLimit(requests=requests, texts=texts)
        moments: list[float] = []
        for pause, count, other, gives_back in calls:
            now += pause
            sent = minute.reserve(limits[other], ["t"] * min(count, texts), now)
            if gives_back:
                minute.release(sent)
            else:
                moments.append(sent.moment)
        for start in moments:
            assert sum(start <= moment < start + 59.999 for moment in moments) <= requests

    def test_without_a_limit_the_moment_is_now(self) -> None:
        """A limit of no kind lets everything through at once."""
        minute = Minute()
        assert [minute.reserve(NO_LIMIT, ["t"] * 100, 5.0).moment for _ in range(100)] == [5.0] * 100
        assert minute.next_moment(NO_LIMIT, 5.0) == 5.0
        assert minute.room(NO_LIMIT, 5.0) == Room(None, None)

    def test_a_text_over_the_limit_waits_for_a_free_minute(self) -> None:
        """A text longer than a minute's characters goes alone instead of never."""
        minute, limit = Minute(), RateLimit(chars=10)
        minute.reserve(limit, ["abc"], 0)
        assert minute.reserve(limit, ["x" * 50], 1).moment == 60
        assert minute.reserve(limit, ["x"], 61).moment == 120

    def test_a_moment_that_is_not_used_is_free_again(self) -> None:
        """Who gives a moment back harms nobody; giving it back twice neither."""
        minute, limit = Minute(), RateLimit(requests=1)
        minute.reserve(limit, [], 0)
        unused = minute.reserve(limit, [], 0)
        minute.release(unused)
        minute.release(unused)
        assert minute.reserve(limit, [], 0).moment == 60

    def test_a_repeat_that_nobody_reserved_counts(self) -> None:
        """What is sent whatever the limit says makes the next one wait."""
        minute, limit = Minute(), RateLimit(requests=2, texts=5)
        minute.note(["a", "b"], 3)
        assert minute.room(limit, 3) == Room(3, None)
        assert minute.reserve(limit, ["a", "b", "c"], 3).moment == 3
        assert minute.reserve(limit, ["a"], 3).moment == 63


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
        minute, limit, now = Minute(), RateLimit(requests=requests, texts=texts, chars=50), 0.0
        for pause, count in calls:
            now += pause
            minute.reserve(limit, ["text"] * min(count, texts), now)
            told = minute.next_moment(limit, now)
            assert told == minute.next_moment(limit, now)
            sent = minute.reserve(limit, ["x"], now)
            assert sent.moment == told
            minute.release(sent)

    @given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 9)), max_size=40), st.integers(1, 20))
    def test_what_there_is_room_for_is_sent_now(self, calls: list[tuple[float, int]], texts: int) -> None:
        """A request with as many texts as there is room for goes at once, where one may go at all."""
        minute, limit, now = Minute(), RateLimit(texts=texts), 0.0
        for pause, count in calls:
            now += pause
            minute.reserve(limit, ["t"] * min(count, texts), now)
            if minute.next_moment(limit, now) > now:
                continue
            room = minute.room(limit, now).texts
            assert room is not None
            assert 1 <= room <= texts
            assert minute.reserve(limit, ["t"] * room, now).moment == now

    def test_there_is_always_room_for_one(self) -> None:
        """A limit that is used up lets one text and one character wait for their moment."""
        minute, limit = Minute(), RateLimit(texts=2, chars=9)
        minute.reserve(limit, ["abcde", "abcdefgh"], 0)
        assert minute.room(limit, 1) == Room(1, 1)

    def test_room_comes_back_after_a_minute(self) -> None:
        """What was sent a minute ago counts no more."""
        minute, limit = Minute(), RateLimit(texts=5, chars=100)
        minute.reserve(limit, ["abc"] * 4, 0)
        assert minute.room(limit, MINUTE - 0.001) == Room(1, 88)
        assert minute.room(limit, MINUTE) == Room(5, 100)

    def test_is_idle_when_nothing_was_sent_for_a_minute(self) -> None:
        """A record that says nothing any more may be forgotten; one of what lies ahead may not."""
        minute, limit = Minute(), RateLimit(requests=1)
        assert minute.idle(0)
        minute.reserve(limit, ["t"], 0)
        minute.reserve(limit, ["t"], 0)
        assert [minute.idle(now) for now in (0, 59.9, 60, 119.9, 120)] == [False] * 4 + [True]


@pytest.mark.parametrize("limit", [RateLimit(requests=7), RateLimit(texts=20)])
def test_loops_in_several_threads_share_one_record(limit: RateLimit) -> None:
    """Threads that reserve at the same time never get more in a minute than was said."""
    minute, moments, start = Minute(), list[float](), threading.Barrier(8)

    def reserve() -> None:
        start.wait()
        for _ in range(50):
            sent = minute.reserve(limit, ["a", "b", "c"], 0.0)
            moments.append(sent.moment)
            minute.release(minute.reserve(limit, ["a"], 0.0))

    threads = [threading.Thread(target=reserve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    most = limit.requests or 20 // 3
    assert len(moments) == 400
    assert max(moments.count(moment) for moment in moments) <= most
