"""A process that ends: one call is made, and another by an `atexit` handler; both go to the parent, on stdout."""

from __future__ import annotations

import atexit
import pickle
import sys

from benchmarks.faults.clients import DOORS
from benchmarks.faults.worker import embedded


def main() -> None:
    job = pickle.load(sys.stdin.buffer)
    door = DOORS[job.door](job.options)
    first, second = job.calls
    done = [embedded(door, first)]

    def end() -> None:
        done.append(embedded(door, second))
        sys.stdout.buffer.write(pickle.dumps(done))
        sys.stdout.buffer.flush()

    atexit.register(end)


if __name__ == "__main__":
    main()
