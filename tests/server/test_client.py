"""Both clients, over real sockets: what they give, where they can be used, and how they end."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedwire import (
    BadReply,
    ConnectionFailed,
    DeadlineExceeded,
    EmbeddingClient,
    InputError,
    Overloaded,
    Prompts,
    RequestError,
    RetryPolicy,
    ServerInfo,
    ServerUnavailable,
    SharedEmbeddingClient,
    TextRefused,
    Timeouts,
    UsageError,
)
from embedwire.testing import Answer, EmbeddingServer, Gate, Request, is_vector_of

TEXTS = [f"text {number}" for number in range(23)]
KEY = "sk-never-to-be-seen"
simulated = pytest.mark.looptime
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")


def right(rows: Any, texts: list[str], *, tolerance: float = 0.0) -> bool:
    """Whether each text has its own vector."""
    return len(rows) == len(texts) and all(
        is_vector_of(row, text, tolerance=tolerance) for row, text in zip(rows, texts, strict=True)
    )


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


@pytest.fixture
async def here() -> AsyncIterator[EmbeddingServer]:
    """A server on the test's own loop, and on its clock."""
    async with EmbeddingServer() as server:
        yield server


def shared(server: EmbeddingServer, **arguments: Any) -> SharedEmbeddingClient:
    """A client for every thread and loop that asks for nothing but vectors."""
    return SharedEmbeddingClient(server.url, **{"model": "m", "encoding": "float", **arguments})


def own(server: EmbeddingServer, **arguments: Any) -> EmbeddingClient:
    """A client for one loop that asks for nothing but vectors."""
    return EmbeddingClient(server.url, **{"model": "m", "encoding": "float", **arguments})


class Doors:
    """Every client through the same three async methods, so that one test can knock at all of them."""

    def __init__(self, kind: str, server: EmbeddingServer, **arguments: Any) -> None:
        self.client = own(server, **arguments) if kind == "own" else shared(server, **arguments)
        self._kind = kind

    async def _call(self, name: str, *arguments: Any) -> Any:
        if self._kind == "own":
            return await getattr(self.client, name)(*arguments)
        if self._kind == "async":
            return await getattr(self.client, "a" + name)(*arguments)
        return await asyncio.to_thread(getattr(self.client, name), *arguments)

    async def embed(self, *arguments: Any) -> list[list[float]]:
        """Embed texts."""
        return await self._call("embed", *arguments)  # type: ignore[no-any-return]

    async def embed_array(self, *arguments: Any) -> Any:
        """Embed texts into an array."""
        return await self._call("embed_array", *arguments)

    async def embed_query(self, text: str) -> list[float]:
        """Embed a query."""
        return await self._call("embed_query", text)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close the client."""
        await self._call("close")

    async def pieces(self, *arguments: Any, **options: Any) -> list[tuple[int, Any]]:
        """Stream texts to the end."""
        if self._kind == "sync":
            return await asyncio.to_thread(lambda: list(self.client.stream(*arguments, **options)))
        stream = self.client.stream if self._kind == "own" else self.client.astream  # type: ignore[union-attr]
        return [piece async for piece in stream(*arguments, **options)]

    async def wait_ready(self, timeout: float) -> ServerInfo:
        """Wait until the server embeds."""
        if self._kind == "async":
            return await self.client.await_ready(timeout)  # type: ignore[union-attr, no-any-return]
        return await self._call("wait_ready", timeout)  # type: ignore[no-any-return]


@pytest.fixture(params=["own", "async", "sync"])
async def open_doors(
    request: pytest.FixtureRequest, server: EmbeddingServer
) -> AsyncIterator[Callable[..., Doors]]:
    """Makes clients of each kind, and closes them."""
    made: list[Doors] = []

    def make(**arguments: Any) -> Doors:
        made.append(Doors(request.param, server, **arguments))
        return made[-1]

    yield make
    for doors in made:
        await doors.close()


Open = Callable[..., Doors]


class TestEmbedding:
    """Texts become vectors, each its own, through every door."""

    async def test_gives_each_text_its_vector(self, open_doors: Open) -> None:
        """`embed` gives one list of Python floats per text, in their order."""
        rows = await open_doors().embed(TEXTS)
        assert right(rows, TEXTS)
        assert type(rows) is list
        assert {type(row) for row in rows} == {list}
        assert {type(number) for row in rows for number in row} == {float}

    async def test_gives_an_array(self, open_doors: Open) -> None:
        """`embed_array` gives one float32 matrix in C order, which is the caller's own."""
        doors = open_doors()
        array = await doors.embed_array(TEXTS)
        assert (array.dtype, array.shape) == (np.float32, (23, 8))
        assert array.flags.c_contiguous
        assert array.flags.writeable
        array[:] = 0
        assert right(await doors.embed_array(TEXTS), TEXTS)

    async def test_gives_a_query_its_vector(self, open_doors: Open) -> None:
        """`embed_query` gives one list of Python floats."""
        row = await open_doors().embed_query("a")
        assert is_vector_of(row, "a")
        assert {type(number) for number in row} == {float}

    async def test_no_texts_need_no_request(self, open_doors: Open, server: EmbeddingServer) -> None:
        """`[]` gives `[]`, or an array of shape (0, dimensions), and nothing is sent."""
        doors = open_doors()
        assert await doors.embed([]) == []
        assert (await doors.embed_array([])).shape == (0, 0)
        assert await doors.pieces([]) == []
        assert server.connections == 0
        await doors.embed(["a"])
        empty = await doors.embed_array([])
        assert (empty.shape, empty.dtype) == ((0, 8), np.float32)
        assert (await open_doors(dimensions=4).embed_array([])).shape == (0, 4)
        assert len(server.requests) == 1

    async def test_equal_texts_travel_once(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A text that stands several times in one call is sent once, and each place gets its vector."""
        texts = ["a", "b", "a", "c", "b", "a"] * 10
        assert right(await open_doors().embed(texts), texts)
        assert sorted(text for batch in server.batches for text in batch) == ["a", "b", "c"]

    async def test_texts_arrive_unchanged(self, open_doors: Open, server: EmbeddingServer) -> None:
        """Nothing is stripped, replaced or cut: each strange text gets the vector of just that text."""
        texts = [
            "",
            " ",
            "\n",
            "a\nb",
            "a b",
            " a b ",
            "\0",
            "🙂",
            "한국어",
            "\ufeff",
            "e\u0301",
            "é",
            "x" * 10_000,
        ]
        assert right(await open_doors().embed(texts), texts)
        assert {text for batch in server.batches for text in batch} == set(texts)

    async def test_what_the_caller_does_to_the_list_later_changes_nothing(
        self, open_doors: Open, server: EmbeddingServer
    ) -> None:
        """The texts are those of the moment of the call."""
        texts = list(TEXTS)
        doors = open_doors(concurrency=1)
        with server.hold():
            call = asyncio.ensure_future(doors.embed(texts))
            await server.wait_for(lambda: server.in_flight == 1)
            texts[:] = ["other"]
        assert right(await call, TEXTS)

    async def test_prompts_go_by_kind(self, open_doors: Open, server: EmbeddingServer) -> None:
        """Documents get the document's prompt and queries the query's, the same text included."""
        doors = open_doors(prompts=Prompts(query="query: ", document="passage: "))
        documents, query, queries = (
            await doors.embed(["x"]),
            await doors.embed_query("x"),
            await doors.embed(["x"], "query"),
        )
        assert is_vector_of(documents[0], "passage: x")
        assert is_vector_of(query, "query: x")
        assert queries == [query]
        assert server.batches == [["passage: x"], ["query: x"], ["query: x"]]

    async def test_dimensions_are_cut_where_the_server_ignores_them(self, open_doors: Open) -> None:
        """Vectors have as many numbers as asked for, and length 1, though the server ignores the wish."""
        rows = await open_doors(dimensions=4).embed(TEXTS)
        assert {len(row) for row in rows} == {4}
        assert right(rows, TEXTS, tolerance=1e-6)

    async def test_too_few_dimensions_are_refused(self, open_doors: Open) -> None:
        """A model with fewer numbers than asked for is a BadReply that says both numbers."""
        with pytest.raises(BadReply, match="vectors of 8 numbers where dimensions=16 were asked for"):
            await open_doors(dimensions=16).embed(TEXTS)

    async def test_normalizes_when_asked(self, open_doors: Open, server: EmbeddingServer) -> None:
        """`normalize=True` brings each vector to unit length; otherwise it comes as the server sent it."""
        server.script = lambda request: Answer.vectors(
            lambda rows: [[3 * number for number in row] for row in rows]
        )
        plain, unit = await open_doors().embed(TEXTS), await open_doors(normalize=True).embed(TEXTS)
        np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 3, rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
        assert right(unit, TEXTS, tolerance=1e-6)

    @pytest.mark.parametrize("encoding", ["float", "base64", "auto"])
    async def test_encodings_give_the_same_vectors(
        self, encoding: str, open_doors: Open, server: EmbeddingServer
    ) -> None:
        """Vectors are the same to the last bit in either encoding; the chosen one is asked for."""
        doors = open_doors(encoding=encoding)
        await doors.wait_ready(10)
        assert right(await doors.embed(TEXTS), TEXTS)
        asked = {request.json["encoding_format"] for request in server.requests if request.embeds}
        assert asked == ({"float", "base64"} if encoding == "auto" else {encoding})

    async def test_auto_stays_with_floats_where_base64_differs(
        self, open_doors: Open, server: EmbeddingServer
    ) -> None:
        """A server whose base64 says something else gets no more of it; no vector of it is delivered."""

        def script(request: Request) -> Answer | None:
            if request.embeds and request.json["encoding_format"] == "base64":
                return Answer.vectors(lambda rows: [row[::-1] for row in rows])
            return None

        server.script = script
        doors = open_doors(encoding="auto")
        assert (await doors.wait_ready(10)).base64 is False
        assert right(await doors.embed(TEXTS), TEXTS)
        asked = [request.json["encoding_format"] for request in server.requests if request.embeds]
        assert asked.count("base64") == 1

    async def test_a_text_that_fails_is_named_and_the_others_are_kept(
        self, open_doors: Open, server: EmbeddingServer
    ) -> None:
        """A poison text fails alone: its index, tokens and limit; the others' vectors come with the error."""
        poison = {TEXTS[7], TEXTS[19]}
        server.script = lambda request: Answer.too_large(600, 512) if poison & set(request.texts) else None
        with pytest.raises(TextRefused, match=r"600 tokens.*512.*texts\[7\] of 23") as failed:
            await open_doors().embed(TEXTS)
        error = failed.value
        assert (error.index, error.tokens, error.limit, error.status) == (7, 600, 512, 500)
        assert error.failures is not None
        assert error.completed is not None
        assert sorted(error.failures) == [7, 19]
        assert [failure.index for failure in error.failures.values()] == [7, 19]
        done = [index for index in range(23) if index not in (7, 19)]
        assert error.completed.indexes == done
        assert right(error.completed.vectors, [TEXTS[index] for index in done])

    async def test_nothing_is_returned_for_a_part(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A call of which one batch fails for good raises; what was done is on the error alone."""
        server.script = lambda request: Answer.error(404, "gone") if "text 22" in request.texts else None
        with pytest.raises(RequestError) as failed:
            await open_doors(concurrency=1, batch_size=5).embed(TEXTS)
        assert failed.value.index in range(20, 23)
        assert failed.value.completed is not None
        done = failed.value.completed.indexes
        assert done == list(range(20))
        assert right(failed.value.completed.vectors, TEXTS[:20])

    async def test_calls_do_not_fail_each_other(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A text that fails reaches only the calls that own it."""
        server.script = lambda request: Answer.exceed_context(600, 512) if "bad" in request.texts else None
        doors = open_doors(concurrency=1)
        with server.hold():
            calls = [asyncio.ensure_future(doors.embed([*TEXTS[:3], *more])) for more in ([], ["bad"], ["b"])]
            await server.wait_for(lambda: server.in_flight == 1)
        good, bad, other = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(bad, TextRefused)
        assert bad.index == 3
        assert right(good, TEXTS[:3])
        assert right(other, [*TEXTS[:3], "b"])


class TestUnreachable:
    """A server that is not there is said to be not there."""

    async def test_nobody_listens(self, open_doors: Open, server: EmbeddingServer) -> None:
        """Where nobody listens, the error says which URL, and what to check."""
        doors = open_doors(max_retries=0)
        await asyncio.to_thread(server.stop)
        with pytest.raises(ConnectionFailed) as failed:
            await doors.embed(TEXTS)
        assert server.url in str(failed.value)
        assert "Check that the server runs and that host and port are right." in str(failed.value)
        assert (failed.value.server, failed.value.status) == (server.url + "/v1", None)

    @pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test", "-.invalid"])
    async def test_no_such_name(self, host: str) -> None:
        """A host name that cannot be looked up, or be a name at all, is told to be wrong."""
        with pytest.raises((ConnectionFailed, InputError), match="name"):
            await EmbeddingClient(f"http://{host}:8080", model="m", max_retries=0).embed(["a"])

    async def test_https_to_an_http_server(self) -> None:
        """A client that speaks https to a server that speaks http is told so, at once."""

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await reader.read(-1)
            writer.close()
            left.set()

        left = asyncio.Event()
        listener = await asyncio.start_server(refuse, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with EmbeddingClient(url, model="m") as client:
            with pytest.raises(ConnectionFailed, match=r"TLS.*after 1 request.*http against https"):
                await client.embed(["a"])
        await left.wait()
        listener.close()
        await listener.wait_closed()

    @simulated
    async def test_deadline(self, here: EmbeddingServer) -> None:
        """A call ends at its deadline, whatever the server does; what was done comes with the error."""
        clock = asyncio.get_running_loop().time
        here.answer(Answer(), Answer(drip=1))
        async with own(here, deadline=30, batch_size=5, concurrency=1) as client:
            began = clock()
            with pytest.raises(DeadlineExceeded, match="18 of 23 texts left") as failed:
                await client.embed(TEXTS)
        assert clock() - began == pytest.approx(30, abs=0.1)
        assert failed.value.completed is not None
        assert right(failed.value.completed.vectors, TEXTS[:5])

    async def test_a_full_queue_is_told(self, server: EmbeddingServer) -> None:
        """With `on_full="raise"` a call for which there is no room fails at once, and says the numbers."""
        client = shared(server, max_queued=30, on_full="raise", concurrency=1)
        with server.hold():
            first = asyncio.ensure_future(client.aembed(TEXTS))
            await server.wait_for(lambda: server.in_flight == 1)
            with pytest.raises(Overloaded, match=r"23 texts wait.*23 more.*max_queued=30"):
                await client.aembed([text + "!" for text in TEXTS])
        assert right(await first, TEXTS)
        await client.aclose()


class TestSecrets:
    """What a server says is shown only where it repeats neither a text nor a secret."""

    @pytest.mark.parametrize(
        "arguments",
        [
            {"api_key": KEY},
            {"api_key": lambda: KEY},
            {"headers": {"X-Token": KEY}},
            {"headers": {"Authorization": KEY}},
        ],
        ids=["key", "function", "header", "authorization"],
    )
    @pytest.mark.parametrize("status", [400, 401, 404, 502])
    async def test_no_key_comes_back(
        self, status: int, arguments: dict[str, Any], here: EmbeddingServer
    ) -> None:
        """A server that quotes the request's headers does not make an error show the key, however it was passed."""
        here.script = lambda request: Answer.error(status, f"refused: {dict(request.headers)}")
        async with own(here, max_retries=0, **arguments) as client:
            with pytest.raises(RequestError) as failed:
                await client.embed_query("a text of some length")
        sent = here.requests[0].headers
        assert KEY in sent.get("x-token", "") + sent.get("authorization", "")
        assert KEY not in "".join(traceback.format_exception(failed.value))

    async def test_no_text_comes_back(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A server that quotes the texts does not make an error show one, the other texts of the batch included."""
        secret = "The patient is called Kim"
        server.script = lambda request: Answer.error(422, f"bad input: {request.texts}")
        with pytest.raises(RequestError, match="withheld") as failed:
            await open_doors(max_retries=0).embed([secret, secret + " and Park"])
        assert secret[:12] not in "".join(traceback.format_exception(failed.value))


class TestStream:
    """Texts of unknown number, in order, in bounded memory."""

    def stitched(self, pieces: Iterable[tuple[int, Any]]) -> dict[int, Any]:
        """Rows by index; fails where a piece is out of order."""
        rows: dict[int, Any] = {}
        for start, vectors in pieces:
            assert vectors.dtype == np.float32
            assert not rows or start > max(rows)
            rows.update(enumerate(vectors, start))
        return rows

    async def test_gives_all_in_order(self, open_doors: Open) -> None:
        """Pieces come in order, each from its `start` on, and have every text's own vector."""
        rows = self.stitched(await open_doors(batch_size=4).pieces(iter(TEXTS)))
        assert list(rows) == list(range(23))
        assert right(list(rows.values()), TEXTS)

    async def test_a_slow_batch_does_not_change_the_order(
        self, open_doors: Open, server: EmbeddingServer
    ) -> None:
        """The first piece comes first, though others were done before it."""
        gate = Gate()
        server.script = lambda request: Answer.hold(gate) if "text 0" in request.texts else None
        call = asyncio.ensure_future(open_doors(batch_size=4, concurrency=3).pieces(TEXTS))
        await server.wait_for(lambda: len(server.requests) >= 3 and server.in_flight == 1)
        gate.open()
        rows = self.stitched(await call)
        assert right(list(rows.values()), TEXTS)

    async def test_skips_what_fails(self, open_doors: Open, server: EmbeddingServer) -> None:
        """With `on_error="skip"` a text that fails is left out, and the others keep their index."""
        server.script = lambda request: Answer.too_large(600, 512) if "text 7" in request.texts else None
        doors = open_doors(batch_size=4)
        rows = self.stitched(await doors.pieces(TEXTS, on_error="skip"))
        assert list(rows) == [index for index in range(23) if index != 7]
        assert all(is_vector_of(row, TEXTS[index]) for index, row in rows.items())
        with pytest.raises(TextRefused) as failed:
            await doors.pieces(TEXTS)
        assert failed.value.index == 7

    async def test_reads_no_further_than_it_must(self, server: EmbeddingServer) -> None:
        """While vectors are not taken, no more texts are read than four times as many as may travel, and a batch."""
        read = 0

        async def source() -> AsyncIterator[str]:
            nonlocal read
            for text in TEXTS * 10:
                read += 1
                yield f"{text} {read}"

        client = shared(server, batch_size=2, concurrency=3)
        stream = client.astream(source())
        start, vectors = await anext(stream)
        assert (start, len(vectors)) == (0, 2)
        await server.wait_for(lambda: len(server.batches) >= 3 and server.in_flight == 0)
        assert read <= 2 * (4 * 3 + 2)
        await stream.aclose()
        assert len(server.batches) <= 4 * 3 + 1
        await client.aclose()

    @pytest.mark.parametrize("kind", ["async", "sync"])
    async def test_gives_up_when_left(self, kind: str, server: EmbeddingServer) -> None:
        """Leaving a stream cancels what is on its way, and sends nothing more."""
        never = Gate()
        server.script = lambda request: (
            None if request.texts in ([], ["text 0"], ["last"]) else Answer.hold(never)
        )
        client = shared(server, batch_size=1, concurrency=3)
        if kind == "async":
            stream = client.astream(TEXTS)
            assert (await anext(stream))[0] == 0
            await server.wait_for(lambda: server.in_flight == 3)
            await stream.aclose()
        else:
            pieces = client.stream(TEXTS)
            assert (await asyncio.to_thread(next, pieces))[0] == 0
            await server.wait_for(lambda: server.in_flight == 3)
            pieces.close()
        await server.wait_for(lambda: len(server.aborted) == 3)
        await client.aembed_query("last")
        assert sorted(server.batches) == [["last"], *([text] for text in TEXTS[:4])]
        await client.aclose()

    @pytest.mark.parametrize("bad", [5, None, "\ud800"])
    async def test_a_bad_text_is_named_by_its_index(self, bad: Any, open_doors: Open) -> None:
        """A text that is no str is an InputError with its index in the whole stream."""
        texts: list[Any] = [*TEXTS[:10], bad]
        with pytest.raises(InputError, match=r"texts\[10\] "):
            await open_doors(batch_size=3).pieces(texts)

    async def test_the_sources_own_error_comes_through(self, open_doors: Open) -> None:
        """What the source of texts raises reaches the reader, after the pieces before it."""

        def source() -> Iterator[str]:
            yield from TEXTS[:5]
            raise LookupError("the disk is gone")

        with pytest.raises(LookupError, match="the disk is gone"):
            await open_doors(batch_size=2).pieces(source())

    async def test_takes_async_iterables(self, here: EmbeddingServer) -> None:
        """An async source is read too."""

        async def source() -> AsyncIterator[str]:
            for text in TEXTS:
                yield text

        async with own(here, batch_size=4) as client:
            rows = self.stitched([piece async for piece in client.stream(source())])
        assert right(list(rows.values()), TEXTS)


class TestReady:
    """A server that is not ready is waited for, and says what it is."""

    async def test_says_what_the_server_is(self, open_doors: Open, server: EmbeddingServer) -> None:
        """`wait_ready` tells model, dimensions, slots, context and whether base64 works."""
        doors = open_doors(model=None, encoding="auto")
        info = await doors.wait_ready(10)
        expected = ServerInfo(
            url=server.url + "/v1",
            software="llama.cpp",
            model="test-model",
            dimensions=8,
            slots=1,
            context=512,
            base64=True,
        )
        assert info == expected
        asked = len(server.requests)
        assert doors.client.server_info() == expected
        assert len(server.requests) == asked

    async def test_knows_nothing_before(self, open_doors: Open, server: EmbeddingServer) -> None:
        """`server_info` asks nothing: before the first call it knows what it was told."""
        assert open_doors(model="mine", dimensions=4).client.server_info() == ServerInfo(
            url=server.url + "/v1", model="mine", dimensions=4
        )
        assert server.connections == 0

    @simulated
    async def test_waits_for_a_loading_model(self, here: EmbeddingServer) -> None:
        """`wait_ready` returns when the model is loaded, not before."""
        here.loading = True
        clock = asyncio.get_running_loop().time
        async with own(here) as client:
            asyncio.get_running_loop().call_later(30, setattr, here, "loading", False)
            began = clock()
            assert (await client.wait_ready(60)).dimensions == 8
            assert 30 <= clock() - began < 33

    @simulated
    async def test_a_call_waits_for_a_loading_model_too(self, here: EmbeddingServer) -> None:
        """Calls made while the model loads succeed when it is loaded; one poller asks for all of them."""
        here.loading = True
        async with own(here, model=None) as client:
            asyncio.get_running_loop().call_later(20, setattr, here, "loading", False)
            assert right(await client.embed(TEXTS), TEXTS)
        polls = [request for request in here.requests if request.path == "/health"]
        assert 10 <= len(polls) < 25

    @simulated
    async def test_gives_up_in_time(self, here: EmbeddingServer) -> None:
        """A server that is not ready in time is a ServerUnavailable that says since when and why."""
        here.loading = True
        clock = asyncio.get_running_loop().time
        async with own(here) as client:
            began = clock()
            with pytest.raises(ServerUnavailable, match="not ready within 7 s: the server is still loading"):
                await client.wait_ready(7)
        assert clock() - began == pytest.approx(7, abs=0.1)

    async def test_says_why_it_never_will_be(self, open_doors: Open, server: EmbeddingServer) -> None:
        """What waiting cannot cure, a wrong key, is raised at once."""
        server.script = lambda request: (
            None if request.path == "/health" else Answer.error(401, "Invalid API Key")
        )
        with pytest.raises(RequestError, match="does not accept the key"):
            await open_doors().wait_ready(60)


class TestLoops:
    """`EmbeddingClient` belongs to one loop; `SharedEmbeddingClient` to none."""

    def test_a_second_open_loop_is_told_what_to_use(self, server: EmbeddingServer) -> None:
        """In a second loop, while its own is open, EmbeddingClient names SharedEmbeddingClient, and goes on."""
        client, loop = own(server), asyncio.new_event_loop()
        assert is_vector_of(loop.run_until_complete(client.embed_query("a")), "a")
        with pytest.raises(UsageError, match="SharedEmbeddingClient"):
            asyncio.run(client.embed_query("b"))
        assert is_vector_of(loop.run_until_complete(client.embed_query("c")), "c")
        loop.run_until_complete(client.close())
        loop.close()
        assert server.batches == [["a"], ["c"]]

    @pytest.mark.usefixtures("no_idle_limit")
    def test_a_second_loop_after_the_first_is_fine(self, server: EmbeddingServer) -> None:
        """When its loop is over, EmbeddingClient starts anew on the next, and leaves nothing behind."""
        client = own(server)
        for text in TEXTS[:3]:
            assert is_vector_of(asyncio.run(client.embed_query(text)), text)
        asyncio.run(client.close())
        server.wait(lambda: server.open_connections == 0)
        gc.collect()

    def test_one_shared_client_in_many_runs(self, server: EmbeddingServer) -> None:
        """Several `asyncio.run`, and sync calls between them, share one connection."""
        with shared(server, concurrency=1) as client:
            for text in TEXTS[:3]:
                assert is_vector_of(asyncio.run(client.aembed_query(text)), text)
                assert is_vector_of(client.embed_query(text + "!"), text + "!")
        assert server.connections == 1

    def test_many_threads(self, server: EmbeddingServer) -> None:
        """Callers in 16 threads, sync and async, get their own vectors, and the bound holds for all."""
        begin = threading.Barrier(16)

        def work(number: int) -> bool:
            texts = [f"{number}: {text}" for text in TEXTS]
            begin.wait()
            if number % 2:
                return right(asyncio.run(client.aembed(texts)), texts)
            return right([client.embed_query(text) for text in texts], texts)

        with shared(server, concurrency=3) as client, ThreadPoolExecutor(16) as pool:
            assert all(pool.map(work, range(16)))
        assert server.peak_in_flight <= 3

    def test_clients_of_equal_settings_share_a_connection(self, server: EmbeddingServer) -> None:
        """A client per call costs no connection while another of equal settings lives."""
        with shared(server, concurrency=1) as first:
            first.embed_query("a")
            for text in TEXTS[:5]:
                with shared(server, concurrency=1) as client:
                    assert is_vector_of(client.embed_query(text), text)
            assert is_vector_of(first.embed_query("b"), "b")
        assert server.connections == 1

    async def test_a_sync_method_works_on_a_running_loop(self, server: EmbeddingServer) -> None:
        """Frameworks call sync methods on a loop's own thread: it blocks, and works."""
        with shared(server) as client:
            assert right(client.embed(TEXTS), TEXTS)

    @pytest.mark.parametrize("open_doors", ["own", "async"], indirect=True)
    async def test_a_cancelled_call_is_not_sent(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A cancelled call's waiting texts vanish, and its request on its way is dropped at the server."""
        doors = open_doors(concurrency=1)
        with server.hold():
            call = asyncio.ensure_future(doors.embed(TEXTS))
            await server.wait_for(lambda: server.in_flight == 1)
            call.cancel()
            await server.wait_for(lambda: len(server.aborted) == 1)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert is_vector_of(await doors.embed_query("next"), "next")
        assert server.batches == [TEXTS[:5], ["next"]]


@pytest.fixture
def no_idle_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let idle connections stay, so that only a close closes them."""
    monkeypatch.setattr("embedwire._transport.KEEP_ALIVE", 3600)


@pytest.mark.usefixtures("no_idle_limit")
class TestEnd:
    """Closing ends everything, once."""

    async def test_use_after_close_is_told(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A closed client raises UsageError at each door and sends nothing, used before or not."""
        used, unused = open_doors(), open_doors()
        await used.embed(TEXTS)
        sent = len(server.requests)
        for doors in (used, unused):
            await doors.close()
            for call in (
                lambda doors=doors: doors.embed(["a"]),
                lambda doors=doors: doors.embed_array(["a"]),
                lambda doors=doors: doors.embed_query("a"),
                lambda doors=doors: doors.pieces(["a"]),
                lambda doors=doors: doors.wait_ready(5),
            ):
                with pytest.raises(UsageError, match="this client was closed; make a new one"):
                    await call()
        assert len(server.requests) == sent

    async def test_closing_twice_is_fine(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A second close does nothing, and neither does one of a client that was never used."""
        doors = open_doors()
        await doors.close()
        await doors.close()
        doors = open_doors()
        await doors.embed(TEXTS)
        await asyncio.gather(doors.close(), doors.close())
        await doors.close()
        await server.wait_for(lambda: server.open_connections == 0)

    async def test_closing_ends_the_calls_under_way(self, open_doors: Open, server: EmbeddingServer) -> None:
        """Calls under way end with UsageError, and the server sees their requests dropped."""
        doors = open_doors(concurrency=2)
        with server.hold():
            calls = [
                asyncio.ensure_future(doors.embed([f"{call} {text}" for text in TEXTS])) for call in "ab"
            ]
            await server.wait_for(lambda: server.in_flight == 2)
            await doors.close()
            for ended in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(ended, UsageError)
                assert "closed" in str(ended)
            await server.wait_for(lambda: server.in_flight == 0 and server.open_connections == 0)
        assert len(server.batches) == 2

    @pytest.mark.parametrize("reason", ["closed", "key"])
    async def test_no_two_callers_share_an_error(self, reason: str, server: EmbeddingServer) -> None:
        """Each caller gets an error of its own: a traceback that two add frames to would mix their stories."""
        raises = False

        def key() -> str:
            if raises:
                raise LookupError("no key")
            return "key"

        async with EmbeddingClient(server.url, model="m", api_key=key, concurrency=1) as client:
            with server.hold():
                calls = [asyncio.create_task(client.embed([f"text {n}"])) for n in range(5)]
                await server.wait_for(lambda: server.in_flight == 1)
                raises = reason == "key"
                if not raises:
                    await client.close()
            errors = [error for error in await asyncio.gather(*calls, return_exceptions=True) if error]
        failed = [error for error in errors if isinstance(error, Exception)]
        assert len({id(error) for error in failed}) == len(failed) >= 4
        assert {type(error) for error in failed} == {LookupError if raises else UsageError}

    def test_closing_one_leaves_its_twin_alone(self, server: EmbeddingServer) -> None:
        """Another client of equal settings goes on, its calls under way included."""
        one, other = (
            shared(server, concurrency=2, batch_size=30),
            shared(server, concurrency=2, batch_size=30),
        )
        with server.hold(), ThreadPoolExecutor() as pool:
            ending = pool.submit(one.embed, TEXTS)
            server.wait(lambda: server.in_flight == 1)
            staying = pool.submit(other.embed, [text + "!" for text in TEXTS])
            server.wait(lambda: server.in_flight == 2)
            one.close()
            with pytest.raises(UsageError):
                ending.result()
            server._gate.open()  # type: ignore[union-attr]
            assert right(staying.result(), [text + "!" for text in TEXTS])
        other.close()
        server.wait(lambda: server.open_connections == 0)

    def test_context_managers_close(self, server: EmbeddingServer) -> None:
        """`with` and `async with` end in a closed client."""

        async def use() -> SharedEmbeddingClient:
            async with shared(server) as client:
                await client.aembed_query("a")
                return client

        with shared(server) as client:
            client.embed_query("a")
        for closed in (client, asyncio.run(use())):
            with pytest.raises(UsageError):
                closed.embed_query("b")
        server.wait(lambda: server.open_connections == 0)

    def test_a_dropped_client_lets_go(self, server: EmbeddingServer) -> None:
        """A client that is merely dropped closes its connections, without a warning."""
        client = shared(server)
        client.embed(TEXTS)
        del client
        gc.collect()
        server.wait(lambda: server.open_connections == 0)


def _pickled(client: SharedEmbeddingClient) -> Any:
    return pickle.loads(pickle.dumps(client))


class TestCopies:
    """A client goes through a pickle and a copy; a key from the environment does not."""

    @pytest.mark.parametrize("again", [_pickled, copy.deepcopy, copy.copy])
    @pytest.mark.parametrize("used", [False, True])
    def test_a_copy_works(self, again: Any, used: bool, server: EmbeddingServer) -> None:
        """A copy embeds as its original does, with its key, prompts and policies; each closes by itself."""
        client = shared(
            server,
            api_key=KEY,
            prompts="e5",
            timeout=Timeouts(total=5),
            max_retries=RetryPolicy(base=0),
            headers={"X-A": "b"},
        )
        if used:
            client.embed(TEXTS)
        with again(client) as twin:
            assert is_vector_of(twin.embed_query("a"), "query: a")
            assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
            assert server.requests[-1].headers["x-a"] == "b"
            client.close()
            assert is_vector_of(twin.embed_query("b"), "query: b")

    @pytest.mark.parametrize("again", [_pickled, copy.deepcopy, copy.copy])
    async def test_a_copy_of_a_client_of_ones_own_loop_works(
        self, again: Any, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`EmbeddingClient` too: used or closed, its copy is new, and has no key of the environment in it."""
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
        async with EmbeddingClient(server.url, model="m", prompts="e5") as client:
            await client.embed_query("a")
        assert KEY.encode() not in pickle.dumps(client)
        async with again(client) as twin:
            assert is_vector_of(await twin.embed_query("b"), "query: b")

    def test_a_pickle_has_no_key_of_the_environment(
        self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A key that came from the environment stays there; where the pickle is opened, that one's is used."""
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
        with shared(server) as client:
            client.embed_query("a")
            assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
            pickled = pickle.dumps(client)
        assert KEY.encode() not in pickled
        monkeypatch.setenv("EMBEDWIRE_API_KEY", "another")
        with pickle.loads(pickled) as twin:
            twin.embed_query("a")
        assert server.requests[-1].headers["authorization"] == "Bearer another"


PRELUDE = """
    import asyncio, gc, logging, os, sys, threading
    from embedwire import EmbeddingClient, SharedEmbeddingClient, UsageError
    from embedwire.testing import is_vector_of

    # Debug mode reports steps of over 0.1 s; on a busy machine any step may be one.
    logging.getLogger("asyncio").addFilter(lambda record: not record.msg.startswith("Executing "))

    def right(rows, texts):
        return len(rows) == len(texts) and all(map(is_vector_of, rows, texts))

    def make(kind=SharedEmbeddingClient, **arguments):
        return kind(sys.argv[1], model="m", encoding="float", **arguments)

    def texts(who, count=60):
        return [f"{who} {number}" for number in range(count)]
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a script in a process of its own, where any warning is an error."""

    def start(server: EmbeddingServer, code: str) -> subprocess.Popen[str]:
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(code))
        # From Python 3.12 on, forking a process that has threads warns, whoever forks.
        calm = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        return subprocess.Popen(
            [sys.executable, "-X", "dev", *calm, str(path), server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )

    return start


def finish(process: subprocess.Popen[str], timeout: float = 60) -> str:
    """What a script printed; fails where it failed, hung, or wrote to stderr."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the script hung; {out} {err}")
    assert err == ""
    assert process.returncode == 0
    return out


Script = Callable[[EmbeddingServer, str], "subprocess.Popen[str]"]


class TestProcesses:
    """A client survives what happens to processes."""

    @pytest.mark.parametrize(
        "code",
        [
            "client = make(); assert right(client.embed(texts('a')), texts('a'))",
            "client = make(); client.embed(texts('a')); del client; gc.collect()",
            "client = make(); client.embed(texts('a')); client.loop = client; del client; gc.collect()",
            "client = make(); asyncio.run(client.aembed(texts('a'))); del client; gc.collect()",
            "client = make(); threading.Thread(target=client.embed, args=(texts('a'),)).start()",
            "make(); make().embed_query('a'); make(EmbeddingClient)",
            "client = make(EmbeddingClient); asyncio.run(client.embed(texts('a')))",
            "client = make(EmbeddingClient); asyncio.run(client.embed(texts('a'))); del client; gc.collect()",
            "os.client = make(EmbeddingClient); asyncio.run(os.client.embed(texts('a')))",  # in another module
            "os.client = make(); os.client.embed(texts('a'))",
            """
            async def main():
                client = make(EmbeddingClient)
                await client.embed(texts('a'))
                del client
                gc.collect()
            asyncio.run(main())
            """,
            """
            async def main():
                stream = make().astream(texts('a'))
                await anext(stream)
            asyncio.run(main())
            """,
        ],
    )
    def test_what_is_not_closed_gives_no_warning(
        self, code: str, script: Script, server: EmbeddingServer
    ) -> None:
        """Dropped, forgotten or left to the end of the process, a client is silent with every warning on."""
        finish(script(server, code))
        server.wait(lambda: server.open_connections == 0)

    def test_exits_with_requests_in_flight(
        self, script: Script, server: EmbeddingServer, tmp_path: Path
    ) -> None:
        """A process whose main thread ends does not wait for requests of its daemon threads, nor complain."""
        code = """
            import time

            client = make(concurrency=2)
            for who in "ab":
                threading.Thread(target=client.embed, args=(texts(who),), daemon=True).start()
            while not os.path.exists("leave"):
                time.sleep(0.01)
            """
        with server.hold():
            process = script(server, code)
            server.wait(lambda: server.in_flight == 2, timeout=30)
            (tmp_path / "leave").touch()
            finish(process)
            server.wait(lambda: server.open_connections == 0)

    @needs_signals
    @pytest.mark.parametrize("call", ["embed(texts('a'))", "embed_query('a 0')", "wait_ready(60)"])
    def test_an_interrupt_ends_a_sync_call(self, call: str, script: Script, server: EmbeddingServer) -> None:
        """Ctrl-C ends a sync call with KeyboardInterrupt, its requests are dropped, and the client goes on."""
        with server.hold():
            process = script(
                server,
                f"""
                client = make(concurrency=1)
                try:
                    client.{call}
                except KeyboardInterrupt:
                    print("interrupted", flush=True)
                assert right(client.embed(texts("b")), texts("b"))
                """,
            )
            server.wait(lambda: server.in_flight == 1, timeout=30)
            process.send_signal(signal.SIGINT)
            server.wait(lambda: len(server.aborted) == 1)
        assert finish(process) == "interrupted\n"
        assert [text for batch in server.batches for text in batch if text.startswith("a")] in (
            ["a 0"],
            [f"a {number}" for number in range(5)],
            [],
        )

    @pytest.mark.parametrize("used", [True, False])
    @pytest.mark.parametrize(
        "call",
        ["embed_query('inside')", "embed(['inside'])", "wait_ready(5)", "stream(['inside']).__next__()"],
    )
    def test_a_sync_method_on_the_loop_thread_is_told(
        self, call: str, used: bool, script: Script, server: EmbeddingServer
    ) -> None:
        """On embedwire's own loop thread, where it would wait for ever, a sync method is a UsageError."""
        code = f"""
            def key():  # is called on the loop thread
                inner.{call}
                return "key"

            inner, outer = make(), make(api_key=key)
            if {used}:
                inner.embed_query("before")
            try:
                outer.embed_query("a")
            except UsageError as error:
                assert "its async twin" in str(error)
                print("told")
            assert right([inner.embed_query("after")], ["after"])
            """
        assert finish(script(server, code), timeout=20) == "told\n"
        assert ["inside"] not in server.batches

    @needs_fork
    @pytest.mark.parametrize("used", [True, False])
    @pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit()"])
    def test_goes_through_a_fork(
        self, used: bool, leave: str, script: Script, server: EmbeddingServer
    ) -> None:
        """Parent and child both go on with one client, each with its own vectors on its own connections."""
        code = f"""
            client = make(concurrency=4)
            if {used}:
                assert right(client.embed(texts("before")), texts("before"))
            child = os.fork()
            me = "parent" if child else "child"
            for round in range(5):
                assert right(client.embed(texts(f"{{me}} {{round}}")), texts(f"{{me}} {{round}}"))
                assert right(asyncio.run(client.aembed(texts(me))), texts(me))
                gc.collect()
            client.close()
            if not child:
                {leave}
            assert os.waitpid(child, 0)[1] == 0
            again = make()
            assert right(again.embed(texts("after")), texts("after"))
            """
        finish(script(server, code))
        assert server.aborted == []

    @needs_fork
    def test_a_child_that_only_ends_harms_nobody(self, script: Script, server: EmbeddingServer) -> None:
        """A child that drops what it inherited, and ends, leaves the parent's connections as they were."""
        code = """
            client = make(concurrency=1)
            client.embed(texts("before"))
            for leave in (os._exit, sys.exit):
                child = os.fork()
                if not child:
                    del client
                    gc.collect()
                    leave(0)
                assert os.waitpid(child, 0)[1] == 0
                assert right(client.embed(texts(leave.__module__)), texts(leave.__module__))
            """
        finish(script(server, code))
        assert server.connections == 1

    @needs_fork
    def test_forks_with_requests_in_flight(self, script: Script, server: EmbeddingServer) -> None:
        """A fork in the middle of requests disturbs neither them nor the child's own."""
        code = """
            from concurrent.futures import ThreadPoolExecutor
            client = make(concurrency=2)
            with ThreadPoolExecutor() as pool:
                calls = [pool.submit(client.embed, texts(f"parent {call}")) for call in range(4)]
                while not client.server_info().dimensions:
                    pass
                children = []
                for number in range(3):
                    child = os.fork()
                    if not child:
                        ok = right(client.embed(texts(f"child {number}")), texts(f"child {number}"))
                        os._exit(0 if ok else 1)
                    children.append(child)
                assert all(right(call.result(), texts(f"parent {n}")) for n, call in enumerate(calls))
            assert all(os.waitpid(child, 0)[1] == 0 for child in children)
            """
        finish(script(server, code))

    @needs_fork
    @pytest.mark.parametrize("used", [True, False])
    def test_an_embedding_client_goes_through_a_fork(
        self, used: bool, script: Script, server: EmbeddingServer
    ) -> None:
        """EmbeddingClient starts anew in the child, on a loop of its own, and goes on in the parent."""
        code = f"""
            client = make(EmbeddingClient)
            loop = asyncio.new_event_loop()
            if {used}:
                loop.run_until_complete(client.embed(texts("before")))
            child = os.fork()
            if not child:
                for round in "ab":
                    assert right(asyncio.run(client.embed(texts("child" + round))), texts("child" + round))
                gc.collect()
                os._exit(0)
            assert right(loop.run_until_complete(client.embed(texts("parent"))), texts("parent"))
            assert os.waitpid(child, 0)[1] == 0
            assert right(loop.run_until_complete(client.embed(texts("after"))), texts("after"))
            loop.run_until_complete(client.close())
            loop.close()
            """
        finish(script(server, code))

    @needs_fork
    @pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit()"])
    def test_a_child_that_drops_an_embedding_client_harms_nobody(
        self, leave: str, script: Script, server: EmbeddingServer
    ) -> None:
        """A child that drops an EmbeddingClient it inherited neither warns nor touches the parent's connections."""
        code = f"""
            client = make(EmbeddingClient, concurrency=1)
            loop = asyncio.new_event_loop()
            loop.run_until_complete(client.embed(texts("before")))
            child = os.fork()
            if not child:
                del client
                gc.collect()
                {leave}
            assert os.waitpid(child, 0)[1] == 0
            for round in "ab":
                assert right(loop.run_until_complete(client.embed(texts(round))), texts(round))
            loop.run_until_complete(client.close())
            loop.close()
            """
        finish(script(server, code))
        assert server.connections == 1

    @pytest.mark.parametrize(
        "method",
        ["spawn", pytest.param("fork", marks=needs_fork), pytest.param("forkserver", marks=needs_fork)],
    )
    def test_works_in_a_pool_of_processes(self, method: str, script: Script, server: EmbeddingServer) -> None:
        """A used client passed to worker processes embeds there as it does here."""
        code = f"""
            import multiprocessing

            def work(job):
                client, who = job
                return right(client.embed(texts(who)), texts(who))

            if __name__ == "__main__":
                client = make()
                client.embed(texts("before"))
                with multiprocessing.get_context({method!r}).Pool(2) as pool:
                    assert all(pool.map(work, [(client, who) for who in "abcd"], chunksize=1))
                    pool.close()
                    pool.join()
                assert right(client.embed(texts("after")), texts("after"))
            """
        finish(script(server, code))
