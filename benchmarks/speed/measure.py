"""Samples, each in a fresh process, in interleaved rounds: A, B, C, A, B, C, so that a busy minute hits all."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.speed.models import Behaviour
from benchmarks.speed.worker import Job, Sample
from benchmarks.speed.workload import BUNDLED, LLAMA_CPP, Workload

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds for one sample
ENOUGH = 12.0  # seconds: a client whose samples add up to more gets no further one
ENVIRONMENT = {**os.environ, "NO_PROXY": "127.0.0.1,localhost", "LANGSMITH_TRACING": "false"}


@contextmanager
def serving(server: Behaviour | str) -> Iterator[str]:
    """The URL of a mock server, or of a real one, in a process of its own."""
    if not isinstance(server, Behaviour):
        with _real(server) as url:
            yield url
        return
    command = [sys.executable, "-m", "benchmarks.speed.server", json.dumps(asdict(server))]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()  # it ends with it


def _real(name: str) -> AbstractContextManager[str]:
    from tests.servers import llamacpp, local_server  # the first needs the model that the tests use

    return {LLAMA_CPP: lambda: llamacpp(slots=4), BUNDLED: local_server}[name]()


def take(job: Job, patience: float = PATIENCE) -> Sample:
    """One sample."""
    return take_all([job], patience)[0]


def take_all(jobs: Sequence[Job], patience: float = PATIENCE) -> list[Sample]:
    """A sample of each job, all in one process, which is quick, and says nothing about time or memory."""
    arguments = [json.dumps(asdict(job)) for job in jobs]
    command = [sys.executable, "-m", "benchmarks.speed.worker", *arguments]
    try:
        ran = subprocess.run(
            command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=patience
        )
    except subprocess.TimeoutExpired:
        return [Sample(error=f"not done after {patience:.0f} s") for _ in jobs]
    done = [Sample(**json.loads(line)) for line in ran.stdout.splitlines() if line.startswith("{")]
    lost = Sample(error=f"{ran.returncode}: {ran.stderr[-300:]}")
    return [*done, *[lost] * (len(jobs) - len(done))]


def job_of(workload: Workload, client: str, url: str, beside: Sequence[str] = ()) -> Job:
    """What a client does in a workload, at these servers."""
    return Job(
        client=client,
        do=workload.do,
        url=url,
        texts=workload.texts,
        batch=workload.batch,
        concurrency=workload.concurrency,
        warm_up=workload.warm_up,
        mixed=workload.mixed,
        every=workload.every,
        exact=isinstance(workload.server, Behaviour),
        beside=beside,
    )


def rounds(workload: Workload, count: int) -> dict[str, list[Sample]]:
    """The samples of each client."""
    if workload.do == "import":
        return _rounds(workload, count, imported)
    with ExitStack() as stack:
        url, *beside = [stack.enter_context(serving(server)) for server in workload.servers]
        return _rounds(workload, count, lambda client: take(job_of(workload, client, url, beside)))


def _rounds(workload: Workload, count: int, one: Callable[[str], Sample]) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {client: [] for client in workload.clients}
    for _ in range(count):
        for client, done in samples.items():
            if sum(sample.wall for sample in done) < ENOUGH:
                done.append(one(client))
                show(workload, client, done[-1])
    return samples


def imported(modules: str) -> Sample:
    """What an import takes beyond a bare Python."""
    bare_wall, bare_cpu = _python("pass")
    wall, cpu = _python(f"import {modules}")
    return Sample(wall=wall - bare_wall, cpu=cpu - bare_cpu, right=True)


def _python(code: str) -> tuple[float, float]:
    """Seconds, and seconds of CPU, of a Python that runs a line."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begin
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def show(workload: Workload, client: str, sample: Sample) -> None:
    """A line on stderr."""
    what = sample.error or f"{sample.wall:7.3f} s, CPU {sample.cpu:7.3f} s"
    verdict = "right" if sample.right else "WRONG"
    print(f"{verdict} {workload.name:20} {client:40} {what}", file=sys.stderr, flush=True)
