"""``too_long=``: a text that the model cannot take whole is cut, or embedded in parts, whatever the server's words."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embedwire import (
    AuthenticationFailed,
    BadReply,
    DeadlineExceeded,
    EmbeddingClient,
    Prompts,
    RequestError,
    SharedEmbeddingClient,
    TextRefused,
    UsageError,
)
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, EmbeddingServer, Request
from embedwire.testing._vectors import vector
from tests.helpers import copies, finish, numbered, right, simulated
from tests.server.doors import Open, own

LIMIT = 512  # tokens of the servers here, of four bytes each, with two more for each text


def tokens(text: str) -> int:
    """Tokens in a text."""
    return len(text.encode()) // 4 + 2


def limited(answer: Callable[[int, int], Answer], limit: int = LIMIT) -> Callable[[Request], Answer | None]:
    """A server that refuses a request for one of its texts, in some server's words."""

    def script(request: Request) -> Answer | None:
        most = max(map(tokens, request.texts), default=0)
        return answer(most, limit) if most > limit else None

    return script


WORDS: dict[str, Callable[[int, int], Answer]] = {
    "llama.cpp, batch": Answer.too_large,
    "llama.cpp, context": Answer.exceed_context,
    "TEI": lambda tokens, limit: Answer(
        status=413,
        body={
            "error": f"Input validation error: `inputs` must have less than {limit} tokens. Given: {tokens}",
            "error_type": "Validation",
        },
    ),
    "Ollama": lambda tokens, limit: Answer.error(500, "the input length exceeds the context length"),
    "by bytes": lambda tokens, limit: Answer(status=413, body=b"<html>413 Request Entity Too Large</html>"),
}
every_server = pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
LONG = "".join(f"word{number} " for number in range(800))  # three times too long


def corpus(long: int = 100, short: int = 900) -> list[str]:
    """Some texts, of which some are too long."""
    every = (long + short) // long
    return [
        f"{number} {'word ' * (500 + number) if number % every == 3 else 'text'}"
        for number in range(long + short)
    ]


def check(rows: Any, texts: list[str], cut: list[str]) -> None:
    """Fail unless all texts have their own vectors, and long ones that of a long beginning."""
    for row, text in zip(rows, texts, strict=True):
        if tokens(text) <= LIMIT:
            assert right([row], [text])
            continue
        beginnings = [one for one in set(cut) if text.startswith(one) and right([row], [one])]
        assert len(beginnings) == 1
        assert tokens(beginnings[0]) > 0.75 * LIMIT


def taken(server: EmbeddingServer) -> list[str]:
    """Texts that were short enough."""
    return [text for batch in server.batches for text in batch if tokens(text) <= LIMIT]


def mean(texts: list[str]) -> Any:
    """What the average of some parts has to be."""
    middle = np.average([vector(text, 8) for text in texts], axis=0, weights=[len(text) for text in texts])
    return middle / np.linalg.norm(middle)


class TestEveryServer:
    """It works whatever a server says, and costs little."""

    @every_server
    async def test_truncates(self, words: Callable[[int, int], Answer]) -> None:
        """A thousand texts, a hundred of them too long, get the vectors of what fits: for one request more each."""
        texts = corpus()
        async with (
            EmbeddingServer(script=limited(words)) as server,
            own(server, too_long="truncate", batch_size=20) as client,
        ):
            check(await client.embed_array(texts), texts, taken(server))
            assert len(server.batches) <= 1000 / 20 + 100 * 1.6
            usage = client.usage()
            assert (usage.truncated, usage.averaged) == (100, 0)
            assert usage.requests == len(server.batches)

    @every_server
    async def test_averages(self, words: Callable[[int, int], Answer]) -> None:
        """A thousand texts, a hundred of them too long, are embedded in parts that lack nothing."""
        texts = corpus()
        async with (
            EmbeddingServer(script=limited(words)) as server,
            own(server, too_long="average", batch_size=20) as client,
        ):
            rows = await client.embed_array(texts)
            assert len(server.batches) <= 1000 / 20 + 100 * 1.6
            assert (client.usage().truncated, client.usage().averaged) == (0, 100)
            assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6
            check(
                [row for row, text in zip(rows, texts, strict=True) if tokens(text) <= LIMIT],
                [text for text in texts if tokens(text) <= LIMIT],
                [],
            )

    @pytest.mark.parametrize("how", ["truncate", "average"])
    async def test_by_each_door(self, open_doors: Open, server: EmbeddingServer, how: str) -> None:
        """Every client, sync and async, has the same vectors for lists, queries and streams."""
        server.script = limited(Answer.too_large)
        doors = open_doors(too_long=how)
        texts = ["a", LONG, "b"]
        rows = await doors.embed(texts)
        assert right([rows[0], rows[2]], ["a", "b"])
        assert np.allclose(await doors.embed_query(LONG), rows[1], atol=1e-7)
        stitched = np.concatenate([piece for _, piece in await doors.pieces(iter(texts))])
        assert np.allclose(stitched, rows, atol=1e-7)

    @every_server
    async def test_by_the_adapters(self, words: Callable[[int, int], Answer]) -> None:
        """LangChain's and LlamaIndex's have it as an option, and tell what was done."""
        async with EmbeddingServer(script=limited(words)) as server:
            chain = EmbedwireEmbeddings(server.url, model="m", too_long="truncate")
            check(await chain.aembed_documents(["a", LONG]), ["a", LONG], taken(server))
            assert chain.usage().truncated == 1
            index = EmbedwireEmbedding(server.url, model="m", too_long="truncate")
            check([await index.aget_text_embedding(LONG)], [LONG], taken(server))
            assert index.usage().truncated == 1
            await chain.aclose()
            await index.aclose()

    async def test_of_other_scripts(self) -> None:
        """A text of denser characters does not shorten the others for good, at a server that tells no numbers."""
        korean = "서울은 대한민국의 수도이다. " * 100
        async with (
            EmbeddingServer(script=limited(WORDS["Ollama"])) as server,
            own(server, too_long="truncate") as client,
        ):
            for text in (LONG, korean, LONG + "2", korean + "2"):
                before = len(server.batches)
                check([await client.embed_query(text)], [text], taken(server))
            assert len(server.batches) == before + 2


class TestVectors:
    """What the vector of a long text is."""

    async def test_the_mean_of_its_parts(self) -> None:
        """Weighted by their length, at unit length where the model's vectors are; the parts are the text."""
        async with (
            EmbeddingServer(script=limited(Answer.too_large)) as server,
            own(server, too_long="average") as client,
        ):
            row = await client.embed_query(LONG)
            parts = taken(server)
            assert sorted("".join(sorted(parts, key=LONG.index))) == sorted(LONG)
            assert len(parts) == 4
            assert np.allclose(row, mean(parts), atol=1e-6)

    async def test_of_a_model_without_unit_length(self) -> None:
        """The mean is left as it is, unless the user normalizes."""

        def twice(request: Request) -> Answer | None:
            refused = limited(Answer.too_large)(request)
            return refused or Answer.vectors(lambda rows: [[2 * x for x in row] for row in rows])

        async with EmbeddingServer() as server:
            server.script = lambda request: twice(request) if request.embeds else None
            async with own(server, too_long="average") as client:
                plain = np.array(await client.embed_query(LONG))
                parts = sorted(set(taken(server)))
                weights = [len(part) for part in parts]
                expected = 2 * np.average([vector(part, 8) for part in parts], axis=0, weights=weights)
                assert np.allclose(plain, expected, atol=1e-6)
                assert abs(np.linalg.norm(plain) - 1) > 0.1
            async with own(server, too_long="average", normalize=True) as client:
                assert np.allclose(await client.embed_query(LONG), mean(parts), atol=1e-6)

    @pytest.mark.parametrize("how", ["truncate", "average"])
    @every_server
    async def test_keep_the_prompt(self, words: Callable[[int, int], Answer], how: str) -> None:
        """Whatever is sent of a text, its prompt stands before it, and counts."""
        prompts = Prompts(query="query: " * 20, document="passage: " * 20)
        async with (
            EmbeddingServer(script=limited(words)) as server,
            own(server, too_long=how, prompts=prompts) as client,
        ):
            for _ in range(2):
                await client.embed_query(LONG)
                await client.embed([LONG])
            texts = [text for batch in server.batches for text in batch]
            assert all(text.startswith((prompts.query, prompts.document)) for text in texts)
            before = len(server.batches)
            await client.embed_query(LONG + "2")
            assert len(server.batches) <= before + (2 if how == "truncate" else 6)

    async def test_of_equal_texts(self) -> None:
        """A long text that is in a call five times is fitted once, and counts five times."""
        async with (
            EmbeddingServer(script=limited(Answer.too_large)) as server,
            own(server, too_long="truncate") as client,
        ):
            rows = await client.embed([LONG, "a", LONG, LONG, "b", LONG, LONG])
            assert all(row == rows[0] for row in rows[2:4] + rows[5:])
            assert sum(text == "".join(batch) for batch in server.batches for text in taken(server)[-1:]) == 1
            assert client.usage().truncated == 5

    async def test_of_another_model(self) -> None:
        """Parts of another width than the call's first vectors are an error, never mixed with them."""

        def script(request: Request) -> Answer | None:
            refused = limited(Answer.too_large)(request)
            if refused is None and len("".join(request.texts)) > 100:
                return Answer.vectors(lambda rows: [row[:4] for row in rows])
            return refused

        async with (
            EmbeddingServer(script=lambda request: script(request) if request.embeds else None) as server,
            own(server, too_long="truncate", batch_size=1, max_retries=1) as client,
        ):
            with pytest.raises(BadReply, match=r"texts\[1\]"):
                await client.embed(["a", LONG])

    @copies
    def test_of_a_copy(self, again: Callable[[Any], Any], server: EmbeddingServer) -> None:
        """A copy does the same with long texts, and counts anew."""
        server.script = limited(Answer.too_large)
        with SharedEmbeddingClient(server.url, model="m", too_long="truncate") as client:
            row = client.embed_query(LONG)
            with again(client) as twin:
                assert twin.usage().texts == 0
                assert twin.embed_query(LONG) == row
                assert (twin.usage().truncated, client.usage().truncated) == (1, 1)


class TestFailures:
    """What cannot be fitted fails as anything does: its own error, and nothing lost."""

    async def test_of_another_reason(self) -> None:
        """Beside a text that gets no vector for another reason, the long ones get theirs."""

        def script(request: Request) -> Answer | None:
            if any("nothing" in text for text in request.texts):
                return Answer.error(500, "failed to encode response: json: unsupported value: NaN")
            return limited(Answer.too_large)(request)

        texts = ["a", LONG, "nothing", "b", LONG + "2"]
        async with (
            EmbeddingServer(script=script) as server,
            own(server, too_long="truncate") as client,
        ):
            with pytest.raises(TextRefused, match=r"NaN|cannot take the text") as caught:
                await client.embed(texts)
            error = caught.value
            assert error.index == 2
            assert not error.too_long
            assert list(error.failures) == [2]
            assert error.completed is not None
            assert error.completed.indexes == [0, 1, 3, 4]
            check(error.completed.vectors, [texts[row] for row in (0, 1, 3, 4)], taken(server))
            stream = client.stream(texts, on_error="skip")
            pieces = [(start, len(rows)) async for start, rows in stream]
            assert pieces == [(0, 2), (3, 2)]
            assert list(stream.failures) == [2]

    @every_server
    @pytest.mark.parametrize("how", ["truncate", "average"])
    async def test_of_all_that_is_tried(self, words: Callable[[int, int], Answer], how: str) -> None:
        """A server that takes nothing of a text is found out with few requests, and the error is the whole text's."""

        def script(request: Request) -> Answer | None:
            long = any("word" in text or len(text) < 4 for text in request.texts)
            return words(max(map(tokens, request.texts)), 1) if long else None

        texts = ["short", LONG, "words " + LONG, "also short"]
        async with EmbeddingServer(script=script) as server, own(server, too_long=how) as client:
            with pytest.raises(TextRefused) as caught:
                await client.embed(texts)
            error = caught.value
            assert (error.index, error.too_long, list(error.failures)) == (1, True, [1, 2])
            assert error.tokens in (tokens(LONG), None)
            assert error.completed is not None
            assert error.completed.indexes == [0, 3]
            assert len(server.batches) < 50
            assert client.usage().truncated == client.usage().averaged == 0

    async def test_of_a_prompt_over_the_limit(self) -> None:
        """Where not even the prompt fits, the text's own error says so, after two requests for it."""
        async with (
            EmbeddingServer(script=limited(Answer.too_large)) as server,
            own(server, too_long="truncate", prompts=Prompts(query="query: " * 500)) as client,
        ):
            with pytest.raises(TextRefused, match=r"takes 512.*texts\[0\] of 1"):
                await client.embed_query("a few words")
            assert len(server.batches) == 2

    async def test_of_the_server(self) -> None:
        """A server that is down in the middle ends the call, with what was done, and no text is skipped for it."""
        seen = 0

        def script(request: Request) -> Answer | None:
            nonlocal seen
            refused = limited(Answer.too_large)(request)
            seen += refused is None and any("word" in text for text in request.texts)
            return Answer.error(401, "the key has expired") if seen > 1 and not refused else refused

        texts = ["a", LONG, "b", LONG + "2", LONG + "3"]
        async with (
            EmbeddingServer(script=lambda request: script(request) if request.embeds else None) as server,
            own(server, too_long="truncate", batch_size=1) as client,
        ):
            with pytest.raises(AuthenticationFailed) as caught:
                await client.embed(texts)
            assert caught.value.index in (3, 4)
            assert caught.value.completed is not None
            assert caught.value.completed.indexes == [0, 1, 2]
            check(caught.value.completed.vectors, texts[:3], taken(server))
            with pytest.raises(AuthenticationFailed):
                [piece async for piece in client.stream(texts, on_error="skip")]

    async def test_of_the_server_in_a_stream(self, here: EmbeddingServer) -> None:
        """A stream that skips texts at fault does not skip those that a server's failure left without a vector."""
        refused = 0

        def script(request: Request) -> Answer | None:
            nonlocal refused
            if "bad" in request.texts:
                refused += 1
                return Answer.too_large(600, 512)
            return Answer.error(401, "no") if refused == 3 else None  # once it was refused alone

        here.script = lambda request: script(request) if request.embeds else None
        async with own(here, batch_size=4, concurrency=1) as client:
            with pytest.raises(AuthenticationFailed):
                [
                    piece
                    async for piece in client.stream(
                        ["long one", "bad", "another", "the last"], on_error="skip"
                    )
                ]
            assert refused == 3

    async def test_index_in_a_stream(self) -> None:
        """A stream names a text by its place in the whole, and goes on past it."""

        def script(request: Request) -> Answer | None:
            if any("never".startswith(text) for text in request.texts):
                return Answer.too_large(10**6, 1)
            return limited(Answer.too_large)(request)

        texts = numbered(40)
        texts[13], texts[27], texts[30] = LONG, "never", LONG
        async with (
            EmbeddingServer(script=script) as server,
            own(server, too_long="average", batch_size=4) as client,
        ):
            stream = client.stream(iter(texts), on_error="skip")
            rows = {start + row: one async for start, piece in stream for row, one in enumerate(piece)}
            assert sorted(rows) == [row for row in range(40) if row != 27]
            assert {at: error.index for at, error in stream.failures.items()} == {27: 27}
            assert all(right([rows[row]], [texts[row]]) for row in rows if row not in (13, 30))


class TestEnds:
    """A call ends in one way, whatever is under way for its long texts, and nothing is left behind."""

    @staticmethod
    def gated(server: EmbeddingServer) -> None:
        """Let parts of long texts wait for ever."""

        def script(request: Request) -> Answer | None:
            refused = limited(Answer.too_large)(request)
            waits = refused is None and any("word" in text for text in request.texts)
            return Answer.hang() if waits else refused

        server.script = lambda request: script(request) if request.embeds else None

    @pytest.mark.parametrize("how", ["truncate", "average"])
    async def test_cancelled(self, here: EmbeddingServer, how: str) -> None:
        """What only a cancelled call wanted leaves the wire, and its tasks are gone."""
        self.gated(here)
        async with own(here, too_long=how) as client:
            call = asyncio.ensure_future(client.embed(["a", LONG]))
            await here.wait_for(lambda: here.in_flight == 1 and len(here.batches) > 2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await here.wait_for(lambda: here.in_flight == 0)
            await asyncio.sleep(0)
            assert client._engine is not None
            assert not client._engine._fittings
            here.script = None
            assert right(await client.embed(["b"]), ["b"])

    @pytest.mark.parametrize("steps", range(12))
    async def test_cancelled_at_any_moment(self, here: EmbeddingServer, steps: int) -> None:
        """Whenever that is, nothing hangs, and the client goes on."""
        here.script = limited(Answer.too_large)
        async with own(here, too_long="truncate") as client:
            await client.embed(["warm"])
            call = asyncio.ensure_future(client.embed([LONG]))
            for _ in range(steps * 3):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            assert right(await client.embed(["b"]), ["b"])

    @simulated
    async def test_at_the_deadline(self) -> None:
        """It holds for the whole call; what was done is in the error, which names the text."""
        async with EmbeddingServer() as server:
            self.gated(server)
            async with own(server, too_long="truncate", deadline=5) as client:
                with pytest.raises(DeadlineExceeded) as caught:
                    await client.embed(["a", LONG, "b"])
                error = caught.value
                assert error.index == 1
                assert error.completed is not None
                assert error.completed.indexes == [0, 2]
                assert right(error.completed.vectors, ["a", "b"])

    async def test_by_close(self, here: EmbeddingServer) -> None:
        """Closing the client ends it with `UsageError`, and leaves no task."""
        self.gated(here)
        client = own(here, too_long="average")
        call = asyncio.ensure_future(client.embed(["a", LONG]))
        await here.wait_for(lambda: here.in_flight == 1 and len(here.batches) > 2)
        before = asyncio.all_tasks()
        await client.close()
        with pytest.raises(UsageError, match="closed"):
            await call
        names = {task.get_coro().__qualname__ for task in before if not task.done()}  # type: ignore[union-attr]
        assert not {name for name in names if "Fitting" in name or "gathered" in name}

    @pytest.mark.parametrize("steps", range(10))
    async def test_by_close_at_any_moment(self, here: EmbeddingServer, steps: int) -> None:
        """Nor does a part begin after it."""
        here.script = limited(Answer.too_large)
        client = own(here, too_long="truncate")
        await client.embed(["warm"])
        call = asyncio.ensure_future(client.embed([LONG]))
        await here.wait_for(lambda: LONG in here.batches[-1])
        for _ in range(steps):
            await asyncio.sleep(0.0005)
        await client.close()
        outcome = (await asyncio.gather(call, return_exceptions=True))[0]
        assert isinstance(outcome, (UsageError, list))

    async def test_with_a_full_queue(self, here: EmbeddingServer) -> None:
        """A call that was let in is not turned away in the middle."""
        here.script = limited(Answer.too_large)
        texts = [LONG + str(number) for number in range(20)]
        async with own(here, too_long="average", max_queued=20) as client:
            assert len(await client.embed(texts)) == 20

    def test_by_the_end_of_the_process(self, server: EmbeddingServer, script: Any) -> None:
        """A daemon thread that still waits keeps nothing alive, and nothing is said."""
        self.gated(server)
        process = script(
            f"""
            import threading, time
            from embedwire import SharedEmbeddingClient
            client = SharedEmbeddingClient({server.url!r}, model="m", too_long="average")
            threading.Thread(target=client.embed, args=(["word " * 2000],), daemon=True).start()
            time.sleep(1)
            print("over")
            """
        )
        assert finish(process).strip() == "over"


class TestAround:
    """What else a user notices."""

    @pytest.mark.parametrize("how", ["truncate", "average"])
    async def test_warns_once(self, caplog: pytest.LogCaptureFixture, how: str) -> None:
        """The log says once for a model that texts were cut, however many, by whichever client; and shows none."""
        caplog.set_level(logging.WARNING, "embedwire")
        async with EmbeddingServer(script=limited(Answer.too_large)) as server:
            for _ in range(2):
                async with own(server, too_long=how) as client:
                    await client.embed([LONG + str(number) for number in range(5)])
        said = [message for message in caplog.messages if "too_long" in message]
        assert len(said) == 1
        assert "word1" not in said[0]

    async def test_off_by_default(self) -> None:
        """Without the option a long text is an error that says that there is one."""
        async with EmbeddingServer(script=limited(Answer.too_large)) as server, own(server) as client:
            with pytest.raises(TextRefused) as caught:
                await client.embed(["a", LONG])
            assert caught.value.too_long

    async def test_many_long_texts(self) -> None:
        """A call of two thousand long texts is one request for each and few more, each vector in its place."""
        texts = [f"{number} {LONG[:2400]}" for number in range(2000)]
        async with (
            EmbeddingServer(script=limited(Answer.too_large), server_header=None) as server,
            EmbeddingClient(server.url, model="m", encoding="float", too_long="truncate") as client,
        ):
            rows = await client.embed_array(texts)
            cut = {text.split()[0]: text for text in taken(server)}
            assert right(rows, [cut[str(number)] for number in range(2000)])
            assert len(server.batches) < 2000 * 1.3
            assert isinstance(client.usage().requests, float)

    async def test_learns_again(self) -> None:
        """A server that takes longer texts after a restart gets longer ones, though it tells no numbers."""
        limit = 128
        async with (
            EmbeddingServer(script=lambda request: limited(WORDS["Ollama"], limit)(request)) as server,
            own(server, too_long="truncate") as client,
        ):
            await client.embed_query(LONG)
            limit = LIMIT
            for number in range(150):
                await client.embed_query(LONG + str(number))
            assert tokens(server.batches[-1][0]) > 0.6 * LIMIT


def test_error_types_are_public() -> None:
    """A text that is too long can be told from one that is refused for another reason."""
    assert TextRefused("x").too_long is False
    assert not hasattr(RequestError("x"), "too_long")
