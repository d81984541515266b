"""Refusals: of the request, of a text, of a model that is not loaded, of a list; and failures in a crowd."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from embedwire import (
    EmbeddingClient,
    EmbedwireError,
    RequestError,
    ServerRefused,
    ServerUnavailable,
    SharedEmbeddingClient,
    TextRefused,
)
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import numbered, right, simulated
from tests.server.world import Door, World, every_door

PLAIN: dict[str, Any] = {"model": "m", "encoding": "float"}
REQUESTS: dict[str, tuple[int, object]] = {
    "unknown model": (400, {"error": {"message": "model 'bge' not found", "type": "invalid_request_error"}}),
    "unknown model 404": (
        404,
        {"error": {"message": "The model `m` does not exist.", "code": "model_not_found"}},
    ),
    "model ID": (400, {"error": "invalid model ID"}),
    "missing parameter": (400, {"detail": "'input_type' parameter is required for asymmetric models"}),
    "FastAPI": (422, {"detail": [{"type": "missing", "loc": ["body", "task"], "msg": "Field required"}]}),
    "matryoshka": (
        400,
        {"error": 'Model "m" does not support matryoshka representation, changing output dimensions'},
    ),
    "unsupported": (400, {"error": {"message": "Unsupported parameter: encoding_format"}}),
    "bill": (400, {"error": "Access denied, please make sure your account is in good standing. (Arrearage)"}),
    "unknown words": (400, {"error": "E_4711"}),
    "no words": (422, b""),
    "words 422": (422, {"detail": "the flux is not capacitated"}),
}


def always(status: int, body: object) -> Callable[[Request], Answer | None]:
    """To each request for vectors the same answer."""
    return lambda request: Answer(status=status, body=body) if request.embeds else None


def failure(world: World, door: Door, texts: list[str], **options: Any) -> RequestError:
    """The error in which a call ends."""
    with pytest.raises(RequestError) as caught:
        door(world, world.server.url, texts, **{**PLAIN, **options})
    return caught.value


class TestRequestsRefused:
    """A refusal of the request is no text's fault."""

    @every_door
    @pytest.mark.parametrize("count", [1, 3, 40])
    @pytest.mark.parametrize("what", REQUESTS)
    def test_is_found_out_with_two_requests(self, what: str, count: int, door: Door, world: World) -> None:
        """Whatever the words, and however many texts, the server is refused with two requests at most."""
        world.server.script = always(*REQUESTS[what])
        error = failure(world, door, numbered(count), concurrency=1)
        assert isinstance(error, ServerRefused)
        assert not isinstance(error, TextRefused)
        assert 1 <= len(world.server.batches) <= 2

    @every_door
    @pytest.mark.parametrize("what", REQUESTS)
    def test_in_parallel(self, what: str, door: Door, world: World) -> None:
        """With the usual concurrency, no more than what is in flight and one."""
        world.server.script = always(*REQUESTS[what])
        assert isinstance(failure(world, door, numbered(400)), ServerRefused)
        assert len(world.server.batches) <= 10

    @pytest.mark.parametrize("count", [1, 30])
    @pytest.mark.parametrize("what", REQUESTS)
    def test_is_never_skipped(self, what: str, count: int, server: EmbeddingServer) -> None:
        """`stream(on_error="skip")` skips texts, and does not swallow such a refusal."""
        server.script = always(*REQUESTS[what])
        with SharedEmbeddingClient(server.url, **PLAIN) as client, pytest.raises(ServerRefused):
            list(client.stream(numbered(count), on_error="skip"))

    @pytest.mark.parametrize("what", ["unknown model", "unknown words", "FastAPI"])
    async def test_many_callers_at_once(self, what: str) -> None:
        """Fifty callers learn it from few requests, and none is told that its text is at fault."""
        async with (
            EmbeddingServer(script=always(*REQUESTS[what])) as server,
            EmbeddingClient(server.url, **PLAIN) as client,
        ):
            ends = await asyncio.gather(
                *(client.embed([f"text {number}"]) for number in range(50)), return_exceptions=True
            )
            assert {type(end) for end in ends} == {ServerRefused}
            assert len(server.batches) <= 20

    @every_door
    def test_the_cures(self, door: Door, world: World) -> None:
        """What the messages name helps: model=, extra_body=, no dimensions=."""

        def picky(request: Request) -> Answer | None:
            if not request.embeds:
                return None
            sent = request.json
            if sent.get("model") != "good":
                return Answer.error(400, f"model '{sent.get('model')}' not found")
            if "dimensions" in sent:
                return Answer.error(400, 'Model "good" does not support matryoshka representation')
            return None if sent.get("task") else Answer.error(422, "Missing required parameter: 'task'")

        world.server.script = picky
        assert "Check model=" in str(failure(world, door, ["a"]))
        assert "message says" in str(failure(world, door, ["a"], model="good"))
        fields = {"task": "retrieval"}
        assert right(door(world, world.server.url, ["a"], model="good", extra_body=fields), ["a"])

    def test_pooling_none(self, server: EmbeddingServer) -> None:
        """llama-server without pooling says how to start it, and nothing of a long text."""
        server.script = always(
            400,
            {
                "error": {
                    "message": "Pooling type 'none' is not OAI compatible. Please use a "
                    "different pooling type",
                    "type": "invalid_request_error",
                }
            },
        )
        with (
            SharedEmbeddingClient(server.url, **PLAIN) as client,
            pytest.raises(ServerRefused, match=r"--pooling mean, cls or last") as caught,
        ):
            client.embed(numbered(3))
        assert "too long" not in str(caught.value)
        assert len(server.batches) == 1

    def test_without_embeddings(self, server: EmbeddingServer) -> None:
        """llama-server without ``--embeddings`` says how to start it."""
        server.script = lambda request: Answer.error(
            501, "This server does not support embeddings. Start it with `--embeddings`"
        )
        with (
            SharedEmbeddingClient(server.url, **PLAIN) as client,
            pytest.raises(ServerRefused, match="Start llama-server with --embeddings"),
        ):
            client.embed(numbered(3))
        assert len(server.batches) == 1


BAD: dict[str, str] = {"blank": "  ", "long": "word " * 2000, "plain": "the bad one", "mark": "?"}
REFUSALS: dict[str, tuple[int, object]] = {
    "unknown": (400, {"error": "E_4711"}),
    "empty": (
        422,
        {"detail": [{"loc": ["body", "input"], "msg": "String should have at least 1 character"}]},
    ),
    "required": (400, {"error": "input text is required"}),
    "unsupported": (400, {"error": "the tokenizer does not support this character"}),
    "no words": (400, b""),
}


class TestTextsRefused:
    """A text at fault is named, at a server that embedded nothing before as well."""

    @every_door
    @pytest.mark.parametrize("at", [0, 4, 8])
    @pytest.mark.parametrize("bad", BAD)
    @pytest.mark.parametrize("words", REFUSALS)
    def test_is_named(self, words: str, bad: str, at: int, door: Door, world: World) -> None:
        """First, middle or last; blank, long or plain; the others get their vectors."""
        texts = numbered(9)
        texts[at] = BAD[bad]
        refusal = Answer(status=REFUSALS[words][0], body=REFUSALS[words][1])
        world.server.script = lambda request: refusal if BAD[bad] in request.texts else None
        error = failure(world, door, texts)
        assert isinstance(error, TextRefused)
        assert error.index == at
        assert list(error.failures) == [at]
        assert ("blank" in str(error)) is (bad == "blank")
        assert len(world.server.batches) <= 10

    @every_door
    @pytest.mark.parametrize("text", ["", " \n\t"])
    @pytest.mark.parametrize("words", REFUSALS)
    def test_a_blank_one_alone(self, words: str, text: str, door: Door, world: World) -> None:
        """Where nothing but a blank text was tried, that is said, and leaving it out is the cure."""
        refusal = Answer(status=REFUSALS[words][0], body=REFUSALS[words][1])
        world.server.script = lambda request: refusal if text in request.texts else None
        error = failure(world, door, [text])
        assert "blank" in str(error)
        assert "Leave blank texts out" in str(error)
        assert len(world.server.batches) == 1
        assert right(door(world, world.server.url, ["a"], **PLAIN), ["a"])

    @pytest.mark.parametrize("words", ["unknown", "no words", "unsupported"])
    def test_is_skipped(self, words: str, server: EmbeddingServer) -> None:
        """`stream(on_error="skip")` goes on without it."""
        texts = numbered(30)
        refusal = Answer(status=REFUSALS[words][0], body=REFUSALS[words][1])
        server.script = lambda request: refusal if texts[7] in request.texts else None
        with SharedEmbeddingClient(server.url, **PLAIN) as client:
            pieces = list(client.stream(texts, on_error="skip"))
        done = [start + row for start, rows in pieces for row in range(len(rows))]
        assert done == [at for at in range(30) if at != 7]

    @pytest.mark.parametrize("words", ["unknown", "required"])
    async def test_beside_other_callers(self, words: str) -> None:
        """At a fresh server, one caller's bad text fails that caller alone."""
        refusal = Answer(status=REFUSALS[words][0], body=REFUSALS[words][1])
        async with (
            EmbeddingServer(script=lambda r: refusal if "the bad one" in r.texts else None) as server,
            EmbeddingClient(server.url, **PLAIN) as client,
        ):
            calls = [client.embed([f"text {number}"]) for number in range(20)]
            ends = await asyncio.gather(*calls, client.embed(["the bad one"]), return_exceptions=True)
            assert all(right(end, [f"text {number}"]) for number, end in enumerate(ends[:-1]))
            assert isinstance(ends[-1], RequestError)


PASSING = [
    "Model was unloaded while the request was still in queue..",
    'Failed to load model "text-embedding-qwen3-embedding-8b". Error: Operation canceled.',
    "No models loaded. Please load a model in the developer page or use the 'lms load' command.",
]


class TestNotLoaded:
    """A model that is out of memory comes back."""

    @every_door
    @pytest.mark.parametrize("count", [1, 5])
    @pytest.mark.parametrize("body", ["error", "message"])
    @pytest.mark.parametrize("words", PASSING)
    def test_passes(self, words: str, body: str, count: int, door: Door, world: World) -> None:
        """Each of LM Studio's words, in either shape, is waited out."""
        error = {"error": words} if body == "error" else {"error": {"message": words}}
        world.server.answer(*[Answer(status=400, body=error)] * 2)
        texts = numbered(count)
        assert right(door(world, world.server.url, texts, concurrency=1, **PLAIN), texts)
        assert len(world.server.batches) == 3

    @every_door
    @pytest.mark.parametrize("words", PASSING)
    def test_in_the_middle_of_bulk(self, words: str, door: Door, world: World) -> None:
        """For 8 s in the middle of a large call, too."""
        texts, since = numbered(300), []

        def unload(request: Request) -> Answer | None:
            if request.embeds and len(world.server.batches) > 6:
                since.append(world.time())
                if world.time() - since[0] < 8:
                    return Answer(status=400, body={"error": words})
            return None

        world.server.script = unload
        assert right(door(world, world.server.url, texts, **PLAIN), texts)
        assert sum(moment - since[0] < 8 for moment in since) <= 40

    @every_door
    def test_that_stays_unloaded(self, door: Door, world: World) -> None:
        """After a while it is an error, with the cure, the time and the knob; never a text's."""
        world.server.script = always(400, {"error": PASSING[2]})
        error = failure(world, door, numbered(3))
        assert isinstance(error, ServerUnavailable)
        assert "waited for 10 s (timeout=Timeouts(connect=…))" in str(error)
        assert "Load the model in LM Studio, or pass model=." in str(error)
        assert len(world.server.batches) <= 8


LIST_FAILURES = {
    "a key": Answer.error(401, "no"),
    "500": Answer.error(500, "boom"),
    "a text": Answer.error(422, "input is too long"),
    "422": Answer(status=422, body={"detail": [{"msg": "Field required"}]}),
    "a page": Answer(status=200, body=b"<html><title>Grafana</title></html>"),
    "no JSON": Answer(status=200, body=b"hello"),
    "closed": Answer.hang_up(),
}


class TestLists:
    """Where no model was named, the server is asked for its own."""

    @every_door
    @pytest.mark.parametrize("what", LIST_FAILURES)
    def test_a_failure_blames_no_text(self, what: str, door: Door, world: World) -> None:
        """It says what was asked, and to pass model=; that works."""
        world.server.script = lambda request: None if request.embeds else LIST_FAILURES[what]
        error = failure(world, door, numbered(9), model=None)
        assert error.index is None
        assert "texts[" not in str(error)
        assert "GET /models" in str(error)
        assert "pass model=" in str(error)
        assert not isinstance(error, TextRefused)
        assert world.server.batches == []
        assert len(world.server.requests) <= 6  # aiohttp sends a GET twice where a connection is closed
        assert right(door(world, world.server.url, ["a"], **PLAIN), ["a"])

    @pytest.mark.parametrize("what", ["500", "a key"])
    def test_is_never_skipped(self, what: str, server: EmbeddingServer) -> None:
        """Nor is it swallowed where texts are skipped."""
        server.script = lambda request: None if request.embeds else LIST_FAILURES[what]
        with SharedEmbeddingClient(server.url) as client, pytest.raises(EmbedwireError, match="GET /models"):
            list(client.stream(numbered(9), on_error="skip"))

    @pytest.mark.parametrize("name", ["m", "test-model"])
    async def test_a_name_that_is_not_listed(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        """llama.cpp embeds under any name: one that its list does not have is warned of once."""
        async with EmbeddingServer() as server:
            with caplog.at_level(logging.WARNING, "embedwire"):
                for _ in range(3):
                    async with EmbeddingClient(server.url, model=name) as client:
                        await client.embed(numbered(120))
                        await asyncio.sleep(0.1)
        warnings = [record for record in caplog.records if "does not list a model" in record.getMessage()]
        assert len(warnings) == (name == "m")


class TestCrowds:
    """What fails in a crowd alone is overload; what fails each time is a text."""

    @every_door
    @pytest.mark.parametrize(
        "words",
        ['do embedding request: Post "http://127.0.0.1:33967/embedding": EOF', "CUDA error: out of memory"],
    )
    def test_too_many_at_once(self, words: str, door: Door, world: World) -> None:
        """500s as soon as more than two requests are in flight: fewer are sent, and all get their vectors."""

        def crash(request: Request) -> Answer | None:
            if not request.embeds:
                return None
            return Answer.error(500, words) if world.server.in_flight > 2 else Answer(delay=0.03)

        world.server.script = crash
        texts = numbered(400)
        assert right(door(world, world.server.url, texts, **PLAIN), texts)
        assert sum(len(batch) for batch in world.server.batches) <= 600

    @simulated
    @pytest.mark.parametrize("at", [0, 150, 399])
    @pytest.mark.parametrize(
        ("words", "error", "most"),
        [
            ("failed to encode response: json: unsupported value: NaN", TextRefused, 6),
            ("boom", RequestError, 12),
        ],
        ids=["Ollama's NaN", "without a word"],
    )
    async def test_a_text_in_bulk(self, words: str, error: type[RequestError], most: int, at: int) -> None:
        """A text at which the server fails is named among hundreds, and the requests in flight become many again."""
        texts = numbered(400)
        failure = Answer.error(500, words)
        async with EmbeddingServer(server_header=None, latency=0.05) as server:
            server.script = lambda request: failure if texts[at] in request.texts else None
            async with EmbeddingClient(server.url, batch_size=5, concurrency=8, **PLAIN) as client:
                with pytest.raises(error) as caught:
                    await client.embed(texts)
                assert (caught.value.index, list(caught.value.failures)) == (at, [at])
                assert sum(texts[at] in batch for batch in server.batches) <= most
                server.peak_in_flight = 0
                await client.embed(numbered(400, "later"))
                assert server.peak_in_flight == 8
