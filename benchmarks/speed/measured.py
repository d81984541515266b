"""What was measured on real servers on a GPU, with version 0.1: what the models are made after, and the report shows.

An H200; a model of BERT-large's shape in f16 with random weights, vectors of 1024 numbers; texts of 8 to 240 words.
Sizes are (texts in a request, requests in flight).
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.speed.tables import table

Sizes = tuple[int, int]
WHERE = (
    "one H200, version 0.1, a model of BERT-large's shape, vectors of 1024 numbers, texts of 8 to 240 words"
)


class Beside(NamedTuple):
    """Bulk of 1,500 texts with one query every 50 ms: texts per second, and the median query in seconds."""

    rate: float
    p50: float


# llama-server with CUDA, by its slots.
LLAMA: dict[int, dict[Sizes, Beside]] = {
    32: {
        (5, 2): Beside(454, 0.019),
        (4, 4): Beside(466, 0.030),
        (5, 4): Beside(495, 0.038),
        (5, 8): Beside(525, 0.064),
        (1, 32): Beside(470, 0.062),
        (16, 2): Beside(450, 0.045),
        (16, 4): Beside(495, 0.071),
        (16, 8): Beside(523, 0.102),
        (5, 36): Beside(490, 0.367),  # what the default settings came to
    },
    4: {
        (2, 4): Beside(470, 0.018),
        (5, 2): Beside(437, 0.014),
        (5, 8): Beside(480, 0.068),
    },
}
# The same with 32 slots and no queries, in another run: texts per second. (5 x 4 and 5 x 8 came to 426 in that one.)
LLAMA_ALONE: dict[Sizes, float] = {(16, 4): 522, (16, 8): 524, (32, 16): 490, (128, 8): 438}
LLAMA_LONE = 0.0082  # seconds of one query, nothing else going on

# infinity 0.0.78: texts per second.
INFINITY: dict[Sizes, float] = {
    (16, 4): 577,
    (32, 8): 747,
    (32, 32): 1132,
    (64, 16): 1496,
    (128, 8): 1427,
    (128, 16): 1650,  # between two runs:
}
INFINITY_TWICE = {(128, 16): "1,550; 1,826 in another run"}
INFINITY_LONE = 0.074
INFINITY_FRESH: dict[int, float] = {
    300: 772,
    1000: 1055,
    3000: 1471,
}  # so many texts at 128 x 16, a fresh client
INFINITY_FRESH_DEFAULTS: dict[int, float] = {
    300: 244,
    1000: 256,
    3000: 627,
}  # embedwire 0.1, default settings

GPU = """\
These figures are of embedwire **0.1** and were taken on one H200, in November 2026, before what the rest of this page
shows was built: llama-server with CUDA, and infinity 0.0.78 with dynamic batching; a model of BERT-large's shape in
f16 with random weights, vectors of 1024 numbers, texts of 8 to 240 words; one run, every client with its default
settings.\
"""
GPU_FIXED = """\
And with fixed numbers, embedwire 0.1: infinity (where a lone query takes 74 ms), infinity and a fresh client, and
bulk of 1,500 texts with one query every 50 ms on llama-server (where a lone one takes 8.2 ms; 5 x 36 is what the
default settings came to).\
"""

# Default settings, as the table has them: what, how much, a remark.
DEFAULTS: tuple[tuple[str, str, str], ...] = (
    ("infinity: langchain-openai, async", "1,229 texts/s", "1,000 texts in a request"),
    ("infinity: baseten-performance-client", "985 texts/s", ""),
    ("**infinity: embedwire 0.1, its first 2 s**", "378 texts/s", "1,826 with the best fixed numbers"),
    ("infinity: llama-index openai-like", "177 texts/s", ""),
    ("infinity: the blog post's client", "76 texts/s", ""),
    ("**llama-server, 32 slots: embedwire 0.1**", "443 to 460 texts/s", "default over best fixed 1.05"),
    ("llama-server, 32 slots: baseten-performance-client", "451 to 479 texts/s", ""),
    ("llama-server, 32 slots: langchain-openai, async", "434 texts/s", ""),
    ("llama-server, 32 slots: the blog post's client", "259 texts/s", ""),
    ("**one query, idle llama-server, median: embedwire 0.1**", "8.2 ms", ""),
    ("one query, idle llama-server, median: baseten-performance-client", "8.4 ms", ""),
    ("one query, idle llama-server, median: langchain-openai", "10.3 ms", ""),
    ("**one query every 50 ms beside bulk, median: embedwire 0.1**", "364 ms", "bulk at 429 texts/s"),
    ("one query every 50 ms beside bulk, median: langchain-openai, async", "799 ms", ""),
    (
        "one query every 50 ms beside bulk, median: baseten-performance-client",
        "1,949 ms",
        "bulk at 357 texts/s",
    ),
    ("**2,000 queries at once: embedwire 0.1**", "4.5 s", ""),
    ("2,000 queries at once: baseten-performance-client", "5.8 s", ""),
    ("2,000 queries at once: langchain-openai", "8.6 s", ""),
)


def on_a_gpu() -> str:
    """The section of the report."""
    infinity = table(
        ["texts in a request x requests in flight", "texts/s"],
        [
            [f"{sizes[0]} x {sizes[1]}", INFINITY_TWICE.get(sizes, f"{rate:,.0f}")]
            for sizes, rate in INFINITY.items()
        ],
    )
    fresh = table(
        ["texts, a fresh client", "default settings, texts/s", "128 x 16, texts/s"],
        [
            [f"{count:,}", f"{INFINITY_FRESH_DEFAULTS[count]:,.0f}", f"{rate:,.0f}"]
            for count, rate in INFINITY_FRESH.items()
        ],
    )
    beside = table(
        ["llama-server", "texts in a request x requests in flight", "bulk, texts/s", "a query, median ms"],
        [
            [f"{slots} slots", f"{batch} x {requests}", f"{seen.rate:.0f}", f"{seen.p50 * 1000:.0f}"]
            for slots, sizes in LLAMA.items()
            for (batch, requests), seen in sizes.items()
        ],
    )
    return "\n\n".join(
        (GPU, table(["default settings", "", ""], DEFAULTS), GPU_FIXED, infinity, fresh, beside)
    )
