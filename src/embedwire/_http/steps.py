"""Work in steps: one after another in a thread of its own, and on a loop with turns for others between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

# Yields after each step, of a millisecond or two; returns its result.
Work: TypeAlias = Generator[None, None, T]

PATIENCE = 0.005  # seconds of work on a loop, before others get their turn


def at_once(work: Work[T]) -> T:
    """Does all of it in this thread; others run in between, as no step holds the interpreter for long."""
    result: list[T] = []
    for _ in _steps(work, result):
        pass
    return result[0]


async def in_turns(work: Work[T]) -> T:
    """Does all of it on the running loop, whose other callbacks get their turn whenever `PATIENCE` has passed."""
    result: list[T] = []
    since = time.monotonic()
    for _ in _steps(work, result):
        if time.monotonic() - since >= PATIENCE:
            await asyncio.sleep(0)
            since = time.monotonic()
    return result[0]


def one_step(function: Callable[..., T], *args: object) -> Work[T]:
    """What a function does, as work."""
    yield from ()
    return function(*args)


def _steps(work: Work[T], result: list[T]) -> Iterator[None]:
    result.append((yield from work))
