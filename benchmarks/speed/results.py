"""Results as they are kept in ``docs/benchmarks.json``, and the figures that are made of them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.speed.auto import Try
from benchmarks.speed.models import Behaviour, Workers, ideal
from benchmarks.speed.texts import DIMENSIONS
from benchmarks.speed.worker import Sample
from benchmarks.speed.workload import Target, Workload
from benchmarks.speed.workloads import WORKLOADS


@dataclass(frozen=True, kw_only=True)
class Result:
    """One workload as it was last measured.

    Attributes:
        date: When.
        machine: Where.
        samples: Of each client, in the order of the rounds.
        tries: Of the sweep, if it has one.
    """

    date: str
    machine: dict[str, str]
    samples: dict[str, list[Sample]]
    tries: list[Try] = field(default_factory=list)


Results = dict[str, Result]  # by the workload's name


def load(path: Path) -> Results:
    """What was measured before, if anything, of the workloads that there are."""
    if not path.exists():
        return {}
    names = {work.name for work in WORKLOADS}
    return {
        name: Result(
            date=told["date"],
            machine=told["machine"],
            samples={client: [Sample(**one) for one in done] for client, done in told["samples"].items()},
            tries=[Try(**one) for one in told["tries"]],
        )
        for name, told in json.loads(path.read_text()).items()
        if name in names
    }


def save(path: Path, results: Results) -> None:
    """Keeps them, in the order of the workloads."""
    kept = {work.name: asdict(results[work.name]) for work in WORKLOADS if work.name in results}
    path.write_text(json.dumps(kept, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A column: what a sample says, and how it is written."""

    title: str
    of: Callable[[Sample, Workload], float]
    form: str


def _over_ideal(sample: Sample, workload: Workload) -> float:
    models = [server.made() for server in workload.servers if isinstance(server, Behaviour)]
    workers = [model for model in models if isinstance(model, Workers)]
    return sample.wall / ideal(workers, workload.texts, workload.batch)


def _over_lone(seconds: float | None, sample: Sample) -> float:
    return (seconds or 0) / (sample.lone or math.inf)


FIGURES = {
    "cpu": Figure(title="CPU s", of=lambda sample, _: sample.cpu, form="{:.3f}"),
    "cpu_10k": Figure(
        title="CPU s per 10,000", of=lambda sample, work: sample.cpu / work.texts * 1e4, form="{:.2f}"
    ),
    "cpu_each": Figure(
        title="CPU ms each", of=lambda sample, work: sample.cpu / work.texts * 1e3, form="{:.2f}"
    ),
    "gap_ms": Figure(title="longest step, ms", of=lambda sample, _: (sample.gap or 0) * 1e3, form="{:.1f}"),
    "grown": Figure(title="MB more", of=lambda sample, _: sample.grown / 1e6, form="{:.0f}"),
    "lone_ms": Figure(title="lone, ms", of=lambda sample, _: (sample.lone or 0) * 1e3, form="{:.1f}"),
    "over_ideal": Figure(title="time over ideal", of=_over_ideal, form="{:.3f}"),
    "over_lone": Figure(
        title="median over lone", of=lambda sample, _: _over_lone(sample.p50, sample), form="{:.1f}"
    ),
    "over_matrix": Figure(
        title="memory over matrix",
        of=lambda sample, work: sample.grown / (work.texts * DIMENSIONS * 4),
        form="{:.2f}",
    ),
    "p50": Figure(title="median µs", of=lambda sample, _: (sample.p50 or 0) * 1e6, form="{:.0f}"),
    "p95": Figure(title="95 % µs", of=lambda sample, _: (sample.p95 or 0) * 1e6, form="{:.0f}"),
    "p50_ms": Figure(title="median ms", of=lambda sample, _: (sample.p50 or 0) * 1e3, form="{:.1f}"),
    "p95_ms": Figure(title="95 % ms", of=lambda sample, _: (sample.p95 or 0) * 1e3, form="{:.1f}"),
    "p95_over_lone": Figure(
        title="95 % over lone", of=lambda sample, _: _over_lone(sample.p95, sample), form="{:.1f}"
    ),
    "rate": Figure(
        title="texts/s", of=lambda sample, work: work.texts / (sample.wall or math.inf), form="{:,.0f}"
    ),
    "requests": Figure(title="requests", of=lambda sample, _: sample.requests, form="{:.0f}"),
    "server_cpu": Figure(title="server's CPU s", of=lambda sample, _: sample.server_cpu, form="{:.2f}"),
    "wall": Figure(title="s", of=lambda sample, _: sample.wall, form="{:.3f}"),
}


def values(figure: str, workload: Workload, result: Result, client: str) -> list[float]:
    """A figure of each sample of a client; nothing where a sample failed or was wrong."""
    samples = result.samples.get(client, [])
    if not all(sample.right for sample in samples):
        return []
    return [FIGURES[figure].of(sample, workload) for sample in samples]


def median(figure: str, workload: Workload, result: Result, client: str) -> float | None:
    """The median of a figure; None where there is none to trust."""
    found = values(figure, workload, result, client)
    return statistics.median(found) if found else None


def reached(target: Target, workload: Workload, result: Result) -> float | None:
    """What a target's figure came to: a ratio if it has a peer. None where one of the two has no figure."""
    ours = median(target.figure, workload, result, target.client)
    theirs = median(target.figure, workload, result, target.peer) if target.peer else 1.0
    return None if ours is None or not theirs else ours / theirs


def all_right(results: Results) -> bool:
    """Whether every one of our clients did every one of its jobs rightly."""
    return all(
        sample.right
        for result in results.values()
        for client, samples in result.samples.items()
        for sample in samples
        if client.startswith("embedwire")
    )
