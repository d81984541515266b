"""Vectors of two models never stand in one result: what a reply names, and what a server says that it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from embedwire import BadReply, EmbeddingClient
from embedwire.testing import Answer, EmbeddingServer, Gate, Request, vector
from embedwire.testing._vectors import to_base64
from tests.helpers import numbered, right, simulated
from tests.server.doors import own
from tests.server.raw import DIMENSIONS, Asked, RawServer, embeddings, reply
from tests.server.test_replies import DOORS, Door, asked

TEXTS = numbered(60)
EXCHANGED = (
    r"vectors of another model: 'other-embed', where earlier ones came from 'bge-m3'.*must be embedded again"
)


@pytest.fixture(params=DOORS, ids=["client", "langchain", "llama_index"])
def embed(request: pytest.FixtureRequest) -> Door:
    """A door, which is given a URL, texts and arguments."""
    door: Door = request.param
    return door


def named(name: object) -> Answer:
    """The right reply, under a name."""
    return Answer.mutate(lambda reply: {**reply, "model": name})


def names(*those: object) -> Callable[[Request], Answer | None]:
    """Names the replies in turn, and then with the last one; "-" for none."""
    turns: Iterator[object] = iter(those)

    def script(request: Request) -> Answer | None:
        if not request.embeds:
            return None
        name = next(turns, those[-1])
        return named(name) if name != "-" else Answer.mutate(lambda right: {"data": right["data"]})

    return script


class TestNames:
    """A reply that names another model than the ones before it is refused."""

    @pytest.mark.parametrize("encoding", ["float", "auto"])
    async def test_it_changes(
        self, encoding: str, embed: Door, server: EmbeddingServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The call fails at the first such reply, after one request for those texts; the next call gets the new one."""
        server.script = names(*4 * ["bge-m3"], "other-embed")
        arguments = {"model": "bge-m3", "batch_size": 5, "concurrency": 1, "encoding": encoding}
        with pytest.raises(BadReply, match=EXCHANGED) as caught:
            await embed(server.url, TEXTS, **arguments)
        # With "auto" one request had room for the text that goes along in base64.
        first = 20 if encoding == "float" else 19
        assert caught.value.index == first
        assert caught.value.completed is not None
        assert right(caught.value.completed.vectors.tolist(), TEXTS[:first])
        assert len(server.batches) == 5
        assert right(await embed(server.url, TEXTS[:10], **arguments), TEXTS[:10])
        assert len(server.batches) == 7

    @pytest.mark.parametrize(
        "those",
        [
            ["an alias", "an alias", "an alias"],
            ["bge-m3", "BGE-M3", "bge-m3:latest"],
            ["-", "-", "x", "x"],
            ["x", "-", "x"],
            ["x", None, "x"],
            ["x", "", "x"],
            ["x", 7, "x"],
        ],
        ids=str,
    )
    async def test_it_does_not(self, those: list[object], embed: Door, server: EmbeddingServer) -> None:
        """An alias, another case, the tag that Ollama adds, and no name at all are no other model."""
        server.script = names(*those)
        arguments = {"model": "bge-m3", "batch_size": 5, "concurrency": 1, "encoding": "float"}
        assert right(await embed(server.url, TEXTS, **arguments), TEXTS)
        assert len(server.batches) == 12

    async def test_a_name_is_not_shown_where_it_repeats_a_text(
        self, embed: Door, server: EmbeddingServer
    ) -> None:
        """The message withholds a name that is one of the texts."""
        text = "a text that nobody should see"
        server.script = names("m", text)
        arguments = {"model": "m", "batch_size": 1, "concurrency": 1}
        with pytest.raises(BadReply, match="vectors of another model") as caught:
            await embed(server.url, ["a", text], **arguments)
        assert text not in str(caught.value)

    async def test_of_calls_that_wait_together(self, here: EmbeddingServer) -> None:
        """A call with vectors of the old model fails even where another call was told first; a fresh one is right."""
        held = {"first 1": Gate(), "second 0": Gate()}

        def script(request: Request) -> Answer | None:
            gate = next((held[text] for text in request.texts if text in held), None)
            old = "first 0" in request.texts
            return Answer(
                gate=gate, body=lambda right: {**right, "model": "bge-m3" if old else "other-embed"}
            )

        here.script = script
        async with own(here, batch_size=1, concurrency=2) as client:
            first = asyncio.ensure_future(client.embed(numbered(2, "first")))
            await here.wait_for(lambda: len(here.batches) == 2)
            second = asyncio.ensure_future(client.embed(numbered(1, "second")))
            await here.wait_for(lambda: len(here.batches) == 3)
            held["second 0"].open()
            with pytest.raises(BadReply, match=EXCHANGED):
                await second
            held["first 1"].open()
            with pytest.raises(
                BadReply, match=r"of another model than this call's first ones.*embedded again"
            ):
                await first
            assert right(await client.embed(["third"]), ["third"])

    async def test_of_calls_that_share_a_request(self, here: EmbeddingServer) -> None:
        """Calls that share the request are not asked for again one by one, as that would hide the change."""
        here.script = names("bge-m3", "other-embed")
        async with own(here, batch_size=10, concurrency=1) as client:
            before = asyncio.ensure_future(client.embed(["before"]))
            calls = [asyncio.ensure_future(client.embed([f"query {number}"])) for number in range(3)]
            assert right(await before, ["before"])
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(one) for one in done] == [BadReply] * 3
            assert len(here.batches) == 2

    async def test_in_a_stream(self, here: EmbeddingServer) -> None:
        """A stream ends with the error, also where it is to skip texts at fault."""
        here.script = names(*4 * ["bge-m3"], "other-embed")
        async with own(here, batch_size=5, concurrency=1) as client:
            stream = client.stream(TEXTS, on_error="skip")
            for start in range(0, 20, 5):
                assert right((await anext(stream))[1], TEXTS[start : start + 5])
            with pytest.raises(BadReply, match=EXCHANGED):
                await anext(stream)

    async def test_while_base64_is_tried(self, here: EmbeddingServer) -> None:
        """The request that tries base64 notices it too, and is not sent again in decimal."""

        def script(request: Request) -> Answer | None:
            if not request.embeds:
                return None
            packed = request.json["encoding_format"] == "base64"
            return named("other-embed" if packed else "bge-m3")

        here.script = script
        async with EmbeddingClient(here.url, model="bge-m3", concurrency=1) as client:
            with pytest.raises(BadReply, match=EXCHANGED):
                await client.embed(numbered(100))
        assert asked(here, "encoding_format")[-1] == "base64"


class Exchangeable:
    """A server as llama.cpp's: it serves one model, and repeats whatever name it is sent."""

    def __init__(self) -> None:
        self.serves = "one"
        self.questions = 0

    def __call__(self, asked: Asked) -> bytes:
        """Answers a request."""
        if asked.path.endswith("/models"):
            self.questions += 1
            return reply({"data": [{"id": self.serves}]})
        rows = [vector(text, DIMENSIONS) for text in of(self.serves, asked.texts)]
        coded = [to_base64(row) if asked.json["encoding_format"] == "base64" else row for row in rows]
        data = [{"index": index, "embedding": row} for index, row in enumerate(coded)]
        return reply({"model": asked.json["model"], "data": data})


def of(model: str, texts: list[str]) -> list[str]:
    """The texts whose vectors a model gives in an `EmbeddingServer`'s place."""
    return [f"{model} {text}" for text in texts]


class TestServed:
    """Without `model=`, a server that was started again is asked which model it serves."""

    async def test_another_one(self, caplog: pytest.LogCaptureFixture) -> None:
        """After a restart with another model, a call gets that one's vectors under its name; one warning says so."""
        handle = Exchangeable()
        async with RawServer(handle) as server, EmbeddingClient(server.url, encoding="float") as client:
            for model in ("one", "two"):
                handle.serves = model
                server.hang_up()
                for round_ in "ab":
                    texts = numbered(20, round_)
                    assert right(await client.embed(texts), of(model, texts))
            assert client.server_info().model == "two"
        assert handle.questions == 2
        assert {asked.json["model"] for asked in server.asked} == {"one", "two"}
        assert caplog.text.count("serves 'two' by now, and served 'one' before") == 1

    @pytest.mark.parametrize("encoding", ["float", "auto", "base64"])
    async def test_the_same_one(self, encoding: Any, caplog: pytest.LogCaptureFixture) -> None:
        """After a restart with the same model, it is asked once, and nothing else happens."""
        async with RawServer(Exchangeable()) as server:
            handle = server.handle
            assert isinstance(handle, Exchangeable)
            async with EmbeddingClient(server.url, encoding=encoding) as client:
                for number in range(1, 4):
                    server.hang_up()
                    texts = numbered(20, number)
                    assert right(await client.embed(texts), of("one", texts))
                    assert handle.questions == number
        assert "by now" not in caplog.text

    async def test_in_the_middle_of_a_call(self) -> None:
        """A call that has vectors of the old model fails, whatever name its replies repeat."""
        handle = Exchangeable()

        def exchange(asked: Asked) -> bytes | None:
            if asked.embeds and "text 30" in asked.texts and handle.serves == "one":
                handle.serves = "two"
                server.hang_up()
                return None
            return handle(asked)

        async with (
            RawServer(exchange) as server,
            EmbeddingClient(server.url, encoding="float", batch_size=5, concurrency=1) as client,
        ):
            with pytest.raises(BadReply, match=r"another model than this call's first ones.*embedded again"):
                await client.embed(TEXTS)
            assert right(await client.embed(TEXTS), of("two", TEXTS))
        assert handle.questions == 2

    async def test_a_server_without_a_list(self) -> None:
        """A server that does not list its models is asked once, and not at each new connection."""
        handle = Exchangeable()

        def listless(asked: Asked) -> bytes:
            if asked.path.endswith("/models"):
                handle.questions += 1
                return reply({"error": "no"}, "404 Not Found")
            return embeddings(asked.texts)

        async with RawServer(listless) as server, EmbeddingClient(server.url, encoding="float") as client:
            for number in range(3):
                server.hang_up()
                assert right(await client.embed(numbered(5, number)), numbered(5, number))
        assert handle.questions == 2  # at both paths that its URL may mean

    @simulated
    async def test_another_one_each_time(self) -> None:
        """A server that serves another model at each question is given up, and asked a few times only."""
        handle = Exchangeable()

        def fickle(asked: Asked) -> bytes:
            if asked.path.endswith("/models"):
                handle.serves = f"model {handle.questions}"
            asyncio.get_running_loop().call_soon(asked.line.close)
            return handle(asked)

        async with RawServer(fickle) as server, EmbeddingClient(server.url, encoding="float") as client:
            rows = await asyncio.gather(
                *(client.embed([f"text {n}"]) for n in range(3)), return_exceptions=True
            )
        assert all(isinstance(one, BadReply) or len(one) == 1 for one in rows)  # type: ignore[arg-type]
        assert handle.questions < 20
