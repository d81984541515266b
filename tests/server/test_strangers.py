"""Connections to the wrong peer: what is no embedding server is told apart, and asked once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from embedwire import BadReply, ConnectionFailed, RequestTimeout, RetryPolicy, Timeouts
from embedwire.testing._connection import RESET_ON_CLOSE
from tests.helpers import numbered, simulated
from tests.server.doors import client_of

TEXTS = numbered(60)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """Somebody who listens and is no server of ours, and how often they were called."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.calls = 0

    @asynccontextmanager
    async def listening(self, scheme: str = "http") -> AsyncIterator[str]:
        """Gives a URL, and listens until the end of the block, and until everybody has left."""
        talks: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.calls += 1
            talks.add(asyncio.current_task())  # type: ignore[arg-type]
            with contextlib.suppress(ConnectionError):  # the caller has left
                await self._talk(reader, writer)
            writer.transport.abort()

        listener = await asyncio.start_server(accept, "127.0.0.1", 0)
        yield f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        listener.close()
        await asyncio.gather(*talks)
        await listener.wait_closed()


def says(greeting: bytes, *, first: bool = False, then: str = "listen") -> Talk:
    """Somebody who says one thing, at once or when spoken to, and then listens, closes or resets."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not first:
            await reader.read(1)
        writer.write(greeting)
        await writer.drain()
        if then == "listen":
            await reader.read(-1)
        elif then == "reset":
            link: socket.socket = writer.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    return talk


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Somebody who repeats every byte."""
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Somebody who listens."""
    await reader.read(-1)


STRANGERS = {
    "SSH": says(b"SSH-2.0-OpenSSH_9.6\r\n", first=True),
    "SMTP": says(b"220 mail.example.org ESMTP ready\r\n", first=True),
    "MySQL": says(b"\x4a\x00\x00\x00\x0a8.0.36\x00", first=True),
    "Redis": says(b"-ERR unknown command 'POST'\r\n"),
    "HTTP/0.9": says(b"<html>It works!</html>", then="close"),
    "HTTP/2": says(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80"),
    "TLS": says(b"\x15\x03\x03\x00\x02\x02\x46", then="close"),
    "echo": echo,
}


class TestStrangers:
    """What is no embedding server is told apart, and asked once."""

    @pytest.mark.parametrize("talk", STRANGERS.values(), ids=STRANGERS)
    async def test_who_speak_no_http(self, talk: Talk) -> None:
        """A peer that speaks another protocol is a BadReply after one request, with what to check."""
        peer = Peer(talk)
        async with peer.listening() as url, client_of(url, batch_size=60) as client:
            with pytest.raises(
                BadReply, match=r"not HTTP.*after 1 request.*http against https, and the port"
            ):
                await client.embed(TEXTS)
        assert peer.calls == 1

    async def test_who_speak_at_random(self) -> None:
        """Whatever bytes come back, the end is an error of ours, and never a vector."""
        dice = random.Random(20261122)
        heads = (b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n")
        for number in range(80):
            peer = Peer(says(heads[number % 4] + dice.randbytes(dice.randint(1, 400)), then="close"))
            async with peer.listening() as url, client_of(url, max_retries=0) as client:
                with pytest.raises((BadReply, ConnectionFailed)):
                    await client.embed(TEXTS[:2])

    @simulated
    async def test_who_say_nothing(self) -> None:
        """A peer that says nothing is given up after two silences, the second for a part, and a pause between."""
        clock = asyncio.get_running_loop().time
        peer, seconds = Peer(silent), Timeouts(sock_read=7)
        async with (
            peer.listening() as url,
            client_of(url, batch_size=60, concurrency=1, timeout=seconds) as client,
        ):
            began = clock()
            with pytest.raises(RequestTimeout, match=r"silence.*after 2 requests.*timeout="):
                await client.embed(TEXTS)
        assert clock() - began == pytest.approx(21, abs=0.5)  # it may go on with the whole for as long again
        assert peer.calls == 2

    @pytest.mark.parametrize(
        "talk",
        [
            says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", then="close"),
            says(b"SSH-2.0-OpenSSH_9.6\r\n", first=True),
            says(b"\x15\x03\x03\x00\x02\x02\x28", then="close"),
            echo,
        ],
        ids=["HTTP", "SSH", "an alert", "echo"],
    )
    async def test_who_speak_no_tls(self, talk: Talk) -> None:
        """A peer that answers a TLS handshake with anything else gets no second one, and no byte of a request."""
        peer = Peer(talk)
        async with peer.listening("https") as url, client_of(url, batch_size=60) as client:
            with pytest.raises(ConnectionFailed, match=r"TLS.*after 1 request.*http against https"):
                await client.embed(TEXTS)
        assert peer.calls == 1

    @pytest.mark.parametrize("then", ["close", "reset"])
    @pytest.mark.parametrize("said", [b"", b"\x16\x03\x03\x00\x7a\x02\x00"], ids=["nothing", "half a hello"])
    async def test_who_leave_in_the_handshake(self, said: bytes, then: str) -> None:
        """A handshake that is cut is tried as often as any connection, and then told; no byte of a request went out."""
        peer, policy = Peer(says(said, then=then)), RetryPolicy(base=0)
        async with (
            peer.listening("https") as url,
            client_of(url, batch_size=60, max_retries=policy) as client,
        ):
            with pytest.raises(ConnectionFailed, match="after 3 requests"):
                await client.embed(TEXTS)
        assert peer.calls == 3
