"""Results as Markdown: for the terminal, and for ``docs/BENCHMARKS.md``."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.speed.auto import best
from benchmarks.speed.clients import BEST_FIXED
from benchmarks.speed.kinds import AUTO, DEFAULTS
from benchmarks.speed.measured import on_a_gpu
from benchmarks.speed.pictures import PICTURES
from benchmarks.speed.results import FIGURES, Result, Results, median, reached, values
from benchmarks.speed.tables import table
from benchmarks.speed.worker import Sample
from benchmarks.speed.workload import Target, Workload
from benchmarks.speed.workloads import REASONS, WORKLOADS

COMMANDS = """\
    make bench

That takes an hour and a quarter. Single workloads, or all whose names begin so, are measured anew, and pages and
pictures made again, with

    .venv-bench/bin/python -m benchmarks.speed --only lists beside auto-infinity auto-slots4-500
    .venv-bench/bin/python -m benchmarks.speed --render-only\
"""
HOW = """\
Each figure is the median of up to five samples. A sample is one client doing one job once, in a process of its own;
the clients take turns, so that a busy moment of the machine hits all. A client whose samples add up to more than 12 s
gets no further ones. Clients are made and warmed up before the clock starts, but for the comparison of default
settings and the queries beside bulk: what finding good numbers costs is part of it.

Vectors have 1024 numbers, and each one that comes back is compared, to the last bit, with what its text must get: a
client with one wrong vector has no figure. CPU is user and system time of the client's process, all its threads
included. "Ideal" is the time that the server's slots need if they never wait. Unless said otherwise a request has 32
texts and 8 are in flight.

The server is a mock on the same machine that answers with bytes made beforehand; what it took itself stands beside.
When it answers is decided by models of servers (`benchmarks/speed/models.py`); those of infinity and llama.cpp come
to what was measured on real ones within 20 %, but for a query beside requests of 16 texts, which waits up to twice as
long at the model (`tests/tools/test_benchmark_models.py`). llama.cpp itself and the bundled server run with their
models on this machine's CPU, and are looked at by nearest vectors.

The best fixed numbers are found in simulated time over all pairs of 1 to 128 texts and 1 to 128 requests; the best
four of those are tried in truth. For 50,000 texts, and 2,000 at real
servers, the numbers found best for fewer hold.

A query beside bulk counts from the moment at which it was to be asked, whether or not those before are answered;
"lone" is the median of 20 queries of the same client at the idle server before. The longest step of a loop
is the longest time for which a task that sleeps for a millisecond was not woken.

Peers are used as their documentation says (`benchmarks/speed/clients.py`); "defaults": without any size given; the
"blog post" is the client that embedwire began as: batches of five, one after another.\
"""


def report(results: Results) -> str:
    """The whole page."""
    alone = [work for work in WORKLOADS if work not in AUTO or len(work.clients) > 2]
    parts = [
        "# Benchmarks",
        "embedwire beside its peers, measured by one command:",
        COMMANDS,
        *(f"![{picture.title}]({name}.svg)" for name, picture in PICTURES.items()),
        "## Targets",
        targets(results),
        *(section(work, results[work.name]) for work in alone if work.name in results),
        "### Default settings beside the best fixed numbers, search included",
        defaults(results),
        "## On a GPU, version 0.1",
        on_a_gpu(),
        "## How it is measured",
        HOW,
        "## Where and when",
        where(results),
    ]
    return "\n\n".join(parts) + "\n"


def targets(results: Results) -> str:
    """What embedwire aims at, and what it came to; of those with the same text, the worst."""
    alike: dict[tuple[str, str], list[tuple[Target, Workload]]] = {}
    for work in WORKLOADS:
        for target in work.targets:
            alike.setdefault((target.text, target.limit), []).append((target, work))
    rows = [[text, limit, *_came_to(aims, results)] for (text, limit), aims in alike.items()]
    return table(["target", "limit", "measured", "why not"], rows)


def _came_to(aims: Sequence[tuple[Target, Workload]], results: Results) -> tuple[str, str]:
    """What stands in the table, and the reason for a miss."""
    measured = [(target, work, results[work.name]) for target, work in aims if work.name in results]
    missing = len(aims) - len(measured)
    if not measured:
        return "not measured", ""
    came = [(reached(target, work, result), target, work) for target, work, result in measured]
    failed = [work.name for value, _, work in came if value is None]
    reason = REASONS.get(aims[0][0].text, "")
    if failed:
        return f"✗ no figure{_of(failed, aims)}", reason
    _, value, target, work = max(
        ((target.over(value), value, target, work) for value, target, work in came if value is not None),
        key=lambda one: one[0],
    )
    left = f", {missing} not measured" if missing else ""
    is_met = target.over(value) <= 1
    shown = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    where = _of([work.name], aims) or (f" ({target.client})" if len(aims) > 1 else "")
    return f"{'✓' if is_met else '✗'} {shown}{where}{left}", "" if is_met else reason


def _of(names: Sequence[str], aims: Sequence[tuple[Target, Workload]]) -> str:
    """Which of several workloads."""
    return f" ({', '.join(names)})" if len({work.name for _, work in aims}) > 1 else ""


def defaults(results: Results) -> str:
    """The defaults at all servers, a line each."""
    rows = []
    for work in AUTO:
        if result := results.get(work.name):
            (target,) = work.targets
            ratio, found = reached(target, work, result), best(result.tries)
            rows.append(
                [
                    work.title.split(", ", 2)[2],
                    f"{work.texts:,}",
                    *(
                        _written("wall", work, result, client) or "failed"
                        for client in (DEFAULTS, BEST_FIXED)
                    ),
                    "✗" if ratio is None else f"{'✓' if target.over(ratio) <= 1 else '✗'} {ratio:.2f}",
                    target.limit,
                    f"{found.batch} x {found.concurrency}" if found else "",
                ]
            )
    return table(["server", "texts", "defaults, s", "best fixed, s", "over it", "limit", "its numbers"], rows)


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
    return f"### {workload.title}\n\n{table(head, rows)}{_found(result)}"


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
        table(["", ""], [["workloads", ", ".join(names)], *map(list, about)]) for about, names in seen.items()
    )
