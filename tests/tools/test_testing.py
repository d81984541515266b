"""The test server keeps its own promises; seen through raw sockets and the standard library only."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import math
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from embedwire.testing import Answer, EmbeddingServer, Gate, Request, is_vector_of, vector

if TYPE_CHECKING:
    from typing_extensions import Self

# looptime asks for the current loop before each sync test, and asyncio would make one that nobody closes.
asyncio.set_event_loop(None)

END = b"\r\n\r\n"


def post(texts: object, headers: str = "", **fields: Any) -> bytes:
    """An embedding request as bytes."""
    body = json.dumps({"input": texts, **fields}).encode()
    return (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


class Peer:
    """A raw client: sends bytes, reads replies."""

    def __init__(self, server: EmbeddingServer) -> None:
        self._server = server

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], Any]:
        """Send a request and read one reply with a length."""
        self.writer.write(request)
        head = (await self.reader.readuntil(END)).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split(" ")[1]), headers, json.loads(body or b"null")

    async def embed(self, *texts: str, **fields: Any) -> Any:
        """Ask for embeddings and return the decoded reply."""
        return (await self.ask(post(list(texts), **fields)))[2]

    async def rest(self, request: bytes) -> bytes:
        """Send a request and read until the connection ends."""
        self.writer.write(request)
        return await self.reader.read()


def call(server: EmbeddingServer, texts: list[str], **headers: str) -> Any:
    """Ask for embeddings with urllib."""
    request = urllib.request.Request(
        server.url + "/v1/embeddings", json.dumps({"input": texts}).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


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

        def keep(right: list[list[float]]) -> list[list[float]]:
            rows.extend(right)
            return right

        async with EmbeddingServer(dimensions=16) as server, Peer(server) as peer:
            server.answer(Answer.vectors(keep))
            reply = await peer.embed("one", "two", encoding_format=encoding)
        assert all(is_vector_of(row, text) for row, text in zip(rows, ["one", "two"], strict=True))
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

    @pytest.mark.looptime
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


class TestTime:
    """Work takes the time it was told to take."""

    @pytest.mark.looptime
    async def test_takes_the_time_it_was_told(self) -> None:
        """Latency is per request and per text, on the loop's clock, so hours can be simulated."""
        clock = asyncio.get_running_loop().time
        async with EmbeddingServer(latency=3600, latency_per_text=60) as server, Peer(server) as peer:
            began = clock()
            await peer.embed("a", "b")
            assert 3720 <= clock() - began < 3721
            server.answer(Answer(delay=10), Answer.too_large(9, 8))
            began = clock()
            await peer.embed("a")
            assert 3670 <= clock() - began < 3671
            began = clock()
            await peer.embed("a")
            assert clock() - began < 1

    @pytest.mark.looptime
    async def test_slots_are_served_in_order_of_arrival(self) -> None:
        """With 2 slots, 5 requests of one second take 3 seconds."""
        clock = asyncio.get_running_loop().time

        async def embed(text: str) -> tuple[str, int]:
            async with Peer(server) as peer:
                await peer.embed(text)
            return text, round(clock() - began)

        async with EmbeddingServer(slots=2, latency=1) as server:
            began = clock()
            done = await asyncio.gather(*(embed(text) for text in "abcde"))
        order = [batch[0] for batch in server.batches]
        assert [dict(done)[text] for text in order] == [1, 1, 2, 2, 3]

    @pytest.mark.looptime
    async def test_closes_idle_connections(self) -> None:
        """A connection is closed after its idle time, and not while it is busy."""
        clock = asyncio.get_running_loop().time
        async with EmbeddingServer(idle_timeout=5, latency=60) as server, Peer(server) as peer:
            await peer.embed("a")
            began = clock()
            assert await peer.reader.read() == b""
            assert 5 <= clock() - began < 6


class TestScript:
    """A test decides what is answered."""

    async def test_queue_is_used_up_in_order(self) -> None:
        """Queued answers go to embedding requests alone, one each, then all is as before."""
        async with EmbeddingServer(errors_close=False) as server, Peer(server) as peer:
            server.answer(Answer.throttled(1.5), Answer.exceed_context(600, 512), Answer.redirect("/there"))
            assert (await peer.ask(b"GET /health HTTP/1.1\r\n\r\n"))[0] == 200
            throttled = await peer.ask(post(["a"]))
            assert (throttled[0], throttled[1]["retry-after"]) == (429, "1.5")
            exceeded = await peer.ask(post(["a"]))
            assert (exceeded[0], exceeded[2]["error"]["n_ctx"]) == (400, 512)
            redirected = await peer.ask(post(["a"]))
            assert (redirected[0], redirected[1]["location"]) == (307, "/there")
            assert (await peer.ask(post(["a"])))[0] == 200

    async def test_script_decides_by_request(self) -> None:
        """A script sees each request, and leaves alone what it does not answer."""

        def script(request: Request) -> Answer | None:
            return Answer.too_large(600, 512) if "poison" in request.texts else None

        async with EmbeddingServer(script=script, errors_close=False) as server, Peer(server) as peer:
            assert (await peer.ask(post(["a", "poison"])))[0] == 500
            assert (await peer.ask(post(["a"])))[0] == 200

    async def test_what_a_script_raises_is_not_lost(self) -> None:
        """An error in a test's own script cuts the connection and is raised at the end."""

        def script(request: Request) -> Answer | None:
            raise AssertionError(request.path)

        server = EmbeddingServer(script=script)
        await server.astart()
        async with Peer(server) as peer:
            assert await peer.rest(post(["a"])) == b""
        with pytest.raises(AssertionError, match="/v1/embeddings"):
            await server.astop()

    async def test_loads_its_model(self) -> None:
        """While it is loading, every path is refused, before the key is looked at."""
        async with (
            EmbeddingServer(loading=True, api_key="k", errors_close=False) as server,
            Peer(server) as peer,
        ):
            status, _, reply = await peer.ask(b"GET /health HTTP/1.1\r\n\r\n")
            assert (status, reply["error"]["message"]) == (503, "Loading model")
            server.loading = False
            assert (await peer.ask(b"GET /health HTTP/1.1\r\n\r\n"))[0] == 200

    async def test_makes_right_replies_wrong(self) -> None:
        """The right reply can be changed as a whole, by item and by vector."""
        async with EmbeddingServer(dimensions=2) as server, Peer(server) as peer:
            server.answer(
                Answer.mutate(lambda reply: {**reply, "usage": None}),
                Answer.items(lambda data: data[::-1]),
                Answer.vectors(lambda rows: [[math.nan, 1.0], *rows[1:]]),
                Answer(body=b"<html>", headers={"Content-Type": "text/html", "Content-Length": "0"}),
            )
            assert (await peer.embed("a", "b"))["usage"] is None
            assert [item["index"] for item in (await peer.embed("a", "b"))["data"]] == [1, 0]
            assert (await peer.embed("a", "b"))["data"][0]["embedding"] == [None, 1.0]
            assert (await peer.ask(post(["a"])))[1]["content-type"] == "text/html"

    async def test_an_answer_can_wait_for_a_gate(self) -> None:
        """One request is held while another passes."""
        gate = Gate()
        async with EmbeddingServer() as server, Peer(server) as slow, Peer(server) as quick:
            server.answer(Answer.hold(gate))
            held = asyncio.create_task(slow.embed("a"))
            await server.wait_for(lambda: server.in_flight == 1)
            await quick.embed("b")
            assert not held.done()
            gate.open()
            assert (await held)["data"]


class TestWire:
    """A test decides what happens to the bytes."""

    @pytest.mark.parametrize(
        ("answer", "sent"),
        [
            (Answer.hang_up(), b""),
            (Answer(raw=b"SSH-2.0\r\n"), b"SSH-2.0\r\n"),
            (Answer(body=b"12345", framing="close"), b"12345"),
            (Answer(body=b"12345", framing="close", cut=3), b"123"),
            (Answer(body=b"12345", cut=3), b"123"),
            (Answer(body=b"12345", cut=0), b""),
            (Answer(body=b"12345", framing="chunked", then="close"), b"5\r\n12345\r\n0\r\n\r\n"),
            (Answer(body=b"12345", framing="chunked", cut=3), b"5\r\n123"),
        ],
    )
    async def test_sends_these_bytes_and_closes(self, answer: Answer, sent: bytes) -> None:
        """Every byte is the test's to decide, and so is the end."""
        async with EmbeddingServer() as server, Peer(server) as peer:
            server.answer(answer)
            received = await peer.rest(post(["a"]))
        assert received.split(END, 1)[-1] == sent
        assert (b"Content-Length: 5" in received) == (answer.framing == "length" and answer.raw is None)

    @pytest.mark.parametrize("answer", [Answer.reset(), Answer(cut=3, then="reset")])
    async def test_resets(self, answer: Answer) -> None:
        """A reset is a reset, not a polite end."""
        async with EmbeddingServer() as server, Peer(server) as peer:
            server.answer(answer)
            with pytest.raises(ConnectionResetError):
                await peer.rest(post(["a"]))

    @pytest.mark.looptime
    async def test_drips(self) -> None:
        """A body can come byte by byte, each after a while."""
        clock = asyncio.get_running_loop().time
        async with EmbeddingServer() as server, Peer(server) as peer:
            server.answer(Answer(body=b"12345", drip=1), Answer(body=b"12345", drip=1, piece=2))
            for seconds in (5, 3):
                began = clock()
                await peer.ask(post(["a"]))
                assert seconds <= clock() - began < seconds + 1

    async def test_hangs_in_the_middle(self) -> None:
        """After a cut the connection can stay, silent, until the server stops."""
        async with EmbeddingServer() as server, Peer(server) as peer:
            server.answer(Answer(body=b"12345", cut=3, then="hang"))
            peer.writer.write(post(["a"]))
            await peer.reader.readuntil(b"123")
            assert server.in_flight == 1
            await server.astop()
            assert await peer.reader.read() == b""
        assert server.aborted == []

    @pytest.mark.parametrize("silent", [True, False])
    async def test_closes_after_so_many_requests(self, silent: bool) -> None:
        """A connection ends after its last request, announced or not."""
        async with EmbeddingServer(close_after=2, silent_close=silent) as server, Peer(server) as peer:
            assert "connection" not in (await peer.ask(post(["a"])))[1]
            assert ("connection" in (await peer.ask(post(["a"])))[1]) != silent
            assert await peer.reader.read() == b""

    async def test_tells_a_client_that_does_not_speak_http(self) -> None:
        """Garbage and bodies without a length are a 400 and the end."""
        async with EmbeddingServer() as server:
            for garbage in (b"garbage", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked"):
                async with Peer(server) as peer:
                    assert (await peer.rest(garbage + END)).startswith(b"HTTP/1.1 400 ")
            assert server.requests == []

    async def test_reads_requests_in_any_pieces(self) -> None:
        """Requests may come byte by byte, or several at once."""
        async with EmbeddingServer() as server, Peer(server) as peer:
            for byte in post(["a"]):
                peer.writer.write(bytes([byte]))
                await peer.writer.drain()
            peer.writer.write(post(["b"]))
            await peer.ask(post(["c"]))
            await server.wait_for(lambda: server.batches == [["a"], ["b"], ["c"]])

    def test_serves_http_client_over_one_connection(self, server: EmbeddingServer) -> None:
        """A client of the standard library keeps its connection."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for _ in range(3):
            connection.request("POST", "/v1/embeddings", json.dumps({"input": ["a"]}))
            assert is_vector_of(json.load(connection.getresponse())["data"][0]["embedding"], "a")
        connection.close()
        assert server.connections == 1


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
