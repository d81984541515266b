"""The best fixed numbers for a server, found by trying them: what default settings are measured against.

For each batch size, the requests in flight are doubled for as long as it pays, or may yet pay; a try that takes half
as long again as the best so far is given up. Each try is one sample on a fresh server, so the fastest are partly
lucky: they are tried again, in turns, and the best median wins.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.speed.clients import BEST_FIXED
from benchmarks.speed.measure import job_of, serving, take
from benchmarks.speed.worker import told
from benchmarks.speed.workloads import Workload

BATCHES = (32, 16, 64, 5, 128, 1)  # likely ones first, so that bad ones are given up early
CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128)
STEPS_IN_VAIN = 2
GAIN = 1.03  # what a step must bring
HOPELESS = 1.5
FINALISTS = 4
FINAL_ROUNDS = 3
START = 2.0  # seconds that the process itself may take


@dataclass(frozen=True, kw_only=True)
class Try:
    """One pair of numbers.

    Attributes:
        batch: Texts in a request.
        concurrency: Requests in flight.
        speed: Texts per second, the median of the samples.
        samples: How many got to their end, with every text right; 0: it was given up, or failed.
    """

    batch: int
    concurrency: int
    speed: float
    samples: int


def sweep(workload: Workload) -> list[Try]:
    """All that was tried."""
    tries: list[Try] = []
    for batch in BATCHES:
        fastest, in_vain = 0.0, 0
        for concurrency in CONCURRENCIES:
            record = best(tries)
            tries.append(_try(replace(workload, batch=batch, concurrency=concurrency), record))
            speed = tries[-1].speed
            in_vain = 0 if speed > GAIN * fastest else in_vain + 1
            fastest = max(fastest, speed)
            could_be = speed * CONCURRENCIES[-1] / concurrency
            if in_vain == STEPS_IN_VAIN or (record and could_be < record.speed):
                break
    return _final(workload, tries)


def best(tries: list[Try]) -> Try | None:
    """The fastest of those with most samples."""
    return max((one for one in tries if one.samples), key=lambda one: (one.samples, one.speed), default=None)


def _final(workload: Workload, tries: list[Try]) -> list[Try]:
    """The same, the fastest tried again."""
    ranked = sorted(tries, key=lambda one: one.speed if one.samples else 0.0, reverse=True)
    finalists = [one for one in ranked[:FINALISTS] if one.samples]
    again = [
        [_try(replace(workload, batch=one.batch, concurrency=one.concurrency), one) for one in finalists]
        for _ in range(FINAL_ROUNDS)
    ]
    return [_together(tries) for tries in zip(*again, strict=True)] + ranked[len(finalists) :]


def _together(tries: Sequence[Try]) -> Try:
    """Several tries of the same numbers as one."""
    speed = statistics.median(one.speed for one in tries)
    return replace(tries[0], speed=speed, samples=sum(one.samples for one in tries))


def _try(workload: Workload, fastest: Try | None) -> Try:
    patience = 120.0 if fastest is None else START + HOPELESS * workload.texts / fastest.speed
    with serving(workload.server) as url:
        sample = take(job_of(workload, BEST_FIXED, url), patience)
        speed = workload.texts / sample.wall if sample.right else told(url)["texts"] / patience
    numbers = f"{workload.batch:3} texts, {workload.concurrency:3} in flight"
    print(
        f"{workload.name} {numbers}: {speed:8.0f} texts/s {sample.error or ''}", file=sys.stderr, flush=True
    )
    return Try(batch=workload.batch, concurrency=workload.concurrency, speed=speed, samples=int(sample.right))
