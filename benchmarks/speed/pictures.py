"""The pictures of ``docs/BENCHMARKS.md``: a few bars each, readable on a phone, on light and dark pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.results import Results, median
from benchmarks.speed.workloads import WORKLOADS

OURS, THEIRS, INK, PAPER = "#0b7a75", "#b9c0c7", "#1c2530", "#ffffff"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a picture shows.

    Attributes:
        title: Above it.
        workload: Whose result.
        figure: Which figure of it.
        show: The figure as a bar's length.
        form: How the number is written.
        labels: A bar's name by its client.
    """

    title: str
    workload: str
    figure: str
    show: Callable[[float], float]
    form: str
    labels: dict[str, str]


# Clients with their own sizes, those that have any.
BY_DEFAULT = {
    "embedwire defaults": "embedwire",
    "langchain-openai async defaults": "langchain-openai",
    "baseten async defaults": "baseten",
    "llama-index-openai-like async defaults": "llama-index-openai-like",
    "openai async": "openai, 8 requests of 32",
    "blog post": "the blog post's client",
}

PICTURES = {
    "throughput": Picture(
        title="Texts per second of CPU (more is better)",
        workload="lists",
        figure="cpu_10k",
        show=lambda seconds: 1e4 / seconds,
        form="{:,.0f}",
        labels={
            "embedwire": "embedwire",
            "baseten": "baseten",
            "openai async": "openai",
            "langchain-openai async": "langchain-openai",
            "llama-index-openai-like async": "llama-index-openai-like",
            "blog post": "the blog post's client",
        },
    ),
    "latency": Picture(
        title="Milliseconds for one query (less is better)",
        workload="query",
        figure="p50",
        show=lambda microseconds: microseconds / 1e3,
        form="{:.2f}",
        labels={
            "embedwire": "embedwire, async",
            "baseten async": "baseten, async",
            "openai async": "openai, async",
            "embedwire shared": "embedwire, sync",
            "baseten": "baseten, sync",
            "langchain-openai": "langchain-openai, sync",
        },
    ),
    "together": Picture(
        title="Seconds for 2,000 queries at once (less is better)",
        workload="together",
        figure="wall",
        show=lambda seconds: seconds,
        form="{:.1f}",
        labels={
            "embedwire": "embedwire",
            "baseten async": "baseten",
            "openai async": "openai",
            "langchain-openai async": "langchain-openai",
        },
    ),
    "beside": Picture(
        title="Milliseconds for a query beside bulk (less is better)",
        workload="beside-llama32",
        figure="p50_ms",
        show=lambda milliseconds: milliseconds,
        form="{:,.0f}",
        labels=BY_DEFAULT,
    ),
    "defaults": Picture(
        title="Texts per second, default settings (more is better)",
        workload="auto-infinity-1000",
        figure="rate",
        show=lambda rate: rate,
        form="{:,.0f}",
        labels=BY_DEFAULT,
    ),
    "memory": Picture(
        title="Peak MB for 20,000 vectors of 4 kB (less is better)",
        workload="memory",
        figure="grown",
        show=lambda megabytes: megabytes,
        form="{:,.0f}",
        labels={"embedwire": "embedwire", "baseten": "baseten", "openai async": "openai, lists"},
    ),
}


def draw(results: Results, folder: Path) -> None:
    """Writes one SVG for each picture whose workload was measured."""
    for name, picture in PICTURES.items():
        (work,) = (work for work in WORKLOADS if work.name == picture.workload)
        if result := results.get(work.name):
            medians = {
                label: median(picture.figure, work, result, client)
                for client, label in picture.labels.items()
            }
            bars = {label: picture.show(value) for label, value in medians.items() if value}
            _bars(name, picture, bars, folder)


def _bars(name: str, picture: Picture, bars: dict[str, float], folder: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": name, "font.size": 17, "text.color": INK}):
        figure = Figure(figsize=(8, 1.1 + 0.62 * len(bars)), facecolor=PAPER, layout="constrained")
        axes = figure.subplots()
        colours = [OURS if label.startswith("embedwire") else THEIRS for label in bars]
        drawn = axes.barh(range(len(bars)), list(bars.values()), color=colours, height=0.72)
        axes.bar_label(drawn, [picture.form.format(value) for value in bars.values()], padding=6)
        axes.set_yticks(range(len(bars)), list(bars))
        axes.tick_params(left=False, labelcolor=INK)
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.xaxis.set_visible(False)
        axes.spines[:].set_visible(False)
        figure.suptitle(picture.title, x=0.01, horizontalalignment="left", fontweight="bold", fontsize=17)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight", pad_inches=0.15)
