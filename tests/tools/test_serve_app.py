"""`embedwire serve`: what the application answers and what it refuses, on real sockets."""

import base64
import gzip
import io
import re
from collections.abc import AsyncIterator

import numpy as np
import pytest

from embedwire.serve import MAX_BODY, MAX_TEXTS, MAX_TOKENS
from tests.helpers import numbered
from tests.tools.serving import SECRET, Start, applications, encode, vector_of, words


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Serve any `encode` on a free port."""
    async with applications() as start:
        yield start


# Vectors


async def test_vectors_arrive_bit_for_bit_and_in_order(start: Start) -> None:
    """Every text gets its own vector back, exact to the last bit, however many texts travel together."""
    client = await start()
    texts = numbered(100)
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
