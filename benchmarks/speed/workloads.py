"""What is measured, with which clients, and what embedwire aims at."""

from __future__ import annotations

from benchmarks.speed.kinds import AUTO, BESIDE, FOUR_SLOTS, QUICK, QUICKER, QUICKEST, SIXTY_FOUR_SLOTS
from benchmarks.speed.workload import Target, Workload

# Why a target is missed, and what it would take, by the target's text: stands beside it in the table.
_EACH_REQUEST = "a request costs more since version 0.1: checks, queue, sizes; no single place is large"
REASONS: dict[str, str] = {
    "lists: CPU beside baseten": _EACH_REQUEST,
    "lists: CPU beside langchain-openai async": _EACH_REQUEST,
    "matrix: CPU beside baseten's": _EACH_REQUEST,
    "batches of 5: CPU beside baseten": _EACH_REQUEST,
    "one async query: median beside baseten's": f"{_EACH_REQUEST}; aiohttp, loop and kernel are two thirds of it",
    "one sync query: median beside baseten's": f"{_EACH_REQUEST}; and the way to the loop thread and back",
    "2,000 queries: time beside baseten": "the server's own 2 ms a text at 4 slots are 0.091 of baseten's 11 s",
    "bulk beside queries: rate over the best fixed numbers', like llama.cpp, 4 slots": (
        "the best numbers have 64 texts in flight, and a query beside them waits four times as long"
    ),
    "defaults over the best fixed numbers, search included: servers of all kinds, 500 texts": (
        "500 texts are over before the search is; measured beside other work on the machine"
    ),
    "defaults over the best fixed numbers, search included: servers of all kinds, 5,000 texts": (
        "sizes that were too large at first (rising, 500 above 16 texts); measured beside other work on the machine"
    ),
    "defaults over the best fixed numbers, search included: servers of all kinds, 50,000 texts": (
        "a server that grows is met small; measured beside other work on the machine"
    ),
    "import, with all that the first call loads: seconds of CPU": (
        "measured beside other work; alone 0.59 on this machine, where version 0.1 takes 0.49: aiohttp and numpy"
    ),
    "the longest step of the caller's loop in 100,000 texts: ms": (
        "not explained yet; with LangChain's adapter 23.6, and baseten's async client 7,946"
    ),
    "a query beside bulk: median over a lone one's, llama.cpp, 4 slots, on one core": (
        "client and server share the cores: the best fixed numbers have 5.7"
    ),
}

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
            Target(text="lists: CPU beside baseten", figure="cpu_10k", at_most=0.40, peer="baseten"),
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
            Target(text="matrix: CPU beside baseten's", figure="cpu_10k", at_most=0.22, peer="baseten"),
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
            Target(text="batches of 5: CPU beside baseten", figure="cpu_10k", at_most=0.60, peer="baseten"),
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
                at_most=0.95,
                peer="baseten async",
            ),
            Target(
                text="one sync query: median beside baseten's",
                figure="p50",
                at_most=1.7,
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
                text="2,000 queries: time beside baseten", figure="wall", at_most=0.08, peer="baseten async"
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
        targets=(Target(text="matrix of 20,000: peak memory over it", figure="over_matrix", at_most=1.1),),
    ),
    Workload(
        name="stream",
        title="A stream of 50,000 texts: growth of memory",
        do="stream",
        figures=("grown", "wall", "cpu_10k"),
        clients=("embedwire",),
        texts=50_000,
        targets=(Target(text="stream of 50,000: MB of memory more", figure="grown", at_most=3),),
    ),
    Workload(
        name="steps",
        title="100,000 texts to lists of floats, awaited: the longest step of the caller's loop",
        do="steps",
        figures=("gap_ms", "wall", "cpu_10k"),
        clients=("embedwire", "embedwire shared async", "embedwire LangChain async", "baseten async"),
        texts=100_000,
        targets=tuple(
            Target(
                text="the longest step of the caller's loop in 100,000 texts: ms",
                figure="gap_ms",
                at_most=20,
                client=client,
            )
            for client in ("embedwire", "embedwire shared async", "embedwire LangChain async")
        ),
    ),
    Workload(
        name="several",
        title="20,000 texts to one matrix, three servers with 4 slots each, of speeds 1, 2 and 4",
        do="array",
        figures=("over_ideal", "wall", "cpu_10k"),
        clients=("embedwire", "embedwire shared"),
        texts=20_000,
        concurrency=8,
        server=QUICKEST,
        further=(QUICKER, QUICK),
        targets=(
            Target(
                text="three servers of speeds 1, 2, 4: time over the ideal", figure="over_ideal", at_most=1.08
            ),
        ),
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
WORKLOADS = (*MAIN, *AUTO, *BESIDE)
