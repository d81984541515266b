"""`embedwire gateway`: the process, its start, its stop, and honest mistakes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from typing import Any

import aiohttp
import pytest

from embedwire.testing import EmbeddingServer
from tests.gateway.serving import SECRET, Client, process, rows
from tests.helpers import needs_signals, numbered, right


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDWIRE_")}
    return subprocess.run(
        [sys.executable, "-m", "embedwire", "gateway", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environ | {"NO_COLOR": "1", "COLUMNS": "200"} | environment,
        timeout=60,
        check=False,
    )


def rest(gateway: subprocess.Popen[str]) -> str:
    """What a process that has ended said since it was ready."""
    assert gateway.stderr
    return gateway.stderr.read()


class TestStart:
    """The first lines say what to do next."""

    async def test_says_where_it_is(self, server: EmbeddingServer) -> None:
        """It names its servers, its address, what tools need, and when a server is ready, and no key."""
        server.loading = True
        with process(server.url, "--api-key", "one-key", "--server-key", "other-key") as (gateway, url):
            assert gateway.stderr
            line = await asyncio.to_thread(gateway.stderr.readline)
            assert line == f"{server.url}/v1 is not ready yet: the server is still loading its model (503).\n"
            server.loading = False
            line = await asyncio.to_thread(gateway.stderr.readline)
            assert line == f"{server.url}/v1 is ready.\n"
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)

    async def test_takes_everything_from_the_environment(self) -> None:
        """EMBEDWIRE_BASE_URL, EMBEDWIRE_API_KEY and EMBEDWIRE_GATEWAY_API_KEY set it up."""
        async with EmbeddingServer(api_key="servers") as server, aiohttp.ClientSession() as session:
            environment = {
                "EMBEDWIRE_BASE_URL": server.url,
                "EMBEDWIRE_API_KEY": "servers",
                "EMBEDWIRE_GATEWAY_API_KEY": "one, two",
            }
            with process(**environment) as (_, url):
                for key, status in (("one", 200), ("two", 200), ("servers", 401)):
                    headers = {"Authorization": f"Bearer {key}"}
                    asked = session.post(f"{url}/v1/embeddings", json={"input": "a"}, headers=headers)
                    async with asked as response:
                        assert response.status == status

    def test_an_open_door_is_pointed_out(self, server: EmbeddingServer) -> None:
        """Listening on the network without a key brings a warning, and an address that works is shown."""
        with process(server.url, "--host", "0.0.0.0") as (gateway, url):
            assert url.startswith("http://127.0.0.1:")
        with process(server.url, "--host", "0.0.0.0", "--api-key", "key") as (gateway, _):
            pass
        del gateway


class TestMistakes:
    """An honest mistake is one sentence."""

    def test_a_port_in_use(self) -> None:
        """A port in use ends the command with exit code 1 and one sentence."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            result = python("http://127.0.0.1:1", "--port", str(port))
        assert result.returncode == 1
        assert result.stderr == f"Port {port} is in use: choose another one with --port.\n"

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (
                ["localhost:8080"],
                "The URL must start with http:// or https:// and name a host; pass for example",
            ),
            (["http://a", "http://A/"], "The URL has the server http://a/v1 twice; name each one once"),
            (["http://user:pass@a", "--server-key", "k"], "The URL has a user and a password"),
            (["http://a", "--host", "192.0.2.1"], "Cannot listen on 192.0.2.1, port 8089: "),
        ],
    )
    def test_a_wrong_argument(self, arguments: list[str], sentence: str) -> None:
        """What cannot be ends the command with exit code 1 and one sentence that says how it should be."""
        result = python(*arguments)
        assert result.returncode == 1
        assert result.stderr.startswith(sentence)
        assert result.stderr.count("\n") == 1
        assert "pass@" not in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "environment", "sentence"),
        [
            ([], {}, "name the embedding server, for example http://localhost:8080"),
            ([""], {}, "name the embedding server"),
            (["http://a", "--host", ""], {}, "it is empty, which would let the network in"),
            (["http://a", "--api-key", ""], {}, "a key is empty, which protects nothing"),
            (["http://a"], {"EMBEDWIRE_GATEWAY_API_KEY": ""}, "a key is empty, which protects nothing"),
            (["http://a"], {"EMBEDWIRE_GATEWAY_API_KEY": "a,"}, "a key is empty, which protects nothing"),
            (["http://a", "--server-key", ""], {}, "it is empty; leave it out"),
        ],
    )
    def test_what_is_missing(self, arguments: list[str], environment: dict[str, str], sentence: str) -> None:
        """No URL, or something empty, an unset shell variable perhaps, never means an open or a useless gateway."""
        result = python(*arguments, **environment)
        assert result.returncode == 2
        assert sentence in " ".join(result.stderr.replace("│", " ").split())


@needs_signals
class TestStop:
    """It ends as it is told."""

    @pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
    async def test_finishes_what_is_under_way(self, server: EmbeddingServer, stop: signal.Signals) -> None:
        """A signal ends it with exit code 0, after what is under way; /health says 503 and nobody new comes in."""
        async with aiohttp.ClientSession() as session:
            with process(server.url) as (gateway, url), server.hold() as gate:
                client = Client(url, session)
                kept = await self._kept_connection(client)
                under_way = asyncio.create_task(client.vectors(numbered(50)))
                await server.wait_for(lambda: server.in_flight > 0)
                gateway.send_signal(stop)
                assert await self._refuses_connections(client)
                for path, body in (("/health", None), ("/v1/embeddings", {"input": SECRET})):
                    status, error = await self._ask(kept, path, body)
                    assert (status, error["error"]["code"]) == (503, "not_ready")
                kept[1].close()
                gate.open()
                assert right(await under_way, numbered(50))
                assert await asyncio.to_thread(gateway.wait, 20) == 0
                assert "Finishing 1 request within 30 s" in rest(gateway)

    async def test_drops_what_takes_too_long(self, server: EmbeddingServer) -> None:
        """What is not finished within --grace is dropped, and the exit code is 0 all the same."""
        async with aiohttp.ClientSession() as session:
            with process(server.url, "--grace", "0.2") as (gateway, url), server.hold():
                under_way = asyncio.create_task(Client(url, session).vectors(numbered(50)))
                await server.wait_for(lambda: server.in_flight > 0)
                gateway.terminate()
                with pytest.raises(aiohttp.ClientError):
                    await under_way
                assert await asyncio.to_thread(gateway.wait, 20) == 0
                assert rest(gateway).endswith("Not finished: 1 request.\nStopped.\n")

    async def test_a_second_signal_ends_it_at_once(self, server: EmbeddingServer) -> None:
        """A second signal does not wait for anything; one that comes with the first is no second one."""
        async with aiohttp.ClientSession() as session:
            with process(server.url) as (gateway, url), server.hold():
                under_way = asyncio.create_task(Client(url, session).vectors(numbered(50)))
                await server.wait_for(lambda: server.in_flight > 0)
                gateway.terminate()
                gateway.send_signal(signal.SIGINT)
                await asyncio.sleep(0.6)
                assert gateway.poll() is None
                gateway.terminate()
                assert await asyncio.to_thread(gateway.wait, 10) == 1
                assert rest(gateway).endswith("Stopped at once.\n")
                with pytest.raises(aiohttp.ClientError):
                    await under_way

    async def _kept_connection(self, client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        kept = await asyncio.open_connection("127.0.0.1", client.port)
        assert (await self._ask(kept, "/health"))[0] == 200
        return kept

    async def _ask(
        self, kept: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str, body: Any = None
    ) -> tuple[int, Any]:
        reader, writer = kept
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}"
        writer.write(head.encode() + b"\r\n\r\n" + content)
        told = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", told)[1])  # type: ignore[index]
        return int(told.split()[1]), json.loads(await reader.readexactly(length))

    async def _refuses_connections(self, client: Client) -> bool:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            except ConnectionRefusedError:
                return True
            writer.close()
            await asyncio.sleep(0.01)


async def test_several_processes_share_nothing(server: EmbeddingServer) -> None:
    """Two gateways in front of one server serve the same vectors, and one is there when the other is gone."""
    async with aiohttp.ClientSession() as session:
        with process(server.url) as (one, first), process(server.url) as (_, second):
            replies = [await Client(url, session).embed(["a", "b"]) for url in (first, second)]
            assert all(right(rows(reply), ["a", "b"]) for reply in replies)
            one.kill()
            assert right(await Client(second, session).vectors("c"), ["c"])
