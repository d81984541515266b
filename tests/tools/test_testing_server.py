"""The test server: vectors, right replies, records and life; seen through raw sockets and the standard library only."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from embedwire.testing import Answer, EmbeddingServer, Gate, is_vector_of, vector
from tests.helpers import right, simulated
from tests.tools.peers import Peer, call, post


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


class TestVectors:
    """A text has its own vector."""

    def test_is_the_same_for_the_same_text_and_unlike_for_others(self) -> None:
        """A text has one vector, of length 1, far from any other text's."""
        one, two = vector("one", 384), vector("two", 384)
        assert one == vector("one", 384)
        assert math.isclose(sum(x * x for x in one), 1, rel_tol=1e-6)
        assert abs(sum(x * y for x, y in zip(one, two, strict=True))) < 0.3

    @pytest.mark.parametrize("text", ["", " ", "\0", "🙂", "한국어", "\ud800", "a" * 100_000])
    def test_every_text_has_one(self, text: str) -> None:
        """No string is too strange for a vector."""
        assert is_vector_of(vector(text, 5), text)

    def test_recognises_only_its_own_text(self) -> None:
        """`is_vector_of` is false for another text, a number changed, a number that is none, nothing."""
        row = vector("one", 4)
        assert not is_vector_of(row, "two")
        assert not is_vector_of([row[0] + 1e-4, *row[1:]], "one")
        assert is_vector_of([row[0] + 1e-4, *row[1:]], "one", tolerance=1e-3)
        assert not is_vector_of([math.nan, *row[1:]], "one")
        assert not is_vector_of([], "one")


class TestRightReplies:
    """Untold, the server answers as llama.cpp does."""

    @pytest.mark.parametrize("encoding", ["float", "base64"])
    async def test_gives_each_text_its_vector(self, encoding: str) -> None:
        """Vectors come exactly, in either encoding, under the index of their text."""
        rows: list[list[float]] = []

        def keep(given: list[list[float]]) -> list[list[float]]:
            rows.extend(given)
            return given

        async with EmbeddingServer(dimensions=16) as server, Peer(server) as peer:
            server.answer(Answer.vectors(keep))
            reply = await peer.embed("one", "two", encoding_format=encoding)
        assert right(rows, ["one", "two"])
        assert [item["index"] for item in reply["data"]] == [0, 1]
        assert isinstance(reply["data"][0]["embedding"], str if encoding == "base64" else list)

    async def test_looks_like_llama_cpp(self) -> None:
        """The other endpoints, the headers and the echoed model name are llama.cpp's."""
        async with EmbeddingServer(dimensions=3, slots=4, n_ctx=99) as server, Peer(server) as peer:
            health = await peer.ask(b"GET /health HTTP/1.1\r\n\r\n")
            models = await peer.ask(b"GET /v1/models HTTP/1.1\r\n\r\n")
            props = await peer.ask(b"GET /props HTTP/1.1\r\n\r\n")
            assert (await peer.embed("a", model="any"))["model"] == "any"
            nothing = await peer.ask(b"GET /nothing HTTP/1.1\r\n\r\n")
        assert (health[0], health[1]["server"], health[2]) == (200, "llama.cpp", {"status": "ok"})
        assert models[2]["data"] == [{"id": "test-model", "object": "model", "meta": {"n_embd": 3}}]
        assert props[2] == {"total_slots": 4, "default_generation_settings": {"n_ctx": 99}}
        assert (nothing[0], nothing[1]["connection"]) == (404, "close")

    @pytest.mark.parametrize(
        ("given", "status"),
        [
            ({"input": []}, 400),
            ({"input": [None]}, 400),
            ({"input": ["a", 1]}, 400),
            ({"input": "a", "encoding_format": None}, 400),
            ({"model": "m"}, 400),
            ([], 400),
            ({"input": ["a", "b", "c"]}, 422),
            ({"input": ["", " "]}, 200),
        ],
    )
    async def test_refuses_what_llama_cpp_refuses(self, given: object, status: int) -> None:
        """Bad input is a 400 and an oversized batch TEI's 422; an empty text is fine."""
        body = json.dumps(given).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        async with EmbeddingServer(max_batch=2, errors_close=False) as server, Peer(server) as peer:
            got, headers, reply = await peer.ask(head + body)
        assert got == status
        assert "connection" not in headers
        assert status != 422 or reply["message"] == "batch size 3 > maximum allowed batch size 2"

    async def test_ignores_dimensions_unless_told(self) -> None:
        """`dimensions` changes nothing, as with llama.cpp, or what it should."""
        async with EmbeddingServer(dimensions=8) as server, Peer(server) as peer:
            assert len((await peer.embed("a", dimensions=4))["data"][0]["embedding"]) == 8
        async with EmbeddingServer(honours_dimensions=True) as server, Peer(server) as peer:
            assert is_vector_of((await peer.embed("a", dimensions=4))["data"][0]["embedding"], "a")

    def test_asks_for_the_key(self) -> None:
        """Without the key there is nothing but /health."""
        with EmbeddingServer(api_key="secret") as server:
            with pytest.raises(urllib.error.HTTPError) as refused:
                call(server, ["a"])
            with refused.value as reply:
                assert (reply.code, json.load(reply)["error"]["type"]) == (401, "authentication_error")
            assert call(server, ["a"], Authorization="Bearer secret")["data"]
            with urllib.request.urlopen(server.url + "/health") as healthy:
                assert healthy.status == 200


class TestRecords:
    """A test sees what the server saw."""

    async def test_keeps_every_request(self) -> None:
        """A request's texts, headers, body and place on its connection are on record."""
        async with EmbeddingServer() as server:
            async with Peer(server) as peer:
                await peer.ask(post(["a", "b"], headers="X-Mine: 1\r\n"))
                await peer.ask(post("c"))
            async with Peer(server) as peer:
                await peer.ask(b"GET /health HTTP/1.1\r\n\r\n")
            assert server.batches == [["a", "b"], ["c"]]
            assert [(r.connection, r.nth, r.path) for r in server.requests] == [
                (1, 1, "/v1/embeddings"),
                (1, 2, "/v1/embeddings"),
                (2, 1, "/health"),
            ]
            assert server.requests[0].headers["x-mine"] == "1"
            assert server.requests[0].json == {"input": ["a", "b"]}
            await server.wait_for(lambda: server.open_connections == 0)
            assert server.connections == 2

    async def test_held_requests_are_in_flight(self) -> None:
        """A test can hold requests, see how many there are, and let them go."""
        async with EmbeddingServer() as server, Peer(server) as one, Peer(server) as two:
            with server.hold():
                asking = [asyncio.create_task(peer.embed("a")) for peer in (one, two)]
                await server.wait_for(lambda: server.in_flight == 2)
            await asyncio.gather(*asking)
            assert (server.in_flight, server.peak_in_flight) == (0, 2)

    async def test_drops_the_work_of_a_client_that_left(self) -> None:
        """A client that leaves too early is on record, and its work is dropped."""
        async with EmbeddingServer() as server:
            server.answer(Answer.hang())
            async with Peer(server) as peer:
                peer.writer.write(post(["a"]))
                await server.wait_for(lambda: server.in_flight == 1)
            await server.wait_for(lambda: len(server.aborted) == 1)
            assert (server.in_flight, server.aborted[0].texts) == (0, ["a"])

    @simulated
    async def test_waiting_is_bounded(self) -> None:
        """Waiting in vain is a TimeoutError that tells what the server saw; a condition's own error comes."""
        async with EmbeddingServer() as server:
            with pytest.raises(TimeoutError, match="saw 0 requests"):
                await server.wait_for(lambda: False)
            with pytest.raises(ZeroDivisionError):
                await server.wait_for(lambda: 1 // 0 == 1)

    def test_waiting_works_from_another_thread(self, server: EmbeddingServer) -> None:
        """Tests without a loop have `wait` and the same gates."""
        with server.hold():
            asking = threading.Thread(target=call, args=(server, ["a"]))
            asking.start()
            server.wait(lambda: server.in_flight == 1)
        asking.join()
        with pytest.raises(TimeoutError):
            server.wait(lambda: server.in_flight == 1, timeout=0.01)


class TestLife:
    """It starts, restarts and ends cleanly."""

    def test_restarts_on_its_port(self, server: EmbeddingServer) -> None:
        """A restart cuts connections, keeps the address and goes on with the records."""
        url = server.url
        call(server, ["a"])
        with socket.create_connection(("127.0.0.1", server.port)) as stale:
            server.wait(lambda: server.connections == 2)
            server.restart()
            assert stale.recv(1) == b""
        call(server, ["b"])
        assert (server.url, server.batches) == (url, [["a"], ["b"]])
        server.stop()
        with pytest.raises(urllib.error.URLError):
            call(server, ["c"])

    def test_cuts_a_connection_made_at_that_moment(self, server: EmbeddingServer) -> None:
        """No connection survives a stop, not even one that was just being accepted."""
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as newest:
                server.restart()
                with contextlib.suppress(ConnectionResetError):
                    assert newest.recv(1) == b""

    async def test_restarts_on_a_loop(self) -> None:
        """The async twins do the same; stopping twice does nothing."""
        async with EmbeddingServer() as server:
            await server.arestart()
            async with Peer(server) as peer:
                assert (await peer.embed("a"))["data"]
            await server.astop()
            await server.astop()

    def test_leaves_nothing_behind(self) -> None:
        """Stopped in the middle of everything, it leaves no thread, task, socket or warning."""
        threads = threading.active_count()
        with EmbeddingServer(slots=1, latency=3600) as server:
            server.answer(Answer.hang(), Answer(drip=3600), Answer.hold(Gate()))
            peers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(6)]
            for peer in peers[:5]:
                peer.sendall(post(["a"]))
            server.wait(lambda: server.in_flight == 5 and server.open_connections == 6)
        for peer in peers:
            peer.close()
        assert threading.active_count() == threads
        assert (server.in_flight, server.open_connections, server.aborted) == (0, 0, [])
        gc.collect()
