"""Results as Markdown: for the terminal, and for ``docs/BENCHMARKS.md``."""

from __future__ import annotations

from benchmarks.speed.auto import best
from benchmarks.speed.pictures import PICTURES
from benchmarks.speed.results import FIGURES, Result, Results, median, reached, values
from benchmarks.speed.worker import Sample
from benchmarks.speed.workloads import WORKLOADS, Target, Workload

COMMANDS = """\
    make bench

That is all but the comparison of default settings, which takes longer: it first looks for the numbers that would have
been best. Single workloads are measured anew, and pages and pictures made again, with

    .venv-bench/bin/python -m benchmarks.speed --only auto lists
    .venv-bench/bin/python -m benchmarks.speed --render-only\
"""
HOW = """\
Each figure is the median of up to five samples. A sample is one client doing one job once, in a process of its own;
the clients take turns, so that a busy moment of the machine hits all. A client whose samples add up to more than 12 s
gets no further ones. Clients are made and warmed up before the clock starts, but for the comparison of default
settings: what finding good numbers costs is part of it.

Vectors have 1024 numbers, and each one that comes back is compared, to the last bit, with what its text must get: a
client with one wrong vector has no figure. CPU is user and system time of the client's process, all its threads
included. "Ideal" is the time that the server's slots need if they never wait. Unless said otherwise a request has 32
texts and 8 are in flight.

The server is a mock on the same machine that answers with bytes made beforehand; what it took itself stands beside.
Peers are used as their documentation says (`benchmarks/speed/clients.py`); the "blog post" is the client that
embedwire began as: batches of five, one after another.\
"""


def report(results: Results) -> str:
    """The whole page."""
    parts = [
        "# Benchmarks",
        "embedwire beside its peers, measured by one command:",
        COMMANDS,
        *(f"![{picture.title}]({name}.svg)" for name, picture in PICTURES.items()),
        "## Targets",
        targets(results),
        *(section(work, results[work.name]) for work in WORKLOADS if work.name in results),
        "## How it is measured",
        HOW,
        "## Where and when",
        where(results),
    ]
    return "\n\n".join(parts) + "\n"


def targets(results: Results) -> str:
    """What embedwire aims at, and what it came to."""
    rows = [
        [target.text, f"≤ {target.at_most:g}", _came_to(target, work, results.get(work.name))]
        for work in WORKLOADS
        for target in work.targets
    ]
    return _table(["target", "limit", "measured"], rows)


def _came_to(target: Target, workload: Workload, result: Result | None) -> str:
    if result is None:
        return "not measured"
    value = reached(target, workload, result)
    if value is None:
        return "✗ no figure"
    return f"{'✓' if value <= target.at_most else '✗'} {value:.3g}"


def section(workload: Workload, result: Result) -> str:
    """The clients of one workload."""
    first = workload.figures[0]
    ours = median(first, workload, result, workload.clients[0])
    rows = []
    for client in result.samples:
        its = median(first, workload, result, client)
        if its is None or ours is None:
            rows.append([_name(client), _failure(result.samples[client]), *[""] * len(workload.figures)])
            continue
        rows.append(
            [
                _name(client),
                *(_written(figure, workload, result, client) for figure in workload.figures),
                "" if client == workload.clients[0] else f"{its / ours:.2f}",
            ]
        )
    head = ["", *(FIGURES[figure].title for figure in workload.figures), f"times {workload.clients[0]}"]
    return f"### {workload.title}\n\n{_table(head, rows)}{_found(result)}"


def _failure(samples: list[Sample]) -> str:
    why = next((sample.error for sample in samples if sample.error), "a text did not get its own vector")
    return f"failed: {why.splitlines()[0][:100].replace('|', '/')}"


def _name(client: str) -> str:
    return f"**{client}**" if client.startswith("embedwire") else client


def _written(figure: str, workload: Workload, result: Result, client: str) -> str:
    """The median, and for the first figure the range too."""
    middle, form = median(figure, workload, result, client), FIGURES[figure].form
    found = values(figure, workload, result, client)
    if middle is None:
        return ""
    if figure != workload.figures[0] or len(found) == 1:
        return form.format(middle)
    return f"{form.format(middle)} ({form.format(min(found))} to {form.format(max(found))})"


def _found(result: Result) -> str:
    found = best(result.tries)
    if found is None:
        return ""
    numbers = f"{found.batch} texts in a request and {found.concurrency} requests in flight"
    return f"\n\nThe best fixed numbers of {len(result.tries)} tried: {numbers}."


def where(results: Results) -> str:
    """The machines, and what was measured on each on which day."""
    seen: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, result in results.items():
        seen.setdefault((("date", result.date), *result.machine.items()), []).append(name)
    return "\n\n".join(
        _table(["", ""], [["workloads", ", ".join(names)], *map(list, about)])
        for about, names in seen.items()
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
