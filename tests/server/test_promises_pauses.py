"""A pause holds no slot, and what was given up still counts as work, over real sockets in simulated time."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from embedwire import (
    EmbeddingClient,
    EmbedwireError,
    RateLimit,
    RequestTimeout,
    RetryPolicy,
    SharedEmbeddingClient,
    UsageError,
)
from embedwire.testing import Answer, EmbeddingServer, Request, vector
from tests.helpers import now, numbered, right, simulated

pytestmark = simulated
ONCE_MORE = RetryPolicy(attempts=3, base=5, throttled_base=5, jitter=False)


def client(server: EmbeddingServer, model: str | None, **arguments: Any) -> EmbeddingClient:
    """A client for one model of a server."""
    return EmbeddingClient(server.url, **{"model": model, "encoding": "float", **arguments})


def model_of(request: Request) -> object:
    """The model that a request for vectors names."""
    return request.json.get("model") if request.embeds else None


def refuses(model: str, answer: Answer) -> Callable[[Request], Answer | None]:
    """A gateway that never serves one of its models."""
    return lambda request: answer if model_of(request) == model else None


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks, and waits until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


PAUSES = {
    "rate limit of the server": Answer.throttled(8),
    "overload": Answer.error(503, "too many requests", headers={"Retry-After": "8"}),
    "loading": Answer.loading(),
    "failure": Answer.error(500, "no", headers={"Retry-After": "8"}),
    "gateway": Answer.error(502, "no", headers={"Retry-After": "8"}),
    "reset": Answer.reset(),
    "hang up": Answer.hang_up(),
    "cut": Answer(cut=20, then="close"),
}


class TestPause:
    """What waits is not in flight."""

    @pytest.mark.parametrize("concurrency", [1, 2, "auto"])
    @pytest.mark.parametrize("pause", PAUSES)
    async def test_of_one_model_holds_no_other_up(
        self, pause: str, concurrency: Any, here: EmbeddingServer
    ) -> None:
        """While requests of one model pause, for whatever reason, a query for another model goes at once."""
        here.script = refuses("A", PAUSES[pause])
        async with (
            client(here, "A", max_retries=ONCE_MORE, concurrency=concurrency) as slow,
            client(here, "B", concurrency=concurrency) as fast,
        ):
            await fast.embed_query("warm")
            bulk = asyncio.create_task(slow.embed(numbered(100)))
            await asyncio.sleep(0.5)
            begun = now()
            assert right([await fast.embed_query("now")], ["now"])
            assert now() - begun < 0.1
            assert right(await fast.embed(numbered(60, "b")), numbered(60, "b"))
            assert now() - begun < 0.5
            assert not bulk.done()
            await ended(bulk)

    def test_of_one_shared_client_holds_no_other_up(self, server: EmbeddingServer) -> None:
        """While all requests of one shared client pause for half a minute, another one's query goes at once."""
        server.script = refuses("A", Answer.throttled(30))
        slow = SharedEmbeddingClient(server.url, model="A", encoding="float")
        with (
            ThreadPoolExecutor(1) as threads,
            SharedEmbeddingClient(server.url, model="B", encoding="float", deadline=10) as fast,
        ):
            fast.embed_query("warm")
            bulk = threads.submit(slow.embed, numbered(100))
            server.wait(lambda: len(server.batches) >= 5)
            assert right([fast.embed_query("now")], ["now"])
            assert not bulk.done()
            slow.close()
            assert isinstance(bulk.exception(), UsageError)

    @pytest.mark.parametrize("rate", [1, RateLimit(texts=1), RateLimit(chars=10)], ids=str)
    async def test_for_a_rate_limit_holds_no_other_up(self, rate: Any, here: EmbeddingServer) -> None:
        """While one client waits for its rate limit's next minute, another one's query goes at once."""
        async with (
            client(here, "m", rate_limit=rate, concurrency=1, batch_size=1) as slow,
            client(here, "m", concurrency=1) as fast,
        ):
            bulk = asyncio.create_task(slow.embed(numbered(3, "a long text")))
            await asyncio.sleep(1)
            begun = now()
            assert right([await fast.embed_query("now")], ["now"])
            assert now() - begun < 0.1
            assert not bulk.done()
            await ended(bulk)

    async def test_until_the_model_is_known_holds_no_other_up(self, here: EmbeddingServer) -> None:
        """While one client asks which model is served, another one's query goes at once."""
        here.script = lambda request: Answer.hang() if request.path == "/v1/models" else None
        async with client(here, None, concurrency=1) as asking, client(here, "m", concurrency=1) as fast:
            bulk = asyncio.create_task(asking.embed(numbered(100)))
            await here.wait_for(lambda: any(request.path == "/v1/models" for request in here.requests))
            begun = now()
            assert right([await fast.embed_query("now")], ["now"])
            assert now() - begun < 0.1
            await ended(bulk)

    async def test_for_a_question_costs_a_query_a_moment_at_most(self, here: EmbeddingServer) -> None:
        """While the server does not answer what it is, a query beside bulk waits a quarter of a second at most."""
        here.script = lambda request: Answer.hang() if request.path == "/props" else None
        async with client(here, "m", concurrency=1) as one:
            bulk = asyncio.create_task(one.embed(numbered(120)))
            await here.wait_for(lambda: any(request.path == "/props" for request in here.requests))
            waits = []
            for number in range(20):
                begun = now()
                assert right([await one.embed_query(f"query {number}")], [f"query {number}"])
                waits.append(now() - begun)
                await asyncio.sleep(0.05)
            assert max(waits) <= 0.3
            assert right(await bulk, numbered(120))
            assert now() < 2

    async def test_is_used_by_others(self, here: EmbeddingServer) -> None:
        """While one model pauses for a minute, all that others want is done, at a server that takes one at a time."""
        here.script = refuses("A", Answer.throttled(55))
        async with (
            client(here, "A", concurrency=1) as slow,
            client(here, "B", concurrency=1, batch_size=1) as fast,
        ):
            waiting = [asyncio.create_task(slow.embed_query(f"a {number}")) for number in range(4)]
            await here.wait_for(lambda: len(here.batches) > 0)
            assert right(await fast.embed(numbered(50)), numbered(50))
            assert now() < 5
            assert here.peak_in_flight == 1
            await ended(*waiting)

    @pytest.mark.parametrize("limit", [1, 2])
    async def test_is_overtaken_by_a_query(self, limit: int, here: EmbeddingServer) -> None:
        """A query that comes while repeats of bulk wait for their turn goes before them."""
        failed: set[object] = set()

        def fail_once(request: Request) -> Answer | None:
            if model_of(request) in failed | {"Q", None}:
                return Answer(delay=1) if request.embeds else None
            failed.add(model_of(request))
            return Answer.throttled(5)

        here.script = fail_once
        bulk = [client(here, f"A{number}", concurrency=limit, max_retries=ONCE_MORE) for number in range(6)]
        calls = [asyncio.create_task(one.embed([f"text {at}"])) for at, one in enumerate(bulk)]
        async with client(here, "Q", concurrency=limit) as asking:
            await here.wait_for(lambda: len(failed) == 6 and not here.in_flight)
            await here.wait_for(lambda: here.in_flight == 1)
            await asyncio.sleep(0.1)
            assert right([await asking.embed_query("query")], ["query"])
            place = [model_of(request) for request in here.requests if request.embeds].index("Q")
            assert place <= 6 + limit  # six were refused, and at most `limit` were under way
            await asyncio.gather(*calls)
            assert here.peak_in_flight <= limit
        for one in bulk:
            await one.close()

    async def test_ends_under_the_limit(self, here: EmbeddingServer) -> None:
        """Repeats of many models that come due in the same moment never exceed what may be in flight."""
        paused: set[object] = set()

        def first_no(request: Request) -> Answer | None:
            if not request.embeds or request.texts[0] in paused:
                return Answer(delay=0.3) if request.embeds else None
            paused.add(request.texts[0])
            return Answer.throttled(7)

        here.script = first_no
        clients = [client(here, f"M{number}", concurrency=2, max_retries=ONCE_MORE) for number in range(8)]
        rows = await asyncio.gather(*(one.embed_query(f"t {at}") for at, one in enumerate(clients)))
        assert right(rows, [f"t {at}" for at in range(8)])
        assert here.peak_in_flight <= 2
        for one in clients:
            await one.close()

    @pytest.mark.parametrize("slow", [Answer(delay=5), Answer.throttled(5), Answer.loading()])
    async def test_of_a_document_is_not_the_querys(self, slow: Answer, here: EmbeddingServer) -> None:
        """A query whose text is also in a slow, or pausing, request of bulk does not wait for that one."""
        here.script = lambda request: slow if len(request.texts) > 1 else None
        async with client(here, "m", max_retries=ONCE_MORE) as one:
            await one.embed_query("warm")
            bulk = asyncio.create_task(one.embed(numbered(5)))
            await asyncio.sleep(0.5)
            begun = now()
            assert right([await one.embed_query("text 3")], ["text 3"])
            assert now() - begun < 0.1
            assert not bulk.done()
            await ended(bulk)

    @pytest.mark.parametrize("pause", ["rate limit of the server", "failure", "gateway", "reset"])
    async def test_of_a_call_that_is_cancelled_leaves_no_slot_behind(
        self, pause: str, here: EmbeddingServer
    ) -> None:
        """Calls cancelled in their pause, or while their repeats wait for a slot, cost later ones nothing."""
        here.script = refuses("A", PAUSES[pause])
        async with client(here, "A", concurrency=1) as slow, client(here, "B", concurrency=1) as fast:
            for seconds in (0.1, 0.5, 8.5):
                calls = [asyncio.create_task(slow.embed_query(f"{seconds} {at}")) for at in range(4)]
                await asyncio.sleep(seconds)
                await ended(*calls)
            begun = now()
            assert right(await fast.embed(numbered(60)), numbered(60))
            assert now() - begun < 0.5


class Deaf:
    """A server that computes one request at a time, and never notices that a client has left."""

    def __init__(self, seconds: float, headers: str = "") -> None:
        self.seconds = seconds
        self.per_text = 0.0  # more for each text
        self.headers = headers
        self.in_flight = self.peak = self.computed = 0
        self._turn = asyncio.Lock()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; what was read is computed, whoever waits for it."""
        work: set[asyncio.Task[None]] = set()
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or b"0")
                body = await reader.readexactly(length)
                work.add(asyncio.create_task(self._compute(json.loads(body)["input"], writer)))
        await asyncio.gather(*work)
        writer.close()

    async def _compute(self, texts: list[str], writer: asyncio.StreamWriter) -> None:
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        async with self._turn:
            await asyncio.sleep(self.seconds + self.per_text * len(texts))
        self.in_flight -= 1
        self.computed += 1
        data = [{"index": at, "embedding": vector(text, 8)} for at, text in enumerate(texts)]
        body = json.dumps({"data": data}).encode()
        if not writer.is_closing():
            head = f"HTTP/1.1 200 OK\r\n{self.headers}Content-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)


@asynccontextmanager
async def deaf(seconds: float, headers: str = "") -> AsyncIterator[tuple[Deaf, str]]:
    """A server that does not notice who left, and its URL."""
    server = Deaf(seconds, headers)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        yield server, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        await asyncio.sleep(100)  # all that was asked for is computed
        listener.close()


def patience() -> float:
    """Seconds for which a caller waits: about as long as a request takes, and never in step with others."""
    return 0.5 + random.random() / 10


async def by_deadline(one: EmbeddingClient, text: str) -> None:
    """Gives up as the call's deadline passes; the client has one."""
    await one.embed_query(text)


async def by_wait_for(one: EmbeddingClient, text: str) -> None:
    """Gives up from outside."""
    await asyncio.wait_for(one.embed_query(text), patience())


async def by_stream(one: EmbeddingClient, text: str) -> None:
    """Leaves a stream."""
    stream = one.stream([text])
    try:
        await asyncio.wait_for(anext(stream), patience())
    finally:
        await stream.aclose()


async def by_close(one: EmbeddingClient, text: str) -> None:
    """Closes a client of its own."""
    async with EmbeddingClient(one._settings.fleet.names, model="m", encoding="float", concurrency=2) as own:
        await asyncio.wait_for(own.embed_query(text), patience())


GiveUp = Callable[[EmbeddingClient, str], Awaitable[None]]


class TestGivenUp:
    """Given up is not gone."""

    @pytest.mark.parametrize("give_up", [by_deadline, by_wait_for, by_stream, by_close])
    async def test_does_not_pile_up(self, give_up: GiveUp) -> None:
        """Impatient callers of a server that does not notice who left bury it under no more than it may have."""
        answered, gave_up = 0, 0
        random.seed(10)
        async with deaf(0.4) as (server, url):
            deadline = 0.5 if give_up is by_deadline else None
            async with EmbeddingClient(
                url, model="m", encoding="float", concurrency=2, deadline=deadline
            ) as one:

                async def work(who: int) -> None:
                    nonlocal answered, gave_up
                    number = 0
                    while now() < 20:
                        number += 1
                        try:
                            await give_up(one, f"{who} {number}")
                            answered += 1
                        except (EmbedwireError, asyncio.TimeoutError):
                            gave_up += 1

                await asyncio.gather(*map(work, range(4)))
            assert server.peak <= 4
            assert answered >= 10  # in 0.1 it was one

    async def test_by_timeout_does_not_pile_up(self) -> None:
        """Requests that the client itself gave up, for their timeout, count as work too."""
        async with (
            deaf(0.4) as (server, url),
            EmbeddingClient(url, model="m", encoding="float", concurrency=4, timeout=0.5) as one,
        ):
            for _ in range(10):
                calls = [one.embed_query(f"{now()} {at}") for at in range(4)]
                await asyncio.gather(*calls, return_exceptions=True)
            assert server.peak <= 4

    async def test_by_timeout_lets_the_others_through(self) -> None:
        """At a server that takes one at a time, most of four impatient callers' queries are answered."""
        answered = 0
        async with (
            deaf(0.4) as (server, url),
            EmbeddingClient(url, model="m", encoding="float", timeout=0.5) as one,
        ):

            async def work(who: int) -> None:
                nonlocal answered
                for number in range(6):
                    with suppress(RequestTimeout):
                        await one.embed_query(f"{who} {number}")
                        answered += 1

            await asyncio.gather(*map(work, range(4)))
            assert server.peak <= 4
            assert answered >= 16  # of 24; with slots that are free at once it was about 9

    async def test_by_timeout_comes_in_halves_when_the_server_is_done(self) -> None:
        """What ran into its timeout is sent in halves once it may be computed, not behind itself."""
        texts = numbered(8)
        async with (
            deaf(0) as (server, url),
            EmbeddingClient(url, model="m", encoding="float", concurrency=1, batch_size=8, timeout=1) as one,
        ):
            server.per_text = 0.2  # 1.6 s for all; 0.8 s for a half
            assert right(await one.embed(texts), texts)
            assert server.peak == 1
            assert server.computed == 3

    @pytest.mark.parametrize(
        ("software", "goes_on"), [("", True), ("llama.cpp", True), ("vllm", False), ("ollama/0.12", False)]
    )
    async def test_by_timeout_counts_unless_the_server_drops_the_work(
        self, software: str, goes_on: bool
    ) -> None:
        """A request that ran into its timeout keeps its slot for as long again, but not for ever."""
        async with (
            deaf(0.01, software and f"Server: {software}\r\n") as (server, url),
            EmbeddingClient(
                url, model="m", encoding="float", concurrency=1, timeout=0.5, max_retries=0
            ) as one,
        ):
            await one.embed_query("warm")
            server.seconds = 0.9
            with pytest.raises(RequestTimeout):
                await one.embed_query("slow")
            begun, server.seconds = now(), 0.01
            waits = asyncio.create_task(one.embed_query("next"))
            await asyncio.wait([waits], timeout=0.45)
            assert server.peak == (1 if goes_on else 2)
            await ended(waits)
            await asyncio.sleep(1)
            assert right([await one.embed_query("last")], ["last"])
            assert now() - begun < 1.6

    @pytest.mark.parametrize("after", [0.1, 0.3])
    async def test_holds_its_slot_as_long_as_such_requests_take(self, after: float) -> None:
        """A request that was given up early is in flight for as long as requests take; the next one comes after."""
        async with (
            deaf(0.4) as (server, url),
            EmbeddingClient(url, model="m", encoding="float", concurrency=1) as one,
        ):
            await one.embed_query("so long it takes")
            for number in range(5):
                call = asyncio.create_task(one.embed_query(f"left {number}"))
                await asyncio.sleep(after)
                await ended(call)
                assert right([await one.embed_query(f"query {number}")], [f"query {number}"])
            assert server.peak == 1

    @pytest.mark.parametrize(
        ("software", "goes_on"),
        [("", True), ("llama.cpp", True), ("uvicorn", True), ("vllm", False), ("ollama/0.12", False)],
    )
    async def test_counts_unless_the_server_drops_the_work(self, software: str, goes_on: bool) -> None:
        """Only where a kind of server is known to drop the work of who left is its slot free at once."""
        async with (
            deaf(0.4, software and f"Server: {software}\r\n") as (server, url),
            EmbeddingClient(url, model="m", encoding="float", concurrency=1) as one,
        ):
            await one.embed_query("warm")
            call = asyncio.create_task(one.embed_query("left"))
            await asyncio.sleep(0.2)
            await ended(call)
            assert right([await one.embed_query("next")], ["next"])
            assert server.peak == (1 if goes_on else 2)

    async def test_shrinks_the_window_and_it_recovers(self) -> None:
        """After requests that took too long for their callers fewer go out at once, and more again when it is fast."""
        async with (
            deaf(0.4) as (server, url),
            EmbeddingClient(
                url, model="m", encoding="float", concurrency=8, batch_size=1, deadline=0.5
            ) as one,
        ):
            await asyncio.gather(*map(one.embed_query, numbered(8, "warm")), return_exceptions=True)
            await asyncio.sleep(30)
            server.peak = 0
            await asyncio.gather(*(one.embed([text]) for text in numbered(8, "b")), return_exceptions=True)
            assert server.peak < 8
            await asyncio.sleep(30)
            server.seconds = 0.001
            for number in range(40):
                await asyncio.gather(*(one.embed([f"{number} {at}"]) for at in range(8)))
            server.seconds, server.peak = 0.02, 0
            await asyncio.gather(*(one.embed([text]) for text in numbered(16, "c")))
            assert server.peak == 8

    async def test_before_it_was_sent_costs_nothing(self) -> None:
        """Calls that give up while they wait leave no work, and hold no slot."""
        async with (
            deaf(0.4) as (server, url),
            EmbeddingClient(url, model="m", encoding="float", concurrency=1) as one,
        ):
            first = asyncio.create_task(one.embed(["first"]))
            await asyncio.sleep(0.01)
            await ended(*[asyncio.create_task(one.embed([text])) for text in numbered(50)])
            await first
            begun = now()
            await one.embed_query("query")
            assert now() - begun < 0.5
            assert server.computed == 2
