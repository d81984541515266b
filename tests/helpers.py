"""What several test files need: numbered texts, whether vectors are right, and marks for what is not everywhere."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import looptime
import pytest

from embedwire.testing import is_vector_of

T = TypeVar("T")

simulated = (
    pytest.mark.looptime
)  # the test's loop has a clock of its own, which runs only while nothing else does
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")


def needs(module: str) -> pytest.MarkDecorator:
    """Only where a library that the package does not need is installed."""
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


def numbered(count: int, what: object = "text") -> list[str]:
    """So many different texts: "text 0", "text 1" and so on."""
    return [f"{what} {number}" for number in range(count)]


def right(rows: Any, texts: Sequence[str], *, tolerance: float = 0.0) -> bool:
    """Whether each text has its own vector of an `EmbeddingServer`, in its place.

    Args:
        rows: Lists of floats, or a matrix.
        texts: As many as there should be rows.
        tolerance: How far a number may be off; nothing, where the server's own numbers are passed on.
    """
    return len(rows) == len(texts) and all(
        is_vector_of(row, text, tolerance=tolerance) for row, text in zip(rows, texts, strict=True)
    )


def now() -> float:
    """The running loop's time, in seconds."""
    return asyncio.get_running_loop().time()


def in_simulated_time(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, on a new loop with a clock of its own."""
    loop = looptime.new_event_loop()
    try:
        result: T = loop.run_until_complete(work)
        return result
    finally:
        loop.close()


def pickled(thing: T) -> T:
    """What comes out of a pickle of it."""
    twin: T = pickle.loads(pickle.dumps(thing))
    return twin


copies = pytest.mark.parametrize("again", [pickled, copy.deepcopy, copy.copy])  # every way to a second one


def finish(process: subprocess.Popen[str], timeout: float = 60) -> str:
    """What a process printed; fails where it failed, hung, or wrote to stderr."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the process hung; {out} {err}")
    assert err == "", err
    assert process.returncode == 0
    return out
