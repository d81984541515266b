"""Sizes that find themselves, by arithmetic alone; on servers of many kinds they are in `tests/server/test_tune.py`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from embedwire._servers.tuner import MOST_REQUESTS, PER_TEXT, SLOWEST, START, STEPS, Sizes, Tuner
from embedwire._settings.options import Kind

CHARS = 100  # of a text
Cost = Callable[[int], float]  # texts of a request → seconds that it takes


def tuner(
    kind: Kind = "document", *, texts: bool = True, requests: int | None = None, most: int | None = None
) -> Tuner:
    """One that looks for the texts of a request, unless told otherwise, and for the requests unless given."""
    made: list[Tuner] = []
    made.append(
        Tuner(
            kind,
            auto_texts=texts,
            requests=lambda: requests or made[0].sizes.requests or 8,
            auto_requests=lambda: requests is None,
            most_texts=lambda: most,
        )
    )
    return made[0]


def work(one: Tuner, cost: Cost, slots: int, rounds: int) -> list[Sizes]:
    """The sizes after each round at a server with so many slots: as many full requests as may be, at once."""
    now, seen = 0.0, []
    for _ in range(rounds):
        texts, flight = one.sizes.texts, one.sizes.requests or 8
        numbers = [one.sent(now, full=True) for _ in range(flight)]
        for place, number in enumerate(numbers):
            took = cost(texts) * (place // slots + 1)
            one.done(number, CHARS * texts, texts, took, now + took)
        now += cost(texts) * -(-flight // slots)
        seen.append(one.sizes)
    return seen


def overhead(texts: int) -> float:
    """Larger requests pay: most of the time is the request's own."""
    return 0.01 + 0.0001 * texts


def flat(texts: int) -> float:
    """Larger requests do not pay: all of the time is the texts' own."""
    return 0.002 * texts


class TestSearch:
    """Larger sizes are kept where they pay, and taken back where they do not."""

    def test_starts_small(self) -> None:
        """Before anything was measured the sizes are the start's."""
        assert tuner().sizes == START["document"]
        assert tuner("query").sizes == START["query"]

    def test_finds_large_requests_where_they_pay(self) -> None:
        """At a server where a request costs more than its texts, requests become as large as there are steps."""
        seen = work(tuner(requests=8), overhead, 8, 20)
        assert max(sizes.texts for sizes in seen) == STEPS[-1]
        assert seen[-1].texts in STEPS[-2:]

    def test_stays_small_where_nothing_is_gained(self) -> None:
        """Where the time is all the texts', the size is the start's but for trials, which become rarer."""
        seen = [sizes.texts for sizes in work(tuner(requests=8), flat, 8, 200)]
        trials = [number for number, texts in enumerate(seen) if texts != STEPS[0]]
        assert len(trials) < 20
        assert all(seen[number + 1] == STEPS[0] for number in trials if number + 1 < len(seen) and number > 5)

    @pytest.mark.parametrize(("slots", "most"), [(8, 16), (32, 64), (256, MOST_REQUESTS)])
    def test_finds_as_many_requests_as_the_server_works_on(self, slots: int, most: int) -> None:
        """Twice as many are kept only while that brings nearly twice as much."""
        kept = [sizes.requests or 8 for sizes in work(tuner(texts=False), lambda _: 0.05, slots, 60)]
        assert max(kept) <= most
        assert sorted(kept)[len(kept) // 2] == min(slots, MOST_REQUESTS)

    def test_a_users_number_is_left_alone(self) -> None:
        """What the user set is not looked for."""
        seen = work(tuner(texts=False, requests=8), overhead, 8, 50)
        assert set(seen) == {START["document"]}

    def test_queries_find_no_number_of_requests(self) -> None:
        """Queries seldom come in numbers, so only the size of their requests is looked for."""
        seen = work(tuner("query"), overhead, 64, 50)
        assert {sizes.requests for sizes in seen} == {None}
        assert max(sizes.texts for sizes in seen) > START["query"].texts

    def test_never_goes_over_what_the_server_takes(self) -> None:
        """A known cap is no size to try."""
        seen = work(tuner(requests=8, most=20), overhead, 8, 50)
        assert max(sizes.texts for sizes in seen) == 16

    def test_a_slow_server_gets_no_larger_requests(self) -> None:
        """Where a request takes over half a second it is not made larger, however much that would bring."""
        seen = work(tuner(requests=8), lambda texts: SLOWEST * 1.1 + texts * 1e-4, 8, 50)
        assert {sizes.texts for sizes in seen} == {STEPS[0]}


class TestTrouble:
    """What fails makes sizes smaller."""

    def test_a_size_that_failed_is_left(self) -> None:
        """After a request of 64 texts failed as a smaller one might not, at most 32 are sent."""
        one = tuner(requests=8)
        texts = [sizes.texts for sizes in work(tuner(requests=8), overhead, 8, 20)]
        work(one, overhead, 8, texts.index(64) + 1)
        assert one.sizes.texts == 64
        one.trouble(64)
        assert one.sizes.texts == 32

    def test_a_small_one_that_failed_says_nothing_about_the_size(self) -> None:
        """A request with fewer texts than may be in one is no reason to send fewer; a user's number none at all."""
        one, fixed = tuner(requests=8), tuner(texts=False)
        work(one, overhead, 8, 4)
        before = one.sizes
        one.trouble(before.texts - 1)
        fixed.trouble(500)
        assert one.sizes == before
        assert fixed.sizes == START["document"]

    def test_never_below_the_smallest_step(self) -> None:
        """However often it fails, the smallest size stays."""
        one = tuner()
        for _ in range(10):
            one.trouble(one.sizes.texts)
        assert one.sizes.texts == STEPS[0]


class TestMeasuring:
    """Only what says something is measured."""

    def test_a_request_that_is_not_full_is_not_measured(self) -> None:
        """A rest of a call, or a part of one that failed, belongs to no round."""
        one = tuner()
        assert one.sent(0, full=False) == -1
        one.done(-1, CHARS, 1, 0.1, 1)
        assert one.sizes == START["document"]

    def test_too_little_work_takes_a_trial_back(self) -> None:
        """Where there is less work than could be in flight, nothing is measured, and the kept sizes hold."""
        one = tuner(requests=8)
        work(one, flat, 8, 1)
        assert one.sizes.texts == STEPS[1]
        one.idle()
        assert one.sizes == START["document"]

    @pytest.mark.parametrize(("took", "factor"), [(0.01, 2), (0.25, 2), (0.3, 1), (0.5, 1), (1, 0), (2, 0)])
    def test_work_that_holds_half_a_second_may_double(self, took: float, factor: int) -> None:
        """What a request carried in so much time bounds the next one; what took too long bounds nothing upwards."""
        one = tuner()
        one.done(-1, 1000, 5, took, took)
        assert one.work == factor * (1000 + 5 * PER_TEXT)

    def test_work_that_took_too_long_steps_down(self) -> None:
        """After two seconds for a request, the next carries a quarter of it."""
        one = tuner()
        one.done(-1, 10_000, 5, 0.1, 1)
        one.done(-1, 8000, 5, 2.0, 3)
        assert one.work == (8000 + 5 * PER_TEXT) / 4
