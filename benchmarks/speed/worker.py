"""One sample, in a process of its own: one client does one job once, and what it took is printed as JSON.

It is made and warmed up first; only the job itself is measured, and its result is checked to the last bit
afterwards. CPU time is that of this process, all its threads included.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import resource
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.speed import clients
from benchmarks.speed.texts import QUERIES, WARM_UP, are_right, texts
from benchmarks.speed.waiting import EVERY, beside, quantiles, steps

THREADS = 200  # of a sync client's callers, where many ask at once


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one sample does.

    Attributes:
        client: A name in `clients`.
        do: ``"lists"``, ``"array"``, ``"stream"``, ``"latency"`` (queries one after another), ``"together"``
            (all queries at once), ``"beside"`` (lists, and queries meanwhile) or ``"steps"`` (lists, and the loop
            is watched).
        url: The server.
        texts: How many.
        batch: Texts in one request.
        concurrency: Requests in flight.
        warm_up: Texts embedded before, not measured.
        mixed: Texts of mixed lengths.
        every: Seconds between two queries beside.
        exact: Whether the server is the mock, whose vectors are known to the last bit.
        beside: URLs of further servers, which the client is given too.
    """

    client: str
    do: str
    url: str
    texts: int
    batch: int
    concurrency: int
    warm_up: int
    mixed: bool = False
    every: float = EVERY
    exact: bool = True
    beside: Sequence[str] = ()

    @property
    def urls(self) -> list[str]:
        """All servers."""
        return [self.url, *self.beside]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What it took.

    Attributes:
        wall: Seconds; beside queries, those of the bulk.
        cpu: Seconds of CPU, user and system, of the client's process.
        server_cpu: The same of the server's process.
        requests: How many the server got.
        grown: Bytes by which the process's peak memory is above what it had before.
        right: Whether each text got its own vector, to the last bit.
        p50: Median seconds of one query, where they were timed one by one.
        p95: What 95 % of them took at most.
        lone: Median seconds of one query on the idle server, where that is compared.
        gap: Seconds of the longest step of the caller's loop, where it was watched.
        error: Why there is no result.
    """

    wall: float = 0.0
    cpu: float = 0.0
    server_cpu: float = 0.0
    requests: int = 0
    grown: int = 0
    right: bool = False
    p50: float | None = None
    p95: float | None = None
    lone: float | None = None
    gap: float | None = None
    error: str | None = None


async def sample(job: Job) -> Sample:
    """Does the job once."""
    url = job.urls if job.beside else job.url
    client = {**clients.OURS, **clients.PEERS}[job.client](url, job.batch, job.concurrency)
    do = partial(_beside, every=job.every) if job.do == "beside" else DO[job.do]
    if job.warm_up:
        await do(client, texts(job.warm_up, WARM_UP), WARM_UP)
    todo = texts(job.texts, mixed=job.mixed)
    server = _told(job)
    memory, cpu, wall = _memory(), _cpu(), time.perf_counter()
    outcome = await do(client, todo, 0)
    wall, cpu, grown = time.perf_counter() - wall, _cpu() - cpu, _peak() - memory
    after = _told(job)
    if close := getattr(client, "close", None):
        await _settled(close())
    timed = outcome if isinstance(outcome, Timed) else Timed(vectors=outcome)
    return Sample(
        wall=wall if timed.wall is None else timed.wall,
        cpu=cpu,
        server_cpu=after["cpu"] - server["cpu"],
        requests=after["requests"] - server["requests"],
        grown=grown,
        right=await _is_right(timed, job),
        p50=timed.p50,
        p95=timed.p95,
        lone=timed.lone,
        gap=timed.gap,
    )


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The result of a job that knows more than its vectors; those it may have looked at as they came.

    Attributes:
        vectors: Of the texts.
        answers: Of queries beside them.
        right: Whether those that it looked at were right.
        wall: As in `Sample`, and so the others.
    """

    vectors: Any = None
    answers: Sequence[Any] = ()
    right: bool = True
    wall: float | None = None
    p50: float | None = None
    p95: float | None = None
    lone: float | None = None
    gap: float | None = None


async def _lists(client: Any, texts: list[str], start: int) -> Any:
    return await _settled(client.lists(texts))


async def _array(client: Any, texts: list[str], start: int) -> Any:
    if hasattr(client, "array"):
        return await _settled(client.array(texts))
    return np.array(await _settled(client.lists(texts)), dtype=np.float32)  # as its users do it


async def _stream(client: Any, texts: list[str], start: int) -> Timed:
    stream, right, seen = client.stream(iter(texts)), True, 0
    while (piece := await anext(stream, None)) is not None:
        right &= piece[0] == seen and are_right(piece[1], len(piece[1]), start + seen)
        seen += len(piece[1])
    return Timed(right=right and seen == len(texts))


async def _latency(client: Any, texts: list[str], start: int) -> Timed:
    took, vectors, query = [], [], client.query
    for text in texts:
        begin = time.perf_counter()
        vector = query(text)
        if not isinstance(vector, list):
            vector = await vector
        took.append(time.perf_counter() - begin)
        vectors.append(vector)
    p50, p95 = quantiles(took)
    return Timed(right=are_right(vectors, len(texts), start), p50=p50, p95=p95)


async def _together(client: Any, texts: list[str], start: int) -> Any:
    if inspect.iscoroutinefunction(client.query):
        return await asyncio.gather(*map(client.query, texts))
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(client.query, texts))


async def _beside(client: Any, texts: list[str], start: int, every: float = EVERY) -> Timed:
    done = await beside(client, texts, every)
    p50, p95 = quantiles(done.took)
    return Timed(
        vectors=done.vectors,
        answers=done.answers,
        wall=done.seconds,
        p50=p50,
        p95=p95,
        lone=quantiles(done.lone)[0],
    )


async def _steps(client: Any, texts: list[str], start: int) -> Timed:
    vectors, gap = await steps(client.lists(texts))
    return Timed(vectors=vectors, gap=gap)


async def _is_right(timed: Timed, job: Job) -> bool:
    """Whether all that it brought is right; a real server's vectors by the nearest of those asked for alone."""
    answers, vectors = timed.answers, timed.vectors
    if not timed.right or vectors is None:
        return timed.right
    if job.exact:
        asked = not answers or are_right(answers, len(answers), QUERIES)
        return asked and are_right(vectors, job.texts)
    step = max(1, job.texts // 20)
    client = clients.Embedwire(job.url, 1, 1).client
    alone = await client.embed_array(texts(job.texts, mixed=job.mixed)[::step])
    await client.close()
    nearest = (np.array(vectors)[::step] @ alone.T).argmax(axis=1)
    return len(vectors) == job.texts and nearest.tolist() == list(range(len(alone)))


DO: dict[str, Callable[[Any, list[str], int], Awaitable[Any]]] = {
    "lists": _lists,
    "array": _array,
    "stream": _stream,
    "latency": _latency,
    "together": _together,
    "beside": _beside,
    "steps": _steps,
}


async def _settled(outcome: Any) -> Any:
    return await outcome if inspect.isawaitable(outcome) else outcome


def _told(job: Job) -> dict[str, Any]:
    """What all its servers tell, added up."""
    each = [told(url) for url in job.urls]
    return {name: sum(one[name] for one in each) for name in each[0]}


def told(url: str) -> Any:
    """What the mock server tells of itself; zeros where it is another server."""
    try:
        with urllib.request.urlopen(f"{url}/stats", timeout=10) as reply:
            return json.load(reply)
    except urllib.error.HTTPError:
        return {"cpu": 0.0, "requests": 0, "texts": 0}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _status(name: str) -> int | None:
    """A number of bytes that Linux tells of this process."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))
    except FileNotFoundError:
        return None


def _peak() -> int:
    """The most memory that this process ever had. Linux's ``ru_maxrss`` would count its parent's too."""
    told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    return _status("VmHWM") or told


def _memory() -> int:
    """The memory that this process has now; elsewhere than on Linux the most that it ever had."""
    return _status("VmRSS") or _peak()


def main() -> None:
    """One job after another, each as JSON; a line of JSON for each. More than one are for whom time is nothing."""
    for argument in sys.argv[1:]:
        try:
            done = asyncio.run(sample(Job(**json.loads(argument))))
        except Exception as error:  # a peer that cannot do it is a result too
            done = Sample(error=f"{type(error).__name__}: {error}"[:300])
        print(json.dumps(asdict(done)), flush=True)


if __name__ == "__main__":
    main()
