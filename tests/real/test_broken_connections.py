"""Broken connections: what both clients make of them before a real llama.cpp."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embedwire import (
    ConnectionFailed,
    DeadlineExceeded,
    EmbeddingClient,
    RequestError,
    RequestTimeout,
    SharedEmbeddingClient,
    Timeouts,
)
from embedwire.testing import Fault, FaultProxy, Gate
from tests.helpers import numbered

if TYPE_CHECKING:
    from tests.servers.fixtures import Truth

Embed = Callable[[list[str]], Awaitable[list[list[float]]]]
Right = Callable[[Any, list[str]], None]
PLAIN: dict[str, Any] = {"model": "m", "encoding": "float", "batch_size": 5, "concurrency": 4}
MANY = numbered(300)
# Bytes. A reply to five texts has about 40,000.
IN_THE_FIRST_LINE, IN_THE_HEAD, IN_THE_BODY = 8, 100, 2000
CUTS = [
    Fault.hang_up(),
    Fault.reset(),
    *(Fault(cut=cut) for cut in (0, IN_THE_FIRST_LINE, IN_THE_HEAD, IN_THE_BODY)),
    *(Fault(cut=cut, then="reset") for cut in (0, IN_THE_BODY)),
]


@contextlib.asynccontextmanager
async def own(url: str, **options: Any) -> AsyncIterator[Embed]:
    """The door of an `EmbeddingClient` that asks for nothing but vectors."""
    async with EmbeddingClient(url, **{**PLAIN, **options}) as client:
        yield client.embed


@contextlib.asynccontextmanager
async def shared(url: str, **options: Any) -> AsyncIterator[Embed]:
    """The sync door of a `SharedEmbeddingClient`, likewise."""
    async with SharedEmbeddingClient(url, **{**PLAIN, **options}) as client:
        yield lambda texts: asyncio.to_thread(client.embed, texts)


both_clients = pytest.mark.parametrize("client", [own, shared])


@pytest.fixture
async def way(llama: str) -> AsyncIterator[FaultProxy]:
    """A proxy on the test's loop, before a llama.cpp with one slot."""
    async with FaultProxy(llama) as way:
        yield way


@pytest.fixture
def few(sentences: list[str]) -> list[str]:
    """12 different texts, so three requests."""
    return sentences[:12]


@pytest.fixture
def right(llama: str, truth: Truth) -> Right:
    """Fails unless the vectors are those of the texts, in their order."""
    return lambda rows, texts: truth.check(rows, llama, texts)


def check_error(error: RequestError, texts: list[str], right: Right) -> list[int]:
    """Fail unless the error names a text without a vector, and has right ones; returns the indexes of those."""
    assert error.index is not None
    assert f"texts[{error.index}] of {len(texts)}" in str(error)
    assert error.completed is not None
    done = error.completed.indexes
    assert error.index not in done
    if done:
        right(error.completed.vectors, [texts[index] for index in done])
    return done


@contextlib.contextmanager
def said(words: str) -> Iterator[Gate]:
    """A gate that opens when a client logs these words."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                gate.open()

    gate, listener, logger = Gate(), Listener(), logging.getLogger("embedwire")
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield gate
    finally:
        logger.setLevel(level)
        logger.removeHandler(listener)


@both_clients
class TestSlowWays:
    """A slow way is no failure until the time is up."""

    @pytest.mark.parametrize("fault", [Fault(latency=0.05), Fault(drip=0.005, piece=4096)])
    async def test_is_waited_for(
        self, fault: Fault, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """Late and dripping replies are read to the end, and not asked for again."""
        way.fault = fault
        async with client(way.url) as embed:
            right(await embed(few), few)
        assert way.requests == 3

    @pytest.mark.parametrize(
        ("fault", "timeouts"),
        [
            (Fault(drip=0.05, piece=64), Timeouts(total=0.2)),
            (Fault.blackhole(), Timeouts(total=0.2)),
            (Fault.blackhole(), Timeouts(sock_read=0.2)),
            (Fault(cut=IN_THE_BODY, then="hang"), Timeouts(sock_read=0.2)),
        ],
    )
    async def test_is_given_up_in_time(
        self, fault: Fault, timeouts: Timeouts, client: Any, way: FaultProxy
    ) -> None:
        """A reply that does not end in time is a RequestTimeout, after two requests for a single text."""
        way.fault = fault
        async with client(way.url, timeout=timeouts) as embed:
            with pytest.raises(RequestTimeout, match=r"texts\[0\] of 1, after 2 requests") as failure:
                await embed(["a text"])
        assert (failure.value.attempts, way.requests) == (2, 2)

    async def test_what_was_lost_is_sent_again(
        self, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """A batch that vanished is sent again in halves after its timeout, and all is right."""
        way.inject(Fault.blackhole())
        async with client(way.url, timeout=Timeouts(sock_read=1)) as embed:
            right(await embed(few), few)
        assert way.requests == 3 + 2

    async def test_has_no_more_time_than_the_deadline(
        self, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """Where the way ends in a hole, the deadline ends the call, and what came before is kept."""
        way.inject(Fault())
        way.fault = Fault.blackhole()
        async with client(way.url, deadline=0.8) as embed:
            with pytest.raises(DeadlineExceeded) as failure:
                await embed(few)
        assert len(check_error(failure.value, few, right)) == 5


@both_clients
class TestBrokenWays:
    """A broken connection is a passing failure, a few times."""

    @pytest.mark.parametrize("fault", CUTS)
    async def test_once(
        self, fault: Fault, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """A reply that breaks off anywhere, or never begins, is asked for again, and all is right."""
        way.inject(fault)
        async with client(way.url) as embed:
            right(await embed(few), few)
        assert way.requests == 3 + 1

    async def test_at_the_last_byte(self, client: Any, way: FaultProxy, right: Right) -> None:
        """A reply without its last byte is no reply."""
        async with client(way.url) as embed:
            await embed(["a text"])
            way.inject(Fault(cut=way.passed - 1))
            right(await embed(["a text"]), ["a text"])
        assert way.requests == 3

    @pytest.mark.parametrize(
        "fault",
        [Fault.hang_up(), Fault.reset(), Fault(cut=IN_THE_HEAD), Fault(cut=IN_THE_BODY, then="reset")],
    )
    async def test_always(
        self, fault: Fault, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """A way that is always broken is a ConnectionFailed after three requests, and names a text."""
        way.fault = fault
        async with client(way.url) as embed:
            with pytest.raises(ConnectionFailed, match="after 3 requests") as failure:
                await embed(few)
        assert (failure.value.attempts, check_error(failure.value, few, right)) == (3, [])
        assert way.requests <= 3 * 3

    async def test_what_came_before_is_kept(
        self, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """The vectors that came before the way broke for good are in the error."""
        way.inject(Fault())
        way.fault = Fault(cut=IN_THE_BODY)
        async with client(way.url) as embed:
            with pytest.raises(ConnectionFailed) as failure:
                await embed(few)
        assert len(check_error(failure.value, few, right)) == 5

    @pytest.mark.slow
    async def test_a_restart_is_waited_for(self, client: Any, way: FaultProxy, right: Right) -> None:
        """A server that is away for a while in the middle of a large job costs no vector."""
        async with client(way.url) as embed:
            with said("waiting until it is ready") as waiting:
                asking = asyncio.create_task(embed(MANY))
                await way.wait_for(lambda: way.requests == 20)
                await way.astop()
                await waiting.wait()
                await way.astart()
            right(await asking, MANY)


@both_clients
class TestIdleConnections:
    """What happens to a connection while nobody uses it fails nobody."""

    @pytest.mark.parametrize("then", ["close", "reset"])
    async def test_that_ended_are_not_used(
        self, then: Any, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """Connections that end between two calls cost the second one no request, nor an attempt."""
        async with client(way.url, max_retries=0) as embed:
            await embed(few)
            way.sever(then)
            await way.wait_for(lambda: way.open_connections == 0)
            right(await embed(few), few)
        assert way.requests == 3 + 3

    @pytest.mark.parametrize("fault", [Fault.hang_up(), Fault.reset()])
    async def test_that_end_at_the_next_request_cost_no_attempt(
        self, fault: Fault, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """Where each kept connection turns out to be stale, its request is sent again, free of charge."""
        async with client(way.url, max_retries=0) as embed:
            await embed(few)
            kept = way.open_connections
            way.inject(*[fault] * kept)
            right(await embed(few), few)
        assert way.requests == 3 + kept + 3

    async def test_that_went_silent_are_left(
        self, client: Any, way: FaultProxy, few: list[str], right: Right
    ) -> None:
        """After a timeout on a half-open connection the next request takes another one."""
        async with client(way.url, concurrency=1, timeout=Timeouts(sock_read=0.5)) as embed:
            await embed(few)
            way.sever("hang")
            right(await embed(["a text"]), ["a text"])
        assert (way.requests, way.connections) == (3 + 1, 2)


@both_clients
class TestAnyWay:
    """Whatever happens, a vector is right or missing."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("server", "tolerance", "harm"), [("llama", 1e-6, 0.2), ("llama", 1e-6, 0.6), ("llama4", 2e-3, 0.4)]
    )
    async def test_gives_right_vectors_or_none(
        self,
        server: str,
        tolerance: float,
        harm: float,
        client: Any,
        corpus: list[str],
        truth: Truth,
        request: pytest.FixtureRequest,
    ) -> None:
        """Faults of all kinds, alone and together, leave no wrong vector: neither in a reply nor in an error."""

        def right(rows: Any, texts: list[str]) -> None:
            np.testing.assert_allclose(np.array(rows), truth(url, texts), rtol=0, atol=tolerance)

        url: str = request.getfixturevalue(server)
        texts, dice = [text for text in corpus if len(text) < 50][:200], random.Random(20261122)
        auto = {"model": None, "encoding": "auto", "batch_size": "auto", "concurrency": "auto"}
        async with FaultProxy(url) as way, client(way.url, timeout=Timeouts(sock_read=0.3), **auto) as embed:
            way.inject(*(anything(dice) if dice.random() < harm else Fault() for _ in range(200)))
            try:
                rows = await embed(texts)
            except RequestError as error:
                check_error(error, texts, right)
            else:
                right(rows, texts)


def anything(dice: random.Random) -> Fault:
    """Any mixture of faults, at any byte of the reply."""
    endings: list[Any] = ["close", "close", "close", "reset", "reset", "reset", "hang"]
    return Fault(
        swallow=dice.random() < 0.2,
        latency=dice.choice([0, 0.02]),
        drip=dice.choice([None, 0.001]),
        piece=8192,
        cut=dice.choice([None, dice.randrange(500), dice.randrange(50_000)]),
        then=dice.choice(endings),
    )
