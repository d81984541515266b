"""How large a request may be, and how many may be in flight: the user's numbers, under what the server takes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire import BatchLimits, RateLimit
from embedwire._servers.bounds import START, Bounds, Sizes
from embedwire._servers.facts import ServerFacts
from embedwire._servers.kinds import KINDS, Told
from embedwire._servers.sizes import (
    REPLY_BASE,
    REPLY_PER_TEXT,
    REST,
    REST_LEAST,
    REST_MOST,
    Cap,
    Choice,
    Limits,
    Sizing,
    least,
    max_reply,
)
from embedwire._servers.slots import Wish
from embedwire._servers.tried import Found
from embedwire._servers.tuner import Tuner
from tests.unit.arguments import form

KIND = {kind.name: kind for kind in KINDS}


def sizing(kind: str | None = None, **told: Any) -> Sizing:
    """What is known of the sizes of a server, of some kind, that told this."""
    return Sizing(ServerFacts(kind=None if kind is None else KIND[kind], told=Told(**told)))


def capped(most: int) -> Cap:
    """A cap that the server named."""
    cap = Cap()
    cap.named(most)
    return cap


def rested(cap: Cap, times: int) -> None:
    """So many requests at the cap went well."""
    for _ in range(times):
        assert cap.most is not None
        cap.taken(cap.most)


class TestCap:
    """The most that a server takes is believed when it is sure, and tried again when time has passed."""

    def test_without_a_refusal_there_is_none(self) -> None:
        """What goes well, and what is refused at any size, sets no cap by itself."""
        cap = Cap()
        for size in (1, 128, 100_000):
            cap.taken(size)
            cap.refused(size)
        assert (cap.most, cap.limit) == (None, None)

    def test_what_the_server_names_holds_at_once(self) -> None:
        """A cap in the server's own words needs no second time, and its last word counts."""
        cap = capped(32)
        assert (cap.most, cap.limit) == (32, 32)
        cap.named(96)
        assert (cap.most, cap.limit) == (96, 96)

    @pytest.mark.parametrize(("first", "second", "most"), [(16, 16, 16), (16, 8, 16), (8, 16, 16)])
    def test_what_is_inferred_is_a_suspicion_until_the_second_time(
        self, first: int, second: int, most: int
    ) -> None:
        """One request that went well in parts alone is an accident; the larger parts of two are a cap."""
        cap = Cap()
        cap.inferred(first)
        assert (cap.most, cap.limit) == (None, None)
        cap.inferred(second)
        assert (cap.most, cap.limit) == (most, most)

    def test_grows_again(self) -> None:
        """After REST requests at the cap that went well, one of twice the size is tried; if it goes well, it holds."""
        cap = capped(32)
        rested(cap, REST - 1)
        assert cap.limit == 32
        rested(cap, 1)
        assert (cap.most, cap.limit) == (32, 64)
        cap.taken(64)
        assert (cap.most, cap.limit) == (64, 64)

    @pytest.mark.parametrize("size", [1, 15, 16])
    def test_small_requests_prove_nothing(self, size: int) -> None:
        """Requests of half the cap, or less, say nothing about a larger one."""
        cap = capped(32)
        for _ in range(10 * REST):
            cap.taken(size)
        assert cap.limit == 32

    def test_a_part_of_the_larger_size_counts(self) -> None:
        """A request that is only a little larger than the cap moves it just so far."""
        cap = capped(32)
        rested(cap, REST)
        cap.taken(40)
        assert (cap.most, cap.limit) == (40, 40)

    def test_a_trial_that_fails_makes_the_next_one_rarer(self) -> None:
        """A larger request in vain goes back to the cap, and twice as many must go well before the next."""
        cap = capped(32)
        rests = []
        for _ in range(12):
            rest = 0
            while cap.limit == 32:
                rested(cap, 1)
                rest += 1
            rests.append(rest)
            for _ in range(3):  # several were on the wire together, which is one trial
                cap.refused(64)
            assert (cap.most, cap.limit) == (32, 32)
        assert rests == [min(REST * 2**times, REST_MOST) for times in range(12)]

    def test_one_trial_at_a_time(self) -> None:
        """While a larger request is on its way no other one goes; in vain, the next comes after twice as many."""
        cap = capped(32)
        rested(cap, REST)
        assert cap.limit == 64
        cap.sent(64)
        assert cap.limit == 32
        rested(cap, REST - 1)
        cap.refused(64)
        rested(cap, 2 * REST - 1)
        assert cap.limit == 32
        rested(cap, 1)
        assert cap.limit == 64
        cap.sent(64)
        cap.taken(64)
        assert (cap.most, cap.limit) == (64, 64)

    def test_a_trial_that_succeeds_makes_the_next_one_sooner(self) -> None:
        """A server that takes more by now is asked for still more after half as many requests, though never at once."""
        cap = capped(1)
        rests = []
        for size in (2, 4, 8, 16):
            rest = 0
            while cap.limit != size:
                rested(cap, 1)
                rest += 1
            rests.append(rest)
            cap.taken(size)
        assert rests == [REST, REST // 2, REST_LEAST, REST_LEAST]

    @pytest.mark.parametrize("size", [1, 31, 32])
    def test_a_refusal_below_the_cap_changes_nothing(self, size: int) -> None:
        """What is refused at a size that goes well otherwise has another reason."""
        cap = capped(32)
        cap.refused(size)
        assert (cap.most, cap.limit) == (32, 32)

    @given(
        st.lists(
            st.tuples(st.sampled_from(["named", "inferred", "refused", "taken"]), st.integers(1, 200)),
            max_size=300,
        )
    )
    def test_is_never_nothing(self, steps: list[tuple[str, int]]) -> None:
        """Whatever happens in whatever order, at least one may be sent, and at most twice what is known to go well."""
        cap = Cap()
        for step, size in steps:
            getattr(cap, step)(size)
            assert (cap.most is None) == (cap.limit is None)
            if cap.most is not None and cap.limit is not None:
                assert 1 <= cap.most <= cap.limit <= 2 * cap.most


class TestLimits:
    """The most that one request carries."""

    def test_a_users_number_is_obeyed(self) -> None:
        """A number for texts or characters holds for both kinds, and nothing else limits a request."""
        found = sizing()
        for kind in START:
            assert found.of(form(batch_size=7)).limits(kind) == Limits(texts=7)
            both = found.of(form(batch_size=BatchLimits(texts=7, chars=900))).limits(kind)
            assert both == Limits(texts=7, chars=900)
            free = found.of(form(batch_size=BatchLimits(texts=None))).limits(kind)
            assert free == Limits()

    def test_what_the_server_takes_is_less(self) -> None:
        """Where the server takes less than the user's number, less is sent; where it takes more, that number."""
        for batch, most, texts in ((7, 5, 5), (7, 9, 7), ("auto", 3, 3), ("auto", 9, 5)):
            assert sizing(max_texts=most).of(form(batch_size=batch)).limits().texts == texts
            found = sizing()
            found.texts.named(most)
            assert found.of(form(batch_size=batch)).limits().texts == texts
        found = sizing(max_texts=32)
        found.texts.named(20)
        assert found.max_texts == 20
        found.chars.named(500)
        for size in ("auto", BatchLimits(chars=900), BatchLimits()):
            assert found.of(form(batch_size=size)).limits().chars == 500
        assert found.of(form(batch_size=BatchLimits(chars=100))).limits().chars == 100

    def test_auto_starts_small_for_documents_and_not_for_queries(self) -> None:
        """Untold, five documents or 32 queries share a request, whatever their length."""
        found = sizing()
        assert found.of(form()).limits() == Limits(texts=5, work=0.0, free=5)
        assert found.of(form()).limits("query") == Limits(texts=32, work=0.0, free=32)

    def test_auto_follows_what_was_found(self) -> None:
        """The sizes that the tuner found, and the work that takes half a second, are the limits."""
        found = sizing()
        sizes = found.of(form(), {})
        tuner = sizes.tuners["document"]
        tuner._sizes, tuner.load.most = Sizes(64, 4), 12_000.0
        assert sizes.limits() == Limits(texts=64, work=12_000.0, free=5, share=5)
        assert sizes.limits("query").texts == 32
        assert found.of(form(batch_size=7), {}).limits() == Limits(texts=7)

    def test_what_a_stream_has_at_hand_fills_the_next_step(self) -> None:
        """At a server that is climbed as many documents are at hand as the next step would send; else two rounds."""
        assert sizing().of(form()).ahead() == 2 * 5 * 4
        assert sizing("infinity").of(form()).ahead() == 5 * 4 + 32 * 8
        assert sizing("llama.cpp", slots=8).of(form()).ahead() == 2 * 4 * 4

    def test_a_cap_found_by_trying_holds_for_queries_too(self) -> None:
        """Queries that wait together are no more than what was seen to go well."""
        found = sizing()
        found.texts.inferred(16)
        assert found.of(form()).limits("query").texts == 32
        found.texts.inferred(16)
        assert found.of(form()).limits("query").texts == 16
        sizes = found.of(form(), {})
        sizes.tuners["query"]._sizes = Sizes(128, 4)
        assert sizes.limits("query").texts == 16
        found.texts.named(100)
        assert sizes.limits("query").texts == 100

    def test_a_larger_size_is_tried_after_a_rest(self) -> None:
        """Where the cap grows again, the next request may have more."""
        found = sizing()
        found.texts.named(8)
        rested(found.texts, REST)
        assert found.of(form(batch_size=12)).limits().texts == 12
        assert found.max_texts == 8

    def test_requests_that_are_counted_carry_many_texts(self) -> None:
        """Where a rate limit counts requests, they begin with 32 texts, whatever the slots; else they do not."""
        found = sizing("llama.cpp", slots=1)
        for rate in (2, RateLimit(per_second=1), RateLimit(per_minute=9, texts=1000)):
            assert found.of(form(rate_limit=rate)).limits().texts == 32
        assert found.of(form(rate_limit=RateLimit(texts=1000))).limits().texts == 1

    def test_there_is_one_tuner_for_each_choice(self) -> None:
        """On one loop equal forms search together; another kind, or another number of the user's, is apart."""
        found, loop = sizing(), dict[Choice, Tuner]()
        assert found.of(form(), loop).tuners["document"] is found.of(form(timeout=5), loop).tuners["document"]
        found.of(form(concurrency=3), loop)
        found.of(form(batch_size=3), loop)
        assert len({id(tuner) for tuner in loop.values()}) == 6

    def test_another_loop_begins_with_what_was_found(self) -> None:
        """What one loop found is where the next one begins, and what is shown."""
        found = sizing("vllm")
        one = Found(Bounds(known=True).nature, Sizes(64, 8), Sizes(64, 8), (), 9_000.0)
        found.of(form(), {}).tuners["document"]._keep_found(one)
        for sizes in (found.of(form(), {}), found.of(form())):
            assert (sizes.limits().texts, sizes.wish()) == (64, Wish(8, 12))
        assert found.of(form(), {}).limits().work == 9_000.0


class TestWish:
    """The most requests in flight."""

    @pytest.mark.parametrize("kind", [None, *KIND])
    @pytest.mark.parametrize("slots", [None, 1, 64])
    def test_a_users_number_is_obeyed(self, kind: str | None, slots: int | None) -> None:
        """A number of the user's holds for all together, whatever the server says."""
        assert sizing(kind, slots=slots).of(form(concurrency=3)).wish() == Wish(3, 3)

    @pytest.mark.parametrize(
        ("kind", "slots", "documents", "most"),
        [
            (None, None, 4, 4),
            ("llama.cpp", None, 4, 4),
            ("llama.cpp", 1, 2, 5),
            ("llama.cpp", 4, 4, 8),
            ("llama.cpp", 8, 4, 8),
            ("llama.cpp", 64, 8, 12),
            ("vllm", 4, 4, 8),
            (None, 4, 4, 8),
            *[(name, None, 4, 8) for name in KIND if name != "llama.cpp"],
        ],
    )
    def test_auto(self, kind: str | None, slots: int | None, documents: int, most: int) -> None:
        """Four until it is known what is there; then queries have room beside, within the server's threads."""
        assert sizing(kind, slots=slots).of(form()).wish() == Wish(documents, most)

    def test_auto_follows_what_was_found(self) -> None:
        """A number that was found by trying holds, and queries have room beside."""
        found = sizing("vllm")
        sizes = found.of(form(), {})
        sizes.tuners["document"]._sizes = Sizes(5, 32)
        assert sizes.wish() == Wish(32, 36)

    def test_what_is_learnt_later_holds(self) -> None:
        """When a server tells its slots, or a cap is found, sizes that are in use follow."""
        found = sizing()
        sizes = found.of(form(), {})
        assert (sizes.limits().texts, sizes.wish()) == (5, Wish(4, 4))
        found.server.kind, found.server.told = KIND["llama.cpp"], Told(slots=1)
        assert (sizes.limits().texts, sizes.wish()) == (1, Wish(2, 5))
        found.server.told = Told(slots=16)
        assert (sizes.limits().texts, sizes.wish()) == (5, Wish(4, 8))


class TestSmallThings:
    """What else depends on a size."""

    @pytest.mark.parametrize("texts", [0, 1, 5, 128])
    def test_the_cap_of_a_reply_follows_its_request(self, texts: int) -> None:
        """Untold, there is room for each text's vector; a number of the user's is obeyed."""
        assert max_reply(form(), texts) == REPLY_BASE + REPLY_PER_TEXT * texts
        assert max_reply(form(max_reply_bytes=7), texts) == 7

    @pytest.mark.parametrize(
        ("one", "other", "smaller"), [(None, None, None), (1, None, 1), (None, 1, 1), (1, 2, 1), (2, 1, 1)]
    )
    def test_least(self, one: int | None, other: int | None, smaller: int | None) -> None:
        """Of two limits the smaller holds, of which either may be missing."""
        assert least(one, other) == smaller
