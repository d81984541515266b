"""The command line: ``python -m benchmarks.speed --help``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.speed import clients, results
from benchmarks.speed.auto import Try, best, sweep
from benchmarks.speed.kinds import AUTO, BESIDE
from benchmarks.speed.machine import machine
from benchmarks.speed.measure import ROOT, job_of, rounds, serving, show, take_all
from benchmarks.speed.models import Behaviour
from benchmarks.speed.pictures import draw
from benchmarks.speed.report import report, section, targets
from benchmarks.speed.results import Result, Results
from benchmarks.speed.worker import Sample
from benchmarks.speed.workload import Workload
from benchmarks.speed.workloads import MAIN, WORKLOADS

QUICK_TEXTS, QUICK_REAL = 200, 40  # at most; at a real server


def main() -> int:
    """Measure, print, and write; 1 if one of our clients got a text wrong."""
    options = _options()
    if options.quick:
        return 0 if results.all_right(_quick()) else 1
    options.into.mkdir(exist_ok=True)
    path = options.into / "benchmarks.json"
    known = results.load(path)
    for workload in options.workloads:
        begin = time.monotonic()
        fresh = _measured(workload, options.rounds, known, anew=options.sweep)
        print(f"{workload.name} took {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        if fresh is None:
            continue
        known[workload.name] = fresh
        results.save(path, known)
        print(section(workload, known[workload.name]), end="\n\n", flush=True)
    (options.into / "BENCHMARKS.md").write_text(report(known), encoding="utf-8")
    try:
        draw(known, options.into)
    except ModuleNotFoundError as missing:
        print(f"the pictures are left as they are: {missing}", file=sys.stderr)
    print(targets(known))
    return 0 if results.all_right(known) else 1


def _options() -> argparse.Namespace:
    """The options, and the ``workloads`` that they choose: all, or what is named."""
    names = [work.name for work in WORKLOADS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Measures embedwire beside its peers; writes a table, pictures and raw results.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help=f"measure these, or all whose names begin so up to a '-': {', '.join(names)}",
    )
    parser.add_argument("--rounds", type=int, default=5, help="samples of each client")
    parser.add_argument("--sweep", action="store_true", help="find the best fixed numbers anew")
    parser.add_argument("--render-only", action="store_true", help="table and pictures from the last results")
    parser.add_argument(
        "--quick", action="store_true", help="no figures: does embedwire do everything right?"
    )
    parser.add_argument("--into", type=Path, default=ROOT / "docs", help="folder for what is written")
    options = parser.parse_args()
    options.workloads = [] if options.render_only else list(WORKLOADS)
    if options.only:
        options.workloads = [work for work in WORKLOADS if any(map(work.is_called, options.only))]
        if unknown := [name for name in options.only if not any(one.is_called(name) for one in WORKLOADS)]:
            parser.error(f"no workload is called {', '.join(unknown)}")
    return options


def _measured(workload: Workload, count: int, known: Results, *, anew: bool) -> Result | None:
    """What came of it; None where its server does not run here, or no fixed numbers worked."""
    tries = []
    try:
        if workload.is_swept:
            tries = _tries(workload, known, anew=anew)
            if (found := best(tries)) is None:
                raise RuntimeError("no fixed numbers worked")
            workload = replace(workload, batch=found.batch, concurrency=found.concurrency)
        samples = rounds(workload, count)
    except (ImportError, FileNotFoundError, RuntimeError) as error:
        print(f"{workload.name} was not measured: {error}", file=sys.stderr, flush=True)
        return None
    today = datetime.now(timezone.utc).date().isoformat()
    return Result(date=today, machine=machine(), samples=samples, tries=tries)


def _tries(workload: Workload, known: Results, *, anew: bool) -> list[Try]:
    """Its own sweep, or the one that holds for it too, which was in this run if that was to be anew."""
    if workload.numbers_of is not None:
        if workload.numbers_of not in known:
            raise RuntimeError(f"measure {workload.numbers_of} first")
        return known[workload.numbers_of].tries
    return sweep(workload) if anew or workload.name not in known else known[workload.name].tries


def _quick() -> Results:
    """Each of our clients does each of its jobs once, with few texts; default settings meet every server."""
    small: dict[str, Workload] = {}
    seen: set[tuple[str, str]] = set()
    for work in (*MAIN, *BESIDE, *AUTO):
        doors = [name for name in work.clients if name in clients.OURS and name != clients.BEST_FIXED]
        where = str(work.server) if work in AUTO else work.do
        new = tuple(name for name in doors if (name, where) not in seen)
        seen |= {(name, where) for name in new}
        if new and work.do != "import":
            few = QUICK_TEXTS if isinstance(work.server, Behaviour) else QUICK_REAL
            few, warm_up = min(work.texts, few), min(work.warm_up, 64)
            small[work.name] = replace(work, clients=new, texts=few, warm_up=warm_up)
    return _at_once(list(small.values()))


def _at_once(works: list[Workload]) -> Results:
    """All of them, a process for each client, its sync and async doors, and for each server: time says nothing here."""
    with ExitStack() as stack, ThreadPoolExecutor(os.cpu_count()) as threads:
        servers = {str(server): server for work in works for server in work.servers}
        started = threads.map(stack.enter_context, map(serving, servers.values()))
        urls = dict(zip(servers, started, strict=True))
        together: dict[str, list[tuple[Workload, str]]] = {}
        for work in works:
            for client in work.clients:
                together.setdefault(client.removesuffix(" async"), []).append((work, client))

        def taken(todo: list[tuple[Workload, str]]) -> list[Sample]:
            jobs = []
            for work, client in todo:
                url, *beside = [urls[str(server)] for server in work.servers]
                jobs.append(job_of(work, client, url, beside))
            return take_all(jobs)

        results = {work.name: Result(date="", machine={}, samples={}) for work in works}
        for todo, samples in zip(together.values(), threads.map(taken, together.values()), strict=True):
            for (work, client), sample in zip(todo, samples, strict=True):
                results[work.name].samples[client] = [sample]
                show(work, client, sample)
        return results


if __name__ == "__main__":
    sys.exit(main())
