"""`embedwire gateway`: what it answers, and what it asks of the servers, on real sockets."""

from __future__ import annotations

import asyncio
import gzip
import io
from typing import Any

import numpy as np
import pytest

from embedwire.testing import Answer, EmbeddingServer
from tests.gateway.serving import SECRET, Start, rows
from tests.helpers import numbered, right


def asked(server: EmbeddingServer) -> list[dict[str, Any]]:
    """The bodies of the server's requests for vectors."""
    return [request.json for request in server.requests if request.embeds]


class TestVectors:
    """Each text gets its own vector."""

    @pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
    async def test_in_order_to_the_last_bit(self, start: Start, server: EmbeddingServer, path: str) -> None:
        """However many texts a request has, each gets its own vector in its place, with and without /v1."""
        gateway, texts = await start(server.url), numbered(1000)
        status, reply, _ = await gateway.ask("POST", path, json={"input": texts})
        assert status == 200
        assert right(rows(reply), texts)
        assert [item["index"] for item in reply["data"]] == list(range(1000))
        assert {item["object"] for item in reply["data"]} == {"embedding"}
        assert reply["object"] == "list"

    @pytest.mark.parametrize("count", [1, 40])
    async def test_base64_is_the_same_numbers(
        self, start: Start, server: EmbeddingServer, count: int
    ) -> None:
        """base64 carries little-endian float32 of the same vectors."""
        gateway, texts = await start(server.url), numbered(count)
        reply = await gateway.embed(texts, encoding_format="base64")
        assert all(isinstance(item["embedding"], str) for item in reply["data"])
        assert right(rows(reply), texts)

    async def test_a_reply_in_pieces_is_one_reply(self, start: Start) -> None:
        """A reply that is too large for one piece is JSON like any other, in both encodings."""
        async with EmbeddingServer(dimensions=1024) as server:
            gateway, texts = await start(server.url), numbered(300)
            assert right(await gateway.vectors(texts), texts)
            assert right(await gateway.vectors(texts, encoding_format="base64"), texts)

    async def test_a_string_is_one_text(self, start: Start, server: EmbeddingServer) -> None:
        """A bare string is answered like a list of one, and nothing stands before it."""
        gateway = await start(server.url)
        assert right(await gateway.vectors("hello"), ["hello"])
        assert server.batches == [["hello"]]

    async def test_a_compressed_body_is_read(self, start: Start, server: EmbeddingServer) -> None:
        """A gzip body is unpacked."""
        gateway = await start(server.url)
        body, headers = gzip.compress(b'{"input": ["a", "b"]}'), {"Content-Encoding": "gzip"}
        status, reply, _ = await gateway.ask("POST", "/v1/embeddings", data=body, headers=headers)
        assert (status, len(reply["data"])) == (200, 2)
        status, reply, _ = await gateway.ask("POST", "/v1/embeddings", data=b"{}", headers=headers)
        assert (status, "Content-Encoding" in reply["error"]["message"]) == (400, True)
        told = await gateway.metrics()
        assert told['requests_total{status="400"}'] == told['failures_total{kind="invalid_request"}'] == 1


class TestFields:
    """What a request says beside its texts reaches the server."""

    async def test_are_passed_on(self, start: Start, server: EmbeddingServer) -> None:
        """The model's name, user and further fields arrive as they were sent; null is as good as none."""
        gateway = await start(server.url)
        await gateway.embed(["a", "b"], model="m", user="me", truncate=True, task={"b": 1, "a": [2]}, x=None)
        (sent,) = asked(server)
        assert {name: sent[name] for name in ("model", "user", "truncate", "task")} == {
            "model": "m",
            "user": "me",
            "truncate": True,
            "task": {"b": 1, "a": [2]},
        }
        assert "x" not in sent

    async def test_dimensions_give_that_many_numbers(self, start: Start, server: EmbeddingServer) -> None:
        """`dimensions` gives so many numbers, of unit length, whether the server heeds it or not."""
        gateway = await start(server.url)
        vectors = await gateway.vectors(["a", "b"], dimensions=4)
        assert vectors.shape == (2, 4)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert right(vectors, ["a", "b"], tolerance=1e-6)

    async def test_a_model_that_is_not_named_is_asked_for(
        self, start: Start, server: EmbeddingServer
    ) -> None:
        """Without `model`, or with an empty one, the server's own is used, and the reply names it."""
        gateway = await start(server.url)
        assert (await gateway.embed("a"))["model"] == "test-model"
        assert (await gateway.embed("a", model=""))["model"] == "test-model"
        assert (await gateway.embed("a", model="other"))["model"] == "other"

    async def test_usage_is_the_request_s_own(self, start: Start, server: EmbeddingServer) -> None:
        """`usage` has the tokens that the server counted for this request, not those of others beside it."""
        gateway = await start(server.url)
        texts = [["one two three"] * 3, ["a b"], numbered(200)]
        alone = [(await gateway.embed(some))["usage"] for some in texts[:2]]
        assert alone == [
            {"prompt_tokens": count, "total_tokens": count} for count in (5, 4)
        ]  # equal texts go once
        replies = await asyncio.gather(*(gateway.embed(some) for some in texts))
        counted = [reply["usage"]["prompt_tokens"] for reply in replies]
        assert counted[:2] != counted[1:]
        sent = sum(len(text.split()) + 2 for batch in server.batches for text in batch)
        assert sum(counted) + 9 == pytest.approx(sent, abs=3)  # each share is rounded

    async def test_many_variants_leave_nothing_behind(self, start: Start, server: EmbeddingServer) -> None:
        """Hundreds of users' own fields do not end in a thousand clients, and each gets his vectors."""
        gateway = await start(server.url)
        for first in range(0, 150, 50):
            numbers = range(first, first + 50)
            found = await asyncio.gather(*(gateway.vectors(f"t{n}", user=f"u{n}") for n in numbers))
            assert right(np.concatenate(found), [f"t{n}" for n in numbers])
        assert server.connections < 150
        assert right(await gateway.vectors("again"), ["again"])


class TestOrder:
    """Queries go before bulk."""

    async def test_one_text_overtakes_many(self, start: Start) -> None:
        """A request with one text is the next that is sent, alone, before all documents that wait already."""
        async with EmbeddingServer(server_header="fast") as server:
            gateway = await start(server.url)
            with server.hold():
                bulk = [asyncio.create_task(gateway.vectors(numbered(20, what))) for what in range(20)]
                await gateway.until(lambda told: told["queued_texts"] == 400)
                query = asyncio.create_task(gateway.vectors("query"))
                await gateway.until(lambda told: told["queued_texts"] == 401)
                sent = len(server.batches)
            assert right(await query, ["query"])
            texts = [text for what in range(20) for text in numbered(20, what)]
            assert right(np.concatenate(await asyncio.gather(*bulk)), texts)
        assert server.batches.index(["query"]) <= sent


class TestWrongRequests:
    """A request that asks for nothing that can be answered is told why."""

    @pytest.mark.parametrize(
        ("body", "param", "message"),
        [
            ({}, "input", "input is missing"),
            ([SECRET], None, "a JSON object, not a list"),
            ({"input": None}, "input", "not null"),
            ({"input": []}, "input", "must not be empty"),
            ({"input": [SECRET, None]}, "input[1]", "input[1] must be a string, not null"),
            ({"input": [15339, 1917]}, "input[0]", "this server takes texts, not token ids"),
            ({"input": [SECRET, [15339]]}, "input[1]", "this server takes texts, not token ids"),
            ({"input": [SECRET] * 1001}, "input", "batch size 1001 > maximum allowed batch size 1000"),
            ({"input": SECRET, "model": 3}, "model", "model must be a string, not a number"),
            ({"input": SECRET, "encoding_format": "int8"}, "encoding_format", 'must be "float" or "base64"'),
            ({"input": SECRET, "dimensions": 0}, "dimensions", "at least 1"),
            ({"input": SECRET, "dimensions": "8"}, "dimensions", "at least 1"),
            ({"input": SECRET, "dimensions": True}, "dimensions", "at least 1"),
            (b"", None, "not valid JSON"),
            (b'{"input": "' + SECRET.encode(), None, "not valid JSON"),
            (b'{"input": "' + SECRET.encode() + rb'\ud800"}', None, "not valid JSON"),
            (b"[" * 100_000, None, "not valid JSON"),
        ],
    )
    async def test_is_a_400(
        self, start: Start, server: EmbeddingServer, body: object, param: str | None, message: str
    ) -> None:
        """It gets a 400 that names the field in OpenAI's shape, without the text, and no server sees it."""
        gateway = await start(server.url)
        error = await gateway.refused(body, 400)
        assert message in error["message"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert server.requests == []

    async def test_too_large_is_a_413(self, start: Start, server: EmbeddingServer) -> None:
        """A body over the limit is refused, told by its length, in chunks, or once it is unpacked."""
        gateway = await start(server.url)
        large = b'{"input": "' + b"a" * 2**20 + b'"}'

        async def chunks() -> Any:
            for at in range(0, len(large), 2**16):
                yield large[at : at + 2**16]

        zipped = {"data": gzip.compress(large), "headers": {"Content-Encoding": "gzip"}}
        for sent in ({"data": io.BytesIO(large)}, {"data": chunks()}, zipped):
            status, reply, _ = await gateway.ask("POST", "/v1/embeddings", **sent)
            assert (status, "1 MiB" in reply["error"]["message"]) == (413, True)
        assert right(await gateway.vectors("a"), ["a"])

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("POST", "/v1/chat/completions", 404), ("GET", "/v1/embeddings", 405), ("GET", "/", 404)],
    )
    async def test_another_path_names_the_right_ones(
        self, start: Start, server: EmbeddingServer, method: str, path: str, status: int
    ) -> None:
        """An unknown path or a wrong method is told what there is."""
        gateway = await start(server.url)
        got, reply, _ = await gateway.ask(method, path)
        assert (got, "POST /v1/embeddings" in reply["error"]["message"]) == (status, True)


class TestKeys:
    """Keys of clients and keys of servers never meet."""

    async def test_each_of_its_keys_opens(self, start: Start, server: EmbeddingServer) -> None:
        """Any of its keys is as good as another; without one all but /health is a 401."""
        gateway = await start(server.url, api_keys=["one", "ключ"])
        for key in ("one", "ключ"):
            headers = {"Authorization": f"Bearer {key}"}
            for path in ("/v1/models", "/metrics"):
                assert (await gateway.ask("GET", path, headers=headers))[0] == 200
            assert (await gateway.ask("POST", "/embeddings", json={"input": "a"}, headers=headers))[0] == 200
        seen = len(server.requests)
        for wrong in (None, "", "Bearer", "Bearer ", "Bearer two", "one", "Bearer one2", "bearer one"):
            headers = {} if wrong is None else {"Authorization": wrong}
            for method, path in (("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/metrics")):
                status, reply, told = await gateway.ask(method, path, headers=headers)
                assert (status, reply["error"]["type"]) == (401, "authentication_error")
                assert told["WWW-Authenticate"] == "Bearer"
            assert (await gateway.ask("GET", "/health", headers=headers))[0] == 200
        assert all(not request.embeds for request in server.requests[seen:])

    async def test_never_meet(self, start: Start, caplog: pytest.LogCaptureFixture) -> None:
        """A client's key does not reach the server, and the server's neither clients, metrics nor the log."""
        caplog.set_level(0)
        async with EmbeddingServer(api_key="servers-own-key") as server:
            gateway = await start(server.url, api_keys=["clients-own-key"], key="servers-own-key")
            headers = {"Authorization": "Bearer clients-own-key"}
            shown = []
            for method, path in (("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/metrics")):
                status, reply, told = await gateway.ask(
                    method, path, headers=headers, **({"json": {"input": "a"}} if method == "POST" else {})
                )
                assert status == 200
                shown.append(f"{reply} {told}")
            server.script = lambda request: Answer.error(
                401, f"Incorrect API key provided: {request.headers.get('authorization')}"
            )
            error = await gateway.refused({"input": [SECRET]}, 502, headers=headers)
            assert error["code"] == "server_key_refused"
            shown += [str(error), caplog.text]
            assert not any("servers-own-key" in one for one in shown)
            assert {request.headers.get("authorization") for request in server.requests} <= {
                "Bearer servers-own-key",
                None,
            }
            assert "clients-own-key" not in caplog.text


class TestQuestions:
    """What the gateway tells of its servers."""

    async def test_models_are_the_server_s(self, start: Start, server: EmbeddingServer) -> None:
        """/v1/models and /models list the server's models, as owned by the gateway."""
        gateway = await start(server.url)
        for path in ("/v1/models", "/models"):
            status, reply, _ = await gateway.ask("GET", path)
            assert (status, reply["object"]) == (200, "list")
            (card,) = reply["data"]
            assert (card["id"], card["object"]) == ("test-model", "model")
            assert card["owned_by"] == "embedwire-gateway"

    async def test_health_is_the_server_s(self, start: Start) -> None:
        """/health is 200 when a server is ready, and 503 while it loads or is gone; /v1/models likewise."""
        async with EmbeddingServer(loading=True) as server:
            gateway = await start(server.url)
            assert (await gateway.ask("GET", "/health"))[0] == 503
            status, reply, headers = await gateway.ask("GET", "/v1/models")
            assert (status, reply["error"]["code"]) == (503, "not_ready")
            assert int(headers["Retry-After"]) > 0
            server.loading = False
            while (await gateway.ask("GET", "/health"))[0] == 503:  # noqa: ASYNC110 - it asks once a second
                await asyncio.sleep(0.05)
            assert (await gateway.ask("GET", "/v1/models"))[0] == 200
        while (await gateway.ask("GET", "/health"))[0] == 200:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.05)
