"""The command line: ``python -m benchmarks.speed --help``."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.speed import clients, results
from benchmarks.speed.auto import best, sweep
from benchmarks.speed.machine import machine
from benchmarks.speed.measure import ROOT, rounds
from benchmarks.speed.pictures import draw
from benchmarks.speed.report import report, section, targets
from benchmarks.speed.results import Result, Results
from benchmarks.speed.workloads import AUTO, LLAMA, MAIN, WORKLOADS, Workload


def main() -> int:
    """Measure, print, and write; 1 if one of our clients got a text wrong."""
    options = _options()
    if options.quick:
        return 0 if results.all_right(_quick()) else 1
    options.into.mkdir(exist_ok=True)
    path = options.into / "benchmarks.json"
    known = results.load(path)
    for workload in options.workloads:
        known[workload.name] = _measured(workload, options.rounds, {} if options.sweep else known)
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
    """The options, and the ``workloads`` that they choose: all but those that are long, or what is named."""
    by_name = {work.name: [work] for work in WORKLOADS} | {"auto": list(AUTO)}
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description="Measures embedwire beside its peers; writes a table, pictures and raw results.",
    )
    parser.add_argument(
        "--only", nargs="+", choices=by_name, metavar="NAME", help=f"measure these: {', '.join(by_name)}"
    )
    parser.add_argument("--rounds", type=int, default=5, help="samples of each client")
    parser.add_argument("--sweep", action="store_true", help="find the best fixed numbers anew")
    parser.add_argument("--render-only", action="store_true", help="table and pictures from the last results")
    parser.add_argument(
        "--quick", action="store_true", help="no figures: does embedwire do everything right?"
    )
    parser.add_argument("--llama", action="store_true", help="llama.cpp too; needs what the tests need")
    parser.add_argument("--into", type=Path, default=ROOT / "docs", help="folder for what is written")
    options = parser.parse_args()
    named = [work for name in options.only or () for work in by_name[name]] or list(MAIN)
    options.workloads = [] if options.render_only else named + [LLAMA] * options.llama
    return options


def _measured(workload: Workload, count: int, known: Results) -> Result:
    tries = []
    if workload.is_swept:
        tries = known[workload.name].tries if workload.name in known else sweep(workload)
        found = best(tries)
        if found is None:
            sys.exit(f"{workload.name}: no fixed numbers worked")
        workload = replace(workload, batch=found.batch, concurrency=found.concurrency)
    return Result(
        date=datetime.now(timezone.utc).date().isoformat(),
        machine=machine(),
        samples=rounds(workload, count),
        tries=tries,
    )


def _quick() -> Results:
    """Each of our clients does each of its jobs once, with few texts; default settings meet every server."""
    small: list[Workload] = []
    seen: set[tuple[str, str]] = set()
    for work in (*MAIN, *AUTO):
        doors = [name for name in work.clients if name in clients.OURS and name != clients.BEST_FIXED]
        new = tuple(name for name in doors if work in AUTO or (name, work.do) not in seen)
        seen |= {(name, work.do) for name in new}
        if new and work.do != "import":
            small.append(
                replace(work, clients=new, texts=min(work.texts, 300), warm_up=min(work.warm_up, 64))
            )
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # nobody looks at the clock
        samples = threads.map(lambda work: rounds(work, 1), small)
        return {
            work.name: Result(date="", machine={}, samples=done)
            for work, done in zip(small, samples, strict=True)
        }


if __name__ == "__main__":
    sys.exit(main())
