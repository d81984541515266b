"""Half a minute of `tests/real/soak.py`, and proof that it finds what it looks for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedwire import BadReply, Completed, ConnectionFailed, EmbeddingClient
from embedwire._clients.origin import origins_of
from embedwire.testing import EmbeddingServer
from tests.real.soak import TEXTS, Judge, Sample, growth, see_empty, see_queues

RIGHT = np.eye(len(TEXTS), dtype=np.float32)
SERVER = "http://127.0.0.1:8080"
STILL: Sample = {"files": 20, "tasks": 10, "threads": 9, "MiB": 120}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("servers", ["one each", "several"])
def test_half_a_minute(servers: str) -> None:
    """Servers that are killed and frozen under load give right vectors or honest errors, and nothing piles up."""
    several = ["--several"] if servers == "several" else []
    command = [sys.executable, "-m", "tests.real.soak", "--seconds", "30", *several]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def _fails(error: Exception) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


def _failure(message: str, row: int) -> ConnectionFailed:
    error = ConnectionFailed(message)
    error.server = f"{SERVER}/v1"
    error.completed = Completed([1], RIGHT[[row]])
    return error


class TestJudge:
    """What is wrong is seen."""

    @pytest.mark.parametrize("exact", [True, False])
    @pytest.mark.parametrize(
        ("call", "verdict"),
        [
            (lambda: RIGHT[:2], []),
            (lambda: RIGHT[1::-1], ["a vector "]),
            (lambda: RIGHT[:1], ["not one vector for each text"]),
            (_fails(_failure(f"no: {SERVER}/v1", 1)), []),
            (_fails(_failure(f"no: {SERVER}/v1", 0)), ["a vector "]),
            (_fails(_failure("no", 1)), ["in str(error)"]),
            (_fails(BadReply(f"no: {SERVER}/v1")), ["BadReply"]),
            (_fails(KeyError("x")), ["KeyError"]),
        ],
    )
    def test_sees(self, exact: bool, call: Callable[[], Any], verdict: list[str]) -> None:
        """A swapped or missing vector, a false or nameless error, or an exception of another kind is noted."""
        judge = Judge(SERVER, RIGHT, exact, wrong=[])
        judge.sync("a test", TEXTS[:2], call)
        assert len(judge.wrong) == len(verdict)
        assert all(words in wrong for words, wrong in zip(verdict, judge.wrong, strict=True))


class TestQueues:
    """What is not as it must be in a queue is seen."""

    def test_sees(self) -> None:
        """A text that is counted and that nobody has, and what is left when nobody asks, are noted."""

        async def main() -> tuple[list[str], list[str], list[str]]:
            notes: tuple[list[str], list[str], list[str]] = ([], [], [])
            async with EmbeddingServer() as server, EmbeddingClient(server.url, model="m") as client:
                await client.embed(["a"])
                await asyncio.sleep(0.1)  # its request is over a moment later
                (there,) = origins_of(asyncio.get_running_loop()).dispatchers
                for change, wrong in zip((0, 1, -1), notes, strict=True):
                    there._calls.texts["query"] += change
                    await see_queues(wrong)
                    await see_empty(wrong, patience=0)
            return notes

        before, broken, mended = asyncio.run(main())
        assert before == mended == []
        assert len(broken) == 2
        assert "no open call has left" in broken[0]


class TestGrowth:
    """What grows is told from what moves."""

    @pytest.mark.parametrize("name", ["files", "tasks", "threads", "MiB"])
    def test_a_leak_is_growth(self, name: str) -> None:
        """One more in every sample is growth."""
        grown = growth([{**STILL, name: number} for number in range(100)])[1]
        assert grown == [f"{name} grew from 32.5 to 86.5"]

    def test_a_moment_is_none(self) -> None:
        """What starts high, or is high in single moments, is none."""
        samples: list[Sample] = [{**STILL, "MiB": 120 + 90 * (at % 10 == 0)} for at in range(100)]
        samples[:20] = [{"files": 99, "tasks": 99, "threads": 1, "MiB": 50}] * 20
        assert growth(samples)[1] == []

    def test_what_is_not_told_is_said(self) -> None:
        """Where a platform does not tell a number, the table says so, and the others are judged."""
        table, grown = growth([{**STILL, "threads": at, "files": None, "MiB": None} for at in range(100)])
        assert sum("not told" in line for line in table) == 2
        assert len(grown) == 1
