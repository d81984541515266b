"""Callers of several visitors and a server with moods, in any order, over real sockets in simulated time.

python -m tests.server.machine --examples 10000 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import random
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from unittest import mock

import looptime
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from embedwire import (
    AuthenticationFailed,
    BadReply,
    DeadlineExceeded,
    EmbeddingClient,
    Overloaded,
    RequestError,
    RetryPolicy,
    TextRefused,
    UsageError,
)
from embedwire._clients import fork
from embedwire._servers import known
from embedwire.testing import Answer, EmbeddingServer, Gate, Request, is_vector_of, vector
from tests.helpers import numbered
from tests.server.invariants import check_queue, nothing_left

T = TypeVar("T")
POOL = numbered(8)  # few, so that callers share them
MOST_QUEUED = 60
WIDTH = 64  # enough for numbers in the wrong byte order to be seen in any vector

# Who asks. The first two share a key, a model and so all that is learnt; each other differs in one thing.
CLIENTS: dict[str, dict[str, Any]] = {
    "one": {"model": "m", "api_key": "a", "concurrency": 3},
    "its twin": {"model": "m", "api_key": "a", "concurrency": 2, "batch_size": 3, "deadline": 5.0},
    "other model": {"model": "n", "api_key": "a", "concurrency": 3},
    "other key": {"model": "m", "api_key": "b", "concurrency": 2, "encoding": "base64"},
    "other headers": {"headers": {"X-Tenant": "c"}, "concurrency": 3},
}
NAMES = list(CLIENTS)

a_text = st.sampled_from(POOL)
single_texts = st.lists(st.lists(a_text, min_size=1, max_size=1), min_size=2, max_size=8)


@dataclass(frozen=True)
class Spoiled:
    """A reply with data that is wrong, or only in another order."""

    name: str
    change: Callable[[list[Any]], list[Any]]

    def __repr__(self) -> str:
        return self.name


def _first(data: list[Any], **fields: object) -> list[Any]:
    return [{**data[0], **fields}, *data[1:]]


def _last_byte_first(data: list[Any]) -> list[Any]:
    return [
        {**item, "embedding": _swapped(item["embedding"])} if isinstance(item["embedding"], str) else item
        for item in data
    ]


def _swapped(encoded: str) -> str:
    raw = base64.b64decode(encoded)
    return base64.b64encode(b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))).decode()


SPOILED = [
    Spoiled("one too few", lambda data: data[:-1]),
    Spoiled("one too many", lambda data: [*data, {**data[0], "index": len(data)}]),
    Spoiled("an index of no text", lambda data: _first(data, index=len(data))),
    Spoiled("one index twice", lambda data: _first(data, index=len(data) - 1) if len(data) > 1 else []),
    Spoiled("not a number", lambda data: _first(data, embedding=[None] * WIDTH)),
    Spoiled("last byte first", _last_byte_first),
]
BACKWARDS = Spoiled("backwards", lambda data: data[::-1])
FAULTS: list[Answer | Spoiled] = [
    *SPOILED,
    BACKWARDS,
    Answer(cut=40, then="close"),
    Answer.error(500, "once"),
    Answer.error(502, "bad gateway"),
    Answer.error(401, "who are you?"),
    Answer.throttled(1),
    Answer.loading(),
    Answer.reset(),
    Answer.hang_up(),
    Answer(delay=3),
    Answer(delay=100),
]


@dataclass(eq=False)
class Asked:
    """One call: whose it is, and how it may end."""

    who: str
    client: EmbeddingClient
    texts: list[str]
    task: asyncio.Task[Any] = field(init=False)
    begun: bool = False
    given_up: bool = False


class Machine(RuleBasedStateMachine):
    """Callers of several clients of one server, and a server with moods."""

    def __init__(self) -> None:
        super().__init__()
        known.forget()
        fork.engine()
        self.loop: Any = looptime.new_event_loop()
        self.patch = mock.patch("aiohttp.connector.monotonic", self.loop.time)
        self.patch.start()
        self.poison: set[str] = set()
        self.ever_poison: set[str] = set()
        self.cap: int | None = None
        self.troubled = False
        self.spoiled: set[tuple[str, str]] = set()  # the visitors who got a bad reply
        self.refused: set[tuple[str, str]] = set()  # those whose key was refused
        self.faults: deque[Answer | Spoiled] = deque()
        self.gate: Gate | None = None
        self.asked: list[Asked] = []
        self.closed: list[EmbeddingClient] = []
        self.closing: list[asyncio.Task[None]] = []
        self.before: int | None = None  # requests that were allowed when the last step began
        self.broken: AssertionError | None = None
        self.server = EmbeddingServer(script=self.mood, latency=0.02, dimensions=WIDTH)
        self.server._port = _quiet_port()
        self.run(self.server.astart())
        self.up = True
        self.clients = {name: self.make(name) for name in NAMES}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the machine's loop, in simulated time."""
        result: T = self.loop.run_until_complete(work)
        return result

    def make(self, name: str) -> EmbeddingClient:
        """A client; it connects to nothing yet."""
        arguments = {"batch_size": 4, "max_queued": MOST_QUEUED, "timeout": 30, **CLIENTS[name]}
        return EmbeddingClient(self.server.url, max_retries=RetryPolicy(attempts=4, base=0.1), **arguments)

    # What the server says

    def mood(self, request: Request) -> Answer | None:
        """What the server says to a request; each visitor and model has vectors of its own."""
        if self.server.loading or not request.embeds:
            return None
        self.note(self.check_arrival)
        if self.cap is not None and len(request.texts) > self.cap:
            return Answer.error(422, f"batch size > maximum allowed batch size {self.cap}")
        if self.poison & set(request.texts):
            return Answer.too_large(600, 512)
        fault = self.faults.popleft() if self.faults else Answer()
        visitor = _visitor(request)
        if isinstance(fault, Spoiled):
            if fault is not BACKWARDS:
                self.spoiled.add(visitor)
            return Answer.items(lambda data: fault.change(_own(data, request)))
        if fault.status is not None or fault.raw is not None:
            if fault.status == 401:
                self.refused.add(visitor)
            return fault
        return replace(fault, body=lambda reply: {**reply, "data": _own(reply["data"], request)})

    def check_arrival(self) -> None:
        """No more requests are at the server than the smallest number of those who have work there allows.

        The queue is in order in the middle of things, too.
        """
        allowed = max(self.allowed(), self.before or 0)
        assert self.server.in_flight <= allowed, f"{self.server.in_flight} in flight, {allowed} allowed"
        self.check_queues()

    def note(self, check: Callable[[], None]) -> None:
        """Checks now, and tells at the end of the step: the server would hold it back until it is stopped."""
        try:
            check()
        except AssertionError as error:
            self.broken = self.broken or error

    def allowed(self) -> int:
        """The smallest concurrency among those with open calls."""
        there = [asked.who for asked in self.asked if asked.begun and not asked.task.done()]
        numbers = [CLIENTS[who]["concurrency"] for who in there]
        return min(numbers, default=3)

    # What happens

    @rule(
        who=st.sampled_from(NAMES),
        kind=st.sampled_from(["document", "query"]),
        texts=st.lists(st.lists(a_text, min_size=1, max_size=5), min_size=1, max_size=6) | single_texts,
    )
    def submit(self, who: str, kind: Any, texts: list[list[str]]) -> None:
        """Some callers come, all in one moment."""
        self.before = max(self.before or 0, self.allowed())
        client = self.clients[who]

        async def begin() -> None:
            for some in texts:
                asked = Asked(who, client, some)
                asked.task = asyncio.create_task(self.ask(asked, kind))
                self.asked.append(asked)
            await asyncio.sleep(0)

        self.run(begin())

    async def ask(self, asked: Asked, kind: Any) -> Any:
        """One call, which is turned away only where there is no room."""
        client, texts = asked.client, asked.texts
        # Somebody's end may have let others have more, a moment before this call came.
        self.before = max(self.before or 0, self.allowed())
        asked.begun = True
        try:
            return await client.embed_array(texts, kind)
        except Overloaded:
            assert client._engine is not None
            waiting = client._engine._group.dispatcher._calls.texts[kind]
            assert waiting > 0
            assert waiting + len(texts) > MOST_QUEUED
            raise

    @precondition(lambda self: any(not asked.task.done() for asked in self.asked))
    @rule(which=st.lists(st.integers(0, 100), min_size=1, max_size=8))
    def cancel(self, which: list[int]) -> None:
        """Some callers give up."""
        there = [asked for asked in self.asked if not asked.task.done()]
        for number in which:
            self.give_up(there[number % len(there)])
        self.run(asyncio.sleep(0))

    def give_up(self, asked: Asked) -> None:
        """One caller gives up, unless it has what it wants."""
        if not asked.task.done():
            asked.given_up = True
            asked.task.cancel()

    @rule(fault=st.sampled_from(FAULTS), times=st.integers(1, 3))
    def fail(self, fault: Answer | Spoiled, times: int) -> None:
        """The next requests fail, or are slow, or have bad replies."""
        self.troubled = True
        self.faults.extend([fault] * times)

    @rule(
        who=st.sampled_from(NAMES),
        kind=st.sampled_from(["document", "query"]),
        texts=single_texts,
        bad=st.sampled_from(SPOILED),
        leave=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    )
    def give_up_in_a_bad_batch(
        self, who: str, kind: Any, texts: list[list[str]], bad: Spoiled, leave: list[int]
    ) -> None:
        """Some callers of one text each give up while the reply to their common request is on its way, and is bad.

        They share a request as others take every slot until then.
        """
        self.troubled = True
        self.submit(who, kind, [[text] for text in POOL[:3]])
        self.pass_time(0.01)
        self.faults.appendleft(bad)
        self.submit(who, kind, texts)
        callers = self.asked[-len(texts) :]
        self.pass_time(0.02)
        for number in leave:
            self.give_up(callers[number % len(callers)])

    @rule(text=a_text)
    def poisoned(self, text: str) -> None:
        """The server cannot take a text, from now on."""
        self.poison.add(text)
        self.ever_poison.add(text)

    @precondition(lambda self: self.poison)
    @rule()
    def cured(self) -> None:
        """The server can take all texts again."""
        self.poison.clear()

    @rule(cap=st.sampled_from([None, 1, 2, 3]))
    def capped(self, cap: int | None) -> None:
        """The server takes fewer texts in a request, or more again."""
        self.cap = cap

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

    @precondition(lambda self: self.up)
    @rule()
    def stop(self) -> None:
        """The server is gone."""
        self.troubled, self.up = True, False
        self.run(self.server.astop())

    @precondition(lambda self: not self.up)
    @rule(slots=st.sampled_from([None, 1, 2]), loading=st.booleans())
    def start(self, slots: int | None, loading: bool) -> None:
        """The server is back, on the same port, with as many slots as may be."""
        self.up, self.server.loading = True, loading
        self.server._slots = slots
        self.server._api = replace(self.server._api, total_slots=slots or 1)
        self.run(self.server.astart())

    @precondition(lambda self: self.server.loading)
    @rule()
    def loaded(self) -> None:
        """The server has its model."""
        self.server.loading = False

    @rule(who=st.sampled_from(NAMES), at_once=st.booleans())
    def close(self, who: str, at_once: bool) -> None:
        """A client is closed, and another one takes its place, which may come before the end of the first."""
        self.before = max(self.before or 0, self.allowed())
        client, self.clients[who] = self.clients[who], self.make(who)
        self.closed.append(client)

        async def begin() -> None:
            self.closing.append(asyncio.create_task(client.close()))
            await (asyncio.sleep(0) if at_once else self.closing[-1])

        self.run(begin())

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.1, 2.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        """Time goes by."""
        self.run(asyncio.sleep(seconds))
        self.before = None if seconds else self.before

    # What holds

    def dispatchers(self) -> set[Any]:
        """The queues that are in use."""
        engines = [client._engine for client in self.clients.values()]
        return {engine._group.dispatcher for engine in engines if engine is not None}

    def check_queues(self) -> None:
        """Each queue is in order."""
        for dispatcher in self.dispatchers():
            check_queue(dispatcher)

    @invariant()
    def holds(self) -> None:
        """The queue is in order, and was whenever the server looked."""
        if self.broken is not None:
            raise self.broken
        self.check_queues()

    def teardown(self) -> None:
        """Every call ends, with right vectors or an honest error, and nothing is left."""
        try:
            self.end()
        finally:
            self.patch.stop()
            self.loop.close()

    def end(self) -> None:
        """As `teardown`."""
        if self.gate is not None:
            self.gate.open()
        self.server.loading = False
        if not self.up:
            self.run(self.server.astart())
        tasks = [asked.task for asked in self.asked]
        if tasks:
            _, pending = self.run(asyncio.wait(tasks, timeout=10_000))
            assert not pending, "a call never ended"
        for asked in self.asked:
            self.check(asked)
        self.run(self.nothing_is_left())
        self.run(self.server.astop())
        if self.broken is not None:
            raise self.broken

    def check(self, asked: Asked) -> None:
        """One call's end."""
        if asked.task.cancelled():
            assert asked.given_up, "a call was cancelled that nobody gave up"
            return
        error, visitor = asked.task.exception(), _names(asked.who)
        if error is None:
            assert len(asked.task.result()) == len(asked.texts)
            self.check_rows(asked, asked.task.result(), asked.texts)
            return
        if isinstance(error, UsageError):
            assert asked.client in self.closed, error
            return
        if isinstance(error, Overloaded):
            return
        assert isinstance(error, RequestError), repr(error)
        assert error.index is not None or str(error).startswith("GET /models"), error  # which is of no text
        if isinstance(error, BadReply):
            assert visitor in self.spoiled, error
        elif isinstance(error, AuthenticationFailed):
            assert visitor in self.refused, error
        elif isinstance(error, TextRefused):
            for index, one in error.failures.items():
                assert self.troubled or asked.texts[index] in self.ever_poison, one
        else:
            assert self.troubled or isinstance(error, DeadlineExceeded), error
        assert error.completed is not None
        done = [asked.texts[index] for index in error.completed.indexes]
        self.check_rows(asked, error.completed.vectors, done)

    def check_rows(self, asked: Asked, rows: Any, texts: list[str]) -> None:
        """Each vector is the text's own, of this visitor and model."""
        mine = _names(asked.who)
        for row, text in zip(rows, texts, strict=True):
            if not is_vector_of(row, _text_of(mine, text)):
                owners = [
                    (who, other)
                    for who in NAMES
                    for other in POOL
                    if is_vector_of(row, _text_of(_names(who), other))
                ]
                raise AssertionError(f"{asked.who} got for {text!r} the vector of {owners or row[:4]}")

    async def nothing_is_left(self) -> None:
        """No slot, text, call, batch, task or connection stays behind."""
        await asyncio.gather(*self.closing)
        await asyncio.sleep(200)  # what was given up on the wire counts as in flight for a while
        for client in self.clients.values():
            if client._engine is not None:
                assert not client._engine._calls
        for dispatcher in self.dispatchers():
            nothing_left(dispatcher)
        for client in self.clients.values():
            await client.close()
        await asyncio.sleep(1)
        assert self.server.open_connections == 0
        assert len(asyncio.all_tasks()) == 1


def _names(who: str) -> tuple[str, str]:
    """The visitor that a client is, and its model."""
    arguments = CLIENTS[who]
    return arguments.get("api_key") or arguments["headers"]["X-Tenant"], arguments.get("model", "test-model")


def _visitor(request: Request) -> tuple[str, str]:
    """Who asks, and for which model."""
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    return key or request.headers["x-tenant"], request.json["model"]


def _text_of(visitor: tuple[str, str], text: str) -> str:
    return "/".join((*visitor, text))


def _own(data: list[Any], request: Request) -> list[Any]:
    """The right reply, in the vectors of one visitor and model."""
    rows = [vector(_text_of(_visitor(request), text), WIDTH) for text in request.texts]
    coded: list[Any] = rows
    if isinstance(data[0]["embedding"], str):
        coded = [_base64(row) for row in rows]
    return [{**item, "embedding": row} for item, row in zip(data, coded, strict=True)]


def _base64(row: list[float]) -> str:
    import numpy as np

    return base64.b64encode(np.asarray(row, dtype="<f4").tobytes()).decode()


def _quiet_port() -> int:
    """A free port that no outgoing connection gets: it would be connected to itself while the server is gone."""
    dice = random.SystemRandom()  # hypothesis decides all other random numbers
    for port in (dice.randrange(20_000, 30_000) for _ in range(100)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port from 20000 to 29999")


def schedules(examples: int, **more: Any) -> settings:
    """So many schedules of thirty steps."""
    return settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )


def main() -> None:
    """Random schedules, from the command line."""
    parser = argparse.ArgumentParser(description="Random schedules of calls, faults and restarts.")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shrink", action="store_true", help="make what fails small, which takes minutes")
    arguments = parser.parse_args()
    phases = [Phase.generate, Phase.shrink] if arguments.shrink else [Phase.generate]
    run_state_machine_as_test(
        seed(arguments.seed)(Machine), settings=schedules(arguments.examples, phases=phases)
    )
    print(f"{arguments.examples} schedules passed, seed {arguments.seed}")


if __name__ == "__main__":
    main()
