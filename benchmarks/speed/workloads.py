"""What is measured, with which clients, and what embedwire aims at."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.speed.clients import BEST_FIXED
from benchmarks.speed.server import Behaviour


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a figure of one of our clients must not exceed.

    Attributes:
        text: What it says, for the table.
        figure: A name in `FIGURES`.
        at_most: The limit: of the ratio if there is a peer, else of the figure itself.
        client: Ours.
        peer: Theirs; None: the figure stands alone.
    """

    text: str
    figure: str
    at_most: float
    client: str = "embedwire"
    peer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One job for several clients.

    Attributes:
        name: For ``--only``.
        title: For the table.
        do: What `worker.Job` calls it; or ``"import"``.
        figures: The columns of its table: names in `FIGURES`.
        clients: In the order in which they run: names in `clients`, or what is imported. `BEST_FIXED` is
            embedwire with the numbers that a sweep found best.
        texts: How many.
        batch: Texts in one request.
        concurrency: Requests in flight.
        warm_up: Texts embedded before.
        server: What the mock server is like; None: llama.cpp.
        targets: What embedwire aims at.
    """

    name: str
    title: str
    do: str
    figures: tuple[str, ...]
    clients: tuple[str, ...]
    texts: int
    batch: int = 32
    concurrency: int = 8
    warm_up: int = 640
    server: Behaviour | None = field(default_factory=Behaviour)
    targets: tuple[Target, ...] = ()

    @property
    def is_swept(self) -> bool:
        """Whether it needs a sweep first, which is long."""
        return BEST_FIXED in self.clients


FOUR_SLOTS = Behaviour(slots=4, fixed=0.020, per_text=0.002)
SIXTY_FOUR_SLOTS = Behaviour(slots=64, fixed=0.020, per_text=0.002)

MAIN = (
    Workload(
        name="lists",
        title="10,000 texts to lists of floats",
        do="lists",
        figures=("cpu_10k", "wall", "server_cpu"),
        clients=(
            "embedwire",
            "embedwire defaults",
            "embedwire shared",
            "embedwire LangChain",
            "embedwire LangChain async",
            "embedwire LlamaIndex",
            "embedwire LlamaIndex async",
            "baseten",
            "baseten base64 by hand",
            "langchain-openai",
            "langchain-openai async",
            "llama-index-openai-like",
            "llama-index-openai-like async",
            "openai async",
            "blog post",
        ),
        texts=10_000,
        targets=(
            Target(text="lists: CPU beside baseten", figure="cpu_10k", at_most=0.50, peer="baseten"),
            Target(
                text="lists: CPU beside langchain-openai async",
                figure="cpu_10k",
                at_most=0.20,
                client="embedwire LangChain async",
                peer="langchain-openai async",
            ),
        ),
    ),
    Workload(
        name="arrays",
        title="10,000 texts to one float32 matrix",
        do="array",
        figures=("cpu_10k", "wall", "server_cpu"),
        clients=("embedwire", "embedwire shared", "baseten", "baseten async"),
        texts=10_000,
        targets=(
            Target(text="matrix: CPU beside baseten's", figure="cpu_10k", at_most=0.25, peer="baseten"),
        ),
    ),
    Workload(
        name="batch5",
        title="10,000 texts to lists of floats, 5 in a request",
        do="lists",
        figures=("cpu_10k", "wall", "server_cpu"),
        clients=("embedwire", "embedwire shared", "baseten", "openai async"),
        texts=10_000,
        batch=5,
        targets=(
            Target(text="batches of 5: CPU beside baseten", figure="cpu_10k", at_most=0.70, peer="baseten"),
        ),
    ),
    Workload(
        name="slots4",
        title="4,000 texts, a server with 4 slots that takes 20 ms and 2 ms per text",
        do="lists",
        figures=("over_ideal", "wall", "cpu_10k"),
        clients=(
            "embedwire",
            "embedwire LangChain async",
            "embedwire LlamaIndex async",
            "baseten",
            "openai async",
            "langchain-openai async",
            "llama-index-openai-like async",
        ),
        texts=4_000,
        server=FOUR_SLOTS,
        targets=(Target(text="4 slots: time over the ideal", figure="over_ideal", at_most=1.03),),
    ),
    Workload(
        name="slots64",
        title="20,000 texts to one matrix, a server with 64 slots that takes 20 ms and 2 ms per text",
        do="array",
        figures=("over_ideal", "wall", "cpu_10k"),
        clients=("embedwire", "embedwire shared", "baseten"),
        texts=20_000,
        concurrency=128,
        warm_up=8_192,
        server=SIXTY_FOUR_SLOTS,
        targets=(Target(text="64 slots: time over the ideal", figure="over_ideal", at_most=1.6),),
    ),
    Workload(
        name="query",
        title="One query after another",
        do="latency",
        figures=("p50", "p95", "cpu_each"),
        clients=(
            "embedwire",
            "embedwire shared",
            "embedwire LangChain",
            "embedwire LlamaIndex",
            "baseten async",
            "baseten",
            "openai async",
            "langchain-openai",
            "llama-index-openai-like",
            "blog post",
        ),
        texts=500,
        warm_up=100,
        targets=(
            Target(
                text="one async query: median beside baseten's",
                figure="p50",
                at_most=0.85,
                peer="baseten async",
            ),
            Target(
                text="one sync query: median beside baseten's",
                figure="p50",
                at_most=2.0,
                client="embedwire shared",
                peer="baseten",
            ),
        ),
    ),
    Workload(
        name="together",
        title="2,000 queries at once, a server with 4 slots that takes 20 ms and 2 ms per text",
        do="together",
        figures=("wall", "requests", "cpu_each"),
        clients=(
            "embedwire",
            "embedwire defaults",
            "embedwire shared",
            "embedwire LangChain async",
            "baseten async",
            "openai async",
            "langchain-openai async",
        ),
        texts=2_000,
        warm_up=64,
        server=FOUR_SLOTS,
        targets=(
            Target(
                text="2,000 queries: time beside baseten", figure="wall", at_most=0.10, peer="baseten async"
            ),
        ),
    ),
    Workload(
        name="memory",
        title="20,000 texts in memory: peak over the matrix of 82 MB",
        do="array",
        figures=("over_matrix", "grown", "wall"),
        clients=("embedwire", "embedwire shared", "baseten", "openai async"),
        texts=20_000,
        targets=(Target(text="matrix of 20,000: peak memory over it", figure="over_matrix", at_most=1.5),),
    ),
    Workload(
        name="stream",
        title="A stream of 50,000 texts: growth of memory",
        do="stream",
        figures=("grown", "wall", "cpu_10k"),
        clients=("embedwire",),
        texts=50_000,
        targets=(Target(text="stream of 50,000: MB of memory more", figure="grown", at_most=80),),
    ),
    Workload(
        name="import",
        title="Import, beyond what a bare Python takes",
        do="import",
        figures=("cpu", "wall"),
        clients=(
            "embedwire",
            "embedwire, embedwire._clients.engine",
            "embedwire.langchain",
            "embedwire.llama_index",
            "baseten_performance_client",
            "openai",
            "langchain_openai",
            "llama_index.embeddings.openai_like",
        ),
        texts=0,
        targets=(
            Target(text="import: seconds of CPU", figure="cpu", at_most=0.400),
            Target(
                text="import, with all that the first call loads: seconds of CPU",
                figure="cpu",
                at_most=0.400,
                client="embedwire, embedwire._clients.engine",
            ),
        ),
    ),
)


def _auto(name: str, what: str, server: Behaviour | None, texts: int = 5_000) -> Workload:
    return Workload(
        name=f"auto-{name}",
        title=f"Default settings, {what}",
        do="array",
        figures=("wall", "cpu_10k", *(("requests",) if server else ())),  # llama.cpp does not tell
        clients=("embedwire defaults", BEST_FIXED),
        texts=texts,
        warm_up=0,  # what finding good numbers costs is part of it
        server=server,
        targets=(
            Target(
                text=f"defaults beside the best fixed numbers, {what}",
                figure="wall",
                at_most=1.2,
                client="embedwire defaults",
                peer=BEST_FIXED,
            ),
        ),
    )


LLAMA = _auto("llama", "llama.cpp on one core", None, texts=300)
AUTO = (
    _auto("slots4", "4 slots", FOUR_SLOTS),
    _auto("slots64", "64 slots", SIXTY_FOUR_SLOTS),
    _auto("instant", "a server without latency", Behaviour()),
    _auto("cap", "at most 32 texts in a request", Behaviour(slots=8, fixed=0.020, per_text=0.002, cap=32)),
    _auto(
        "rising",
        "large requests slow per text",
        Behaviour(slots=4, fixed=0.020, per_text=0.002, rising=125e-6),
    ),
    _auto("error500", "500 above 16 texts", Behaviour(slots=4, fixed=0.020, per_text=0.002, fails_above=16)),
    _auto("wander", "speed that wanders", Behaviour(slots=8, fixed=0.020, per_text=0.002, wander=2.0)),
)
WORKLOADS = (*MAIN, *AUTO, LLAMA)
