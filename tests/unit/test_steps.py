"""Work in steps: a loop's other callbacks get their turn by the clock, and lists are made a few numbers at a time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Generator
from types import SimpleNamespace

import numpy as np
import pytest

from embedwire._clients import lists
from embedwire._clients.lists import NUMBERS, ROWS, to_lists
from embedwire._clients.texts import PER_TEXT, STEP, checked, prompted
from embedwire._http import steps
from embedwire._http.steps import PATIENCE, at_once, in_turns
from embedwire._settings.options import Prompts


def work(count: int) -> Generator[None, None, str]:
    """So many steps."""
    for _ in range(count):
        yield
    return "done"


def broken() -> Generator[None, None, str]:
    """Fails after a step."""
    yield
    raise LookupError("no more")


class TestTurns:
    """How work is done."""

    @pytest.mark.parametrize("step", [PATIENCE / 10, PATIENCE / 2, PATIENCE, 1.0])
    async def test_others_get_theirs_by_the_clock(self, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a loop no more steps are done in one go than take 5 ms, and at least one."""
        now, turns = 0.0, 0

        def clock() -> float:
            return now

        def steps_that_take() -> Generator[None, None, list[int]]:
            nonlocal now
            seen = []
            for _ in range(100):
                now += step
                seen.append(turns)
                yield
            return seen

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=clock))
        counting = asyncio.ensure_future(count())
        await asyncio.sleep(0)
        seen = await in_turns(steps_that_take())
        counting.cancel()
        most = max(seen.count(turn) for turn in seen)
        assert 1 <= most <= 1 + PATIENCE / step

    async def test_the_result_comes_either_way(self) -> None:
        """Work in steps gives what it returns, or raises what it raises, in a thread and on a loop."""
        for count in (0, 1, 5):
            assert at_once(work(count)) == await in_turns(work(count)) == "done"
        with pytest.raises(LookupError, match="no more"):
            at_once(broken())
        with pytest.raises(LookupError, match="no more"):
            await in_turns(broken())


class TestLists:
    """Vectors as lists of floats."""

    @pytest.mark.parametrize(
        "shape", [(1, 3), (33, 1024), (300, 1024), (5, 0), (40, NUMBERS + 1), (3000, 17)], ids=str
    )
    def test_hold_the_numbers(self, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
        """Lists have the numbers of their rows, however many steps it takes."""
        monkeypatch.setattr(lists, "BLOCK", 1000)
        matrix = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
        assert at_once(to_lists(matrix)) == matrix.tolist()

    @pytest.mark.parametrize("width", [8, 384, 1024, 4096, 2 * NUMBERS])
    def test_are_made_a_few_numbers_at_a_time(self, width: int) -> None:
        """No step makes more than some thousand numbers, or one vector, and those of a small call take a single one."""
        rows = 10 * min(ROWS, max(1, NUMBERS // width))
        matrix = np.zeros((rows, width), dtype=np.float32)
        assert sum(1 for _ in to_lists(matrix)) >= 10
        assert not list(to_lists(matrix[: rows // 10]))

    @pytest.mark.parametrize("enabled", [True, False])
    def test_are_not_what_the_collector_looks_through(self, enabled: bool) -> None:
        """The garbage collector looks at many lists once, and is left alone where it is off."""
        seen: list[int] = []

        def note(phase: str, told: dict[str, int]) -> None:
            seen.append(told["generation"])

        matrix = np.zeros((20_000, 16), dtype=np.float32)
        gc.collect()
        was = gc.isenabled()
        (gc.enable if enabled else gc.disable)()
        gc.callbacks.append(note)
        try:
            made = at_once(to_lists(matrix))
            young = sum(map(gc.is_tracked, made)) and {id(each) for each in gc.get_objects(0)}
            assert gc.isenabled() == enabled
        finally:
            gc.callbacks.remove(note)
            (gc.enable if was else gc.disable)()
        assert len(seen) <= (4 if enabled else 0)
        assert not enabled or not any(id(each) in young for each in made)


class TestTexts:
    """Checks and prompts."""

    @pytest.mark.parametrize("length", [0, 100, 10 * STEP])
    def test_are_looked_at_a_few_at_a_time(self, length: int) -> None:
        """No step looks at more characters than take a millisecond, or one text."""
        texts = ["한" * length] * max(3, 4 * STEP // (PER_TEXT + length))
        for each in (checked(texts), prompted(texts, "query", Prompts(query="q: "))):
            assert sum(1 for _ in each) >= 2
