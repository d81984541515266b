"""Two jobs in which somebody else waits: queries beside bulk, and whatever else runs on the caller's loop."""

from __future__ import annotations

import asyncio
import inspect
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.texts import QUERIES, texts

EVERY = 0.05  # seconds between two queries beside bulk, as on the GPU
THREADS = 64  # of a sync client's callers
LONE = 20  # queries one after another on the idle server
WATCHED = 0.001  # seconds between two looks at the loop


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What came of bulk and the queries beside it.

    Attributes:
        vectors: Of the bulk.
        answers: Of all queries, from number `QUERIES` on.
        seconds: Of the bulk.
        lone: Seconds of each query before it.
        took: Seconds of each query beside it, from the moment at which it was to be asked.
    """

    vectors: Any
    answers: list[Any]
    seconds: float
    lone: list[float]
    took: list[float]


async def beside(client: Any, bulk: list[str], every: float = EVERY) -> Beside:
    """All texts in one call, and a query every so often until it is done, however many of them are still waiting.

    A query's time counts from its planned moment: what is asked late, since the loop or the thread was busy, waited.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        query, lists = _async(client.query, threads), _async(client.lists, threads)
        answers, lone = [], []
        for text in texts(LONE, QUERIES):
            begin = time.perf_counter()
            answers.append(await query(text))
            lone.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        working = asyncio.ensure_future(_timed(lists(bulk), begin))
        asked: list[asyncio.Future[tuple[Any, float]]] = []
        while True:
            planned = begin + every * (len(asked) + 0.5)
            await asyncio.wait([working], timeout=max(0.0, planned - time.perf_counter()))
            if working.done() and planned >= begin + working.result()[1]:
                break
            (text,) = texts(1, QUERIES + LONE + len(asked))
            asked.append(asyncio.ensure_future(_timed(query(text), planned)))
        vectors, seconds = await working
        done = [await one for one in asked]
    answers += [answer for answer, _ in done]
    return Beside(
        vectors=vectors, answers=answers, seconds=seconds, lone=lone, took=[took for _, took in done]
    )


def quantiles(took: list[float]) -> tuple[float | None, float | None]:
    """The median, and what 95 % took at most; None of too few."""
    if len(took) < 2:
        return (took[0], took[0]) if took else (None, None)
    return statistics.median(took), statistics.quantiles(took, n=20, method="inclusive")[-1]


async def steps(work: Awaitable[Any]) -> tuple[Any, float]:
    """What the work gives, and the longest time for which the loop came to nothing else meanwhile, in seconds."""
    watcher = asyncio.ensure_future(_longest_step(working := asyncio.ensure_future(_awaited(work))))
    outcome = await working
    return outcome, await watcher


async def _longest_step(working: asyncio.Future[Any]) -> float:
    longest, last = 0.0, time.perf_counter()
    while not working.done():
        await asyncio.sleep(WATCHED)
        now = time.perf_counter()
        longest, last = max(longest, now - last - WATCHED), now
    return longest


async def _timed(work: Awaitable[Any], since: float) -> tuple[Any, float]:
    outcome = await work
    return outcome, time.perf_counter() - since


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


def _async(door: Callable[[Any], Any], threads: ThreadPoolExecutor) -> Callable[[Any], Awaitable[Any]]:
    """A door of a client, awaited; a sync one in a thread."""
    if inspect.iscoroutinefunction(door):
        return door
    loop = asyncio.get_running_loop()
    return lambda what: loop.run_in_executor(threads, door, what)
