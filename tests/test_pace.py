"""How hard a server is pushed: fewer requests after trouble, a budget of repeats, a rate."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire import EmbeddingClient, RateLimit, RetryPolicy, ServerUnavailable
from embedwire._pace import BUDGET, THROTTLED, TRANSIENT, Budget, LastMinute, Window
from embedwire.testing import Answer, EmbeddingServer, Request, is_vector_of

TEXTS = [f"text {number}" for number in range(400)]
simulated = pytest.mark.looptime


def right(vectors: list[list[float]], texts: list[str]) -> bool:
    """Whether each vector is its text's."""
    return len(vectors) == len(texts) and all(map(is_vector_of, vectors, texts))


class TestBudget:
    """Repeats cost, successes earn."""

    def test_runs_out(self) -> None:
        """35 repeats after passing failures, or 100 after throttling, and then none."""
        for cost, repeats in ((TRANSIENT, 35), (THROTTLED, 100)):
            budget = Budget()
            assert [budget.spend(cost) for _ in range(repeats + 1)] == [True] * repeats + [False]

    def test_comes_back(self) -> None:
        """14 successes pay for one more repeat, and there is never more than at the start."""
        budget = Budget()
        while budget.spend(TRANSIENT):
            pass
        for _ in range(TRANSIENT):
            budget.earn()
        assert budget.spend(TRANSIENT)
        for _ in range(2 * BUDGET):
            budget.earn()
        assert budget.left == BUDGET

    @simulated
    async def test_ends_repeats_at_a_server_that_fails_everything(self) -> None:
        """Of a thousand calls at a broken server only the first few dozen are repeated, and the message says so."""
        async with (
            EmbeddingServer(script=lambda request: Answer.error(502, "no")) as server,
            EmbeddingClient(server.url, model="m", batch_size=1) as client,
        ):
            errors = await asyncio.gather(
                *[client.embed([f"text {number}"]) for number in range(1000)], return_exceptions=True
            )
            assert Counter(map(type, errors)) == {ServerUnavailable: 1000}
            assert len(server.requests) == 1000 + BUDGET // TRANSIENT
            assert "too many other requests failed" in str(errors[-1])

    @simulated
    async def test_texts_at_fault_cost_no_repeats(self) -> None:
        """Texts that the server fails on, the same way each time, do not use up the repeats of the others."""
        poison = set(TEXTS[::5])
        seen: Counter[str] = Counter()

        def script(request: Request) -> Answer | None:
            if poison & set(request.texts):
                return Answer.error(500, "failed")
            if not request.embeds:
                return None
            first = request.texts[0]
            seen[first] += 1
            return Answer.error(502, "no") if len(seen) == 150 and seen[first] == 1 else None

        async with (
            EmbeddingServer(script=script) as server,
            EmbeddingClient(server.url, model="m", batch_size=2) as client,
        ):
            with pytest.raises(ServerUnavailable) as caught:
                await client.embed(TEXTS)
            assert {TEXTS[index] for index in caught.value.failures} == poison
            assert caught.value.completed is not None
            assert len(caught.value.completed.indexes) == 320


class TestWindow:
    """Fewer in flight after trouble, and more again with success."""

    def test_shrinks_once_a_round_trip(self) -> None:
        """Ten overloads at once, of ten requests in flight, are one discovery: seven may be in flight."""
        window = Window()
        begun = [window.begin() for _ in range(10)]
        for one in begun:
            window.end(one, good=False, overload=True)
        assert window.allowed == 7
        assert window.in_flight == 0
        window.end(window.begin(), good=False, overload=True)  # sent after the first, so it counts again
        assert window.allowed == 1

    def test_grows_by_one_each_round(self) -> None:
        """After as many successes as may be in flight, one more may be."""
        window = Window()
        window.end(window.begin(), good=False, overload=True)
        sizes = []
        for _ in range(1 + 2 + 3 + 4):
            window.end(window.begin(), good=True, overload=False)
            sizes.append(window.allowed)
        assert sizes == [2, 2, 3, 3, 3, 4, 4, 4, 4, 5]

    def test_other_failures_change_nothing(self) -> None:
        """A text that is refused says nothing about the load."""
        window = Window()
        window.end(window.begin(), good=False, overload=False)
        assert window.allowed is None

    @given(st.lists(st.sampled_from(["begin", "good", "bad", "overload"]), max_size=200))
    def test_is_never_below_one(self, steps: list[str]) -> None:
        """Whatever happens in whatever order, at least one request may be sent."""
        window, begun = Window(), deque[int]()
        for step in steps:
            if step == "begin":
                begun.append(window.begin())
            elif begun:
                window.end(begun.popleft(), good=step == "good", overload=step == "overload")
            assert window.allowed is None or window.allowed >= 1
            assert window.in_flight == len(begun)

    @simulated
    @pytest.mark.parametrize("status", [429, 503])
    async def test_follows_what_the_server_can_take(self, status: int) -> None:
        """A server that refuses more than 3 at once is soon asked for about 3, and refuses few."""
        refused = 0

        def script(request: Request) -> Answer | None:
            nonlocal refused
            if server.in_flight <= 3:
                return Answer(delay=0.1)
            refused += 1
            return Answer.error(status, "busy")

        async with (
            EmbeddingServer(script=script) as server,
            EmbeddingClient(server.url, model="m", batch_size=1, concurrency=16, max_retries=9) as client,
        ):
            assert right(await client.embed(TEXTS), TEXTS)
        assert refused < len(TEXTS) / 5

    @simulated
    async def test_recovers(self) -> None:
        """After one overload the full concurrency comes back."""
        async with (
            EmbeddingServer(script=lambda request: Answer(delay=0.1)) as server,
            EmbeddingClient(server.url, model="m", batch_size=1, concurrency=8) as client,
        ):
            server.answer(*[Answer.throttled()] * 8)
            server.script = None
            await client.embed(TEXTS[:50])
            server.peak_in_flight = 0
            server.script = lambda request: Answer(delay=0.1)
            await client.embed(TEXTS)
            assert server.peak_in_flight == 8


class TestRate:
    """`rate_limit=` holds in every minute, whenever it begins."""

    @given(
        st.lists(st.tuples(st.floats(0, 20), st.integers(1, 9)), max_size=60),
        st.integers(1, 20),
        st.integers(1, 40),
    )
    def test_no_minute_has_more(self, calls: list[tuple[float, int]], requests: int, texts: int) -> None:
        """Whoever waits as long as he is told never sends more in any 60 seconds, nor waits for nothing."""
        minute, limit, now = LastMinute(), RateLimit(requests=requests, texts=texts), 0.0
        sent: list[tuple[float, int]] = []
        for pause, count in calls:
            now += pause
            batch = ["t"] * min(count, texts)
            now += minute.wait(limit, batch, now)
            assert minute.wait(limit, batch, now) == 0
            minute.note(batch, now)
            sent.append((now, len(batch)))
        for start, _ in sent:
            within = [count for moment, count in sent if start <= moment < start + 60]
            assert len(within) <= requests
            assert sum(within) <= texts

    def test_a_text_over_the_limit_waits_for_a_free_minute(self) -> None:
        """A text longer than a minute's characters goes alone instead of never."""
        minute, limit = LastMinute(), RateLimit(chars=10)
        minute.note(["abc"], 0)
        assert minute.wait(limit, ["x" * 50], 1) == 59
        assert minute.wait(limit, ["x" * 50], 60) == 0

    @simulated
    @pytest.mark.parametrize(
        ("limit", "minutes"),
        [
            (40, 2),  # 80 requests of five texts
            (RateLimit(texts=100), 4),
            (RateLimit(chars=1000), 4),
            (RateLimit(requests=1000, texts=100), 4),
            (RateLimit(texts=3), 134),
        ],
    )
    async def test_spreads_a_job(self, limit: int | RateLimit, minutes: int) -> None:
        """400 texts take as many minutes as the limit says, no fewer and hardly more, and all are right."""
        loop = asyncio.get_running_loop()
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", batch_size=5, rate_limit=limit) as client,
        ):
            begin = loop.time()
            assert right(await client.embed(TEXTS), TEXTS)
            assert 60 * (minutes - 1) <= loop.time() - begin < 60 * (minutes + 0.1)

    @simulated
    async def test_repeats_count(self) -> None:
        """A repeat is held back like any other request."""
        loop = asyncio.get_running_loop()
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", rate_limit=2) as client,
        ):
            begin = loop.time()
            server.answer(Answer.error(502, "no"), Answer.error(502, "no"))
            assert right([await client.embed_query("q")], ["q"])
            assert loop.time() - begin >= 60

    @simulated
    async def test_a_query_goes_before_what_waits(self) -> None:
        """A query that comes while documents wait for the next minute is the first to go then."""
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", batch_size=5, rate_limit=3, concurrency=1) as client,
        ):
            bulk = asyncio.ensure_future(client.embed(TEXTS[:30]))
            await server.wait_for(lambda: len(server.batches) == 3)
            assert right([await client.embed_query("q")], ["q"])
            assert server.batches.index(["q"]) == 3
            assert right(await bulk, TEXTS[:30])

    @simulated
    async def test_others_are_not_held_back(self) -> None:
        """A client without a limit at the same server and loop goes on."""
        loop = asyncio.get_running_loop()
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", batch_size=5, rate_limit=1) as limited,
            EmbeddingClient(server.url, model="m", batch_size=5) as free,
        ):
            slow = asyncio.ensure_future(limited.embed(TEXTS[:10]))
            begin = loop.time()
            assert right(await free.embed(TEXTS), TEXTS)
            assert loop.time() - begin < 50
            assert right(await slow, TEXTS[:10])

    @simulated
    async def test_a_cancelled_call_leaves_nothing_behind(self) -> None:
        """What waits for the next minute and is not wanted any more is never sent."""
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(
                server.url, model="m", batch_size=5, rate_limit=1, max_retries=RetryPolicy(attempts=1)
            ) as client,
        ):
            call = asyncio.ensure_future(client.embed(TEXTS[:10]))
            await server.wait_for(lambda: len(server.batches) == 1)
            call.cancel()
            assert right(await client.embed(["next"]), ["next"])
            assert server.batches == [TEXTS[:5], ["next"]]
