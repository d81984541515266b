"""What the blog post's client promised of calls: batches, retries, payload, replies, log.

In the order that the post made them; `test_blog_post_connections` begins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from embedwire import (
    AuthenticationFailed,
    BadReply,
    ConnectionFailed,
    RequestError,
    RetryPolicy,
    ServerRefused,
    ServerUnavailable,
    TextRefused,
)
from embedwire.testing import Answer, EmbeddingServer, is_vector_of
from tests.helpers import numbered, right, simulated
from tests.server.doors import own

TEXTS = numbered(23)
KEY = "sk-never-to-be-seen"
SECRET = "The patient is called Kim"


@pytest.fixture
def server(here: EmbeddingServer) -> EmbeddingServer:
    """A server on the test's own loop, and on its clock."""
    return here


class TestBatches:
    """Small batches, several at once."""

    async def test_are_of_five(self, server: EmbeddingServer) -> None:
        """Batches of five: unless told otherwise, no more than five texts travel in a request."""
        async with own(server) as client:
            assert right(await client.embed(TEXTS[:12]), TEXTS[:12])
        assert sorted(map(len, server.batches)) == [2, 5, 5]

    @pytest.mark.parametrize("size", [1, 4, 23, 100])
    async def test_are_of_the_size_asked_for(self, size: int, server: EmbeddingServer) -> None:
        """Batches of five: another number is kept exactly, and the last batch has the rest."""
        async with own(server, batch_size=size) as client:
            assert right(await client.embed(TEXTS), TEXTS)
        sizes = sorted(map(len, server.batches), reverse=True)
        whole, rest = divmod(len(TEXTS), size)
        assert sizes == [size] * whole + [rest] * (rest > 0)

    async def test_travel_at_once(self, server: EmbeddingServer) -> None:
        """Bounded concurrency: batches travel side by side, never one after another, and never more."""
        async with own(server, concurrency=4) as client:
            with server.hold():
                call = asyncio.create_task(client.embed(TEXTS))
                await server.wait_for(lambda: server.in_flight == 4)
            assert right(await call, TEXTS)
        assert server.peak_in_flight == 4

    async def test_travel_at_once_by_default(self, server: EmbeddingServer) -> None:
        """Bounded concurrency: it is on without being asked for."""
        async with own(server) as client:
            with server.hold():
                call = asyncio.create_task(client.embed(numbered(100)))
                await server.wait_for(lambda: server.in_flight >= 4)
            await call
        assert server.peak_in_flight <= 8

    async def test_the_bound_holds_for_all_calls(self, server: EmbeddingServer) -> None:
        """Bounded concurrency: the bound is per client, over all its calls."""
        async with own(server, concurrency=3, batch_size=2) as client:
            with server.hold():
                calls = asyncio.gather(
                    *(client.embed([f"{call} {text}" for text in TEXTS]) for call in "abc")
                )
                await server.wait_for(lambda: server.in_flight == 3)
            for call, rows in zip("abc", await calls, strict=True):
                assert right(rows, [f"{call} {text}" for text in TEXTS])
        assert server.peak_in_flight == 3


class TestRetries:
    """What passes is tried again, after a while; what does not is not."""

    @simulated
    @pytest.mark.parametrize("answer", [Answer.error(502, "no"), Answer.hang_up(), Answer.reset()])
    async def test_back_off_is_1_2_4(self, answer: Answer, server: EmbeddingServer) -> None:
        """Back-off 1-2-4: `RetryPolicy(base=1, jitter=False)` waits exactly that between four attempts."""
        server.answer(answer, answer, answer)
        policy = RetryPolicy(attempts=4, base=1, jitter=False)
        async with own(server, max_retries=policy) as client:
            assert is_vector_of(await client.embed_query("a"), "a")
        first, *others = [request.at for request in server.requests]
        assert [at - first for at in others] == pytest.approx([1, 3, 7], abs=0.1)

    @simulated
    async def test_what_the_server_asks_for_is_waited_for(self, server: EmbeddingServer) -> None:
        """Back-off: a Retry-After takes the place of the pause."""
        server.answer(Answer.throttled(5))
        async with own(server, max_retries=RetryPolicy(jitter=False)) as client:
            assert is_vector_of(await client.embed_query("a"), "a")
        first, second = (request.at for request in server.requests)
        assert second - first == pytest.approx(5, abs=0.1)

    @simulated
    @pytest.mark.parametrize(
        ("asked", "arguments"),
        [
            (61, {}),
            (5, {"max_retries": RetryPolicy(retry_after_cap=4)}),
            (30, {"deadline": 10}),
        ],
    )
    async def test_what_takes_too_long_is_not_waited_for(
        self, asked: float, arguments: dict[str, Any], server: EmbeddingServer
    ) -> None:
        """Back-off: a Retry-After above its cap, or after the deadline, fails at once and is on the error."""
        clock = asyncio.get_running_loop().time
        server.answer(Answer.throttled(asked))
        async with own(server, **arguments) as client:
            began = clock()
            with pytest.raises(ServerUnavailable, match="after 1 request") as failed:
                await client.embed_query("a")
        assert clock() - began < 1
        assert (failed.value.retry_after, failed.value.status) == (asked, 429)
        assert len(server.requests) == 1

    async def test_three_attempts_by_default(self, server: EmbeddingServer) -> None:
        """Back-off: there are 3 attempts, then the last error with their number."""
        server.answer(*[Answer.error(502, "no")] * 9)
        async with own(server) as client:
            with pytest.raises(RequestError, match="after 3 requests") as failed:
                await client.embed_query("a")
        assert failed.value.attempts == len(server.requests) == 3

    async def test_the_last_error_is_raised(self, server: EmbeddingServer) -> None:
        """Back-off: what the caller sees is what happened last, not what happened first."""
        server.answer(Answer.error(502, "no"), Answer.error(504, "no"), Answer.hang_up())
        async with own(server) as client:
            with pytest.raises(ConnectionFailed):
                await client.embed_query("a")

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (Answer.error(400, "no", error_type="invalid_request_error"), ServerRefused),
            (Answer.error(401, "Invalid API Key", error_type="authentication_error"), AuthenticationFailed),
            (Answer.error(403, "no"), AuthenticationFailed),
            (Answer.error(404, "File Not Found", error_type="not_found_error"), ServerRefused),
            (Answer.error(405, "no"), ServerRefused),
            (
                Answer.error(501, "Start it with `--embeddings`", error_type="not_supported_error"),
                ServerRefused,
            ),
            (Answer.too_large(600, 512), TextRefused),
            (Answer.exceed_context(600, 512), TextRefused),
            (Answer(raw=b"SSH-2.0-OpenSSH_9\r\n"), BadReply),
        ],
    )
    async def test_other_errors_are_raised_at_once(
        self, answer: Answer, error: type[RequestError], server: EmbeddingServer
    ) -> None:
        """Other errors raised at once: what will never work is sent once, to each path that the URL may mean."""
        server.answer(answer)
        paths = ["/v1/embeddings", "/embeddings"][: 2 if answer.status in (404, 405) else 1]
        async with own(server) as client:
            with pytest.raises(error, match=f"after {len(paths)} request") as failed:
                await client.embed_query("a")
            assert type(failed.value) is error
            assert failed.value.status == answer.status
            assert [request.path for request in server.requests] == paths
            assert is_vector_of(await client.embed_query("a"), "a")

    @pytest.mark.parametrize("status", [401, 403, 404])
    async def test_a_batch_too(self, status: int, server: EmbeddingServer) -> None:
        """Other errors raised at once: a whole batch that is refused for its request is not split either."""
        server.answer(Answer.error(status, "no model of that name"))
        async with own(server, batch_size=23) as client:
            with pytest.raises(RequestError):
                await client.embed(TEXTS)
        assert len(server.requests) == 1


class TestPayload:
    """What is sent is what the post's client sent."""

    async def test_is_input_model_and_encoding(self, server: EmbeddingServer) -> None:
        """Payload: `input`, `model` and `encoding_format` as JSON to /v1/embeddings, and nothing else."""
        async with own(server, model="my-model") as client:
            await client.embed(["one", "둘"])
        (request,) = server.requests
        assert (request.method, request.path) == ("POST", "/v1/embeddings")
        assert request.json == {"input": ["one", "둘"], "model": "my-model", "encoding_format": "float"}
        assert request.headers["content-type"] == "application/json"

    async def test_has_dimensions_only_when_asked(self) -> None:
        """Payload: `dimensions` is in it when asked for."""
        async with EmbeddingServer(honours_dimensions=True) as server:
            async with own(server, dimensions=4) as client:
                assert len(await client.embed_query("a")) == 4
            assert server.requests[0].json["dimensions"] == 4

    async def test_has_the_model_that_the_server_serves(self) -> None:
        """Payload: without `model=`, it is the one that the server lists, asked for once."""
        async with EmbeddingServer(model="the-only-one") as server:
            async with own(server, model=None) as client:
                await asyncio.gather(client.embed(TEXTS), client.embed_query("a"))
                await client.embed_query("b")
            paths = [request.path for request in server.requests]
            assert paths.count("/v1/models") == 1
            assert paths[0] == "/v1/models"
            assert {request.json["model"] for request in server.requests if request.embeds} == {
                "the-only-one"
            }

    @pytest.mark.parametrize(
        "answer",
        [
            Answer.error(404, "Not Found"),
            Answer.error(501, "no"),
            Answer(body={"object": "list", "data": []}),
        ],
    )
    async def test_has_no_model_where_the_server_lists_none(
        self, answer: Answer, server: EmbeddingServer
    ) -> None:
        """Payload: where the server lists no model, `model` is left out; it is not null."""
        server.script = lambda request: answer if request.path == "/v1/models" else None
        async with own(server, model=None) as client:
            assert is_vector_of(await client.embed_query("a"), "a")
            await client.embed_query("b")
        assert [request.path for request in server.requests].count("/v1/models") == 1
        first = next(request for request in server.requests if request.embeds)
        assert first.json == {"input": ["a"], "encoding_format": "float"}

    async def test_asks_which_of_several_models(self, server: EmbeddingServer) -> None:
        """Payload: with several models to choose from, none is guessed."""
        listed = Answer(body={"data": [{"id": "chat"}, {"id": "embed"}]})
        server.script = lambda request: listed if request.path == "/v1/models" else None
        async with own(server, model=None) as client:
            with pytest.raises(ServerRefused, match=r"2 models, among them 'chat', 'embed'.*Pass model="):
                await client.embed_query("a")
        assert server.batches == []


class TestReplies:
    """A reply that is not what was asked for is an error."""

    @pytest.mark.parametrize(
        ("answer", "what"),
        [
            (Answer.mutate(lambda reply: {"object": "list", "model": "m"}), "without a list called data"),
            (Answer.mutate(lambda reply: {**reply, "data": None}), "without a list called data"),
            (Answer(body=[[1.0, 2.0]]), "no JSON object"),
        ],
    )
    async def test_without_data(self, answer: Answer, what: str, server: EmbeddingServer) -> None:
        """`data` missing: a reply without it is a BadReply that says so, and is not asked for again."""
        server.answer(answer)
        async with own(server) as client:
            with pytest.raises(BadReply, match=what) as failed:
                await client.embed(["a", "b"])
        assert failed.value.status == 200
        assert failed.value.completed is not None
        assert failed.value.completed.indexes == []
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            (lambda data: data[:-1], "3 vectors for 4 texts"),
            (lambda data: data[1:], "3 vectors for 4 texts"),
            (lambda data: data + data[:1], "5 vectors for 4 texts"),
            (lambda data: [], "0 vectors for 4 texts"),
        ],
    )
    async def test_of_another_count(self, change: Any, what: str, server: EmbeddingServer) -> None:
        """Count mismatch: one vector too few or too many is a BadReply, and none of them is used."""
        server.answer(Answer.items(change))
        async with own(server) as client:
            with pytest.raises(BadReply, match=what):
                await client.embed(TEXTS[:4])
            assert right(await client.embed(TEXTS[:4]), TEXTS[:4])

    async def test_of_another_order(self, server: EmbeddingServer) -> None:
        """Count mismatch's worse twin: the right count in another order gives each text its own vector."""
        server.answer(*[Answer.items(lambda data: data[::-1])] * 9)
        async with own(server) as client:
            assert right(await client.embed(TEXTS), TEXTS)


class TestLog:
    """Each level has its purpose."""

    @pytest.fixture
    def log(self, caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
        """Everything that anybody logs; in the end, no key and no text is in it."""
        caplog.set_level(logging.DEBUG)
        yield caplog
        messages = [record.getMessage() for record in caplog.get_records("call")]
        assert messages
        assert not any(KEY in message or SECRET[:12] in message for message in messages)

    def of_level(self, log: pytest.LogCaptureFixture, level: int) -> list[str]:
        """Our own messages of a level."""
        ours = [record for record in log.records if record.name == "embedwire"]
        return [record.getMessage() for record in ours if record.levelno == level]

    async def test_levels(self, log: pytest.LogCaptureFixture, server: EmbeddingServer) -> None:
        """Log levels: DEBUG for each batch, INFO for a new session, WARNING for a retry; no text, no key."""
        echo = Answer.error(502, f"out of memory at {SECRET!r} of {KEY}")
        server.answer(echo)
        async with own(server, api_key=KEY, max_retries=RetryPolicy(base=0)) as client:
            await client.embed([f"{SECRET} {number}" for number in range(12)])
        debug, info, warning = (
            self.of_level(log, level) for level in (logging.DEBUG, logging.INFO, logging.WARNING)
        )
        assert sorted(message.split(" texts")[0] for message in debug) == [
            "sending 2",
            "sending 5",
            "sending 5",
        ]
        assert [server.url in message and "new session" in message for message in info] == [True]
        assert len(warning) == 1
        assert "502" in warning[0]
        assert "attempt 2 of 3" in warning[0]
        assert self.of_level(log, logging.ERROR) == []

    async def test_an_error_is_raised_not_logged(
        self, log: pytest.LogCaptureFixture, server: EmbeddingServer
    ) -> None:
        """Log levels: what is raised is not logged as well, and says no more than the log would."""
        server.script = lambda request: Answer.error(
            400, f"cannot embed {orjson.dumps(request.texts).decode()}, {request.headers['authorization']}"
        )
        async with own(server, api_key=KEY) as client:
            with pytest.raises(ServerRefused, match="withheld") as failed:
                await client.embed_query(SECRET)
        assert KEY not in str(failed.value)
        assert SECRET[:12] not in str(failed.value)
        assert self.of_level(log, logging.WARNING) + self.of_level(log, logging.ERROR) == []

    @simulated
    async def test_a_warning_for_each_repeat(
        self, log: pytest.LogCaptureFixture, server: EmbeddingServer
    ) -> None:
        """Log levels: each repeat after a failure is a WARNING that says why and when."""
        server.answer(Answer.error(502, "no"), Answer.throttled(3))
        async with own(server, max_retries=RetryPolicy(base=2, jitter=False)) as client:
            await client.embed_query("a")
        first, second = self.of_level(log, logging.WARNING)
        assert "502" in first
        assert "sending again in 2.00 s (attempt 2 of 3)" in first
        assert "429" in second
        assert second.endswith("sending again in 3.00 s")  # which is no attempt

    async def test_a_vector_of_zeros_is_a_warning(
        self, log: pytest.LogCaptureFixture, server: EmbeddingServer
    ) -> None:
        """Log levels: a vector of zeros only is delivered, with a WARNING."""
        server.answer(Answer.vectors(lambda rows: [[0.0] * 8, *rows[1:]]))
        async with own(server) as client:
            rows = await client.embed(["a", "b"])
        assert rows[0] == [0.0] * 8
        assert is_vector_of(rows[1], "b")
        assert ["zeros" in message for message in self.of_level(log, logging.WARNING)] == [True]
