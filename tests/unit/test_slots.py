"""Places on the wire: never more than the smallest wish, fewer after trouble, and each one comes back."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire._servers.slots import DEFAULT_CONCURRENCY, Slot, Slots, Wish
from tests.helpers import in_simulated_time, now, simulated


def of(most: int) -> Slots:
    """Slots of which somebody wants so many."""
    slots = Slots()
    slots.enlist("somebody", lambda: Wish.of(most))
    return slots


def taken(slots: Slots) -> list[Slot]:
    """All slots that are free."""
    held = []
    while slots.free("document"):
        held.append(slots.take("document"))
    return held


async def soon() -> None:
    """Lets everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


class TestRoom:
    """How many requests may be in flight."""

    def test_untold_it_is_the_default(self) -> None:
        """Where nobody has a wish, there are as many slots as a client starts with."""
        assert len(taken(Slots())) == DEFAULT_CONCURRENCY

    def test_the_smallest_wish_counts_while_its_owner_has_work(self) -> None:
        """No user's number is exceeded; who has no more work has no more say."""
        slots = Slots()
        for who, most in (("a", 5), ("b", 2), ("c", 9)):
            slots.enlist(who, lambda most=most: Wish.of(most))  # type: ignore[misc]
        held = taken(slots)
        assert len(held) == 2
        slots.dismiss("b")
        assert len(taken(slots)) == 3
        slots.dismiss("b")
        slots.dismiss("a")
        assert len(taken(slots)) == 4

    def test_a_wish_may_change(self) -> None:
        """A wish is asked for each time, as sizes are found while others wait."""
        most = 2
        slots = Slots()
        slots.enlist("somebody", lambda: Wish.of(most))
        assert len(taken(slots)) == 2
        most = 4
        assert len(taken(slots)) == 2
        most = 1
        assert not slots.free("document")

    def test_queries_have_room_beside_documents(self) -> None:
        """Where somebody wants room for queries, documents leave it, and queries take no place of documents."""
        slots = Slots()
        slots.enlist("somebody", lambda: Wish(documents=2, all=5))
        held = taken(slots)
        assert (len(held), slots.free("query")) == (2, 3)
        queries = [slots.take("query") for _ in range(3)]
        assert (slots.free("query"), slots.free("document")) == (0, 0)
        held[0].give_back()
        assert (slots.free("query"), slots.free("document")) == (1, 1)
        queries[0].give_back()
        assert (slots.free("query"), slots.free("document")) == (2, 1)

    async def test_trouble_leaves_none_for_queries(self) -> None:
        """After an overload queries have no room of their own."""
        slots = Slots()
        slots.enlist("somebody", lambda: Wish(documents=2, all=5))
        one, two = taken(slots)
        one.overloaded()
        one.give_back()
        assert (slots.window.allowed, slots.free("query")) == (1, 0)
        two.give_back()
        assert (slots.free("query"), slots.free("document")) == (1, 1)

    async def test_trouble_leaves_fewer(self) -> None:
        """After an overload 0.7 of those in flight may be, whatever is wished; a round of successes adds one."""
        slots = of(10)
        held = taken(slots)
        held[0].overloaded()
        for slot in held:
            slot.give_back()
        again = taken(slots)
        assert len(again) == 7
        for slot in again:
            slot.succeeded()
            slot.give_back()
        assert len(taken(slots)) == 8

    async def test_what_was_sent_before_trouble_is_one_discovery(self) -> None:
        """Of all requests on the wire together only the first overload counts, and their successes say nothing."""
        slots = of(10)
        held = taken(slots)
        for slot in held:
            slot.overloaded()
            slot.give_back()
        for slot in held:
            slot.succeeded()
        assert slots.window.allowed == 7

    async def test_a_repeat_is_a_new_discovery(self) -> None:
        """A request that took its slot again after trouble counts as sent since."""
        slots = of(10)
        one, *others = taken(slots)
        one.overloaded()
        for slot in (one, *others):
            slot.give_back()
        await one.take_again("document")
        one.overloaded()
        assert slots.window.allowed == 1


class TestSlot:
    """One request's place."""

    def test_is_counted_while_it_is_held(self) -> None:
        """A slot is in flight until it is given back; giving it back twice is fine."""
        slots = of(3)
        one, two = slots.take("document"), slots.take("document")
        assert (slots.in_flight, one.crowd, two.held) == (2, 2, True)
        one.give_back()
        one.give_back()
        assert (slots.in_flight, one.held, two.crowd) == (1, False, 1)

    def test_who_waits_hears_of_a_free_one(self) -> None:
        """Each slot that becomes free is told to everybody who looks."""
        slots, heard = of(1), list[str]()
        slots.on_free += [lambda: heard.append("a"), lambda: heard.append("b")]
        slot = slots.take("document")
        assert heard == []
        slot.give_back()
        assert heard == ["a", "b"]

    async def test_a_repeat_takes_a_free_one_at_once(self) -> None:
        """Where there is room, nobody waits; who holds one needs no other."""
        slots = of(2)
        slot = slots.take("document")
        await slot.take_again("document")
        assert slots.in_flight == 1
        slot.give_back()
        await slot.take_again("document")
        assert (slots.in_flight, slot.held) == (1, True)

    async def test_repeats_get_theirs_in_order(self) -> None:
        """Repeats of a kind that wait are let in by who looks, the longest waiting first."""
        slots, order = of(1), list[str]()
        waiting = {name: slots.take("document") for name in "abc"}
        for slot in waiting.values():
            slot.give_back()
        held = slots.take("document")

        async def repeat(name: str) -> None:
            await waiting[name].take_again("document")
            order.append(name)
            waiting[name].give_back()
            slots.resume("document")

        tasks = [asyncio.create_task(repeat(name)) for name in "abc"]
        await soon()
        assert (order, slots.in_flight) == ([], 1)
        assert not slots.resume("query")
        held.give_back()
        assert slots.resume("document")
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c"]
        assert slots.in_flight == 0
        assert not slots.resume("document")

    async def test_a_window_that_has_grown_is_theirs_who_wait(self) -> None:
        """Where more may be in flight than before, a repeat that comes now goes after those that waited."""
        slots, most = Slots(), 1
        slots.enlist("somebody", lambda: Wish.of(most))
        waiting = {name: slots.take("document") for name in "abcd"}
        for slot in waiting.values():
            slot.give_back()
        held = slots.take("document")
        kinds = {"a": "document", "b": "query", "c": "document", "d": "query"}
        tasks = {name: asyncio.create_task(waiting[name].take_again(kinds[name])) for name in "abc"}  # type: ignore[arg-type]
        await soon()
        most = 3
        tasks["d"] = asyncio.create_task(waiting["d"].take_again("query"))
        await soon()
        assert [name for name, task in tasks.items() if task.done()] == ["b", "d"]
        held.give_back()
        assert slots.resume("document")
        await soon()
        assert tasks["a"].done()
        assert not tasks["c"].done()
        assert slots.in_flight == 3
        tasks["c"].cancel()

    @pytest.mark.parametrize("given", [False, True])
    async def test_who_gives_up_waiting_keeps_nothing(self, given: bool) -> None:
        """A repeat that is cancelled while it waits, or in the moment it gets its slot, leaves none behind."""
        slots = of(1)
        slot = slots.take("document")
        slot.give_back()
        held = slots.take("document")
        task = asyncio.create_task(slot.take_again("query"))
        await soon()
        held.give_back()
        if given:
            assert slots.resume("query")
            assert slots.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert slots.in_flight == 0
        assert not slot.held
        assert not slots.resume("query")

    @simulated
    @pytest.mark.parametrize(
        ("elapsed", "usual", "lasts"), [(3, 10, 7), (7, None, 7), (7, 5, 7), (90, 5, 60)]
    )
    async def test_what_was_given_up_lingers(self, elapsed: float, usual: float | None, lasts: float) -> None:
        """A request given up counts until such requests end, or for as long again, and for a minute at most."""
        slots, freed = of(1), list[float]()
        slot, since = slots.take("document"), now()
        slots.on_free.append(lambda: freed.append(now() - since))
        slot.give_up(elapsed, usual)
        slot.give_back()
        assert slots.in_flight == 1
        await asyncio.sleep(lasts - 0.1)
        assert slots.in_flight == 1
        await asyncio.sleep(0.2)
        assert slots.in_flight == 0
        assert freed == pytest.approx([lasts])

    @simulated
    @pytest.mark.parametrize(
        ("elapsed", "usual", "allowed"), [(3, 10, None), (7, 5, 2), (7, None, 2), (0.1, None, None)]
    )
    async def test_what_was_given_up_late_is_trouble(
        self, elapsed: float, usual: float | None, allowed: int | None
    ) -> None:
        """Giving up after the usual time, or a quarter of a second, means that the server has too much to do."""
        slots = of(3)
        slot, *_ = [slots.take("document") for _ in range(3)]
        slot.give_up(elapsed, usual)
        assert slots.window.allowed == allowed

    async def test_what_was_given_back_does_not_linger(self) -> None:
        """Who has no slot gives none up."""
        slots = of(1)
        slot = slots.take("document")
        slot.give_back()
        slot.give_up(5, None)
        assert slots.in_flight == 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "give", "pause", "cancel", "overload"]), st.integers(0, 9))
)


@given(STEPS, st.integers(1, 5))
def test_no_slot_is_lost(steps: list[tuple[str, int]], most: int) -> None:
    """Whatever is taken, paused, cancelled or overloaded in whatever order, all slots are free at the end."""

    async def run() -> None:
        slots = of(most)

        def look() -> None:
            if slots.free("document"):
                slots.resume("document")

        slots.on_free.append(look)
        held: list[Slot] = []
        pausing: list[asyncio.Task[None]] = []
        for step, which in steps:
            if step == "take" and slots.free("document"):
                held.append(slots.take("document"))
            elif step == "cancel" and pausing:
                pausing.pop(which % len(pausing)).cancel()
            elif held and step != "take":
                slot = held[which % len(held)]
                if step == "give":
                    slot.give_back()
                elif step == "overload":
                    slot.overloaded()
                elif step == "pause":
                    held.remove(slot)
                    slot.give_back()
                    pausing.append(asyncio.create_task(pause(slot)))
            await soon()
            assert 0 <= slots.in_flight <= most
        for slot in held:
            slot.give_back()
        await asyncio.gather(*pausing, return_exceptions=True)
        assert slots.in_flight == 0

    async def pause(slot: Slot) -> None:
        try:
            await asyncio.sleep(1)
            await slot.take_again("document")
            await asyncio.sleep(1)
        finally:
            slot.give_back()

    in_simulated_time(run())
