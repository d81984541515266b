"""The same faults, seen through what stands in front of a server: restarts, slow batches, crashes, proxies, schemes."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from embedwire import (
    BadReply,
    ConnectionFailed,
    EmbeddingClient,
    RequestError,
    ServerRefused,
    ServerUnavailable,
    SharedEmbeddingClient,
    Timeouts,
)
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import numbered, right, simulated
from tests.server.names import Names, Resolver
from tests.server.raw import RawServer, reply, right_reply
from tests.server.test_strangers import Peer, says, silent
from tests.server.world import Door, World, by_client, by_langchain, every_door

PLAIN: dict[str, Any] = {"model": "m", "encoding": "float"}
NGINX = {"Server": "nginx/1.24.0"}
TEXTS = numbered(60)


def page(status: int) -> Answer:
    """What nginx answers in its server's place."""
    words = f"<html><head><title>{status} Bad Gateway</title></head><body><h1>{status}</h1></body></html>"
    return Answer(status=status, body=words.encode(), headers={**NGINX, "Content-Type": "text/html"})


class Gateway:
    """In front of the server of a world: says what it says while the server is gone, and hides its name.

    Args:
        world: Whose server.
        status: What it answers meanwhile.
        health: What ``/health`` does: "goes" with the server, "missing" always, or "up" always.
        seconds: How long the server is gone, after its first four requests, which were sent together.
    """

    def __init__(self, world: World, status: int, *, health: str = "goes", seconds: float) -> None:
        self._world, self._status, self._health, self._seconds = world, status, health, seconds
        self.gone: float | None = None
        self.failed = self._answered = 0
        world.server.script = self

    def __call__(self, request: Request) -> Answer:
        """Its answer to a request."""
        if request.path == "/health" and self._health == "missing":
            return page(404)
        if request.path == "/health" and self._health == "up":
            return Answer(status=200, body=b"ok", headers=NGINX)
        now = self._world.time()
        if self.gone is None and self._answered == 4:
            self.gone = now
        if self.gone is not None and now - self.gone < self._seconds:
            self.failed += request.embeds
            return page(self._status)
        self._answered += request.embeds
        return Answer(headers=NGINX)


class TestRestarts:
    """A server that restarts behind a gateway is waited for like one that refuses connections."""

    @every_door
    @pytest.mark.parametrize("health", ["goes", "missing", "up"])
    @pytest.mark.parametrize("seconds", [5, 40])
    @pytest.mark.parametrize("status", [502, 503, 504, 521, 530])
    def test_is_waited_for(self, status: int, seconds: float, health: str, door: Door, world: World) -> None:
        """Whatever the gateway says meanwhile, and whatever it says of /health: all get their vectors."""
        if health == "up":
            seconds = min(seconds, 20)  # then it cannot be told from a server that fails at its texts
        gateway = Gateway(world, status, health=health, seconds=seconds)
        assert right(door(world, world.server.url, TEXTS, **PLAIN), TEXTS)
        assert gateway.failed <= (10 if health == "goes" else 80)
        assert world.ended <= seconds + 30

    @every_door
    @pytest.mark.parametrize("health", ["goes", "missing"])
    @pytest.mark.parametrize("status", [502, 503])
    def test_patience_is_a_number(self, status: int, health: str, door: Door, world: World) -> None:
        """`Timeouts(restart=…)` says how long, the message names it, and a larger one helps."""
        Gateway(world, status, health=health, seconds=25)
        with pytest.raises(ServerUnavailable) as caught:
            door(world, world.server.url, TEXTS, timeout=Timeouts(restart=8), **PLAIN)
        assert "waited for 8 s (timeout=Timeouts(restart=…))" in str(caught.value)
        assert str(status) in str(caught.value)
        gateway = Gateway(world, status, health=health, seconds=25)
        world.server.requests.clear()
        assert right(door(world, world.server.url, TEXTS, timeout=Timeouts(restart=60), **PLAIN), TEXTS)
        assert gateway.gone is not None

    @every_door
    def test_patience_without_a_gateway(self, door: Door, world: World) -> None:
        """The same number holds where the connection is refused."""
        server = world.server

        stops: list[asyncio.Task[None]] = []

        async def stop() -> None:
            await server.astop()

        def kill(request: Request) -> Answer | None:
            if len(server.batches) > 4 and not stops:
                stops.append(world.thread.loop.create_task(stop()))
            return None

        server.script = kill
        with pytest.raises(ConnectionFailed, match=r"waited for 8 s \(timeout=Timeouts\(restart=…\)\)"):
            door(world, server.url, TEXTS, timeout=Timeouts(restart=8), **PLAIN)
        server.script = None
        world.do(server.astart())

    @every_door
    @pytest.mark.parametrize("status", [502, 503, 504])
    def test_a_gateway_whose_server_was_never_seen(self, status: int, door: Door, world: World) -> None:
        """Before anything was embedded, a server that is not there is told within a minute or two."""
        world.server.script = lambda request: page(status)
        with pytest.raises(ServerUnavailable, match=str(status)):
            door(world, world.server.url, TEXTS[:3], **PLAIN)
        assert len(world.server.batches) <= 8
        assert world.ended < 130


class TestSlowBatches:
    """What the gateway does not wait for is sent again in smaller parts."""

    @every_door
    @pytest.mark.parametrize("fresh", [True, False])
    @pytest.mark.parametrize("status", [504, 524, 408, 502])
    def test_are_halved(self, status: int, fresh: bool, door: Door, world: World) -> None:
        """A batch over eight texts never passes: all texts get their vectors, with few requests."""
        texts = numbered(64)
        if not fresh:
            door(world, world.server.url, ["one"], **PLAIN)
            world.server.requests.clear()
        world.server.script = lambda request: (
            page(status) if len(request.texts) > 8 else Answer(headers=NGINX)
        )
        rows = door(world, world.server.url, texts, batch_size=32, concurrency=2, **PLAIN)
        assert right(rows, texts)
        most = (
            24 if status != 408 else 34
        )  # a 408 may be of a connection that was idle: each is sent once more
        assert len(world.server.batches) <= most

    @every_door
    @pytest.mark.parametrize("status", [504, 502])
    def test_that_never_pass(self, status: int, door: Door, world: World) -> None:
        """Where no size passes, that is told in the end, with what to do."""
        door(world, world.server.url, ["one"], **PLAIN)
        world.server.script = lambda request: page(status) if request.embeds else Answer(headers=NGINX)
        with pytest.raises(ServerUnavailable, match=f"{status}.*gateway"):
            door(world, world.server.url, numbered(32), batch_size=32, concurrency=1, **PLAIN)
        assert len(world.server.batches) <= 30


class TestCrashes:
    """A text that brings the server down is named, also where a gateway speaks for it."""

    @every_door
    @pytest.mark.parametrize("at", [0, 30, 59])
    @pytest.mark.parametrize("status", [502, 503])
    def test_of_one_text(self, status: int, at: int, door: Door, world: World) -> None:
        """It is sent a few times only, and the others get their vectors."""
        down = [0.0]
        door(world, world.server.url, ["one"], **PLAIN)

        def crash(request: Request) -> Answer:
            if TEXTS[at] in request.texts:
                down[0] = world.time() + 2
            return page(status) if world.time() < down[0] else Answer(headers=NGINX)

        world.server.script = crash
        with pytest.raises(RequestError) as caught:
            door(world, world.server.url, TEXTS, batch_size=5, **PLAIN)
        assert caught.value.index == at
        assert list(caught.value.failures) == [at]
        assert sum(TEXTS[at] in batch for batch in world.server.batches) <= 8


class TestNames:
    """A name that cannot be looked up for a moment."""

    @simulated
    @pytest.mark.parametrize("fresh", [True, False])
    async def test_passes(
        self, fresh: bool, here: EmbeddingServer, names: Names, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """EAI_AGAIN is waited out, at the first request as well."""
        failures = 3

        class Flaky(Resolver):
            async def resolve(self, host: str, port: int = 0, family: Any = 0) -> Any:
                nonlocal failures
                failures -= 1
                if failures >= 0:
                    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
                return await super().resolve(host, port, family)

        monkeypatch.setattr(
            "embedwire._http.sessions.ThreadedResolver", lambda **_: Flaky(names.asked, lambda: True)
        )
        url = here.url.replace("127.0.0.1", "host.test")
        async with EmbeddingClient(url, **PLAIN) as client:
            if not fresh:
                failures = 0
                await client.embed(["one"])
                await here.astop()
                failures = 3
                await here.astart()
            assert right(await client.embed(TEXTS), TEXTS)


class TestKinds:
    """What the server is, is seen behind a gateway too."""

    @every_door
    @pytest.mark.parametrize("header", ["nginx/1.24.0", "Caddy", None])
    def test_slots_of_llama_cpp_are_obeyed(self, header: str | None, door: Door, world: World) -> None:
        """Its list of models tells who it is, so that it gets no more than its slots bear."""
        server = EmbeddingServer(server_header=header, slots=4, latency=0.05, script=lists("llamacpp"))
        world.do(server.astart())
        try:
            texts = numbered(3000)
            assert right(door(world, server.url, texts, **PLAIN), texts)
            assert server.peak_in_flight <= 8
        finally:
            world.do(server.astop())

    @pytest.mark.parametrize("door", [by_client, by_langchain])
    def test_other_servers_get_more(self, door: Door, world: World) -> None:
        """A server that bears more, and is no llama.cpp, gets more."""
        server = EmbeddingServer(server_header="uvicorn", latency=0.2, script=lists("vllm"))
        world.do(server.astart())
        try:
            texts = numbered(6000)
            assert right(door(world, server.url, texts, **PLAIN), texts)
            assert server.peak_in_flight > 8
        finally:
            world.do(server.astop())


def lists(owned_by: str) -> Callable[[Request], Answer | None]:
    """A server whose list of models says whose they are."""
    listed = Answer(body={"data": [{"id": "m", "owned_by": owned_by}]}, status=200)
    return lambda request: listed if request.path == "/v1/models" else None


def tunnel(answer: str) -> Callable[[Any], bytes]:
    """A proxy that answers everything with one status."""
    return lambda asked: reply(b"<html><title>Squid</title></html>", answer, "Content-Language: en\r\n")


class TestProxies:
    """Who failed is said: the proxy, or what it did not reach."""

    @simulated
    @pytest.mark.parametrize("url", ["http://host.test:8080", "https://host.test"])
    async def test_that_is_down(self, url: str) -> None:
        """Nobody listens there: that is the proxy's fault."""
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            async with EmbeddingClient(url, proxy=proxy, **PLAIN) as client:
                with pytest.raises(
                    ConnectionFailed, match=r"proxy.*after 3 requests.*Check proxy="
                ) as caught:
                    await client.embed(TEXTS[:3])
        assert "restart" not in str(caught.value)

    @simulated
    @pytest.mark.parametrize("url", ["http://host.test:8080", "https://host.test"])
    async def test_that_asks_for_a_password(self, url: str) -> None:
        """407: where to put it is said; and nothing of the server's key."""
        async with (
            RawServer(tunnel("407 Proxy Authentication Required")) as proxy,
            EmbeddingClient(url, proxy=proxy.url, **PLAIN) as client,
        ):
            with pytest.raises(ServerRefused, match=r"407.*after 1 request\b.*proxy='http://user:password@"):
                await client.embed(TEXTS[:3])

    @simulated
    async def test_the_cure_of_a_password(self, here: EmbeddingServer) -> None:
        """With user and password in the proxy's URL it works."""

        def guarded(asked: Any) -> bytes:
            known = asked.headers.get("proxy-authorization", "").startswith("Basic ")
            return right_reply(asked) if known else reply(b"", "407 Proxy Authentication Required")

        async with RawServer(guarded) as proxy:
            cured = proxy.url.replace("//", "//user:password@")
            async with EmbeddingClient("http://host.test", proxy=cured, **PLAIN) as client:
                assert right(await client.embed(TEXTS[:3]), TEXTS[:3])

    @simulated
    @pytest.mark.parametrize("status", ["403 Forbidden", "503 Service Unavailable", "502 Bad Gateway"])
    async def test_that_refuses_to_connect(self, status: str) -> None:
        """A CONNECT that is refused is the proxy's word; a 403 is final, a 503 may pass."""
        async with (
            RawServer(tunnel(status)) as proxy,
            EmbeddingClient("https://host.test", proxy=proxy.url, **PLAIN) as client,
        ):
            with pytest.raises(
                RequestError, match=rf"proxy did not connect to the server \({status[:3]}\)"
            ) as caught:
                await client.embed(TEXTS[:3])
        assert caught.value.attempts == (1 if status.startswith("403") else 3)
        assert "key" not in str(caught.value)

    @simulated
    @pytest.mark.parametrize("status", ["503 Service Unavailable", "502 Bad Gateway"])
    async def test_that_cannot_reach_the_server(self, status: str) -> None:
        """A proxy's page for a plain http server that is gone: its title, and "alive" is not the proxy."""
        async with RawServer(tunnel(status)) as proxy:
            async with EmbeddingClient("http://host.test", proxy=proxy.url, **PLAIN) as client:
                with pytest.raises(ServerUnavailable, match=r"Squid") as caught:
                    await client.embed(TEXTS[:3])
            assert len(proxy.asked) <= 8
        assert caught.value.status == int(status[:3])


@contextmanager
def http_server(folder: str) -> Iterator[str]:
    """``python -m http.server``, and its URL."""
    code = (
        "import http.server, sys; s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), "
        "http.server.SimpleHTTPRequestHandler); print(s.server_port, flush=True); s.serve_forever()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


class TestWrongPeers:
    """Another program, or another scheme."""

    def test_pythons_http_server(self, tmp_path: Any) -> None:
        """It is told to be no embedding server, with the URL to check; nothing of llama-server's flags."""
        with http_server(str(tmp_path)) as url:
            for options in (PLAIN, {}):
                with (
                    SharedEmbeddingClient(url, **options) as client,
                    pytest.raises((ServerRefused, BadReply), match=r"Check base_url") as caught,
                ):
                    client.embed(["a"])
                assert "--embeddings" not in str(caught.value)

    def test_https_to_a_plain_server(self, server: EmbeddingServer, tmp_path: Any) -> None:
        """It is said what to put into base_url, at once; and that works."""
        with http_server(str(tmp_path)) as other:
            for url in (server.url, other):
                with (
                    SharedEmbeddingClient(url.replace("http:", "https:"), **PLAIN) as client,
                    pytest.raises((ConnectionFailed, BadReply), match=r"http://") as caught,
                ):
                    client.embed(["a"])
                assert "base_url" in str(caught.value)
                assert "firewall" not in str(caught.value)
        with SharedEmbeddingClient(server.url, **PLAIN) as client:
            assert right(client.embed(["a"]), ["a"])

    @simulated
    @pytest.mark.parametrize("talk", ["silent", "400", "closes"])
    async def test_https_to_other_kinds(self, talk: str) -> None:
        """Who hangs, answers 400 or closes is suspected to speak plain http."""
        talks = {
            "silent": silent,
            "400": says(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", then="close"),
            "closes": says(b"", then="close"),
        }
        peer = Peer(talks[talk])
        async with peer.listening("https") as url, EmbeddingClient(url, **PLAIN) as client:
            with pytest.raises(ConnectionFailed, match=r"http:// into base_url") as caught:
                await client.embed(["a"])
        assert peer.calls <= 3
        assert "put http:// into base_url" in str(caught.value)
        assert peer.calls == (3 if talk == "closes" else 1)

    @pytest.mark.parametrize(
        "words",
        [
            "The plain HTTP request was sent to HTTPS port",
            "Client sent an HTTP request to an HTTPS server.",
            "You're speaking plain HTTP to an SSL-enabled server port.",
        ],
    )
    async def test_http_to_a_tls_port(self, words: str) -> None:
        """nginx, Go and Apache say so with a 400."""
        async with RawServer(lambda asked: reply(words.encode(), "400 Bad Request")) as server:
            async with EmbeddingClient(server.url, **PLAIN) as client:
                with pytest.raises(ServerRefused, match="Put https:// into base_url"):
                    await client.embed(["a"])
            assert len(server.asked) == 1
