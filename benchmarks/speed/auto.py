"""The best fixed numbers for a server: what default settings are measured against.

Which numbers may be best is first reckoned in simulated time, where all pairs are tried and cost nothing; the best of
those are then tried in truth, each on a fresh server, and the two fastest once more. For a real server the candidates
are a list. A try that takes half as long again as the best so far is given up.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.speed.clients import BEST_FIXED
from benchmarks.speed.measure import job_of, serving, take
from benchmarks.speed.models import Behaviour
from benchmarks.speed.simulation import run
from benchmarks.speed.texts import texts
from benchmarks.speed.worker import told
from benchmarks.speed.workload import BUNDLED, LLAMA_CPP, Workload

BATCHES = (1, 2, 5, 8, 16, 32, 64, 128)
CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128)
CANDIDATES = {  # on a CPU, for real servers: likely ones first, so that bad ones are given up early
    LLAMA_CPP: ((16, 2), (5, 4), (4, 2), (32, 1)),
    BUNDLED: ((32, 8), (128, 2), (64, 4), (128, 8)),
}
PROMISING = 3  # sizes of requests, at a mock server
EQUAL = 0.01  # what the reckoning cannot tell apart
HOPELESS = 1.5
FINALISTS = 2
FINAL_SECONDS = 8.0  # a finalist whose tries come to more is not tried again
FINAL_TRIES = 2
START = 4.0  # seconds that the process itself may take


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
    for batch, concurrency in candidates(workload):
        tries.append(_try(replace(workload, batch=batch, concurrency=concurrency), best(tries)))
    ranked = sorted(tries, key=lambda one: one.speed * bool(one.samples), reverse=True)
    finalists = [one for one in ranked[:FINALISTS] if one.samples]
    return [_again(workload, one) for one in finalists] + ranked[len(finalists) :]


def candidates(workload: Workload) -> Sequence[tuple[int, int]]:
    """Pairs of texts in a request and requests in flight, among which the best should be, likely ones first.

    Of each size of request, the fewest in flight that are as fast as more; and of the fastest size also twice as many,
    since a real client takes a little longer than a reckoned one.
    """
    if not isinstance(workload.server, Behaviour):
        return CANDIDATES[workload.server]
    lengths = [len(text) for text in texts(workload.texts, mixed=workload.mixed)]
    found: list[tuple[float, int, int]] = []
    for batch in BATCHES:
        speeds = {requests: _reckoned(workload, lengths, batch, requests) for requests in CONCURRENCIES}
        enough = (1 - EQUAL) * max(speeds.values())
        found.append(next((speed, batch, requests) for requests, speed in speeds.items() if speed >= enough))
    (_, batch, requests), *others = sorted(found, reverse=True)[:PROMISING]
    return [(batch, requests), (batch, 2 * requests), *((batch, requests) for _, batch, requests in others)]


def _reckoned(workload: Workload, lengths: Sequence[int], batch: int, concurrency: int) -> float:
    """Texts per second at the model; none where it refuses."""
    assert isinstance(workload.server, Behaviour)
    every = workload.every if workload.do == "beside" else None
    try:
        server = workload.server.made()
        return run(server, lengths, batch=batch, concurrency=concurrency, query_every=every).rate
    except ValueError:
        return 0.0


def best(tries: list[Try]) -> Try | None:
    """The fastest of those with most samples."""
    return max((one for one in tries if one.samples), key=lambda one: (one.samples, one.speed), default=None)


def _again(workload: Workload, one: Try) -> Try:
    """The same, tried more often if that is quick: the median."""
    tries = [one]
    workload = replace(workload, batch=one.batch, concurrency=one.concurrency)
    while len(tries) < FINAL_TRIES and (len(tries) + 1) * workload.texts / one.speed < FINAL_SECONDS:
        tries.append(_try(workload, one))
    speed = statistics.median(one.speed for one in tries)
    return replace(one, speed=speed, samples=sum(one.samples for one in tries))


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
