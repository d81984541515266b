"""Servers of all kinds, and the two comparisons that are made on them: default settings, and queries beside bulk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.speed.clients import BEST_FIXED
from benchmarks.speed.models import Behaviour
from benchmarks.speed.waiting import EVERY
from benchmarks.speed.workload import BUNDLED, LLAMA_CPP, Target, Workload

# Texts → the most that the defaults may take, the search included, over what the best fixed numbers take.
OVER_BEST = {500: 1.5, 5_000: 1.15, 50_000: 1.08}
SLOW = {500: 1.5, 5_000: 1.15}  # servers that would take minutes for more
LARGE = 50_000  # from here on (at a real server: 2,000) the numbers found best for fewer texts hold
DEFAULTS, SHARED_DEFAULTS = "embedwire defaults", "embedwire shared defaults"
PEERS_DEFAULTS = (
    "baseten async defaults",
    "langchain-openai async defaults",
    "llama-index-openai-like async defaults",
    "openai async",
    "blog post",
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A server to which default settings have to find their way.

    Attributes:
        what: In words.
        server: The mock, or a real one.
        limits: As `OVER_BEST`; a workload for each.
        mixed: Texts of mixed lengths.
        among: The servers that share a target.
    """

    what: str
    server: Behaviour | str
    limits: Mapping[int, float] = field(default_factory=lambda: OVER_BEST)
    mixed: bool = False
    among: str = "servers of all kinds"


def _workers(**options: float) -> Behaviour:
    return Behaviour("workers", {"fixed": 0.020, "per_text": 0.002, **options})


FOUR_SLOTS = _workers(slots=4)
QUICK, QUICKER, QUICKEST = (
    _workers(slots=4, fixed=0.020 * slower, per_text=0.002 * slower) for slower in (4, 2, 1)
)
SIXTY_FOUR_SLOTS = _workers(slots=64)
LLAMA_4, LLAMA_16, LLAMA_32 = (Behaviour("llama.cpp", {"slots": slots}) for slots in (4, 16, 32))
INFINITY = Behaviour("infinity")

KINDS = {
    "slots4": Kind(
        what="4 slots, 20 ms and 2 ms per text",
        server=FOUR_SLOTS,
        limits={**OVER_BEST, 5_000: 1.10},
        among="4 slots, 20 ms and 2 ms per text",
    ),
    "slots64": Kind(what="many workers: 64 slots", server=SIXTY_FOUR_SLOTS),
    "instant": Kind(what="no latency", server=Behaviour()),
    "hosted": Kind(what="hosted: 300 ms, and no limit", server=_workers(fixed=0.3, per_text=0.0)),
    "capped": Kind(what="at most 32 texts in a request", server=_workers(slots=8, cap=32)),
    "batches": Kind(
        what="one worker that gains from batches", server=_workers(slots=1, fixed=0.010, per_text=0.001)
    ),
    "cpu": Kind(
        what="one core: all the time is the texts'",
        server=_workers(slots=1, fixed=0.0005, per_text=0.0025),
        limits=SLOW,
    ),
    "rising": Kind(
        what="large requests are slow per text", server=_workers(slots=4, rising=125e-6), limits=SLOW
    ),
    "error500": Kind(what="500 above 16 texts", server=_workers(slots=4, fails_above=16), limits=SLOW),
    "scaling": Kind(
        what="autoscaling: 2 slots, twice as many after each busy second, up to 32",
        server=_workers(slots=2, scale_after=1.0, scale_to=32),
    ),
    "shared": Kind(what="shared: its speed wanders", server=_workers(slots=8, wander=2.0)),
    "vllm": Kind(what="like vLLM: continuous batching", server=Behaviour("vllm"), mixed=True),
    "infinity": Kind(
        what="like infinity: dynamic batching",
        server=INFINITY,
        limits={500: 1.5, 1_000: 1.5, 5_000: 1.2, 50_000: 1.08},
        mixed=True,
        among="like infinity",
    ),
    "llama4": Kind(what="like llama.cpp, 4 slots", server=LLAMA_4, limits=SLOW, mixed=True),
    "llama32": Kind(what="like llama.cpp, 32 slots", server=LLAMA_32, mixed=True),
    "llama.cpp": Kind(
        what="llama.cpp, 4 slots, on one core",
        server=LLAMA_CPP,
        limits={500: 1.5, 2_000: 1.15},
        among="real servers on one core",
    ),
    "bundled": Kind(
        what="the bundled server, on one core",
        server=BUNDLED,
        limits={500: 1.5, 2_000: 1.15},
        among="real servers on one core",
    ),
}


def _auto(name: str, kind: Kind, texts: int) -> Workload:
    large = LARGE if isinstance(kind.server, Behaviour) else 2_000
    fewer = max(size for size in kind.limits if size < large)
    peers = PEERS_DEFAULTS if name == "infinity" and texts == 1_000 else ()
    return Workload(
        name=f"auto-{name}-{texts}",
        title=f"Default settings, {texts:,} texts, {kind.what}",
        do="array",
        figures=("wall", "rate", "cpu_10k", *(("requests",) if isinstance(kind.server, Behaviour) else ())),
        clients=(DEFAULTS, BEST_FIXED, *peers),
        texts=texts,
        mixed=kind.mixed,
        warm_up=0,  # what finding good numbers costs is part of it
        server=kind.server,
        numbers_of=f"auto-{name}-{fewer}" if texts >= large else None,
        targets=(
            Target(
                text=f"defaults over the best fixed numbers, search included: {kind.among}, {texts:,} texts",
                figure="wall",
                at_most=kind.limits[texts],
                client=DEFAULTS,
                peer=BEST_FIXED,
            ),
        ),
    )


def _beside(
    name: str,
    what: str,
    server: Behaviour | str,
    texts: int,
    *,
    every: float = EVERY,
    peers: Sequence[str] = PEERS_DEFAULTS,
    has_targets: bool = True,
) -> Workload:
    def wanted(client: str) -> Sequence[Target]:
        return (
            Target(
                text=f"a query beside bulk: median over a lone one's, {what}",
                figure="over_lone",
                at_most=4,
                client=client,
            ),
            Target(
                text=f"bulk beside queries: rate over the best fixed numbers', {what}",
                figure="rate",
                at_least=0.95,
                client=client,
                peer=BEST_FIXED,
            ),
        )

    return Workload(
        name=f"beside-{name}",
        title=f"One query every {every * 1000:.0f} ms beside {texts:,} texts, {what}",
        do="beside",
        figures=("over_lone", "p50_ms", "p95_ms", "p95_over_lone", "lone_ms", "rate"),
        clients=(DEFAULTS, SHARED_DEFAULTS, BEST_FIXED, *peers),
        texts=texts,
        mixed=isinstance(server, Behaviour),
        warm_up=0,
        every=every,
        server=server,
        targets=(*wanted(DEFAULTS), *wanted(SHARED_DEFAULTS)) if has_targets else (),
    )


AUTO = tuple(_auto(name, kind, texts) for name, kind in KINDS.items() for texts in kind.limits)
BESIDE = (
    _beside("llama4", "like llama.cpp, 4 slots", LLAMA_4, 3_000),
    _beside("llama16", "like llama.cpp, 16 slots", LLAMA_16, 3_000),
    _beside("llama32", "like llama.cpp, 32 slots", LLAMA_32, 3_000),
    _beside("infinity", "like infinity", INFINITY, 3_000, peers=PEERS_DEFAULTS[:-1], has_targets=False),
    # On a CPU a query takes about 20 ms of the only core: one every 50 ms would be half of all that it can do.
    _beside("llama.cpp", "llama.cpp, 4 slots, on one core", LLAMA_CPP, 300, every=0.25),
)
