"""Runs the table and writes docs/FAULTS.md. Needs Linux: it forks, and reads the peak of memory.

python -m benchmarks.faults                                     # all of it
python -m benchmarks.faults --only NaN --clients openai         # some of it, printed and not written
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from benchmarks.faults.clients import DOORS, Options
from benchmarks.faults.report import Cell, applies, report
from benchmarks.faults.row import Row
from benchmarks.faults.rows import TABLE
from benchmarks.faults.rules import KEY, NETRC, Seen
from benchmarks.faults.worker import Job, Observed, work
from embedwire.testing import EmbeddingServer

CAP = 60.0  # seconds for a cell
STARTING = 180.0  # seconds more for one that starts a Python of its own, which imports all clients
AT_ONCE = 4  # most of a cell is waiting
OUTPUT = Path(__file__).parents[2] / "docs" / "FAULTS.md"

# Forked from a process that has imported all clients: a cell's process starts at once, and is as clean as new.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["benchmarks.faults.worker"])


def run(row: Row, door: str) -> Seen:
    """One cell: a fresh server, a fresh process with the client."""
    if not applies(row, DOORS[door]):
        return Seen(did=Observed())
    with contextlib.ExitStack() as stack:
        elsewhere = stack.enter_context(EmbeddingServer())
        server, *beside = [stack.enter_context(serve(elsewhere.url)) for serve in (row.serve, *row.beside)]
        if row.gone:
            server.stop()
        options = Options(
            url=server.url,
            others=(*(other.url for other in beside), *row.urls),
            key=None if row.key_from_environment and DOORS[door].key_variable else KEY,
            timeout=row.timeout,
            retries=row.retries,
            batch=row.batch,
            concurrency=row.concurrency,
            dimensions=row.dimensions,
            prefix=row.prefix,
            query=row.query,
            trust_env=row.netrc,
        )
        job = Job(
            door=door,
            options=options,
            way=row.way,
            calls=list(row.calls),
            each=list(row.each),
            workers=row.workers,
            netrc=NETRC if row.netrc else None,
            pause=row.pause,
            key_in_environment=KEY if row.key_from_environment else None,
            debug=row.debug,
        )
        observed, over, died = _process(job)
        return Seen(
            did=observed,
            expected=row.expected,
            off=row.off,
            requests=[request for one in (server, *beside) for request in one.requests],
            elsewhere=list(elsewhere.requests),
            peak=server.peak_in_flight,
            over=over,
            died=died,
        )


def _process(job: Job) -> tuple[Observed, float | None, int | None]:
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=work, args=(job, sender))
    process.start()
    sender.close()
    try:
        receiver.recv()  # it begins
        cap = CAP + STARTING if job.way == "atexit" else CAP
        if receiver.poll(cap):
            return receiver.recv(), None, None
        return Observed(), cap, None
    except EOFError:
        process.join()
        return Observed(), None, process.exitcode
    finally:
        process.kill()
        process.join()


def main() -> None:
    """Runs what was asked for."""
    columns = list(dict.fromkeys(door.column for door in DOORS.values()))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORDS", help="rows whose name has these words"
    )
    parser.add_argument("--clients", nargs="+", default=columns, choices=columns, help="columns")
    asked = parser.parse_args()

    rows = [
        row
        for group in TABLE.values()
        for row in group
        if any(word.lower() in row.name.lower() for word in asked.only)
    ]
    doors = [name for name, door in DOORS.items() if door.column in asked.clients]
    started = time.monotonic()

    def cell(place: tuple[Row, str]) -> Cell:
        row, door = place
        done = Cell(row=row, door=DOORS[door], seen=run(row, door))
        print(f"{time.monotonic() - started:5.0f} s  {row.name} | {door}: {done.words}", flush=True)
        return done

    with ThreadPoolExecutor(AT_ONCE) as pool:
        cells = list(pool.map(cell, product(rows, doors)))
    text = report(cells, minutes=(time.monotonic() - started) / 60, cap=CAP)
    if asked.only == [""] and asked.clients == columns:
        OUTPUT.write_text(text, encoding="utf-8")
        print(f"wrote {OUTPUT.name}")
    else:
        print(text)


if __name__ == "__main__":
    main()
