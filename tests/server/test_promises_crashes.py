"""One text's crash is not everybody's: whatever a text does to the server, the others get their vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from embedwire import ConnectionFailed, EmbeddingClient, RequestError, RequestTimeout, ServerUnavailable
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import numbered, right, simulated

pytestmark = simulated

HARM: dict[str, tuple[Answer, type[RequestError]]] = {
    "reset": (Answer.reset(), ConnectionFailed),
    "hang up": (Answer.hang_up(), ConnectionFailed),
    "cut": (Answer(cut=30, then="reset"), ConnectionFailed),
    "502": (Answer.error(502, "bad gateway"), ServerUnavailable),
    "504": (Answer.error(504, "gateway time-out"), ServerUnavailable),
    "hang": (Answer.hang(), RequestTimeout),
    "drip": (Answer(drip=1.0), RequestTimeout),
}
BREAKS = ["reset", "hang up", "cut"]
harms = pytest.mark.parametrize("harm", HARM)
kinds = pytest.mark.parametrize("kind", ["query", "document"])


def poisoned(harm: Answer, *poisons: str) -> Callable[[Request], Answer | None]:
    """A server that some texts harm."""
    return lambda request: harm if set(poisons) & set(request.texts) else None


def client(server: EmbeddingServer, **arguments: Any) -> EmbeddingClient:
    """A client whose requests may share all that waits."""
    return EmbeddingClient(
        server.url, **{"model": "m", "encoding": "float", "concurrency": 1, "timeout": 1.5, **arguments}
    )


async def together(
    server: EmbeddingServer, one: EmbeddingClient, kind: Any, *calls: list[str]
) -> list[list[list[float]] | BaseException]:
    """What calls get that wait together for the server's only place, and so share one request."""
    await one.embed_query("warm")
    with server.hold():
        first = asyncio.create_task(one.embed(["first"], kind))
        await server.wait_for(lambda: server.in_flight == 1)
        waiting = [asyncio.create_task(one.embed(texts, kind)) for texts in calls]
        await asyncio.sleep(0)
    await first
    return await asyncio.gather(*waiting, return_exceptions=True)


def got_right(got: Any, texts: list[str]) -> bool:
    """Whether a call got vectors, and these."""
    return not isinstance(got, BaseException) and right(got, texts)


def harmed(server: EmbeddingServer, poison: str) -> int:
    """How often a text was sent."""
    return sum(poison in batch for batch in server.batches)


class TestShared:
    """Callers who share a request with a text that harms the server."""

    @kinds
    @harms
    async def test_get_their_vectors(self, harm: str, kind: str, here: EmbeddingServer) -> None:
        """Of seven callers in one request only the one whose text harms the server gets an error, after few tries."""
        answer, error = HARM[harm]
        here.script = poisoned(answer, "poison")
        innocent = numbered(6)
        async with client(here, batch_size=32) as one:
            got = await together(here, one, kind, ["poison"], *([text] for text in innocent))
            assert [got_right(rows, [text]) for rows, text in zip(got[1:], innocent, strict=True)] == [
                True
            ] * 6
            assert isinstance(got[0], error)
            assert got[0].index == 0
            # A kept connection is free; what a gateway answers for a part is no attempt at its texts.
            assert harmed(here, "poison") <= 3 + (harm in ("reset", "hang up", "502")) + 2 * (harm == "504")

    @kinds
    @harms
    async def test_where_two_do_harm(self, harm: str, kind: str, here: EmbeddingServer) -> None:
        """Two poisons of two callers in one request fail these two, and nobody else."""
        answer, error = HARM[harm]
        here.script = poisoned(answer, "poison 2", "poison 5")
        texts = [f"poison {at}" if at in (2, 5) else f"text {at}" for at in range(8)]
        async with client(here, batch_size=32) as one:
            got = await together(here, one, kind, *([text] for text in texts))
            for at, (rows, text) in enumerate(zip(got, texts, strict=True)):
                assert type(rows) is error if at in (2, 5) else got_right(rows, [text])

    @pytest.mark.parametrize("attempts", [1, 2])
    @harms
    async def test_with_few_repeats(self, harm: str, attempts: int, here: EmbeddingServer) -> None:
        """One repeat is enough to find out whose text it is; without any, nothing is tried, and no call hangs."""
        answer, error = HARM[harm]
        here.script = poisoned(answer, "poison")
        async with client(here, batch_size=32, max_retries=attempts - 1) as one:
            got = await together(here, one, "document", ["poison"], ["a"], ["b"])
            assert type(got[0]) is error
            if attempts > 1:
                assert got_right(got[1], ["a"])
                assert got_right(got[2], ["b"])
            else:
                assert harmed(here, "poison") <= 2 + (harm == "504")  # a timeout is halved all the same

    @harms
    async def test_one_of_whom_has_other_texts_too(self, harm: str, here: EmbeddingServer) -> None:
        """The poison's own caller gets the vectors of its other texts in ``completed``, and the poison's index."""
        answer, error = HARM[harm]
        here.script = poisoned(answer, "poison")
        mine = [*numbered(4, "mine"), "poison", *numbered(3, "more")]
        async with client(here, batch_size=64) as one:
            got = await together(here, one, "document", numbered(5, "a"), mine, numbered(5, "b"))
            assert got_right(got[0], numbered(5, "a"))
            assert got_right(got[2], numbered(5, "b"))
            assert isinstance(got[1], error)
            assert list(got[1].failures) == [4]
            assert got[1].completed is not None
            assert got[1].completed.indexes == [0, 1, 2, 3, 5, 6, 7]
            assert right(got[1].completed.vectors, [text for text in mine if text != "poison"])

    @harms
    async def test_who_want_the_same_text(self, harm: str, here: EmbeddingServer) -> None:
        """A poison that two callers want fails both, each by its own index, and the third gets its vectors."""
        answer, error = HARM[harm]
        here.script = poisoned(answer, "poison")
        async with client(here, batch_size=32) as one:
            got = await together(here, one, "document", ["a", "poison"], ["poison", "b"], ["c"])
            assert [type(one_got) for one_got in got[:2]] == [error, error]
            assert [one_got.index for one_got in got[:2] if isinstance(one_got, RequestError)] == [1, 0]
            assert got_right(got[2], ["c"])

    @harms
    async def test_where_the_poisons_caller_gives_up(self, harm: str, here: EmbeddingServer) -> None:
        """Where the poison's caller leaves, at any moment, the others still get their vectors."""
        here.script = poisoned(HARM[harm][0], "poison")
        for after in (0.0, 0.03, 1.6, 3.2):
            async with client(here, batch_size=32) as one:
                with here.hold():
                    first = asyncio.create_task(one.embed(["first"]))
                    await here.wait_for(lambda: here.in_flight == 1)
                    bad = asyncio.create_task(one.embed(["poison"]))
                    good = [asyncio.create_task(one.embed([f"{after} {at}"])) for at in range(4)]
                    await asyncio.sleep(0)
                await first
                await asyncio.sleep(after)
                bad.cancel()
                rows = [row for rows in await asyncio.gather(*good) for row in rows]
                assert right(rows, [f"{after} {at}" for at in range(4)])


class TestAlone:
    """A call with a text that harms the server, and others at the same time."""

    @harms
    async def test_others_go_on(self, harm: str, here: EmbeddingServer) -> None:
        """In a call of a hundred texts, one of them poison, all others are done, while other calls go well."""
        answer, error = HARM[harm]
        here.script = poisoned(answer, "poison")
        texts = [*numbered(60), "poison", *numbered(39, "more")]
        async with client(here, batch_size=16, concurrency=3) as one:
            other = asyncio.create_task(one.embed(numbered(200, "other")))
            with pytest.raises(error) as caught:
                await one.embed(texts)
            assert right(await other, numbered(200, "other"))
            assert list(caught.value.failures) == [60]
            assert caught.value.completed is not None
            assert right(caught.value.completed.vectors, [text for text in texts if text != "poison"])

    @pytest.mark.parametrize("at", [0, 5, 15])
    @pytest.mark.parametrize("harm", [*BREAKS, "502"])
    async def test_is_named_where_nobody_else_asks(self, harm: str, at: int, here: EmbeddingServer) -> None:
        """A lone caller learns which of its texts brings the server down, and gets the vectors of the others."""
        answer, error = HARM[harm]
        here.script = poisoned(answer, "poison")
        texts = numbered(16)
        texts[at] = "poison"
        async with client(here, batch_size=16) as one:
            await one.embed_query("warm")
            with pytest.raises(error) as caught:
                await one.embed(texts)
            assert list(caught.value.failures) == [at]
            assert caught.value.completed is not None
            assert right(caught.value.completed.vectors, [text for text in texts if text != "poison"])
            # Three attempts, two texts, one; each on a connection that was kept after a success is free.
            assert harmed(here, "poison") <= 5 + 3 * (harm in ("reset", "hang up"))

    @pytest.mark.parametrize("breaks", range(1, 8))
    @pytest.mark.parametrize("harm", BREAKS)
    async def test_a_server_that_comes_back_fails_no_more_than_it_must(
        self, harm: str, breaks: int, here: EmbeddingServer
    ) -> None:
        """A lone call at a server that breaks off several times, whatever it is asked, gets what can be got."""
        texts = numbered(16)
        async with client(here, batch_size=16, max_retries=2) as one:
            await one.embed_query("warm")
            here.answer(*[HARM[harm][0]] * breaks)
            (got,) = await asyncio.gather(one.embed(texts), return_exceptions=True)
            # Three attempts, two texts, then one after the other; a kept connection is free.
            failed = max(0, breaks - 4 - (harm in ("reset", "hang up")))
            if not failed:
                assert got_right(got, texts)
            elif failed < 3:
                assert isinstance(got, HARM[harm][1])
                assert list(got.failures) == list(range(failed))
                assert got.completed is not None
                assert right(got.completed.vectors, texts[failed:])

    @pytest.mark.parametrize("warm", [False, True])
    @pytest.mark.parametrize("harm", BREAKS)
    async def test_a_lone_call_at_a_server_that_is_gone(
        self, harm: str, warm: bool, here: EmbeddingServer
    ) -> None:
        """A server that breaks off whatever it is asked is searched at most until its budget of repeats is used up."""
        answer, error = HARM[harm]
        sent = []
        async with client(here, batch_size=64) as one:
            if warm:
                await one.embed_query("warm")
            here.script = lambda request: answer if request.embeds else None
            for number in range(40):
                before = len(here.batches)
                with pytest.raises(error):
                    await one.embed(numbered(64, number))
                sent.append(len(here.batches) - before)
        # Three attempts, 8 texts, one, and two more; a kept connection is free.
        assert max(sent) <= (8 if warm else 3)
        assert max(sent[-20:]) == 1

    @harms
    async def test_later_calls_go_on(self, harm: str, here: EmbeddingServer) -> None:
        """After ten poisons in a row, one call each, the budget of repeats still lets the next texts through."""
        answer, error = HARM[harm]
        here.script = poisoned(answer, *numbered(10, "poison"))
        async with client(here) as one:
            for number in range(10):
                with pytest.raises(error):
                    await one.embed_query(f"poison {number}")
                assert right([await one.embed_query(f"text {number}")], [f"text {number}"])

    @harms
    async def test_a_server_that_is_gone_is_not_searched(self, harm: str, here: EmbeddingServer) -> None:
        """A server that breaks at every text is found out after a handful of requests, and every caller is told."""
        answer, error = HARM[harm]
        async with client(here, batch_size=8, concurrency=2) as one:
            await one.embed_query("warm")
            here.script = lambda request: answer if request.embeds else None
            calls = [one.embed(numbered(50, who)) for who in range(5)]
            got = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(each) for each in got} == {error}
            assert len(here.batches) < 100

    @pytest.mark.parametrize("concurrency", [1, 3])
    @kinds
    async def test_a_server_that_falls_and_is_started_again(
        self, kind: Any, concurrency: int, here: EmbeddingServer
    ) -> None:
        """A text at which the server dies, and is started again a second later, costs nobody else a vector."""
        falls: list[asyncio.Task[None]] = []

        async def fall() -> None:
            await here.astop()
            await asyncio.sleep(1)
            await here.astart()

        def script(request: Request) -> Answer | None:
            if "poison" not in request.texts:
                return Answer(delay=0.05) if request.embeds else None
            falls.append(asyncio.create_task(fall()))
            return Answer.hang()

        here.script = script
        async with client(here, batch_size=4, concurrency=concurrency, timeout=20) as one:
            await one.embed_query("warm")
            calls = [asyncio.create_task(one.embed(numbered(6, who), kind)) for who in range(10)]
            bad = asyncio.create_task(one.embed(["poison"], kind))
            calls += [asyncio.create_task(one.embed(numbered(6, who), kind)) for who in range(10, 20)]
            got = await asyncio.gather(*calls, bad, return_exceptions=True)
            await asyncio.gather(*falls)
            assert type(got.pop()) is ConnectionFailed
            wrong = [each for who, each in enumerate(got) if not got_right(each, numbered(6, who))]
            assert not wrong
            assert len(falls) <= 6
