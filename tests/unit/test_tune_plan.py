"""Which sizes `embedwire tune` measures, and which it calls the best: pure, at servers of which all is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from embedwire._servers.kinds import KINDS as SOFTWARE
from embedwire._servers.kinds import OPENAI_LIKE, ServerKind, Told
from embedwire.tune.choosing import (
    automatic_is_as_good,
    automatic_lags,
    best,
    is_certain,
    noise,
    tolerance,
)
from embedwire.tune.plan import REACH, Time, allowed, complete, grid_of, next_move
from embedwire.tune.rates import Span, rate, steady
from embedwire.tune.records import Cell, Ending, Grid, Sample, Taken
from tests.unit.tune_simulation import FULL, Simulated, rate_at

(LLAMA_CPP,) = (kind for kind in SOFTWARE if kind.name == "llama.cpp")
SMALL = Grid(batches=(1, 2, 4), requests=(1, 2))


def taken(rates: dict[tuple[int, int], float | list[float]], automatic: tuple[float, ...] = ()) -> Taken:
    """What was measured: a rate, or several, of each cell."""
    return Taken(
        cells={
            Cell(*cell): tuple(map(sample, one if isinstance(one, list) else [one]))
            for cell, one in rates.items()
        },
        automatic=tuple(map(sample, automatic)),
    )


def sample(rate: float) -> Sample:
    """Of so many texts per second."""
    return Sample(rate=rate, latency=None, seconds=1.0, texts=10)


class TestTheGrid:
    """What may be tried."""

    def test_is_powers_of_two_up_to_the_limits(self) -> None:
        """Both sizes double from 1 on, and the limit itself is tried, whatever it is."""
        grid = grid_of(100, 8, None, Told())
        assert grid.batches == (1, 2, 4, 8, 16, 32, 64, 100)
        assert grid.requests == (1, 2, 4, 8)
        assert grid_of(1, 1, None, Told()).cells() == [Cell(1, 1)]

    @pytest.mark.parametrize(
        ("kind", "told", "batches", "requests", "why"),
        [
            (LLAMA_CPP, Told(slots=4), 128, 8, "llama.cpp serves 8 requests at a time for 4 slots"),
            (LLAMA_CPP, Told(slots=1), 128, 5, "llama.cpp serves 5 requests at a time for 1 slot"),
            (LLAMA_CPP, Told(), 128, 4, "llama.cpp serves 4 requests at a time"),
            (OPENAI_LIKE, Told(max_texts=32), 32, 64, "the server takes 32 texts in a request"),
            (OPENAI_LIKE, Told(), 128, 64, ""),
            (None, Told(), 128, 64, ""),
        ],
    )
    def test_ends_at_what_the_server_tells(
        self, kind: ServerKind | None, told: Told, batches: int, requests: int, why: str
    ) -> None:
        """Neither more requests than a server has threads for are tried, nor more texts in one than it says to take."""
        grid = grid_of(128, 64, kind, told)
        assert (grid.batches[-1], grid.requests[-1], grid.why) == (batches, requests, why)

    def test_the_users_limits_hold(self) -> None:
        """Limits of the user's that are lower than the server's need no reason."""
        assert grid_of(8, 2, LLAMA_CPP, Told(slots=4)) == Grid(batches=(1, 2, 4, 8), requests=(1, 2))


MODELS = ["slots4", "slots64", "hosted", "batches", "cpu", "rising", "vllm", "infinity", "llama4", "llama32"]


class TestThePlan:
    """What is measured next."""

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("name", MODELS)
    def test_finds_the_best_in_a_minute(self, name: str, seed: int) -> None:
        """At servers of all kinds, with samples that are off by 1 %, what is called best is within 7 % of the best."""
        swept = Simulated(lambda cell: rate_at(name, *cell), noise=0.01).run(seed)
        found = best(swept.taken)
        assert found is not None
        assert found.sure
        rates = {cell: rate_at(name, *cell) for cell in FULL.cells()}
        assert rates[found.cell] >= 0.93 * max(rates.values())
        as_good = [cell for cell in FULL.cells() if rates[cell] >= 0.99 * rates[found.cell]]
        assert found.cell.in_flight <= 2 * as_good[0].in_flight

    @pytest.mark.parametrize("whole", [5.0, 20.0, 60.0, 300.0])
    @pytest.mark.parametrize("name", ["slots4", "cpu", "hosted", "infinity"])
    def test_keeps_to_its_time(self, name: str, whole: float) -> None:
        """However much time there is, a sweep takes no longer."""
        swept = Simulated(lambda cell: rate_at(name, *cell), whole=whole, now=0.15 * whole).run()
        assert swept.now <= 1.02 * whole  # the sweep itself breaks off what takes longer

    def test_a_slow_server_is_not_judged_in_haste(self) -> None:
        """Where a text takes seconds, what can be measured in a minute is not called the best; in an hour it is."""
        slow = Simulated(lambda cell: 0.2).run()
        assert not complete(FULL, slow.taken)
        assert complete(FULL, Simulated(lambda cell: 0.2, whole=3600.0).run().taken)

    def test_goes_up_step_by_step(self) -> None:
        """It begins with one text, and never has more in flight than eight times what paid so far."""
        swept = Simulated(lambda cell: 100.0).run()
        moves = [move for move in swept.moves if move is not None]
        assert moves[0] == Cell(1, 1)
        assert max(move.in_flight for move in moves) <= REACH

    def test_ends_where_the_server_refuses(self) -> None:
        """Beyond sizes that the server refused nothing is tried, and few are refused at all."""
        swept = Simulated(lambda cell: 40.0 * cell.in_flight if cell.in_flight <= 24 else 0.0).run()
        refused = list(swept.taken.ends)
        assert refused
        for end in refused:
            after = swept.moves[swept.moves.index(end) + 1 :]
            assert not [move for move in after if move is not None and end.within(move)]
        assert len(refused) <= 10
        found = best(swept.taken)
        assert found is not None
        assert found.cell.in_flight == 16
        assert complete(FULL, swept.taken)

    def test_the_best_are_measured_by_turns(self) -> None:
        """The best sizes and the automatic ones are measured again, never the same twice in a row."""
        swept = Simulated(lambda cell: rate_at("slots4", *cell), noise=0.02).run()
        assert all(one != other for one, other in pairwise(swept.moves))
        assert swept.moves.count(None) >= 2
        found = best(swept.taken)
        assert found is not None
        assert len(swept.taken.cells[found.cell]) >= 2

    def test_one_cell_is_a_sweep_too(self) -> None:
        """Where the user allows one pair of sizes only, that is measured, beside the automatic ones."""
        grid = grid_of(1, 1, None, Told())
        swept = Simulated(lambda cell: 100.0, grid=grid).run()
        assert set(swept.taken.cells) == {Cell(1, 1)}
        assert complete(grid, swept.taken)
        assert len(swept.taken.automatic) >= 2

    def test_nothing_is_tried_without_time(self) -> None:
        """With no time left nothing is measured."""
        assert next_move(FULL, Taken(), Time.of(60.0, 0.0)) is None

    def test_what_is_refused_later_counts_no_more(self) -> None:
        """Sizes that the server refuses at the second time are not the best ones."""
        before = taken({(1, 1): 10, (2, 1): 20, (4, 1): 40})
        after = before.ended(Cell(2, 1), Ending(reason="refused", what="429"))
        assert set(after.cells) == {Cell(1, 1)}
        assert not allowed(Cell(4, 1), SMALL, after)
        assert allowed(Cell(1, 2), SMALL, after)


class TestTheBest:
    """What is called the best."""

    def test_is_the_least_in_flight_of_equals(self) -> None:
        """Of rates that differ by no more than 3 %, those with least in flight are the best."""
        found = best(taken({(1, 1): 50, (8, 1): 98, (8, 2): 100, (64, 2): 100.5, (4, 4): 97}))
        assert found is not None
        assert (found.cell, found.fastest, found.tolerance) == (Cell(8, 1), Cell(64, 2), 0.03)
        assert not found.sure

    def test_is_one_that_was_measured_again(self) -> None:
        """One lucky measurement does not make the best where others were measured more often."""
        found = best(taken({(1, 1): [50, 51], (8, 1): [100, 101], (64, 64): 180}))
        assert found is not None
        assert found.cell == Cell(8, 1)
        assert found.sure

    def test_restless_servers_tell_less(self) -> None:
        """Where the same sizes differ by more, so may rates that are called equal, but never by more than 10 %."""
        steady, restless = (
            taken({(1, 1): [100, 101], (2, 1): [104, 103]}), taken({(1, 1): [95, 105], (2, 1): [100, 110]}),
        )  # fmt: skip
        assert tolerance(steady) == 0.03
        assert 0.07 < tolerance(restless) <= 0.1
        assert noise(taken({(1, 1): 5})) is None
        calm, shaken = best(steady), best(restless)
        assert calm is not None
        assert shaken is not None
        assert calm.cell == Cell(1, 1) == shaken.cell
        wild = taken({(1, 1): [50, 150], (2, 1): [100, 110]})
        assert tolerance(wild) == 0.1

    def test_is_not_called_so_in_doubt(self) -> None:
        """Where others seemed faster and were not measured again, or samples tell nothing, there is no verdict."""
        clear = taken({(1, 1): [50, 51], (2, 1): [100, 101]})
        lucky = taken({(1, 1): [50, 51], (2, 1): [100, 101], (4, 1): 150})
        wild = taken({(1, 1): [20, 90], (2, 1): [100, 210]})
        once = taken({(1, 1): 50, (2, 1): 100})
        for measured, certain in ((clear, True), (lucky, False), (wild, False), (once, False)):
            found = best(measured)
            assert found is not None
            assert is_certain(measured, found) == certain

    def test_and_the_automatic_sizes(self) -> None:
        """They are as good where they are no slower than the best by more than what counts as equal."""
        rates: dict[tuple[int, int], float | list[float]] = {(1, 1): [50, 50], (8, 1): [100, 100]}
        for automatic, lag, as_good in ((98.0, 0.02, True), (90.0, 0.10, False), (120.0, -0.20, True)):
            measured = taken(rates, (automatic,))
            found = best(measured)
            assert found is not None
            assert automatic_lags(measured, found) == pytest.approx(lag)
            assert automatic_is_as_good(measured, found) == as_good
        nothing = taken(rates)
        found = best(nothing)
        assert found is not None
        assert automatic_lags(nothing, found) is None
        assert not automatic_is_as_good(nothing, found)

    def test_of_nothing_is_nothing(self) -> None:
        """Where nothing was measured there is no best."""
        assert best(Taken()) is None


class TestRates:
    """Requests → texts per second."""

    @given(some.integers(1, 16), some.floats(0.01, 2.0), some.integers(0, 5), some.floats(0.3, 3.0))
    def test_one_after_another(self, places: int, seconds: float, skipped: int, rounds: float) -> None:
        """A server that answers one request after another has the same rate, wherever the piece begins and ends."""
        spans = [
            Span(max(0, number - places) * seconds, number * seconds, 7.0) for number in range(1, 12 * places)
        ]
        since = (places + skipped) * seconds
        until = since + rounds * places * seconds
        assert rate(spans, since, until) == pytest.approx(7.0 / seconds, rel=0.2 if rounds < 1 else 0.1)

    @given(some.integers(1, 16), some.floats(0.01, 2.0), some.floats(0.1, 3.0))
    def test_many_at_once(self, places: int, seconds: float, rounds: float) -> None:
        """A server that answers all requests together has its rate to the digit."""
        spans = [Span(turn * seconds, (turn + 1) * seconds, 5.0) for turn in range(6) for _ in range(places)]
        measured = rate(spans, seconds, seconds + rounds * seconds)
        assert measured == pytest.approx(5.0 * places / seconds)

    def test_of_a_stream(self) -> None:
        """A stream's rate is that between its first texts and its last ones, as many as are in flight."""
        marks = [(1.0, 20.0), (2.0, 20.0), (2.0, 20.0), (3.0, 40.0), (4.0, 40.0), (9.0, 60.0)]
        assert steady(marks, 60.0) == pytest.approx(40.0)
        assert steady(marks[:3], 50.0) is None
        assert steady([], 1.0) is None
