"""What happens to connections: real sockets and real TLS, to the wrong peer, broken at any byte, gone stale."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import json
import logging
import random
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from embedwire import (
    BadReply,
    ConnectionFailed,
    EmbeddingClient,
    RequestError,
    RequestTimeout,
    RetryPolicy,
    SharedEmbeddingClient,
    Timeouts,
)
from embedwire.testing import Answer, EmbeddingServer, is_vector_of, vector
from embedwire.testing._connection import RESET_ON_CLOSE

TEXTS = [f"text {number}" for number in range(60)]
KEY = "sk-never-to-be-seen"
PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
FUTURE = datetime.datetime(2200, 1, 1, tzinfo=datetime.timezone.utc)
ONCE_MORE = {"max_retries": RetryPolicy(attempts=2, base=0)}
simulated = pytest.mark.looptime


def right(rows: Any, texts: list[str]) -> bool:
    """Whether each text has its own vector."""
    return len(rows) == len(texts) and all(map(is_vector_of, rows, texts))


def client_of(url: str, **arguments: Any) -> EmbeddingClient:
    """A client with a key that asks for nothing but vectors."""
    return EmbeddingClient(url, **{"model": "m", "encoding": "float", "api_key": KEY, **arguments})


@pytest.fixture
async def server() -> AsyncIterator[EmbeddingServer]:
    """A server on the test's own loop, and on its clock."""
    async with EmbeddingServer() as server:
        yield server


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The one that is trusted."""
    return trustme.CA()


def certified(authority: trustme.CA, name: str = "127.0.0.1", **validity: Any) -> ssl.SSLContext:
    """What a server of that name needs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name, **validity).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a client of an authority needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and knows no other authority
    authority.configure_trust(context)
    return context


def as_file(authority: trustme.CA, folder: Path) -> str:
    """The path of the authority's certificate."""
    authority.cert_pem.write_to_path(folder / "authority.pem")
    return str(folder / "authority.pem")


class TestTls:
    """Texts and keys travel encrypted to the server that was named, or not at all."""

    @pytest.mark.parametrize("way", ["context", "path", "nothing verified"])
    async def test_connections_are_kept(self, way: str, authority: trustme.CA, tmp_path: Path) -> None:
        """With a context, the path of a CA file, or `ssl=False`, many requests travel on one connection."""
        trust: dict[str, Any] = {
            "context": trusting(authority),
            "path": as_file(authority, tmp_path),
            "nothing verified": False,
        }
        async with EmbeddingServer(ssl=certified(authority)) as server:
            async with client_of(server.url, ssl=trust[way], concurrency=1) as client:
                for _ in range(2):
                    assert right(await client.embed(TEXTS), TEXTS)
            assert server.connections == 1
            assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}

    async def test_certificates_of_clients(self, authority: trustme.CA) -> None:
        """A server that asks for a certificate gets the one of the context."""
        asking = certified(authority)
        asking.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(asking)
        context = trusting(authority)
        authority.issue_cert("client@example.org").configure_cert(context)
        async with EmbeddingServer(ssl=asking) as server, client_of(server.url, ssl=context) as client:
            assert right(await client.embed(TEXTS), TEXTS)

    def test_every_door(self, authority: trustme.CA, tmp_path: Path) -> None:
        """The shared client takes the path of a CA file too, over several loops, and shares the connection."""
        path = as_file(authority, tmp_path)
        with EmbeddingServer(ssl=certified(authority)) as server:
            with SharedEmbeddingClient(server.url, model="m", ssl=path, concurrency=1) as client:
                for _ in range(2):
                    assert right(asyncio.run(client.aembed(TEXTS)), TEXTS)
                    assert right(client.embed(TEXTS), TEXTS)
            server.wait(lambda: server.open_connections == 0)
        assert server.connections == 1

    def test_a_loop_that_is_over(self, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client left open when its loop ended lets go of its encrypted connections, without a warning."""
        monkeypatch.setattr("embedwire._transport.KEEP_ALIVE", 3600)
        with EmbeddingServer(ssl=certified(authority)) as server:
            client = client_of(server.url, ssl=trusting(authority))
            for _ in range(2):
                assert right(asyncio.run(client.embed(TEXTS)), TEXTS)
            del client
            gc.collect()
            server.wait(lambda: server.open_connections == 0)

    @pytest.mark.parametrize(
        ("certificate", "trusted", "reason"),
        [
            ({}, "nobody", "pass ssl='path of its CA file'"),
            ({}, "another", "pass ssl='path of its CA file'"),
            ({"name": "elsewhere.test"}, "the right one", "TLS handshake failed.*not valid for"),
            ({"name": "10.0.0.1"}, "the right one", "TLS handshake failed.*not valid for"),
            ({"not_after": PAST}, "the right one", "TLS handshake failed.*expired"),
            (
                {"not_before": FUTURE, "not_after": FUTURE},
                "the right one",
                "TLS handshake failed.*not yet valid",
            ),
        ],
        ids=[
            "unknown authority",
            "other authority",
            "other name",
            "other address",
            "expired",
            "not yet valid",
        ],
    )
    async def test_a_wrong_certificate(
        self, certificate: dict[str, Any], trusted: str, reason: str, authority: trustme.CA
    ) -> None:
        """A server that is not who it should be gets one handshake and no byte of a request; the error says why."""
        trust = {"nobody": None, "another": trusting(trustme.CA()), "the right one": trusting(authority)}
        async with (
            EmbeddingServer(ssl=certified(authority, **certificate)) as server,
            client_of(server.url, ssl=trust[trusted], batch_size=60) as client,
        ):
            with pytest.raises(ConnectionFailed, match=reason) as failed:
                await client.embed(TEXTS)
        assert failed.value.attempts == 1
        assert server.requests == []
        assert KEY not in str(failed.value)

    async def test_another_name_for_the_right_address(self, authority: trustme.CA) -> None:
        """A certificate of an address is none of a name that leads there; one of the name is."""
        for name in ("127.0.0.1", "localhost"):
            async with EmbeddingServer(ssl=certified(authority, name)) as server:
                url = f"https://localhost:{server.port}"
                async with client_of(url, ssl=trusting(authority)) as client:
                    if name == "localhost":
                        assert right(await client.embed(TEXTS), TEXTS)
                    else:
                        with pytest.raises(ConnectionFailed, match="after 1 request"):
                            await client.embed(TEXTS)
                        assert server.requests == []

    async def test_an_authority_that_comes_to_be_trusted(self, authority: trustme.CA, tmp_path: Path) -> None:
        """A failed handshake spoils nothing: another client with the right authority works at once."""
        async with EmbeddingServer(ssl=certified(authority)) as server, client_of(server.url) as distrusting:
            with pytest.raises(ConnectionFailed):
                await distrusting.embed(TEXTS)
            async with client_of(server.url, ssl=as_file(authority, tmp_path)) as client:
                assert right(await client.embed(TEXTS), TEXTS)
            with pytest.raises(ConnectionFailed):
                await distrusting.embed(TEXTS)

    async def test_http_to_an_https_server(self, authority: trustme.CA) -> None:
        """A client that speaks http to a server that wants TLS gives up soon, and says what to check."""
        async with EmbeddingServer(ssl=certified(authority)) as server:
            url = server.url.replace("https:", "http:")
            async with client_of(url, max_retries=RetryPolicy(base=0)) as client:
                with pytest.raises(RequestError, match="http against https") as failed:
                    await client.embed(TEXTS[:1])
        assert isinstance(failed.value, (ConnectionFailed, BadReply))
        assert failed.value.attempts <= 3
        assert server.requests == []


# The wrong peer


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
        """A peer that takes a request and says nothing is given up after two silences, the second for a part."""
        clock = asyncio.get_running_loop().time
        peer, seconds = Peer(silent), Timeouts(sock_read=7)
        async with (
            peer.listening() as url,
            client_of(url, batch_size=60, concurrency=1, timeout=seconds) as client,
        ):
            began = clock()
            with pytest.raises(RequestTimeout, match=r"silence.*after 2 requests.*timeout="):
                await client.embed(TEXTS)
        assert clock() - began == pytest.approx(14, abs=0.5)
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


# Names


class Resolver(AbstractResolver):
    """Knows this machine by every name while `known` says so, and notes what it is asked."""

    def __init__(self, asked: list[str], known: Callable[[], bool]) -> None:
        self._asked = asked
        self._known = known

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """Answer as DNS would."""
        self._asked.append(host)
        if not self._known():
            raise OSError(None, "Name or service not known")
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        """Have nothing to close."""


class Names:
    """DNS: whether names are known now, and what was asked."""

    def __init__(self) -> None:
        self.known = True
        self.asked: list[str] = []


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """DNS of this test; aiohttp's cache of it reads the loop's clock."""
    names = Names()
    monkeypatch.setattr(
        "aiohttp.connector.DefaultResolver", lambda **_: Resolver(names.asked, lambda: names.known)
    )
    monkeypatch.setattr("aiohttp.connector.monotonic", lambda: asyncio.get_running_loop().time())
    return names


class TestNames:
    """A name that nobody knows is a mistake; one that was known is a server that is being restarted."""

    async def test_unknown(self, names: Names) -> None:
        """A name that was never known is looked up once, and told to be checked."""
        names.known = False
        async with client_of("http://embedder.test:8080", batch_size=60) as client:
            with pytest.raises(ConnectionFailed, match=r"name.*after 1 request.*Check the host's name"):
                await client.embed(TEXTS)
        assert names.asked == ["embedder.test"]

    @simulated
    async def test_that_vanishes(self, names: Names) -> None:
        """A name that was known and vanishes, as a container's does, is waited for, and costs no attempt."""
        loop = asyncio.get_running_loop()
        async with (
            EmbeddingServer(close_after=1) as server,
            client_of(f"http://embedder.test:{server.port}", max_retries=0) as client,
        ):
            assert right(await client.embed(TEXTS[:5]), TEXTS[:5])
            names.known = False
            await asyncio.sleep(301)  # until the name is looked up again
            loop.call_later(6, setattr, names, "known", True)
            began = loop.time()
            assert right(await client.embed(TEXTS), TEXTS)
        assert 6 <= loop.time() - began < 9

    @simulated
    async def test_that_does_not_come_back(self, names: Names) -> None:
        """A name that stays away is given up after as long as a connect may take; the error says what to check."""
        loop = asyncio.get_running_loop()
        async with EmbeddingServer(close_after=1) as server:
            url = f"http://embedder.test:{server.port}"
            async with client_of(url, timeout=Timeouts(connect=20)) as client:
                assert right(await client.embed(TEXTS[:5]), TEXTS[:5])
                names.known = False
                await asyncio.sleep(301)  # until the name is looked up again
                began = loop.time()
                with pytest.raises(ConnectionFailed, match="Check the host's name"):
                    await client.embed(TEXTS)
        assert loop.time() - began == pytest.approx(20, abs=0.5)


# Broken off


def reply(texts: list[str], framing: str) -> bytes:
    """A right reply, byte by byte, that tells its end in one of HTTP's three ways."""
    rows = [{"index": index, "embedding": vector(text, 8)} for index, text in enumerate(texts)]
    body = json.dumps({"object": "list", "data": rows}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if framing == "chunked":
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:99], body[99:]))
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    return head + b"Connection: close\r\n\r\n" + body


def broken_replies(framing: str, step: int = 13) -> list[tuple[str, bytes]]:
    """Texts, and their replies up to every so-many-th byte, and all but the last ones."""
    texts = [f"text {number:02}" for number in range(99)]
    length = len(reply(texts[:1], framing)) - 9  # vectors differ a little in length
    ends = [*range(0, length, step), *range(-6, 0)]
    return [(text, reply([text], framing)[:end]) for text, end in zip(texts, ends, strict=False)]


class TestBrokenOff:
    """Wherever a reply breaks off, in the status line, a header, a chunk's length or a number, none of it is used."""

    @pytest.mark.parametrize("then", ["close", "reset"])
    @pytest.mark.parametrize("framing", ["length", "chunked", "close"])
    async def test_is_repeated(self, framing: str, then: Any, server: EmbeddingServer) -> None:
        """A reply that breaks off at any byte is asked for once more, and that one is the call's."""
        broken = broken_replies(framing)
        async with client_of(server.url, **ONCE_MORE) as client:
            for text, sent in broken:
                server.answer(Answer(raw=sent, then=then))
                assert is_vector_of(await client.embed_query(text), text)
        assert server.batches == [[text] for text, _ in broken for _ in "ab"]

    @pytest.mark.parametrize("then", ["close", "reset"])
    @pytest.mark.parametrize("framing", ["length", "chunked", "close"])
    async def test_is_an_error(self, framing: str, then: Any, server: EmbeddingServer) -> None:
        """A reply that breaks off at any byte, and is not to be repeated, is an error after one request."""
        for text, sent in broken_replies(framing):
            server.answer(Answer(raw=sent, then=then))
            async with client_of(server.url, max_retries=0) as client:
                with pytest.raises((ConnectionFailed, BadReply), match="after 1 request") as failed:
                    await client.embed([text])
            assert failed.value.completed is not None
            assert failed.value.completed.indexes == []

    @pytest.mark.parametrize("framing", ["length", "chunked", "close"])
    async def test_in_tls(self, framing: str, authority: trustme.CA) -> None:
        """An encrypted reply that is cut without a farewell, as an attacker could, is not taken for a whole one."""
        trust = trusting(authority)
        async with EmbeddingServer(ssl=certified(authority)) as server:
            for text, sent in broken_replies(framing, step=40):
                server.answer(Answer(raw=sent, then="reset"))
                async with client_of(server.url, ssl=trust, max_retries=0) as client:
                    with pytest.raises((ConnectionFailed, BadReply), match="after 1 request"):
                        await client.embed([text])


class TestClosing:
    """A server may close a connection when it likes."""

    @pytest.mark.parametrize("silently", [False, True], ids=["announced", "unsaid"])
    @pytest.mark.parametrize("every", [1, 2, 5])
    async def test_every_few_requests(
        self, every: int, silently: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A server that closes after every few requests, announced or not, costs no attempt and no vector."""
        async with (
            EmbeddingServer(close_after=every, silent_close=silently) as server,
            client_of(server.url, batch_size=1, concurrency=4, max_retries=0) as client,
        ):
            for round_ in "abc":
                texts = [f"{round_} {text}" for text in TEXTS]
                assert right(await client.embed(texts), texts)
        assert len(server.batches) == 3 * len(TEXTS)
        assert max(request.nth for request in server.requests) <= every
        assert "sending again" not in caplog.text

    async def test_all_at_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """Kept connections that all went stale while the loop was busy cost no attempt: each is replaced once."""
        caplog.set_level(logging.INFO, "embedwire")
        with EmbeddingServer() as server:
            async with client_of(server.url, batch_size=1, concurrency=8, max_retries=0) as client:
                with server.hold():
                    call = asyncio.ensure_future(client.embed(TEXTS))
                    await server.wait_for(lambda: server.in_flight == 8)
                await call
                for round_ in "abc":
                    texts = [f"{round_} {text}" for text in TEXTS]
                    before = server.connections
                    server.restart()  # on this loop's thread, so that the loop sees nothing of it
                    assert right(await client.embed(texts), texts)
                    assert server.connections > before
        assert "sending again" not in caplog.text
        assert "waiting" not in caplog.text


HALF_OPEN = """
    import asyncio, ctypes, fcntl, logging, socket, struct, sys

    NEW_USER, NEW_NET, GET_FLAGS, SET_FLAGS, UP = 0x10000000, 0x40000000, 0x8913, 0x8914, 1
    if ctypes.CDLL(None).unshare(NEW_USER | NEW_NET):
        sys.exit("not allowed")

    def network(up):
        with socket.socket() as any_socket:
            request = struct.pack("16sh14x", b"lo", 0)
            flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, GET_FLAGS, request))[1]
            flags = flags | UP if up else flags & ~UP
            fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", flags))

    try:
        network(up=True)
    except OSError:
        sys.exit("not allowed")
    from embedwire import EmbeddingClient, Timeouts, _transport
    from embedwire.testing import EmbeddingServer, is_vector_of

    def impatient(address, make=_transport._socket):
        made = make(address)
        if made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT):  # 30 s are long for a test
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300)
        return made

    _transport._socket = impatient

    def notice(record):
        if "waiting until it is ready" in record.msg:
            print("noticed", flush=True)
            network(up=True)
        return True

    logging.getLogger("embedwire").addFilter(notice)
    logging.getLogger("embedwire").setLevel(logging.INFO)

    async def main():
        timeout = Timeouts(total=None, connect=30, sock_read=None)
        async with EmbeddingServer() as server:
            client = EmbeddingClient(server.url, model="m", encoding="float", timeout=timeout, max_retries=0)
            async with client:
                assert is_vector_of(await client.embed_query("before"), "before")
                network(up=False)
                assert is_vector_of(await client.embed_query("after"), "after")

    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has namespaces")
def test_a_network_that_goes_away(tmp_path: Path) -> None:
    """A peer that is gone without a word is found out without any timeout, and waited for; no attempt is lost."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(HALF_OPEN))
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    if done.stderr == "not allowed\n":
        pytest.skip("no namespaces for us here")
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == "noticed\n"
