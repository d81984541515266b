"""How near sizes that find themselves come to the best fixed ones; as a program, the whole table.

    python -m tests.unit.near_best

The client's one thread does its part of the work before a request leaves, or when its reply is there.
"""

from __future__ import annotations

from functools import cache

from benchmarks.speed.kinds import KINDS
from benchmarks.speed.models import Behaviour, Server
from benchmarks.speed.simulation import Fixed, Simulation
from benchmarks.speed.texts import texts
from tests.unit.simulation import Tuned, WorkFirst

SIMULATIONS: dict[str, type[Simulation]] = {"work first": WorkFirst, "work last": Simulation}
GRID = [Fixed(batch, many) for batch in (1, 5, 16, 32, 64, 128) for many in (1, 2, 4, 8, 16, 32, 64)]
# What a refusal means is no matter of the tuner's: see tests/server/test_tune.py.
REFUSING = {"capped", "error500"}
MODELS: dict[str, Behaviour] = {
    name: kind.server
    for name, kind in KINDS.items()
    if isinstance(kind.server, Behaviour) and name not in REFUSING
}
LIMITS = {name: KINDS[name].limits for name in MODELS}


@cache
def lengths(count: int, *, mixed: bool) -> list[int]:
    """Characters of so many texts."""
    return [len(text) for text in texts(count, mixed=mixed)]


@cache
def ranked(name: str, count: int, simulation: str) -> list[tuple[float, Fixed]]:
    """The best fixed sizes first, with the seconds that they take; of many texts, only those best for 5,000."""
    tried = GRID if count <= 5_000 else [sizes for _, sizes in ranked(name, 5_000, simulation)[:3]]
    todo = lengths(count, mixed=KINDS[name].mixed)
    make = SIMULATIONS[simulation]
    took = [(make(MODELS[name].made(), todo, sizes).run().seconds, sizes) for sizes in tried]
    return sorted(took, key=lambda one: one[0])


def best(name: str, count: int, simulation: str) -> tuple[float, Fixed]:
    """Seconds with the best fixed sizes, and these."""
    return ranked(name, count, simulation)[0]


def found(name: str, count: int, simulation: str) -> tuple[float, int]:
    """With sizes that find themselves: the seconds, and the most texts that were in flight."""
    server: Server = MODELS[name].made()
    sizes = Tuned(server.total_slots)
    todo = lengths(count, mixed=KINDS[name].mixed)
    return SIMULATIONS[simulation](server, todo, sizes).run().seconds, sizes.peak


def main() -> None:
    """Prints the table: of each kind and number of texts, the time over the best, in both simulations."""
    print("", *SIMULATIONS, "limit", "best fixed", sep="\t")
    for name in MODELS:
        for count, limit in LIMITS[name].items():
            ratios = [found(name, count, one)[0] / best(name, count, one)[0] for one in SIMULATIONS]
            seconds, sizes = best(name, count, "work first")
            marks = [f"{ratio:.2f}{' missed' if ratio > limit else ''}" for ratio in ratios]
            print(
                f"{name} {count}",
                *marks,
                limit,
                f"{sizes.batch} x {sizes.concurrency}: {seconds:.2f} s",
                sep="\t",
            )


if __name__ == "__main__":
    main()
