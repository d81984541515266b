"""Both clients, over real sockets: texts become vectors, and what fails is told."""

from __future__ import annotations

import asyncio
import traceback
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
    ServerInfo,
    ServerUnavailable,
    TextRefused,
)
from embedwire.testing import Answer, EmbeddingServer, Request, is_vector_of
from tests.helpers import numbered, right, simulated
from tests.server.doors import KEY, Open, own, shared

TEXTS = numbered(23)


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
        """Vectors are the same to the last bit in either encoding; the chosen one is asked for, and once compared."""
        doors = open_doors(encoding=encoding)
        await doors.wait_ready(10)
        assert right(await doors.embed(TEXTS), TEXTS)
        asked = {request.json["encoding_format"] for request in server.requests if request.embeds}
        assert asked == ({"float"} if encoding == "float" else {"float", "base64"})

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
        """A call for which there is no room fails at once, and says the numbers."""
        client = shared(server, max_queued=30, concurrency=1)
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
        with pytest.raises(RequestError, match="asks for a key, and none was sent"):
            await open_doors().wait_ready(60)
