"""Any order of calls, cancellations and faults, over real sockets in simulated time: what always holds."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import looptime
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from embedwire import DeadlineExceeded, EmbeddingClient, RequestError, RetryPolicy, TextRefused
from embedwire._servers import known
from embedwire.testing import Answer, EmbeddingServer, Gate, Request, is_vector_of
from tests.helpers import numbered, right

T = TypeVar("T")
CONCURRENCY = 3
POOL = numbered(12)

text_lists = st.lists(st.sampled_from(POOL), min_size=1, max_size=10)
faults = st.sampled_from(
    [
        Answer.error(500, "once"),
        Answer.error(502, "bad gateway"),
        Answer.throttled(1),
        Answer.loading(),
        Answer.reset(),
        Answer.hang_up(),
        Answer(cut=40, then="close"),
        Answer(delay=3),
        Answer(delay=100),
    ]
)


class Calls(RuleBasedStateMachine):
    """Callers of one client, and a server with moods."""

    def __init__(self) -> None:
        super().__init__()
        known.forget()
        self.loop: Any = looptime.new_event_loop()
        self.poison: set[str] = set()
        self.ever_poison: set[str] = set()
        self.cap: int | None = None
        self.troubled = False
        self.gate: Gate | None = None
        self.calls: list[tuple[asyncio.Task[Any], list[str]]] = []
        self.server = EmbeddingServer(script=self.mood, latency=0.02)
        self.run(self.server.astart())
        self.client = EmbeddingClient(
            self.server.url,
            model="m",
            batch_size=4,
            concurrency=CONCURRENCY,
            max_queued=40,
            timeout=30,
            max_retries=RetryPolicy(attempts=4, base=0.1),
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the machine's loop, in simulated time."""
        result: T = self.loop.run_until_complete(work)
        return result

    def mood(self, request: Request) -> Answer | None:
        """What the server says to a request."""
        if not request.embeds:
            return None
        if self.cap is not None and len(request.texts) > self.cap:
            return Answer.error(422, f"batch size > maximum allowed batch size {self.cap}")
        if self.poison & set(request.texts):
            return Answer.too_large(600, 512)
        return None

    @rule(
        texts=text_lists, kind=st.sampled_from(["document", "query"]), deadline=st.sampled_from([None, 5.0])
    )
    def submit(self, texts: list[str], kind: Any, deadline: float | None) -> None:
        """Somebody calls."""

        async def begin() -> None:
            work = self.client.embed_array(texts, kind)
            self.calls.append((asyncio.create_task(work), texts))
            await asyncio.sleep(0)

        self.run(begin())

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 1000))
    def cancel(self, which: int) -> None:
        """Somebody gives up."""
        self.calls[which % len(self.calls)][0].cancel()

    @rule(text=st.sampled_from(POOL))
    def poisoned(self, text: str) -> None:
        """The server cannot take a text, from now on."""
        self.poison.add(text)
        self.ever_poison.add(text)

    @rule()
    def cured(self) -> None:
        """The server can take all texts again."""
        self.poison.clear()

    @rule(cap=st.sampled_from([None, 1, 2, 3]))
    def capped(self, cap: int | None) -> None:
        """The server takes fewer texts in a request, or more again."""
        self.cap = cap

    @rule(fault=faults, times=st.integers(1, 3))
    def fail(self, fault: Answer, times: int) -> None:
        """The next requests fail."""
        self.troubled = True
        self.server.answer(*[fault] * times)

    @precondition(lambda self: self.gate is None)
    @rule()
    def hold(self) -> None:
        """The server keeps requests waiting."""
        self.troubled = True  # held for long, a request times out
        self.gate = self.server.hold()

    @precondition(lambda self: self.gate is not None)
    @rule()
    def release(self) -> None:
        """The server goes on."""
        assert self.gate is not None
        self.gate.open()
        self.gate = None

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.1, 2.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        """Time goes by."""
        self.run(asyncio.sleep(seconds))

    @invariant()
    def never_pushed_past_its_limit(self) -> None:
        """At no moment are more requests in flight than allowed."""
        assert self.server.peak_in_flight <= CONCURRENCY

    def teardown(self) -> None:
        """Every call ends, with right vectors or an honest error, and nothing is left."""
        if self.gate is not None:
            self.gate.open()
        tasks = [task for task, _ in self.calls]
        if tasks:
            _, pending = self.run(asyncio.wait(tasks, timeout=10_000))
            assert not pending, "a call never ended"
        for task, texts in self.calls:
            self.check(task, texts)
        self.run(self.nothing_is_left())
        self.run(self.client.close())
        self.run(self.server.astop())
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()

    def check(self, task: asyncio.Task[Any], texts: list[str]) -> None:
        """One call's end."""
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            assert right(task.result(), texts)
            return
        assert isinstance(error, RequestError), error
        assert error.index is not None
        if isinstance(error, TextRefused):
            for index, one in error.failures.items():
                assert self.troubled or texts[index] in self.ever_poison, one
        else:
            assert self.troubled or isinstance(error, DeadlineExceeded), error
        assert error.completed is not None
        for index, row in zip(error.completed.indexes, error.completed.vectors, strict=True):
            assert is_vector_of(row, texts[index])

    async def nothing_is_left(self) -> None:
        """No slot, text, call or batch stays behind."""
        engine = self.client._engine
        if engine is None:
            return
        server = engine._origin.server
        await asyncio.sleep(200)  # what was given up on the wire counts as in flight for a while
        assert server.dispatcher.queued == 0
        assert server.dispatcher.idle
        assert server.slots.in_flight == 0
        assert not engine._calls


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="looptime 0.7, the last for Python 3.10, spins in select after jittered pauses",
)
class TestCalls(Calls.TestCase):  # type: ignore[name-defined, misc]
    """Vector i belongs to text i, requests in flight stay under the limit, every call ends, and nothing leaks."""

    settings = settings(
        max_examples=200,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,  # the same in every run; `HYPOTHESIS_PROFILE`-free, so that CI never flickers
    )
