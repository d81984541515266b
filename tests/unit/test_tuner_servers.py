"""The rule of docs/SIZES.md at servers of all kinds, those measured on a GPU among them: a pure simulation."""

from __future__ import annotations

from functools import cache

import pytest

from benchmarks.speed.kinds import KINDS
from benchmarks.speed.measured import LLAMA_LONE
from benchmarks.speed.models import Behaviour, LlamaCpp, Server
from benchmarks.speed.simulation import Fixed
from benchmarks.speed.texts import texts
from benchmarks.speed.waiting import EVERY
from tests.unit.simulation import Tuned, WorkFirst

GRID = [Fixed(batch, many) for batch in (1, 5, 16, 32, 64, 128) for many in (1, 2, 4, 8, 16, 32, 64)]
REFUSING = {
    "capped",
    "error500",
}  # what a refusal means is no matter of the tuner's: see tests/server/test_tune.py
MODELS = {
    name: kind for name, kind in KINDS.items() if isinstance(kind.server, Behaviour) and name not in REFUSING
}
# The most that the defaults may take over the best fixed numbers, where that is more than the target, and why.
MISSED: dict[tuple[str, int], tuple[float, str]] = {
    ("slots4", 500): (1.55, "with the best numbers all 500 texts are one flight"),
    ("slots64", 500): (2.6, "the same: 8 x 64 at once, 36 ms"),
    ("slots64", 5_000): (1.85, "the same: 32 x 64, 0.28 s, in which it doubles five times"),
    ("batches", 500): (1.7, "four requests of 128 at once, where it begins with 5"),
    ("hosted", 500): (3.6, "a round trip takes 300 ms, and it needs three more than one"),
    ("hosted", 5_000): (4.0, "the same"),
    ("hosted", 50_000): (1.6, "the same"),
    ("instant", 500): (2.0, "the client's own time for requests of five texts"),
    ("instant", 5_000): (1.35, "the same"),
    ("scaling", 50_000): (2.0, "more requests are tried every few seconds, and it takes four doublings"),
    ("shared", 500): (1.75, "five steps up, and 64 texts are best at once"),
    ("infinity", 500): (1.8, "with the best numbers all 500 texts are one flight"),
    ("infinity", 5_000): (1.25, "its rate still rises at 4,096 texts in flight"),
}


def lengths(count: int, *, mixed: bool) -> list[int]:
    """Characters of so many texts."""
    return [len(text) for text in texts(count, mixed=mixed)]


def made(name: str) -> Server:
    """A fresh server."""
    server = MODELS[name].server
    assert isinstance(server, Behaviour)
    return server.made()


@cache
def ranked(name: str, count: int) -> list[tuple[float, Fixed]]:
    """The best fixed sizes first, with the seconds that they take."""
    tried = GRID if count <= 5_000 else [sizes for _, sizes in ranked(name, 5_000)[:3]]
    todo = lengths(count, mixed=MODELS[name].mixed)
    seconds = {sizes: WorkFirst(made(name), todo, sizes).run().seconds for sizes in tried}
    return sorted(((took, sizes) for sizes, took in seconds.items()), key=lambda one: one[0])


def found(name: str, count: int) -> tuple[float, int]:
    """With sizes that find themselves: the seconds, and the most texts that were in flight."""
    server = made(name)
    sizes = Tuned(server.total_slots)
    todo = lengths(count, mixed=MODELS[name].mixed)
    return WorkFirst(server, todo, sizes).run().seconds, sizes.peak


@pytest.mark.parametrize(
    ("name", "count"),
    [
        pytest.param(name, count, marks=[pytest.mark.slow] if count == 5_000 else [])
        for name, kind in MODELS.items()
        for count in kind.limits
        if count <= 5_000
    ],
)
def test_near_the_best_fixed_sizes(name: str, count: int) -> None:
    """The search included, a job takes not much longer than with the sizes that are best for it."""
    limit, _ = MISSED.get((name, count), (MODELS[name].limits[count], ""))
    assert found(name, count)[0] <= limit * ranked(name, count)[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if 50_000 in kind.limits])
def test_no_ratchet_in_a_long_job(name: str) -> None:
    """In 50,000 texts the sizes do not sink, and the search costs next to nothing."""
    limit, _ = MISSED.get((name, 50_000), (MODELS[name].limits[50_000], ""))
    assert found(name, 50_000)[0] <= limit * ranked(name, 50_000)[0][0]


def test_infinity_stands_within_500_texts() -> None:
    """At a server with dynamic batching the texts in flight are hundreds before 500 are done."""
    assert found("infinity", 1_000)[1] >= 400


@pytest.mark.parametrize("slots", [1, 4, 16, 32])
def test_llama_cpp_gets_two_texts_for_each_slot(slots: int) -> None:
    """Never more are in flight at llama.cpp than two for each slot, or the twenty that any server may get."""
    sizes = Tuned(slots)
    WorkFirst(LlamaCpp(slots), lengths(3_000, mixed=False), sizes).run()
    assert sizes.peak <= max(2 * slots, 20)


@pytest.mark.parametrize("slots", [4, 16, 32])
def test_queries_beside_bulk(slots: int) -> None:
    """A query beside bulk waits at most four times as long as a lone one, and bulk is nearly as fast as it can be."""
    todo = lengths(3_000, mixed=False)
    best = min(
        WorkFirst(LlamaCpp(slots), todo, sizes, query_every=EVERY).run().seconds
        for sizes in GRID
        if sizes.batch * sizes.concurrency <= 8 * slots
    )
    outcome = WorkFirst(LlamaCpp(slots), todo, Tuned(slots), query_every=EVERY).run()
    assert outcome.p50 <= 4 * LLAMA_LONE
    # With four slots a request more or less is a tenth of the rate; on a GPU two texts for each had 0.98.
    assert outcome.seconds <= best / (0.85 if slots == 4 else 0.93)


def test_queries_beside_bulk_on_a_cpu() -> None:
    """Where all the time is the texts', so little is in flight that a query waits for few others."""
    server = LlamaCpp(4, turn=0.0005, per_text=0.010, outside=0.004)
    outcome = WorkFirst(server, lengths(1_500, mixed=False), Tuned(4), query_every=EVERY).run()
    assert outcome.p50 <= 5 * 0.0147
