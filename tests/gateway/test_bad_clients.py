"""`embedwire gateway`: clients that hang up, stall, send garbage or never read harm nobody but themselves."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from embedwire.gateway import Limits, command
from embedwire.testing import EmbeddingServer
from tests.gateway.serving import FEW, SECRET, Client, Start
from tests.helpers import numbered, right


@asynccontextmanager
async def connected(
    gateway: Client, *, receive: int | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of one's own; `receive`: with so small a buffer for what comes."""
    ours = socket.socket()
    if receive is not None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    ours.connect(("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=ours, limit=2**12)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def post(body: bytes, length: int | None = None) -> bytes:
    """A request for vectors, which may promise another length."""
    length = len(body) if length is None else length
    return b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (length, body)


def asking_for(texts: list[str]) -> bytes:
    """A request for the vectors of some texts."""
    return post(json.dumps({"input": texts}).encode())


class TestHangingUp:
    """A client that is gone has its texts dropped."""

    async def test_drops_what_waits(self, start: Start, server: EmbeddingServer) -> None:
        """Of a client that hung up nothing more is sent, what is on the wire is cut, and it is counted."""
        gateway = await start(server.url)
        with server.hold():
            async with connected(gateway) as (_, writer):
                writer.write(asking_for(numbered(1000)))
                await server.wait_for(lambda: server.in_flight > 0)
            await server.wait_for(lambda: server.in_flight == 0)
            metrics = await gateway.metrics()
            assert (metrics["queued_texts"], metrics["in_flight"]) == (0, 0)
            assert (
                metrics['requests_total{status="499"}'] == metrics['failures_total{kind="client_left"}'] == 1
            )
        sent = sum(map(len, server.batches))
        assert sent < 100
        assert right(await gateway.vectors("a"), ["a"])
        assert sum(map(len, server.batches)) == sent + 1

    async def test_in_the_middle_of_a_body(self, start: Start, server: EmbeddingServer) -> None:
        """Half a request, of which the rest never comes, ends with its connection and asks for nothing."""
        gateway = await start(server.url)
        async with connected(gateway) as (_, writer):
            writer.write(post(b'{"input": ["' + SECRET.encode(), 1000))
            await gateway.until(lambda told: told["in_flight"] == 1)
        await gateway.until(lambda told: told["in_flight"] == 0)
        assert server.batches == []


class TestStalling:
    """A client that keeps the gateway waiting is let go."""

    async def test_with_its_body(self, start: Start, caplog: pytest.LogCaptureFixture) -> None:
        """A body that drips in takes no longer than it may, whoever else is served meanwhile."""
        async with EmbeddingServer() as server:
            gateway = await start(server.url, limits=replace(FEW, stall=0.5))
            async with connected(gateway) as (reader, writer):
                writer.write(post(b'{"input": ["', 1000))

                async def drip() -> None:
                    while True:
                        writer.write(SECRET.encode())
                        await asyncio.sleep(0.05)

                dripping = asyncio.create_task(drip())
                assert right(await gateway.vectors("a"), ["a"])
                assert await reader.read() == b""
                dripping.cancel()
        assert "a body did not arrive within 0.5 s" in caplog.text
        assert SECRET not in caplog.text

    async def test_with_its_head(
        self, start: Start, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A head that drips in, or a connection on which nothing comes, is cut after a while."""
        monkeypatch.setattr(command, "KEEP_ALIVE", 0.5)
        gateway = await start(server.url)
        async with connected(gateway) as (silent, _), connected(gateway) as (reader, writer):

            async def drip() -> None:
                writer.write(b"POST /v1/embeddings HTTP/1.1\r\n")
                while True:
                    writer.write(b"X-A: b\r\n")
                    await asyncio.sleep(0.05)

            dripping = asyncio.create_task(drip())
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            assert await silent.read() == b""
            dripping.cancel()
        assert right(await gateway.vectors("a"), ["a"])

    async def test_without_reading(self, start: Start, caplog: pytest.LogCaptureFixture) -> None:
        """A client that never reads holds one piece of its reply, blocks nobody, and is cut off after a while."""
        async with EmbeddingServer(dimensions=4096) as server:
            gateway = await start(server.url, limits=replace(FEW, stall=1.0))
            async with connected(gateway, receive=2**12) as (_, writer):
                writer.write(asking_for(numbered(500)))  # 25 MB of reply
                while "requests_total" not in str(await gateway.metrics()):
                    await asyncio.gather(*(gateway.vectors(f"query {n}") for n in range(4)))
                await gateway.until(lambda told: 'failures_total{kind="client_left"}' in told)
                assert (await gateway.metrics())["in_flight"] == 0
        assert "a reply was not taken within 1 s" in caplog.text


class TestGarbage:
    """What is no request is no harm."""

    @pytest.mark.parametrize(
        "sent",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET\r\n\r\n",
            b"\0" * 1000,
            SECRET.encode() + b"\r\n\r\n",
            b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        ],
        ids=["tls", "short", "zeros", "text", "length", "chunks", "header", "path"],
    )
    async def test_is_a_400(
        self, start: Start, server: EmbeddingServer, sent: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Bytes that are no HTTP get a 400 and an end, and leave no text in the log."""
        gateway = await start(server.url)
        async with connected(gateway) as (reader, writer):
            writer.write(sent)
            writer.write_eof()
            with suppress(ConnectionResetError):
                assert (await reader.read()).startswith((b"HTTP/1.1 400", b"HTTP/1.0 400", b""))
        assert SECRET not in caplog.text
        assert "Traceback" not in caplog.text
        assert right(await gateway.vectors("a"), ["a"])
        assert server.batches == [["a"]]

    @pytest.mark.slow
    async def test_large_requests_are_served(self, start: Start) -> None:
        """10 MB and 100,000 texts in one request are answered, with queries of others in between."""
        async with EmbeddingServer(server_header="fast") as server:
            gateway = await start(server.url, limits=Limits())
            texts = [f"{number} " + "a" * 100 for number in range(100_000)]
            large = asyncio.create_task(gateway.vectors(texts, encoding_format="base64"))
            asked = 0
            while not large.done():
                assert right(await gateway.vectors(f"query {asked}"), [f"query {asked}"])
                asked += 1
                await asyncio.wait({large}, timeout=0.2)
            vectors = await large
        assert vectors.shape == (100_000, 8)
        some = [0, 1, 50_000, 99_999]
        assert right(vectors[some], [texts[one] for one in some])
        assert asked > 5
