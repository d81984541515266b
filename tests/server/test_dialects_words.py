"""What servers say in words, in all the shapes and places that they have for it, and what follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from embedwire import (
    AuthenticationFailed,
    BadReply,
    EmbeddingClient,
    RequestError,
    ServerRefused,
    ServerUnavailable,
    SharedEmbeddingClient,
    TextRefused,
)
from embedwire._http.messages import WITHHELD
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import now, numbered, right, simulated
from tests.server.doors import KEY
from tests.server.world import Door, World, every_door

NEED = "quartz-42 is not installed"
PLAIN: dict[str, Any] = {"model": "m", "encoding": "float"}
SHAPES: dict[str, tuple[int, object]] = {
    "detail": (400, {"detail": NEED}),
    "FastAPI": (422, {"detail": [{"loc": ["body"], "msg": NEED, "type": "x", "input": ["quartz-41"]}]}),
    "SiliconFlow": (400, {"code": 20015, "message": NEED, "data": None}),
    "Mistral": (422, {"object": "error", "message": {"detail": [{"type": "x", "msg": NEED}]}}),
    "Google": (400, [{"error": {"code": 400, "message": NEED, "status": "INVALID_ARGUMENT"}}]),
    "Cloudflare": (400, {"success": False, "errors": [{"code": 5007, "message": NEED}], "messages": []}),
    "errors": (400, {"errors": [NEED]}),
    "a list": (400, {"error": [NEED]}),
    "a bare list": (400, [NEED]),
    "msg": (400, {"msg": NEED}),
    "Baidu": (400, {"error_code": 336003, "error_msg": NEED}),
    "description": (400, {"code": "X", "description": NEED}),
    "a string": (400, NEED),
    "text/plain": (500, NEED.encode()),
    "llama-swap": (502, NEED.encode()),
    "Go": (404, f"{NEED}\n".encode()),
    "problem": (400, {"type": "about:blank", "title": "Bad Request", "status": 400, "detail": NEED}),
    "a title": (404, f"<html><head><title>{NEED}</title></head><body>…</body></html>".encode()),
    "a BOM": (400, b'\xef\xbb\xbf{"error": "' + NEED.encode() + b'"}'),
    "200": (200, {"error": {"message": NEED, "code": 400}}),
    "200 of its own number": (200, {"object": "error", "message": NEED, "code": 40001}),
    "200 with a detail": (200, {"detail": NEED}),
    "200 without data": (200, {"code": 20012, "message": NEED, "data": None}),
}


def always(
    status: int, body: object, headers: dict[str, str] | None = None
) -> Callable[[Request], Answer | None]:
    """To each request for vectors the same answer; the model is listed."""
    answer = Answer(status=status, body=body, headers=headers or {})
    return lambda request: answer if request.embeds else None


def failure(world: World, door: Door, texts: list[str], **options: Any) -> RequestError:
    """The error in which a call ends."""
    with pytest.raises(RequestError) as caught:
        door(world, world.server.url, texts, **{**PLAIN, **options})
    return caught.value


class TestShapes:
    """The words of a server reach the reader, wherever they stand."""

    @every_door
    @pytest.mark.parametrize("shape", SHAPES)
    def test_words_are_kept(self, shape: str, door: Door, world: World) -> None:
        """Each shape in which servers say what is wrong is in the message, after one request or two."""
        world.server.script = always(*SHAPES[shape])
        error = failure(world, door, ["a quiet text"], max_retries=0)
        assert NEED in str(error)
        assert len(world.server.batches) == 1

    @pytest.mark.parametrize("shape", [lambda words: {"detail": words}, lambda words: words.encode()])
    async def test_words_are_capped(self, shape: Callable[[str], object]) -> None:
        """300 characters of them are enough."""
        async with (
            EmbeddingServer(script=always(400, shape("x y" * 1000))) as server,
            EmbeddingClient(server.url, **PLAIN) as client,
        ):
            with pytest.raises(ServerRefused) as caught:
                await client.embed(["a"])
        assert f'"{("x y" * 1000)[:299]}…"' in str(caught.value)

    @every_door
    @pytest.mark.parametrize("shape", [lambda words: [{"msg": words}], lambda words: words.encode(), str])
    def test_words_that_repeat_a_text_or_the_key_are_withheld(
        self, shape: Callable[[str], object], door: Door, world: World
    ) -> None:
        """No text and no key comes back in them, in whichever shape."""
        secret = "the patient's name is Rosalind"
        for word in (secret, KEY):
            world.server.script = always(400, shape(f"cannot embed {word}, sorry"))
            error = failure(world, door, [secret], api_key=KEY)
            assert word not in str(error)
            assert WITHHELD in str(error)

    @every_door
    @pytest.mark.parametrize(
        "body",
        [
            b"<!DOCTYPE html><html><head><title>Grafana</title></head></html>",
            b"<html><body><h1>Grafana</h1>It works!</body></html>",
        ],
    )
    @pytest.mark.parametrize("status", [200, 404, 405])
    def test_a_web_page(self, status: int, body: bytes, door: Door, world: World) -> None:
        """Another program on the port is told by its page, with what to check; nothing is said of llama-server."""
        world.server.script = always(status, body)
        error = failure(world, door, ["a"], model="m")
        assert isinstance(error, BadReply if status == 200 else ServerRefused)
        assert "web page" in str(error)
        assert "Grafana" in str(error)
        assert "base_url" in str(error)
        assert "--embeddings" not in str(error)
        assert len(world.server.batches) <= 2

    @pytest.mark.parametrize("status", [429, 503])
    @every_door
    def test_a_success_that_is_none(self, status: int, door: Door, world: World) -> None:
        """A 200 with an error in it is judged by the status that the error names: here, it passes."""
        world.server.answer(
            *[Answer(body={"error": {"message": "slow down", "code": status}}, status=200)] * 2
        )
        assert right(door(world, world.server.url, ["a", "b"], **PLAIN), ["a", "b"])
        assert len(world.server.batches) == 3


class TestKeys:
    """Who asks for a key says what helps."""

    @every_door
    @pytest.mark.parametrize("status", [401, 403])
    def test_without_a_key(self, status: int, door: Door, world: World) -> None:
        """Where none was sent, that is said, and nothing of "this key"."""
        world.server.script = always(status, {"error": "no"})
        error = failure(world, door, ["a"])
        assert isinstance(error, AuthenticationFailed)
        assert "api_key=" in str(error)
        assert "this key" not in str(error)
        assert "not accepted" not in str(error)
        assert len(world.server.batches) == 1

    @every_door
    @pytest.mark.parametrize("status", [401, 403])
    def test_with_a_key(self, status: int, door: Door, world: World) -> None:
        """Where one was sent, it is what is wrong."""
        world.server.script = always(status, {"error": "no"})
        error = failure(world, door, ["a"], api_key="wrong-key")
        assert isinstance(error, AuthenticationFailed)
        assert "key" in str(error)
        assert "none was sent" not in str(error)
        assert "No key was sent" not in str(error)
        assert len(world.server.batches) == 1

    @every_door
    def test_the_cure_of_a_missing_key(
        self, door: Door, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the message says is what helps: `api_key=`, or the variable."""
        world.server.script = lambda request: (
            None
            if request.headers.get("authorization") == f"Bearer {KEY}"
            else Answer(status=401, body={"detail": "no"})
        )
        assert "Pass api_key=, or set EMBEDWIRE_API_KEY." in str(failure(world, door, ["a"]))
        assert right(door(world, world.server.url, ["a"], api_key=KEY, **PLAIN), ["a"])
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
        assert right(door(world, world.server.url, ["a"], **PLAIN), ["a"])
        assert len(world.server.batches) == 3

    @every_door
    def test_basic_authorization(self, door: Door, world: World) -> None:
        """Who wants a user and a password says so, and they go into the URL."""
        challenge = Answer(status=401, body=b"", headers={"WWW-Authenticate": 'Basic realm="x"'})
        world.server.script = lambda request: (
            None if request.headers.get("authorization", "").startswith("Basic ") else challenge
        )
        for options in ({}, {"api_key": KEY}):
            assert "http://user:password@" in str(failure(world, door, ["a"], **options))
        url = world.server.url.replace("//", "//user:password@")
        assert right(door(world, url, ["a"], **PLAIN), ["a"])
        assert len(world.server.batches) == 3

    @every_door
    @pytest.mark.parametrize("status", [400, 403])
    @pytest.mark.parametrize("body", ["RPM limit exceeded", {"message": "Rate limit reached, slow down"}])
    def test_a_rate_is_no_key(self, status: int, body: object, door: Door, world: World) -> None:
        """A 403 or a 400 that speaks of a rate passes."""
        world.server.answer(*[Answer(status=status, body=body)] * 2)
        begin = world.time()
        assert right(door(world, world.server.url, ["a"], api_key=KEY, **PLAIN), ["a"])
        assert len(world.server.batches) == 3
        assert world.ended - begin >= 3

    @every_door
    @pytest.mark.parametrize("status", [403, 429])
    def test_a_rate_that_stays(self, status: int, door: Door, world: World) -> None:
        """What never passes names the knobs that cure it."""
        world.server.script = always(status, "RPM limit exceeded")
        error = failure(world, door, ["a"], timeout=10)
        assert isinstance(error, ServerUnavailable)
        assert "rate_limit=" in str(error)
        assert "key" not in str(error)


class TestRedirects:
    """They are not followed; where to is said, but for what may be secret."""

    @every_door
    @pytest.mark.parametrize("status", [301, 307, 308])
    @pytest.mark.parametrize("query", ["", "?token=hunter2"])
    def test_the_final_url_is_the_cure(self, status: int, query: str, door: Door, world: World) -> None:
        """The message has the address, and with that as base_url it works."""
        there = world.server.url + "/v1/embeddings"
        elsewhere = Answer.redirect(there.replace("//", "//user:hunter2@") + query, status)
        world.server.script = lambda request: None if request.path == "/v1/embeddings" else elsewhere
        with pytest.raises(ServerRefused) as caught:
            door(world, f"{world.server.url}/old", ["a"], **PLAIN)
        error = str(caught.value)
        assert f"redirects to {there} ({status})" in error
        assert "Put the final URL into base_url" in error
        assert "hunter2" not in error
        assert len(world.server.requests) == 1
        final = error.split("redirects to ")[1].split(" ")[0]
        assert right(door(world, final, ["a"], **PLAIN), ["a"])

    @pytest.mark.parametrize("location", ["", "/elsewhere", "http://[", "//other.example"])
    async def test_odd_ones(self, location: str) -> None:
        """Whatever the header holds, it is a redirect."""
        async with (
            EmbeddingServer(script=always(302, b"", {"Location": location})) as server,
            EmbeddingClient(server.url, **PLAIN) as client,
        ):
            with pytest.raises(ServerRefused, match=r"redirects .*\(302\)"):
                await client.embed(["a"])


LONG = "word " * 1500
TOO_LONG: dict[str, tuple[int, object, bool]] = {
    "vLLM": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 512 tokens. However, you requested 1084 tokens in the "
            "input for embedding generation. Please reduce the length of the input.",
            "type": "BadRequestError",
            "code": 400,
        },
        True,
    ),
    "vLLM of late": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 512 tokens. However, your request has 1084 input "
                "tokens. Please reduce the length of the input messages.",
                "code": 400,
            }
        },
        True,
    ),
    "TEI": (
        413,
        {
            "error": "Input validation error: `inputs` must have less than 512 tokens. Given: 1084",
            "error_type": "V",
        },
        True,
    ),
    "TEI 422": (
        422,
        {"error": "`inputs` must have less than 512 tokens. Given: 1084", "error_type": "V"},
        True,
    ),
    "OpenAI": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 512 tokens, however you requested 1084 tokens "
                "(1084 in your prompt; 0 for the completion). Please reduce your prompt; or completion length.",
                "type": "invalid_request_error",
            }
        },
        True,
    ),
    "Mistral": (
        400,
        {"object": "error", "message": "Input id 3 has 1084 tokens, exceeding max 512 tokens."},
        True,
    ),
    "NIM": (400, {"error": "Input length 1084 exceeds maximum allowed token size 512"}, True),
    "Ollama": (400, {"error": "the input length exceeds the context length"}, False),
    "Ollama 500": (500, {"error": "the input length exceeds the context length"}, False),
}


class TestTooLong:
    """A text that is too long is named, with its tokens and the limit."""

    @every_door
    @pytest.mark.parametrize("at", [0, 6, 8])
    @pytest.mark.parametrize("server", TOO_LONG)
    def test_is_named(self, server: str, at: int, door: Door, world: World) -> None:
        """In each server's words, wherever the text stands, also at a server that embedded nothing before."""
        status, body, counts = TOO_LONG[server]
        texts = numbered(9)
        texts[at] = LONG
        world.server.script = lambda request: (
            Answer(status=status, body=body) if any(len(text) > 3000 for text in request.texts) else None
        )
        error = failure(world, door, texts)
        assert isinstance(error, TextRefused)
        assert error.too_long
        assert error.index == at
        assert (error.tokens, error.limit) == ((1084, 512) if counts else (None, None))
        assert list(error.failures) == [at]
        assert len(world.server.batches) <= 8

    @every_door
    def test_the_cure(self, door: Door, world: World) -> None:
        """What the message asks for, a shorter text, works."""
        world.server.script = lambda request: (
            Answer.exceed_context(1084, 512) if any(len(text) > 3000 for text in request.texts) else None
        )
        assert "Split the text" in str(failure(world, door, [LONG]))
        parts = [LONG[:2500], LONG[2500:5000], LONG[5000:]]
        assert right(door(world, world.server.url, parts, **PLAIN), parts)


ECHOES = [
    "the store waits while the server is still loading its index, so try again in 3600 s",
    "Our API answers that the rate limit is exceeded; too many requests per minute were sent",
    "Error: model not found, it does not exist. Unsupported parameter: encoding_format",
    "Access denied: insufficient quota, please check your plan and billing details",
    "No models loaded. Model was unloaded while the request was still in queue",
    "Request too large for m on tokens per min (TPM): invalid api key, unauthorized",
    "loading model",
    "QPS",
    "rate limit",
]


class TestEchoes:
    """What a server repeats of a text is not the server's word."""

    @pytest.mark.parametrize("status", [400, 422, 500])
    @pytest.mark.parametrize("echo", ECHOES)
    @pytest.mark.parametrize("fresh", [True, False])
    @simulated
    async def test_a_text_does_not_steer(self, fresh: bool, echo: str, status: int) -> None:
        """A text that speaks of limits, models or money is refused as any other one, with no waiting, by its index."""
        texts = numbered(9)
        texts[4] = echo

        def refuse(request: Request) -> Answer | None:
            if echo not in request.texts:
                return None
            return Answer(
                status=status, body={"detail": [{"msg": f"cannot embed '{echo}'", "input": request.texts}]}
            )

        async with EmbeddingServer(script=refuse) as server, EmbeddingClient(server.url, **PLAIN) as client:
            if not fresh:
                await client.embed(["one"])
            begin = now()
            with pytest.raises((TextRefused, ServerUnavailable)) as caught:
                await client.embed(texts)
            assert caught.value.index == 4
            assert list(caught.value.failures) == [4]
            assert "rate" not in str(caught.value).split("cannot embed")[0]
            assert now() - begin < 5
            assert len(server.batches) <= 14

    @pytest.mark.parametrize("echo", ECHOES)
    @simulated
    async def test_in_an_untidy_echo(self, echo: str) -> None:
        """As a whole list, as Python writes it, or without quotes after a colon."""
        for words in (f"bad input: {echo}", f"invalid: ['one', {echo!r}]", f"could not tokenize <{echo}>"):
            answer = Answer.error(400, words)
            async with (
                EmbeddingServer(script=lambda r, a=answer: a if echo in r.texts else None) as server,  # type: ignore[misc]
                EmbeddingClient(server.url, **PLAIN) as client,
            ):
                begin = now()
                with pytest.raises(TextRefused) as caught:
                    await client.embed([echo, "one", "two"])
                assert (caught.value.index, now() - begin < 5) == (0, True)

    @simulated
    async def test_what_a_server_says_itself_is_heard_beside_such_texts(self) -> None:
        """A corpus about servers does not make one deaf: loading, limits and lengths are understood."""
        texts = [*ECHOES, LONG]
        async with EmbeddingServer(loading=True) as server, EmbeddingClient(server.url, **PLAIN) as client:
            task = asyncio.ensure_future(client.embed(ECHOES))
            await server.wait_for(lambda: len(server.requests) > 3)
            server.loading = False
            assert right(await task, ECHOES)
            server.answer(Answer.throttled(2))
            assert right(await client.embed(ECHOES), ECHOES)
            status, body, _ = TOO_LONG["OpenAI"]
            server.script = lambda request: (
                Answer(status=status, body=body) if any(len(text) > 3000 for text in request.texts) else None
            )
            with pytest.raises(TextRefused) as caught:
                await client.embed(texts)
            assert (caught.value.index, caught.value.tokens) == (len(ECHOES), 1084)


def test_large_texts_do_not_hold_the_loop_up(server: EmbeddingServer) -> None:
    """A message beside megabytes of text is understood all the same."""
    server.script = lambda request: (
        Answer.error(400, "rate limit exceeded") if len(server.batches) < 2 else None
    )
    with SharedEmbeddingClient(server.url, **PLAIN) as client:
        assert right(client.embed(["word " * 300_000]), ["word " * 300_000])
