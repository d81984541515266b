"""The loop never stops for anybody: no step does more than a slice of the work, however large the call or the crowd.

A step is measured by what it does, in calls of functions, and not by the time that takes. Sizes count what costs.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

import pytest

from embedwire import (
    AuthenticationFailed,
    DeadlineExceeded,
    EmbeddingClient,
    RequestError,
    RetryPolicy,
    SharedEmbeddingClient,
    TextRefused,
    UsageError,
)
from embedwire._clients.lists import NUMBERS
from embedwire._http import attempt, messages, steps
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import now, numbered, right, simulated
from tests.server.doors import Doors, own, shared

# Calls of functions in one step: what telling a thousand callers takes. All of a crowd at once would be far more.
MOST = 120_000
CROWD = 4000


class Steps:
    """Counts what each step of the event loops in some threads does; a step is one callback.

    Args:
        wanted: Whether a thread, by its name, is counted.
    """

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self.longest = 0
        self.total = 0
        self._wanted = wanted
        self._run: Any = asyncio.Handle._run

    def __enter__(self) -> Steps:
        steps, run = self, self._run

        def counted(handle: asyncio.Handle) -> None:
            if not steps._wanted(threading.current_thread().name):
                run(handle)
                return
            count = 0

            def profile(frame: FrameType, event: str, argument: object) -> None:
                nonlocal count
                count += event in ("call", "c_call")

            before = sys.getprofile()
            sys.setprofile(profile)
            try:
                run(handle)
            finally:
                sys.setprofile(before)
            steps.longest = max(steps.longest, count)
            steps.total += count

        asyncio.Handle._run = counted  # type: ignore[method-assign, assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.Handle._run = self._run  # type: ignore[method-assign]


def on_the_loop_thread() -> Steps:
    """Counts the steps of the loop that all shared clients have."""
    return Steps(lambda name: name == "embedwire")


def on_this_loop() -> Steps:
    """Counts the steps of a test's own loop."""
    mine = threading.current_thread().name
    return Steps(lambda name: name == mine)


@pytest.fixture
def client(server: EmbeddingServer) -> Iterator[SharedEmbeddingClient]:
    """A shared client that has been used."""
    with shared(server, max_retries=RetryPolicy(base=0.01, throttled_base=0.01)) as client:
        client.embed_query("warm")
        yield client


class TestCrowds:
    """Thousands of callers of one text."""

    @pytest.mark.parametrize("texts", ["one", "many"])
    @pytest.mark.parametrize("waits", ["for a slot", "for a reply"])
    async def test_that_are_cancelled(self, waits: str, texts: str, server: EmbeddingServer) -> None:
        """Thousands of callers who give up at once cost the loop short steps, and work in proportion."""
        async with own(server, concurrency=1) as client:
            await client.embed_query("warm")
            with server.hold():
                if waits == "for a slot":
                    first = asyncio.create_task(client.embed_query("first"))
                    await server.wait_for(lambda: server.in_flight == 1)
                calls = [
                    asyncio.create_task(client.embed_query("the text" if texts == "one" else f"text {at}"))
                    for at in range(CROWD)
                ]
                await server.wait_for(lambda: server.in_flight == 1)
                await asyncio.sleep(0)
                with on_this_loop() as steps:
                    for call in calls:
                        call.cancel()
                    await asyncio.wait(calls)
                    for _ in range(10):
                        await asyncio.sleep(0)
                assert steps.longest < MOST
                assert steps.total < 300 * CROWD
            if waits == "for a slot":
                await first
            assert right([await client.embed_query("last")], ["last"])

    @pytest.mark.parametrize("waits", ["for a slot", "for a reply"])
    async def test_that_are_cancelled_cost_what_each_costs(self, waits: str, server: EmbeddingServer) -> None:
        """The work of a cancellation does not grow with the number of others who want the same text."""
        async with own(server, concurrency=1) as client:
            await client.embed_query("warm")
            costs = []
            for crowd in (100, 800):
                with server.hold():
                    first = asyncio.ensure_future(client.embed_query(f"first {crowd}"))
                    if waits == "for a slot":
                        await server.wait_for(lambda: server.in_flight == 1)
                    text = f"first {crowd}" if waits == "for a reply" else f"text {crowd}"
                    calls = [asyncio.ensure_future(client.embed_query(text)) for _ in range(crowd)]
                    await server.wait_for(lambda: server.in_flight == 1)
                    await asyncio.sleep(0)
                    for call in calls:
                        call.cancel()
                    done = 0

                    def count(frame: FrameType, event: str, argument: object) -> Any:
                        nonlocal done
                        frame.f_trace_opcodes = True
                        done += event == "opcode"
                        return count if "/embedwire/_" in frame.f_code.co_filename else None

                    sys.settrace(count)
                    try:
                        await asyncio.wait(calls)
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
                    finally:
                        sys.settrace(None)
                    costs.append(done / crowd)
                await first
        assert costs[1] < 1.5 * costs[0]

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(),
            Answer.too_large(600, 512),
            Answer.error(401, "no"),
            Answer.items(lambda items: []),
        ],
        ids=["a vector", "too large", "401", "a bad reply"],
    )
    async def test_that_get_an_answer(
        self, answer: Answer, server: EmbeddingServer, client: SharedEmbeddingClient
    ) -> None:
        """Thousands of callers of one text, who get its vector or each an error of its own, are told in short steps."""
        server.script = lambda request: answer if "the text" in request.texts else None
        with server.hold() as gate:
            calls = [asyncio.ensure_future(client.aembed_query("the text")) for _ in range(CROWD)]
            await server.wait_for(lambda: server.in_flight == 1)
            await asyncio.to_thread(client.embed, [])  # all are in the queue
            with on_the_loop_thread() as steps:
                gate.open()
                got = await asyncio.gather(*calls, return_exceptions=True)
        assert len({type(each) for each in got}) == 1
        if isinstance(got[0], Exception):
            assert len(set(map(id, got))) == CROWD
        else:
            assert right(got, ["the text"] * CROWD)
        assert steps.longest < MOST

    async def test_whose_client_is_closed(
        self, server: EmbeddingServer, client: SharedEmbeddingClient
    ) -> None:
        """A client that is closed while thousands of its calls wait tells them in short steps, each by an own error."""
        with server.hold():
            calls = [asyncio.ensure_future(client.aembed_query("the text")) for _ in range(CROWD)]
            await server.wait_for(lambda: server.in_flight == 1)
            with on_the_loop_thread() as steps:
                await client.aclose()
                got = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in got} == {UsageError}
        assert len(set(map(id, got))) == CROWD
        assert steps.longest < MOST

    async def test_whose_key_function_fails(self, server: EmbeddingServer) -> None:
        """Where the user's own key function raises, thousands of waiting callers are told in short steps."""
        broken = False

        def key() -> str:
            if broken:
                raise LookupError("no key today")
            return "sk-1"

        with shared(server, api_key=key, concurrency=1) as client:
            client.embed_query("warm")
            with server.hold() as gate:
                first = asyncio.ensure_future(client.aembed_query("first"))
                await server.wait_for(lambda: server.in_flight == 1)
                broken = True
                calls = [asyncio.ensure_future(client.aembed_query("the text")) for _ in range(CROWD)]
                await asyncio.sleep(0)
                with on_the_loop_thread() as steps:
                    gate.open()
                    got = await asyncio.gather(*calls, return_exceptions=True)
            await first
        assert {type(each) for each in got} == {LookupError}
        assert steps.longest < MOST

    async def test_whose_deadline_passes(self, server: EmbeddingServer) -> None:
        """Thousands of callers whose deadlines pass in the same moment are told in short steps."""
        with shared(server, deadline=1.0, concurrency=1) as client, server.hold():
            calls = [asyncio.ensure_future(client.aembed_query("the text")) for _ in range(CROWD)]
            with on_the_loop_thread() as steps:
                got = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in got} == {DeadlineExceeded}
        assert steps.longest < MOST
        assert steps.total < 600 * CROWD


class TestLargeCalls:
    """One call with hundreds of thousands of texts."""

    TEXTS = numbered(200_000)

    def test_that_comes_and_whose_deadline_passes(self, server: EmbeddingServer) -> None:
        """Texts enter the queue, and leave it when their call's deadline passes, a slice at a time."""
        with (
            shared(server, deadline=1.0) as hasty,
            server.hold(),
            on_the_loop_thread() as steps,
            pytest.raises(DeadlineExceeded),
        ):
            hasty.embed_array(self.TEXTS)
        assert steps.longest < MOST

    @pytest.mark.parametrize("end", ["cancel", "close"])
    async def test_that_is_given_up(
        self, end: str, server: EmbeddingServer, client: SharedEmbeddingClient
    ) -> None:
        """A large call that is cancelled, or whose client is closed, leaves the queue a slice at a time."""
        with server.hold():
            call = asyncio.ensure_future(client.aembed_array(self.TEXTS))
            await server.wait_for(lambda: server.in_flight > 0)
            with on_the_loop_thread() as steps, shared(server, concurrency=32) as other:
                if end == "cancel":
                    call.cancel()
                else:
                    await client.aclose()
                await asyncio.wait([call])
                for _ in range(100):  # until the last slice is gone
                    await asyncio.to_thread(other.embed, [])
        assert steps.longest < MOST

    def test_that_the_server_refuses(self, server: EmbeddingServer, client: SharedEmbeddingClient) -> None:
        """A large call that the server refuses as a whole is over in short steps."""
        server.script = lambda request: Answer.error(401, "no") if request.embeds else None
        with on_the_loop_thread() as steps, pytest.raises(AuthenticationFailed):
            client.embed_array(self.TEXTS)
        assert steps.longest < MOST

    def test_that_succeeds(self, server: EmbeddingServer) -> None:
        """A call of ten thousand texts, in requests of up to a thousand, is done in short steps."""
        with shared(server, batch_size=1000) as client:
            client.embed_query("warm")
            with on_the_loop_thread() as steps:
                rows = client.embed_array(self.TEXTS[:10_000])
        assert right(rows[::997], self.TEXTS[:10_000:997])
        assert steps.longest < MOST

    def test_whose_texts_all_fail(self, server: EmbeddingServer, client: SharedEmbeddingClient) -> None:
        """Texts that fail one by one are told in short steps."""
        server.script = lambda request: (
            Answer.too_large(600, 512) if any(text.endswith("7") for text in request.texts) else None
        )
        with on_the_loop_thread() as steps, pytest.raises(TextRefused) as caught:
            client.embed_array(self.TEXTS[:400])
        assert len(caught.value.failures) == 40
        assert steps.longest < MOST


class TestLargeTexts:
    """One text of megabytes."""

    LONG = " ".join(f"word{number * 7919 % 100_003}" for number in range(200_000))

    @pytest.mark.parametrize("quotes", [True, False])
    @pytest.mark.parametrize("status", [400, 413, 422, 500])
    def test_that_is_refused(
        self,
        status: int,
        quotes: bool,
        server: EmbeddingServer,
        client: SharedEmbeddingClient,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The words of a refusal are compared with a text of megabytes off the loop, and hold no other call up."""
        words = self.LONG[1_000_000:1_000_200] if quotes else " ".join(f"w{number}q" for number in range(60))
        server.script = lambda request: (
            Answer.error(status, words) if request.texts and request.texts[0] == self.LONG else None
        )
        looked: list[tuple[str, int]] = []
        if hashes := getattr(messages, "_hashes", None):

            def noted(text: str) -> Any:
                looked.append((threading.current_thread().name, len(text)))
                return hashes(text)

            monkeypatch.setattr(messages, "_hashes", noted)
        with on_the_loop_thread() as steps, pytest.raises(RequestError) as caught:
            client.embed([self.LONG])
        assert ("withheld" in str(caught.value)) == quotes
        assert self.LONG[1_000_000:1_000_050] not in str(caught.value)
        assert steps.longest < MOST
        assert any(size > 1_000_000 for _, size in looked)
        assert max((size for name, size in looked if name == "embedwire"), default=0) <= 100_000

    def test_that_stand_together(self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many texts in one request, together of megabytes, are compared with a refusal off the loop, too."""
        looked: list[tuple[str, int]] = []
        hashes = messages._hashes

        def noted(text: str) -> Any:
            looked.append((threading.current_thread().name, len(text)))
            return hashes(text)

        monkeypatch.setattr(messages, "_hashes", noted)
        server.script = lambda request: (
            Answer.error(401, "the key is no good today") if request.embeds else None
        )
        with shared(server, batch_size=500) as client, pytest.raises(AuthenticationFailed, match="today"):
            client.embed([self.LONG[at : at + 5000] for at in range(0, 1_000_000, 2000)])
        assert sum(size for name, size in looked if name != "embedwire") > 1_000_000
        assert sum(size for name, size in looked if name == "embedwire") <= 100_000

    def test_with_a_failing_key_beside_others(self, server: EmbeddingServer) -> None:
        """Keys that fail, one after another, hold nobody up who has a good one: each has its own texts."""
        server.script = lambda request: (
            Answer.error(401, "no") if request.headers.get("authorization", "").endswith("bad") else None
        )
        with shared(server, api_key="sk-good") as good:
            good.embed_query("warm")
            with on_the_loop_thread() as steps:
                for number in range(50):
                    with (
                        shared(server, api_key=f"sk-{number}-bad") as bad,
                        pytest.raises(AuthenticationFailed),
                    ):
                        bad.embed(numbered(20))
                    assert right([good.embed_query(f"q {number}")], [f"q {number}"])
        assert steps.longest < MOST


class TestLists:
    """Lists of floats, made on the caller's loop."""

    @pytest.mark.parametrize("door", ["own", "async"])
    async def test_are_made_a_few_vectors_at_a_time(self, door: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between two turns of the caller's loop no more lists are made than some thousand numbers fill."""
        monkeypatch.setattr(steps, "PATIENCE", 0.0)  # each step is followed by a turn
        texts, turns = numbered(5000), 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        with EmbeddingServer(dimensions=256) as server:
            doors = Doors(door, server, batch_size=1000)
            await doors.embed_query("warm")
            made = asyncio.ensure_future(doors.embed(texts))
            counting = asyncio.ensure_future(count())
            array = await doors.embed_array(texts)
            before = turns
            rows = await made
            counting.cancel()
            await doors.close()
        assert right(array, texts)
        assert right(rows, texts)
        assert turns - before >= len(texts) * 256 / NUMBERS - 2


class TestReplies:
    """Replies of megabytes."""

    async def test_are_read_in_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """While a reply of many decimal numbers is read, others have their turns."""
        monkeypatch.setattr(steps, "PATIENCE", 0.0)  # each step is followed by a turn
        turns, seen, cut_out = 0, [], attempt.cut_out

        def noted(body: bytes) -> steps.Work[Any]:
            for _ in (work := cut_out(body)):
                seen.append(turns)
                yield
            work.close()

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        monkeypatch.setattr(attempt, "cut_out", noted)
        texts = numbered(300)
        with EmbeddingServer(dimensions=1024) as server:
            async with own(server, batch_size=300) as client:
                counting = asyncio.ensure_future(count())
                assert right(await client.embed(texts), texts)
                counting.cancel()
        assert len(set(seen)) == len(seen) >= 10


class TestTheCollector:
    """The garbage collector: nothing is left to it, and nothing that is many is for it to look through."""

    async def test_finds_nothing(self, server: EmbeddingServer) -> None:
        """What requests leave behind is gone at once: the collector has nothing to find."""
        async with own(server, batch_size=5) as client, shared(server, batch_size=5) as other:

            async def embed(number: int) -> None:
                await client.embed(numbered(100, number))
                await client.embed_query(f"query {number}")
                await other.aembed_query(f"query {number}")
                await asyncio.to_thread(other.embed_query, f"question {number}")
                async for _ in other.astream(numbered(100, number)):
                    pass

            await embed(0)
            gc.collect()
            gc.disable()
            try:
                for number in range(5):
                    await embed(number)
                await asyncio.sleep(0)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                left = [type(thing) for thing in gc.garbage]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
        assert not [kind for kind in left if kind.__module__.startswith("embedwire._")]

    async def test_has_nothing_to_do_with_what_waits(self, server: EmbeddingServer) -> None:
        """A hundred thousand texts that wait are no objects that the collector would look at."""
        async with own(server) as client:
            await client.embed(numbered(100))
            texts, before = numbered(100_000), len(gc.get_objects())
            with server.hold():
                call = asyncio.ensure_future(client.embed_array(texts))
                await server.wait_for(lambda: server.in_flight > 0)
                for _ in range(100):
                    await asyncio.sleep(0)
                assert len(gc.get_objects()) - before < 10_000
                call.cancel()
                await asyncio.wait([call])


class TestNormalize:
    """Bringing vectors to unit length."""

    def test_is_done_a_request_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No step brings more vectors to unit length than one request carried, and nothing is copied as a whole."""
        texts = numbered(1000)
        peaks = {}
        with EmbeddingServer(dimensions=256) as server:
            for normalize in (True, False):
                with shared(server, normalize=normalize, batch_size=50, concurrency=2) as client:
                    client.embed_query("warm")
                    tracemalloc.start()
                    try:
                        rows = client.embed_array(texts)
                        peaks[normalize] = tracemalloc.get_traced_memory()[1]
                    finally:
                        tracemalloc.stop()
                    assert right(rows, texts, tolerance=1e-6)
        assert peaks[True] < peaks[False] + 0.5 * rows.nbytes


class TestSizes:
    """Sizes count what costs: characters, not texts."""

    @staticmethod
    def slow(per_char: float) -> Callable[[Request], Answer | None]:
        """A server whose time is that of the characters, and of 40 for each text."""

        def script(request: Request) -> Answer | None:
            if not request.embeds:
                return None
            return Answer(delay=0.01 + per_char * sum(len(text) + 40 for text in request.texts))

        return script

    @pytest.fixture
    async def here(self) -> AsyncIterator[EmbeddingServer]:
        """A server that tells no slots."""
        async with EmbeddingServer(server_header=None) as server:
            yield server

    @simulated
    @pytest.mark.parametrize("kind", ["document", "query"])
    @pytest.mark.parametrize("characters", [500, 2000, 20_000])
    async def test_after_titles_come_long_texts(
        self, characters: int, kind: Any, here: EmbeddingServer
    ) -> None:
        """Requests that grew with titles carry no more of long texts than took half a second, or the first few."""
        here.script = self.slow(1e-4)
        async with EmbeddingClient(here.url, model="m", encoding="float", concurrency=1) as client:
            await client.embed(numbered(2000, "title"), kind)
            titles = max(map(len, here.batches))
            assert titles >= 32  # it grew
            seen = len(here.batches)
            texts = [f"{number}".ljust(characters, "x") for number in range(100)]
            assert right(await client.embed(texts, kind), texts)
            least = 5 if kind == "document" else 32
            # The first may have twice the work that half a second held; then it is known.
            for number, batch in enumerate(here.batches[seen:]):
                took = 0.01 + sum(len(text) + 40 for text in batch) * 1e-4
                assert len(batch) <= least or took <= (1.1 if number < 2 else 0.55)

    @simulated
    async def test_a_query_beside_bulk(self, here: EmbeddingServer) -> None:
        """Beside bulk of long texts that came after titles, a query waits for no request of more than a few texts."""
        here.script = self.slow(1e-4)
        async with EmbeddingClient(here.url, model="m", encoding="float", concurrency=1) as client:
            await client.embed(numbered(2000, "title"))
            bulk = asyncio.create_task(client.embed([f"{n}".ljust(2000, "x") for n in range(200)]))
            waits = []
            await asyncio.sleep(0.1)
            for number in range(10):
                begun = now()
                await client.embed_query(f"query {number}")
                waits.append(now() - begun)
                await asyncio.sleep(0.3)
            assert max(waits) < 1.2  # five texts of 2000 characters take a second
            bulk.cancel()
            await asyncio.gather(bulk, return_exceptions=True)

    @simulated
    async def test_a_server_that_becomes_slow(self, here: EmbeddingServer) -> None:
        """When the server becomes ten times slower, requests step down, and up again when it is fast again."""
        here.script = self.slow(1e-4)

        def sizes() -> list[int]:
            return [sum(map(len, batch)) for batch in here.batches]

        async with EmbeddingClient(here.url, model="m", encoding="float", concurrency=1) as client:
            texts = [f"{number}".ljust(300, "x") for number in range(3000)]
            await client.embed(texts)
            grown = max(sizes())
            assert grown > 2000
            here.script, before = self.slow(1e-3), len(here.batches)
            await client.embed([text + "slow" for text in texts[:300]])
            assert max(sizes()[before + 3 :]) <= 5 * 304  # the least: five texts
            here.script, before = self.slow(1e-5), len(here.batches)
            await client.embed([text + "fast" for text in texts])
            assert max(sizes()[before:]) > grown / 2

    @simulated
    async def test_mixed_lengths(self, here: EmbeddingServer) -> None:
        """With titles and long texts mixed, no request takes much over half a second, but one of few texts."""
        here.script = self.slow(1e-4)
        texts = [f"{n}".ljust(4000 if n % 7 == 0 else 30, "x") for n in range(2000)]
        async with EmbeddingClient(here.url, model="m", encoding="float", concurrency=1) as client:
            assert right(await client.embed(texts), texts)
            late = [batch for batch in here.batches if len(batch) > 5 and sum(map(len, batch)) * 1e-4 > 1.05]
            assert not late

    @simulated
    async def test_what_the_user_says_is_done(self, here: EmbeddingServer) -> None:
        """A batch size that the user gave is not made smaller, however long requests take."""
        here.script = self.slow(1e-3)
        texts = [f"{number}".ljust(500, "x") for number in range(64)]
        async with EmbeddingClient(
            here.url, model="m", encoding="float", concurrency=1, batch_size=32
        ) as client:
            assert right(await client.embed(texts), texts)
            assert list(map(len, here.batches)) == [32, 32]
