"""Sizes that find themselves, by arithmetic alone; at servers of many kinds they are in `test_tuner_servers.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire._servers.bounds import MOST_REQUESTS, START, STEPS, Bounds, Sizes, Step
from embedwire._servers.meter import Meter, Round
from embedwire._servers.tried import (
    AS_GOOD,
    AS_GOOD_FOR_QUERIES,
    AS_GOOD_LEAST,
    QUERIES_COME,
    SLOWEST,
    Found,
    Load,
    Tolerance,
    Tried,
)
from embedwire._servers.tuner import PER_TEXT, Tuner
from embedwire._settings.options import Kind

CHARS = 100  # of a text
Cost = Callable[[int], float]  # texts of a request → seconds that it takes


class Client:
    """Sends full requests, as many as may be in flight, to a server with so many slots, in time that is counted."""

    def __init__(self, cost: Cost, slots: int, kind: Kind = "document", **bounds: Any) -> None:
        self.bounds = Bounds(**{"known": True, **bounds})
        self.found: list[Found] = []
        self.tuner = Tuner(kind, lambda: self.bounds, None, self.found.append)
        self.cost, self.free = cost, [0.0] * slots
        self.now = 0.0
        self.flying: list[tuple[float, int, int, float]] = []  # end, number, texts, sent at

    def send(self) -> None:
        """Fills the places that are free."""
        while len(self.flying) < self.tuner.sizes.requests:
            sizes = self.tuner.sizes
            start = max(self.now, min(self.free))
            end = start + self.cost(sizes.texts)
            self.free[self.free.index(min(self.free))] = end
            full = len(self.flying) + 1 >= sizes.requests
            work = (CHARS + PER_TEXT) * sizes.texts
            number = self.tuner.sent(self, work, self.now, all_taken=full, allowed=None)
            self.flying.append((end, number, sizes.texts, self.now))

    def work(self, texts: int) -> list[Sizes]:
        """The sizes after each request, until so many texts are done."""
        seen, done = [], 0
        while done < texts:
            self.send()
            self.flying.sort()
            self.now, number, count, sent = self.flying.pop(0)
            self.tuner.done(number, (CHARS + PER_TEXT) * count, self.now - sent)
            self.tuner.left(number, self.now)
            done += count
            seen.append(self.tuner.sizes)
        return seen


def overhead(texts: int) -> float:
    """Larger requests pay: most of the time is the request's own."""
    return 0.01 + 0.0001 * texts


def flat(texts: int) -> float:
    """Larger requests do not pay: all of the time is the texts' own."""
    return 0.002 * texts


class TestBounds:
    """What may be tried at a server."""

    @pytest.mark.parametrize(
        ("slots", "begin"),
        [(1, (1, 2)), (2, (1, 4)), (4, (2, 4)), (8, (4, 4)), (16, (5, 4)), (32, (5, 4)), (64, (5, 8))],
    )
    def test_begins_with_what_the_slots_can_use(self, slots: int, begin: tuple[int, int]) -> None:
        """Where a server tells its slots, no more than two texts for each are in flight, five in a request."""
        bounds = Bounds(known=True, slots=slots, requests=slots + 4)
        assert bounds.start("document") == Sizes(*begin)
        assert bounds.start("query") == START["query"]

    @pytest.mark.parametrize("slots", [1, 4, 64])
    def test_the_users_numbers_are_left_alone(self, slots: int) -> None:
        """No step, and no number of slots, changes what the user set."""
        bounds = Bounds(known=True, slots=slots, fixed_texts=7, fixed_requests=3)
        sizes = bounds.start("document")
        assert sizes == Sizes(7, 3)
        assert {bounds.after(sizes, step, growth=2) for step in Step} == {sizes}

    def test_the_users_batch_keeps_two_requests_in_flight(self) -> None:
        """Where one request of the user's size fills the slots, another waits for its turn."""
        assert Bounds(known=True, slots=4, fixed_texts=32).start("document") == Sizes(32, 2)

    @pytest.mark.parametrize(
        ("step", "sizes"),
        [
            (Step.BOTH, Sizes(32, 8)),
            (Step.MANY, Sizes(5, 16)),
            (Step.LARGER, Sizes(16, 4)),
            (Step.MORE, Sizes(5, 8)),
            (Step.SMALLER, Sizes(3, 4)),
            (Step.FEWER, Sizes(5, 3)),
        ],
    )
    def test_steps(self, step: Step, sizes: Sizes) -> None:
        """Each step changes what it says."""
        assert Bounds().after(Sizes(5, 4), step, growth=2) == sizes
        assert Bounds().after(Sizes(5, 4), Step.LARGER) == Sizes(8, 4)

    def test_nothing_goes_over_its_bound(self) -> None:
        """A step up ends at what the server takes, at the slots, and below what failed."""
        assert Bounds(texts=20).after(Sizes(16, 4), Step.LARGER) == Sizes(20, 4)
        assert Bounds(texts=16).after(Sizes(16, 4), Step.LARGER) == Sizes(16, 4)
        assert Bounds(slots=15).after(Sizes(5, 4), Step.MORE) == Sizes(5, 6)
        assert Bounds(slots=15).after(Sizes(5, 4), Step.LARGER) == Sizes(7, 4)
        assert Bounds(requests=5).after(Sizes(5, 4), Step.MORE) == Sizes(5, 5)
        assert Bounds().after(Sizes(5, 4), Step.LARGER, below=8) == Sizes(5, 4)
        assert Bounds().after(Sizes(128, MOST_REQUESTS), Step.BOTH) == Sizes(128, MOST_REQUESTS)
        assert (
            Bounds().after(Sizes(1, 1), Step.FEWER)
            == Bounds().after(Sizes(1, 1), Step.SMALLER)
            == Sizes(1, 1)
        )

    @given(
        st.integers(1, 128), st.integers(1, MOST_REQUESTS), st.sampled_from(Step), st.integers(1, 300),
        st.integers(1, 128), st.integers(1, 128), st.floats(1, 2),
    )  # fmt: skip
    def test_a_step_leads_nowhere_strange(
        self, texts: int, requests: int, step: Step, most: int, cap: int, served: int, growth: float
    ) -> None:
        """Whatever the sizes and the bounds: at least one text and one request, and growth only within the bounds."""
        bounds, sizes = Bounds(slots=most, texts=cap, requests=served), Sizes(texts, requests)
        after = bounds.after(sizes, step, growth=growth)
        assert after.texts >= 1
        assert after.requests >= 1
        assert after.texts <= max(texts, cap)
        assert after.requests <= max(requests, served)
        assert after.in_flight <= max(sizes.in_flight, 2 * most, START["document"].in_flight)


class TestMeter:
    """A round's rate is what came back over its time."""

    def test_one_after_another(self) -> None:
        """At a server that works on one request at a time the rate is that of its work."""
        meter, now, open_ = Meter(), 0.0, list[int]()
        found: list[Round] = []
        for _ in range(40):
            open_.append(meter.sent(10.0, now, all_taken=len(open_) >= 3))
            if len(open_) > 3:
                now += 0.5
                meter.came_back(open_[0])
                if round_ := meter.left(open_.pop(0), now):
                    found.append(round_)
        assert len(found) > 5
        assert {round_.rate for round_ in found} == {20.0}

    def test_all_together(self) -> None:
        """At a server that answers all at once the rate is all of it over one turn."""
        meter, now = Meter(), 0.0
        open_ = [meter.sent(10.0, now, all_taken=number == 3) for number in range(4)]
        now = 2.0
        for number in open_:
            meter.came_back(number)
        found = [meter.left(number, now) for number in open_]
        assert found == [None, None, None, Round(rate=20.0, in_flight=40.0)]

    def test_a_round_waits_for_the_new_sizes(self) -> None:
        """After a change nothing is measured while requests of the old sizes are in flight."""
        meter = Meter()
        old = [meter.sent(1.0, 0.0, all_taken=number == 1) for number in range(2)]
        meter.change(1.0)
        meter.came_back(old[0])
        assert meter.left(old[0], 1.0) is None
        new = meter.sent(5.0, 1.0, all_taken=True)
        assert not meter.is_on
        meter.came_back(old[1])
        assert meter.left(old[1], 2.0) is None
        last = meter.sent(5.0, 2.0, all_taken=True)
        assert meter.is_on
        for number, now in ((new, 3.0), (last, 4.0)):
            meter.came_back(number)
            found = meter.left(number, now)
        assert found == Round(rate=5.0, in_flight=10.0)

    def test_half_may_do(self) -> None:
        """Where half of the work is to be new, a round begins while old requests are in flight."""
        meter = Meter()
        meter.sent(1.0, 0.0, all_taken=False)
        meter.change(0.5)
        meter.sent(5.0, 0.0, all_taken=True)
        assert meter.is_on

    @pytest.mark.parametrize("least", [(3.0, 0, 0.0), (0.0, 6, 9.0), (0.0, 60, 3.0)])
    def test_a_short_round_goes_on(self, least: tuple[float, int, float]) -> None:
        """A round that is too short lasts until what was in flight at its end is back as well."""
        meter, now = Meter(), 0.0
        meter.at_least(*least)
        open_ = [meter.sent(1.0, now, all_taken=number == 1) for number in range(2)]
        ends: list[tuple[float, Round]] = []
        for _ in range(4):
            now += 1.0
            for number in open_:
                meter.came_back(number)
                if found := meter.left(number, now):
                    ends.append((now, found))
            open_ = [meter.sent(1.0, now, all_taken=number == 1) for number in range(2)]
        assert ends == [(3.0, Round(rate=2.0, in_flight=2.0))]

    def test_a_request_that_failed_spoils_its_round(self) -> None:
        """What brought nothing has no rate, nor has the round that it was in; the next one has."""
        meter = Meter()
        open_ = [meter.sent(1.0, 0.0, all_taken=number == 1) for number in range(2)]
        meter.came_back(open_[1])
        assert [meter.left(number, 1.0) for number in open_] == [None, None]
        assert not meter.is_on
        meter.sent(1.0, 1.0, all_taken=True)
        assert meter.is_on

    @given(
        st.lists(st.tuples(st.sampled_from(["sent", "back", "lost", "change", "stop"]), st.integers(0, 9)))
    )
    def test_never_a_rate_out_of_nothing(self, steps: list[tuple[str, int]]) -> None:
        """Whatever happens in whatever order, a rate is of work that came back, and nothing is left over."""
        meter, now, open_, came = Meter(), 0.0, list[int](), 0.0
        for step, which in steps:
            now += 0.25
            if step == "sent":
                open_.append(meter.sent(1.0, now, all_taken=which > 4))
            elif step in ("back", "lost") and open_:
                number = open_.pop(which % len(open_))
                if step == "back":
                    meter.came_back(number)
                    came += 1
                if found := meter.left(number, now):
                    assert 0 < found.rate * now <= came * now / 0.25
            elif step == "change":
                meter.change(which / 9)
            elif step == "stop":
                meter.stop()
        for number in open_:
            meter.left(number, now + 1)
        assert meter.sent(1.0, now, all_taken=True) > 0


class TestTried:
    """Of what was tried, the least in flight that is as good as the best."""

    def test_less_in_flight_is_better(self) -> None:
        """Of two sizes with the same rate the one with less in flight is right."""
        tried = Tried(Sizes(16, 4))
        for _ in range(2):
            tried.note(Sizes(16, 3), 0.99, as_good=0.98)
        assert tried.best(0.98) == Sizes(16, 3)

    def test_there_is_no_ratchet(self) -> None:
        """Small losses do not add up: each is held against the best that was seen."""
        tried = Tried(Sizes(16, 8))
        for requests in (6, 4, 3, 2):
            for _ in range(2):
                tried.note(Sizes(16, requests), 0.985, as_good=0.98)
            best = tried.best(0.98)
            if best != tried.kept:
                tried.keep(best)
        assert tried.kept == Sizes(16, 6)

    def test_what_seems_as_good_is_believed_the_second_time(self) -> None:
        """One good round may be luck, of larger sizes and of smaller ones; the average of two counts."""
        tried = Tried(Sizes(16, 4))
        tried.note(Sizes(32, 4), 1.2, as_good=0.98)
        assert tried.best(0.98) == Sizes(16, 4)
        assert not tried.knows(Sizes(32, 4))
        tried.note(Sizes(32, 4), 1.0, as_good=0.98)
        assert tried.best(0.98) == Sizes(32, 4)
        tried.keep(Sizes(32, 4))
        tried.note(Sizes(32, 3), 0.99, as_good=0.98)
        tried.note(Sizes(32, 3), 0.95, as_good=0.98)
        assert tried.best(0.98) == Sizes(32, 4)

    def test_ratios_follow_the_kept_sizes(self) -> None:
        """When other sizes are kept, all that was tried is in parts of their rate."""
        tried = Tried(Sizes(16, 4))
        tried.note(Sizes(8, 4), 0.5, as_good=0.98)
        tried.keep(Sizes(32, 4), 2.0)
        assert tried.best(0.2) == Sizes(8, 4)
        assert tried.best(0.3) == Sizes(16, 4)


class TestSearch:
    """Larger sizes are kept where they pay, and taken back where they do not."""

    def test_starts_small(self) -> None:
        """Before anything was measured the sizes are the start's."""
        assert Client(flat, 1).tuner.sizes == START["document"]
        assert Client(flat, 1, "query").tuner.sizes == START["query"]

    def test_nothing_grows_before_it_is_known_what_is_there(self) -> None:
        """A server that may be llama.cpp with one slot gets five texts and four requests, and no more when it is."""
        client = Client(overhead, 64, known=False)
        assert set(client.work(2000)) == {START["document"]}
        client.bounds = Bounds(known=True, slots=4, requests=8)
        assert max(sizes.in_flight for sizes in client.work(5000)) <= START["document"].in_flight

    def test_a_server_that_tells_its_slots_is_not_climbed(self) -> None:
        """When slots become known that allow the first sizes, there is no slow start from these either."""
        client = Client(overhead, 32, known=False)
        client.work(100)
        client.bounds = Bounds(known=True, slots=32, requests=36)
        assert client.tuner.sizes == START["document"]
        client.tuner.query(client.now)
        assert max(sizes.in_flight for sizes in client.work(200)) == START["document"].in_flight

    def test_doubles_every_round_trip_while_it_pays(self) -> None:
        """At a server without limit, 500 texts are enough to have 500 in flight."""
        assert client_of(500).tuner.sizes.in_flight >= 500

    def test_more_requests_alone_where_larger_ones_took_longer(self) -> None:
        """Of many slots, where most of the time is the texts', the first large step is followed by more requests."""
        client = Client(lambda texts: 0.02 + 0.002 * texts, 512)
        seen = list(dict.fromkeys(client.work(1_500)))
        assert seen[:3] == [START["document"], Sizes(32, 8), Sizes(32, 32)]

    def test_both_where_larger_ones_took_no_longer(self) -> None:
        """Where a request takes its time whatever is in it, requests grow as well as their number."""
        seen = list(dict.fromkeys(Client(lambda _: 0.3, 4096).work(3_000)))
        assert seen[:4] == [START["document"], Sizes(32, 8), Sizes(128, 16), Sizes(128, 64)]

    def test_few_texts_are_spread_no_thinner_than_what_paid(self) -> None:
        """During a step of the slow start a share of few texts is as large as a request was before it."""
        client = Client(lambda _: 0.3, 4096)
        assert client.tuner.share == START["document"].texts
        while client.tuner.sizes != Sizes(128, 16):
            client.work(1)
        assert client.tuner.share == 32
        client.work(200_000)
        assert client.tuner.share == START["document"].texts

    def test_another_speed_begins_the_search_anew_by_doublings(self) -> None:
        """A server that became faster is climbed again from where it is, by doublings: it is in use."""
        slow = [1.0]
        client = Client(lambda _: 0.05 * slow[0], 16, fixed_texts=5)
        client.work(10_000)
        kept = client.tuner.sizes
        client.free, slow[0] = [client.now] * 256, 0.5
        after = list(dict.fromkeys(client.work(8_000)))
        assert max(sizes.requests for sizes in after) > kept.requests
        steps = [sizes.requests for sizes in after]
        assert all(later <= 2 * max(steps[: at + 1]) for at, later in enumerate(steps[1:]))

    def test_finds_large_requests_where_they_pay(self) -> None:
        """At a server where a request costs more than its texts, requests become as large as there are steps."""
        seen = Client(overhead, 8).work(50_000)
        assert max(sizes.texts for sizes in seen) == STEPS[-1]
        assert seen[-1].texts in STEPS[-2:]

    @pytest.mark.parametrize("slots", [1, 4, 16, 64])
    def test_finds_as_many_requests_as_the_server_works_on(self, slots: int) -> None:
        """Where requests are all that counts, as many are in flight in the end as there are slots."""
        client = Client(lambda _: 0.05, slots, fixed_texts=5)
        client.work(20_000)
        kept = [sizes.requests for sizes in client.work(40_000)]
        assert sorted(kept)[len(kept) // 2] == slots

    def test_least_in_flight_where_nothing_is_gained(self) -> None:
        """Where the time is all the texts', a few texts in flight are enough, and queries wait for no more."""
        seen = Client(flat, 1).work(20_000)
        assert sorted(sizes.in_flight for sizes in seen)[len(seen) // 2] <= 4

    def test_queries_find_no_number_of_requests(self) -> None:
        """Queries seldom come in numbers, so only the size of their requests is looked for."""
        seen = Client(overhead, 64, "query", fixed_requests=START["query"].requests).work(20_000)
        assert {sizes.requests for sizes in seen} == {START["query"].requests}
        assert max(sizes.texts for sizes in seen) > START["query"].texts

    def test_never_goes_over_what_the_server_takes(self) -> None:
        """A known cap is the largest size."""
        seen = Client(overhead, 8, texts=20).work(20_000)
        assert max(sizes.texts for sizes in seen) == 20

    def test_a_slow_server_gets_no_larger_requests(self) -> None:
        """Where one takes the server far over half a second it is not made larger, however much that would bring."""
        seen = Client(lambda texts: SLOWEST * 3 + texts * 1e-4, 1).work(2_000)
        assert max(sizes.texts for sizes in seen) == START["document"].texts

    def test_does_not_sink_in_a_long_job(self) -> None:
        """In ever longer jobs the rate stays what it was."""
        client = Client(lambda texts: 0.02 + 0.002 * texts, 4)
        client.work(20_000)
        before = client.now
        client.work(100_000)
        first = client.now - before
        since = client.now
        client.work(100_000)
        assert client.now - since <= first * 1.02


class TestTolerance:
    """How much less than the best is as good."""

    def test_a_little_less_is_as_good_while_queries_come(self) -> None:
        """While queries come, a little more is given up so that less is in flight; it is not when they stop."""
        tolerance = Tolerance()
        assert tolerance.as_good(9.0) == AS_GOOD
        assert tolerance.query(10.0)
        assert tolerance.as_good(11.0) == AS_GOOD_FOR_QUERIES
        assert not tolerance.query(11.0)
        assert tolerance.as_good(11.0 + QUERIES_COME) == AS_GOOD
        assert tolerance.query(30.0)

    def test_what_rates_differ_by_makes_none_worse(self) -> None:
        """Where the same sizes have other rates each time, so small a difference tells nothing; up to a bound."""
        tolerance = Tolerance()
        for _ in range(20):
            tolerance.same_sizes(1.015)
        assert AS_GOOD_LEAST < tolerance.as_good(0.0) < AS_GOOD
        for _ in range(20):
            tolerance.same_sizes(0.5)
        assert tolerance.as_good(0.0) == AS_GOOD_LEAST


class TestTrouble:
    """What fails makes sizes smaller."""

    def test_a_size_that_failed_is_left(self) -> None:
        """After a large request failed as a smaller one might not, smaller ones are sent for a while."""
        client = Client(overhead, 8)
        client.work(20_000)
        texts = client.tuner.sizes.texts
        client.tuner.failed(texts)
        assert client.tuner.sizes.texts == STEPS[STEPS.index(texts) - 1]
        assert max(sizes.texts for sizes in client.work(2_000)) < texts

    def test_a_step_that_failed_is_followed_by_smaller_ones(self) -> None:
        """When a large step failed, requests grow by doublings, and stay below what failed."""
        client = Client(overhead, 8)
        while client.tuner.sizes == START["document"]:
            client.work(1)
        client.tuner.failed(32)
        assert client.tuner.sizes == START["document"]
        assert {sizes.texts for sizes in client.work(1_000)} == {5, 16}

    def test_parts_of_what_failed_are_no_measure(self) -> None:
        """While parts of a failed request are in flight, which have other sizes, no round begins."""
        tuner = client_of(0).tuner
        part = tuner.sent(None, 9.0, 0.0, all_taken=False, allowed=None)
        tuner.parted()
        for turn in range(4):
            number = tuner.sent(None, 1.0, float(turn), all_taken=True, allowed=None)
            tuner.done(number, 1.0, 0.5)
            tuner.left(number, turn + 0.5)
            assert not tuner._meter.is_on
        tuner.done(part, 9.0, 5.0)
        tuner.left(part, 5.0)
        tuner.sent(None, 1.0, 5.0, all_taken=True, allowed=None)
        assert tuner._meter.is_on

    def test_a_small_one_that_failed_says_nothing_about_the_size(self) -> None:
        """A request with fewer texts than may be in one is no reason to send fewer; a user's number none at all."""
        client, fixed = Client(overhead, 8), Client(overhead, 8, fixed_texts=500)
        client.work(2_000)
        before = client.tuner.sizes
        client.tuner.failed(before.texts - 1)
        fixed.tuner.failed(500)
        assert client.tuner.sizes == before
        assert fixed.tuner.sizes.texts == 500

    def test_never_below_one(self) -> None:
        """However often it fails, one text is sent."""
        client = client_of(0)
        for _ in range(10):
            client.tuner.failed(client.tuner.sizes.texts)
        assert client.tuner.sizes.texts == 1

    def test_overload_takes_the_step_back(self) -> None:
        """When the server has too much to do, the trial that is going on ends."""
        client = Client(lambda _: 0.05, 64)
        seen: list[Sizes] = []
        while client.tuner.sizes == START["document"]:
            seen += client.work(1)
        client.tuner.overloaded(4)
        assert client.tuner.sizes == START["document"]

    def test_overload_again_and_again_lowers_the_sizes(self) -> None:
        """Where the window shrinks time after time before a round is over, it is right, and not the sizes."""
        client = Client(lambda _: 0.05, 64)
        client.work(5_000)
        assert client.tuner.sizes.requests > 8
        for allowed in (40, 28, 20, 8):
            client.tuner.overloaded(allowed)
        assert client.tuner.sizes.requests == 8

    def test_one_slow_request_ends_no_growth(self) -> None:
        """A server that is slow at first, as it loads, is climbed all the same."""
        slow = [4.0]
        client = Client(lambda texts: slow.pop() if slow else overhead(texts), 8)
        client.work(10_000)
        assert client.tuner.sizes.texts >= 64

    def test_less_than_may_be_in_flight_is_no_measure(self) -> None:
        """While the window is smaller than the sizes, nothing is measured, and nothing found out falsely."""
        tuner = client_of(0).tuner
        for turn in range(40):
            number = tuner.sent(None, 1.0, float(turn), all_taken=True, allowed=2)
            tuner.done(number, 1.0, 0.5)
            tuner.left(number, turn + 0.5)
        assert tuner.sizes == START["document"]


class TestLoad:
    """Characters count, not texts alone."""

    @pytest.mark.parametrize(
        ("took", "factor"),
        [(0.0, 8), (0.01, 8), (0.0625, 8), (0.125, 4), (0.25, 2), (0.5, 1), (1, 0), (9, 0)],
    )
    def test_work_may_grow_while_it_is_quick(self, took: float, factor: int) -> None:
        """A request carries what the one before would in half a second, and no more than eight times that one."""
        load = Load(0.0)
        load.took(1200, took)
        assert load.most == factor * 1200

    def test_work_that_took_too_long_steps_down(self) -> None:
        """After four times the half second, the next request carries a quarter of it."""
        load = Load(0.0)
        load.took(10_000, 0.1)
        load.took(8000, 4 * SLOWEST)
        assert load.most == 2000

    def test_one_slow_request_makes_none_slow(self) -> None:
        """Requests are slow when they are so on the average of a round."""
        load = Load(0.0)
        assert not load.is_slow
        load.took(1, 2 * SLOWEST)
        assert load.is_slow
        load.took(1, 0.01)
        load.took(1, 0.01)
        assert not load.is_slow
        load.took(1, 9 * SLOWEST)
        load.forget()
        assert not load.is_slow

    def test_what_else_was_in_flight_is_not_its_doing(self) -> None:
        """Of the time of a request that was one of four, a quarter is its own."""
        one = client_of(0).tuner
        numbers = [one.sent(None, 1200.0, 0.0, all_taken=False, allowed=None) for _ in range(4)]
        one.done(numbers[0], 1200, 1.0)
        assert one.load.most == 2400


class TestLoops:
    """Each loop searches for itself, and begins with what was found."""

    def test_the_next_one_begins_with_what_was_found(self) -> None:
        """Sizes, work and what is left of the slow start go on where they were."""
        client = Client(overhead, 8)
        client.work(20_000)
        found = client.found[-1]
        again = Tuner("document", lambda: client.bounds, found, client.found.append)
        assert again.sizes == found.sizes
        assert again.load.most == found.work > 0

    def test_a_server_that_is_not_known_any_more_is_none_that_changed(self) -> None:
        """What was found is kept while nothing is known; a llama.cpp that was restarted begins anew."""
        client = Client(overhead, 8)
        client.work(20_000)
        sizes = client.tuner.sizes
        for known in (False, True):
            client.bounds = Bounds(known=known)
            assert client.tuner.sizes == sizes
        client.bounds = Bounds(fragile=True)
        assert client.tuner.sizes == START["document"]

    def test_who_rests_ends_only_what_he_began(self) -> None:
        """The end of another's work takes no trial back."""
        client = Client(flat, 8)
        while client.tuner.sizes == START["document"]:
            client.work(1)
        client.tuner.idle("another")
        assert client.tuner.sizes != START["document"]


def client_of(texts: int) -> Client:
    """One that has done so many texts at a server without limit."""
    client = Client(lambda _: 0.3, 4096)
    client.work(texts)
    return client


def test_too_little_work_takes_a_trial_back() -> None:
    """Where there is less work than could be in flight, nothing is measured, and the kept sizes hold."""
    client = Client(flat, 8)
    while client.tuner.sizes == START["document"]:
        client.work(1)
    client.tuner.idle(client)
    assert client.tuner.sizes == START["document"]
