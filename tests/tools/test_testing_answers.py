"""The test server: a test decides when it answers, what, and in which bytes; seen through the standard library only."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
from collections.abc import Iterator

import pytest

from embedwire.testing import Answer, EmbeddingServer, Gate, Request, is_vector_of
from tests.helpers import simulated
from tests.tools.peers import END, Peer, post


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


class TestTime:
    """Work takes the time it was told to take."""

    @simulated
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

    @simulated
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

    @simulated
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

    @simulated
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
