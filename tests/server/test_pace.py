"""How hard a server is pushed: fewer requests after trouble, a budget of repeats, a rate."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from embedwire import EmbeddingClient, RateLimit, RequestTimeout, RetryPolicy, ServerUnavailable
from embedwire._servers.pace import BUDGET, TRANSIENT
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import in_simulated_time, numbered, right, simulated

TEXTS = numbered(400)


class TestBudget:
    """Repeats cost, successes earn."""

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


def one_each(seconds: float, **headers: str) -> tuple[Callable[[Request], Answer | None], list[float]]:
    """A server that takes one request in so many seconds, and the moments at which it took one."""
    taken = [-1000.0]

    def script(request: Request) -> Answer | None:
        moment = asyncio.get_running_loop().time()
        if not request.embeds:
            return None
        if moment - taken[-1] < seconds:
            return Answer.error(429, "Requests rate limit exceeded", headers=headers)
        taken.append(moment)
        return Answer(delay=0.02)

    return script, taken


class TestThrottled:
    """A server that has too much to do is waited for, without being pushed."""

    @simulated
    @pytest.mark.parametrize("seconds", [1, 5, 20])
    @pytest.mark.parametrize("concurrency", ["auto", 8])
    async def test_one_request_at_a_time(self, seconds: float, concurrency: Any) -> None:
        """A free tier that takes one request in a while, and says nothing more, gives every text its vector."""
        script, taken = one_each(seconds)
        async with (
            EmbeddingServer(script=script) as server,
            EmbeddingClient(server.url, model="m", concurrency=concurrency) as client,
        ):
            assert right(await client.embed(TEXTS[:80]), TEXTS[:80])
            took = len(taken) - 1
            assert asyncio.get_running_loop().time() <= took * (seconds * 2 + 1)
            assert len(server.batches) <= took * 10

    @simulated
    async def test_a_long_job_is_not_ended_by_its_repeats(self) -> None:
        """Where every second request is refused, hundreds of repeats are not too many."""
        script, taken = one_each(1)
        async with (
            EmbeddingServer(script=script) as server,
            EmbeddingClient(server.url, model="m", batch_size=1) as client,
        ):
            assert right(await client.embed(TEXTS), TEXTS)
            assert len(server.batches) > len(taken) + 150

    @simulated
    @pytest.mark.parametrize(
        "answer",
        [
            Answer.throttled(4),
            Answer.throttled("4s"),
            Answer.error(429, "Please retry after 4 seconds."),
            Answer.error(429, "no", headers={"x-ratelimit-reset-requests": "4s"}),
            Answer.error(503, "no", headers={"retry-after-ms": "4000"}),
        ],
        ids=["seconds", "duration", "words", "reset", "ms"],
    )
    async def test_what_the_server_says_is_waited_for(self, answer: Answer) -> None:
        """However it says for how long, the next request comes then, and no documents before that."""
        begin = asyncio.get_running_loop().time()

        def script(request: Request) -> Answer | None:
            return answer if asyncio.get_running_loop().time() - begin < 4 else None

        async with (
            EmbeddingServer(script=script) as server,
            EmbeddingClient(server.url, model="m", concurrency=2) as client,
        ):
            calls = [asyncio.ensure_future(client.embed(TEXTS[:10]))]
            await asyncio.sleep(1)
            calls.append(asyncio.ensure_future(client.embed(TEXTS[10:30])))
            first, second = await asyncio.gather(*calls)
            assert right(first + second, TEXTS[:30])
            assert len(server.batches) == 2 + 6
            assert 4 <= asyncio.get_running_loop().time() - begin < 5

    @simulated
    async def test_patience_is_as_long_as_a_request_may_take(self) -> None:
        """A server that refuses for ever is asked after 1, 2, 4 … s, until ``timeout`` is over; the error says so."""
        async with (
            EmbeddingServer(script=lambda request: Answer.throttled()) as server,
            EmbeddingClient(server.url, model="m", timeout=30) as client,
        ):
            with pytest.raises(ServerUnavailable, match=r"\(429\), for \d+ s: .* after 6 requests") as caught:
                await client.embed_query("q")
            assert caught.value.attempts == 6
            moments = [request.at for request in server.requests]
            waits = [later - one for one, later in itertools.pairwise(moments)]
            for wait, least in zip(waits, (1, 2, 4, 8, 16), strict=True):
                assert least <= wait < least * 1.5 + 0.1

    @simulated
    async def test_a_deadline_ends_it_earlier(self) -> None:
        """Nobody waits beyond his deadline; ``max_retries=0`` waits for nothing."""
        loop = asyncio.get_running_loop()
        async with EmbeddingServer(script=lambda request: Answer.throttled()) as server:
            for options, requests in (({"deadline": 5}, 3), ({"max_retries": 0}, 1)):
                begin, before = loop.time(), len(server.requests)
                async with EmbeddingClient(server.url, model="m", **options) as client:
                    with pytest.raises(ServerUnavailable, match="429"):
                        await client.embed_query("q")
                assert loop.time() - begin <= 5.1
                assert len(server.requests) - before <= requests

    @simulated
    async def test_a_server_that_refuses_everything_is_not_asked_by_everybody(self) -> None:
        """A thousand calls at a server that never takes one fail after the patience of one, with few repeats."""
        async with (
            EmbeddingServer(script=lambda request: Answer.throttled()) as server,
            EmbeddingClient(server.url, model="m", batch_size=1) as client,
        ):
            errors = await asyncio.gather(
                *[client.embed([f"text {number}"]) for number in range(1000)], return_exceptions=True
            )
            assert Counter(map(type, errors)) == {ServerUnavailable: 1000}
            assert asyncio.get_running_loop().time() < 200
            assert len(server.requests) < 1100

    @simulated
    async def test_a_query_asks_meanwhile(self) -> None:
        """While documents are held off a query is sent at once: the limit may be theirs alone."""
        loop = asyncio.get_running_loop()
        async with (
            EmbeddingServer(
                script=lambda request: Answer.throttled(30) if len(request.texts) > 1 else None
            ) as server,
            EmbeddingClient(server.url, model="m") as client,
        ):
            bulk = asyncio.ensure_future(client.embed(TEXTS[:40]))
            await asyncio.sleep(5)
            begin = loop.time()
            assert right([await client.embed_query("q")], ["q"])
            assert loop.time() - begin < 0.5
            bulk.cancel()


class TestRepeats:
    """What is repeated, and what is not."""

    @simulated
    async def test_none_when_none_are_wanted(self) -> None:
        """With ``max_retries=0`` a timeout is not repeated either, in no smaller batch."""
        async with (
            EmbeddingServer(script=lambda request: Answer.hang()) as server,
            EmbeddingClient(server.url, model="m", max_retries=0, timeout=2) as client,
        ):
            with pytest.raises(RequestTimeout, match="after 1 request"):
                await client.embed(TEXTS[:4])
            assert len(server.requests) == 1

    @simulated
    async def test_two_restarts_during_one_request(self) -> None:
        """A server that restarts while a request is repeated after its first restart is waited for again."""

        async def restart() -> None:
            await server.astop()
            await asyncio.sleep(4)
            await server.astart()

        restarts: list[asyncio.Task[None]] = []

        def script(request: Request) -> Answer | None:
            if not request.embeds or "late" not in request.texts or len(restarts) == 3:
                return None
            restarts.append(asyncio.ensure_future(restart()))
            return Answer.hang()

        async with (
            EmbeddingServer(script=script) as server,
            EmbeddingClient(server.url, model="m", max_retries=5) as client,
        ):
            await client.embed_query("first")
            assert right([await client.embed_query("late")], ["late"])

    @simulated
    async def test_the_message_says_why_there_was_none(self) -> None:
        """Who asks for too much patience is quoted, and so is a deadline that leaves no time for a repeat."""
        async with (
            EmbeddingServer(script=lambda request: Answer.throttled(90)) as server,
            EmbeddingClient(server.url, model="m") as client,
            EmbeddingClient(
                server.url, model="m", deadline=3, max_retries=RetryPolicy(retry_after_cap=100)
            ) as hasty,
        ):
            with pytest.raises(ServerUnavailable, match="asks to wait 90 s, more than retry_after_cap=60"):
                await client.embed_query("q")
            with pytest.raises(ServerUnavailable, match="90 s, and a repeat would come after the deadline"):
                await hasty.embed_query("q")


class TestWindow:
    """Fewer in flight after trouble, and more again with success."""

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
        assert refused < len(TEXTS) / 4

    @simulated
    async def test_holds_for_repeats_too(self) -> None:
        """After eight refusals at once, the repeats come five at a time, not eight."""
        async with (
            EmbeddingServer(script=lambda request: Answer(delay=1)) as server,
            EmbeddingClient(server.url, model="m", batch_size=1, concurrency=8) as client,
        ):
            usual, server.script = server.script, None
            server.answer(*[Answer(status=429, body=b"{}", delay=1, headers={"Retry-After": "5"})] * 8)
            call = asyncio.ensure_future(client.embed(TEXTS[:8]))
            await server.wait_for(lambda: len(server.batches) == 8 and not server.in_flight)
            server.peak_in_flight, server.script = 0, usual
            assert right(await call, TEXTS[:8])
            assert 1 < server.peak_in_flight <= 5

    @simulated
    async def test_a_cancelled_repeat_lets_the_next_one_go(self) -> None:
        """Repeats that wait for room do not wait for one whose caller has gone."""
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", batch_size=1, concurrency=4) as client,
        ):
            server.answer(*[Answer(status=429, body=b"{}", delay=1)] * 4)
            calls = [asyncio.ensure_future(client.embed([text])) for text in TEXTS[:4]]
            await server.wait_for(lambda: len(server.batches) == 4 and not server.in_flight)
            await asyncio.sleep(0)
            calls[0].cancel()
            calls[2].cancel()
            assert right(await calls[1], TEXTS[1:2])
            assert right(await calls[3], TEXTS[3:4])

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
    """`rate_limit=` holds in every minute, whenever it begins, and without bursts."""

    @simulated
    @pytest.mark.parametrize(
        ("limit", "wait"),
        [
            (RateLimit(per_second=1), 1),  # Mistral's free tier
            (RateLimit(per_minute=3), 20),  # Voyage's
            (60, 1),
            (RateLimit(per_second=1, per_minute=30), 2),
            (RateLimit(per_second=2, per_minute=600), 0.5),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("options", [{}, {"concurrency": 8, "batch_size": 1}], ids=["auto", "8 x 1"])
    async def test_is_spread_evenly(
        self, limit: int | RateLimit, wait: float, options: dict[str, Any]
    ) -> None:
        """A server that refuses whoever comes a moment too early, by its own clock, refuses nobody."""
        loop, came = asyncio.get_running_loop(), [-100.0]

        def strict(request: Request) -> Answer | None:
            if loop.time() - came[-1] < wait:
                return Answer.error(429, "Requests rate limit exceeded")
            came.append(loop.time())
            return Answer(delay=0.01)

        async with (
            EmbeddingServer(script=strict) as server,
            EmbeddingClient(server.url, model="m", rate_limit=limit, **options) as client,
        ):
            begin = loop.time()
            assert right(await client.embed(TEXTS[:40]), TEXTS[:40])
            waits = len(server.requests) - 1
            assert len(came) == len(server.requests) + 1
            assert waits * wait <= loop.time() - begin < waits * (wait * 1.05 + 0.01) + 1

    @simulated
    async def test_a_query_after_a_rest_leaves_at_once(self) -> None:
        """Whoever comes after a pause as long as one request's share waits for nothing."""
        loop = asyncio.get_running_loop()
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", rate_limit=RateLimit(per_minute=6)) as client,
        ):
            for number in range(5):
                begin = loop.time()
                await client.embed_query(f"query {number}")
                assert loop.time() - begin < 0.1
                await asyncio.sleep(11)

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
        """A query that comes while documents wait for their moments is the first to go then."""
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", batch_size=5, rate_limit=3, concurrency=1) as client,
        ):
            bulk = asyncio.ensure_future(client.embed(TEXTS[:30]))
            await server.wait_for(lambda: len(server.batches) == 3, timeout=60)
            assert right([await client.embed_query("q")], ["q"])
            assert server.batches.index(["q"]) <= 4  # one batch of documents may have its moment already
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
    @pytest.mark.parametrize(
        ("limit", "small", "large"),
        [
            (
                RateLimit(texts=5),
                [["q"]],
                TEXTS[:10],
            ),  # small ones come all the time, and documents wait in fives
            (RateLimit(chars=100), [["d" * 10]], ["x" * 90]),
        ],
    )
    async def test_a_large_request_is_not_starved(
        self, limit: RateLimit, small: list[list[str]], large: list[str]
    ) -> None:
        """While small calls use up the limit all the time, a large one gets its share, a fifth, all the same."""
        loop = asyncio.get_running_loop()
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", batch_size=5, rate_limit=limit) as client,
        ):
            begin = loop.time()
            call = asyncio.ensure_future(client.embed(large))
            number = 0
            while not call.done():
                number += 1
                await client.embed([f"{text} {number}"[:10] for text in small[0]], kind="query")
                await asyncio.sleep(6)
                assert loop.time() - begin < 660
            assert right(await call, large)

    @simulated
    async def test_limits_of_two_clients_do_not_starve_each_other(self) -> None:
        """Who allows himself one request a minute gets it, however much another client sends."""
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", rate_limit=1) as slow,
            EmbeddingClient(server.url, model="m", rate_limit=100) as fast,
        ):
            for number in range(5):
                await fast.embed_query(f"before {number}")
            assert right([await asyncio.wait_for(slow.embed_query("slow"), 1)], ["slow"])

    @simulated
    async def test_a_repeat_keeps_its_turn(self) -> None:
        """A request that failed is repeated in the next minute, not after all that came later."""
        loop = asyncio.get_running_loop()
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", batch_size=1, rate_limit=1, concurrency=2) as client,
        ):
            server.answer(Answer.error(502, "no"))
            query = asyncio.ensure_future(client.embed_query("q"))
            await server.wait_for(lambda: len(server.batches) == 1)
            bulk = asyncio.ensure_future(client.embed(TEXTS[:15]))
            assert right([await query], ["q"])
            assert loop.time() <= 130
            bulk.cancel()

    def test_outlives_the_client(self) -> None:
        """A new client of the same limit goes on where the last one was: one per request is no way around it."""

        async def job() -> float:
            async with EmbeddingServer() as server:
                for number in range(4):
                    async with EmbeddingClient(server.url, model="m", rate_limit=2) as client:
                        await client.embed_query(f"query {number}")
                return asyncio.get_running_loop().time()

        assert 90 <= in_simulated_time(job()) < 91

    @simulated
    async def test_one_pause_holds_nobody_else_back(self) -> None:
        """While a request pauses as long as its server asked, others under the same limit go on."""
        loop = asyncio.get_running_loop()
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", rate_limit=6000) as client,
        ):
            await client.embed_query("first")
            server.answer(Answer.error(502, "no", headers={"Retry-After": "30"}))
            slow = asyncio.ensure_future(client.embed_query("slow"))
            await asyncio.sleep(1)
            begin = loop.time()
            assert right([await client.embed_query("q")], ["q"])
            assert loop.time() - begin < 1
            assert right([await slow], ["slow"])

    @simulated
    async def test_a_clock_that_wakes_too_early_hangs_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A timer that fires a little before its moment, as on Windows, is set again."""
        loop = asyncio.get_running_loop()
        later = loop.call_at

        def early(when: float, *rest: Any, **more: Any) -> asyncio.TimerHandle:
            return later(when - 0.015 if when - loop.time() > 0.1 else when, *rest, **more)

        monkeypatch.setattr(loop, "call_at", early)
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(server.url, model="m", rate_limit=1) as client,
        ):
            texts = ["a", "b", "c"]
            vectors = await asyncio.wait_for(asyncio.gather(*map(client.embed_query, texts)), 200)
            assert right(vectors, texts)

    @simulated
    async def test_questions_are_not_held_back(self) -> None:
        """Asking a server that still loads for its model takes no text's turn."""
        loop = asyncio.get_running_loop()
        async with (
            EmbeddingServer(loading=True) as server,
            EmbeddingClient(server.url, rate_limit=2) as client,
        ):
            call = asyncio.ensure_future(client.embed_query("q"))
            await asyncio.sleep(3)
            server.loading = False
            assert right([await call], ["q"])
            assert loop.time() < 10

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
