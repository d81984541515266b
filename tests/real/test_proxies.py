"""Through real proxies: restarts, slow batches, caps, kept connections, rates, a prefix, a password, TLS."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from embedwire import AuthenticationFailed, ConnectionFailed, EmbeddingClient, RateLimit
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import numbered, right
from tests.server.certificates import as_file
from tests.servers.proxies import haproxy, needs_haproxy, needs_nginx, nginx

TEXTS = numbered(100)
PLAIN: dict[str, Any] = {"model": "test-model", "encoding": "float"}
DOWN = 3.0  # seconds for which a server is gone


def slow(request: Request) -> Answer | None:
    """A tenth of a second for each text."""
    return Answer(delay=0.1 * len(request.texts)) if request.embeds else None


async def restarted(server: EmbeddingServer, client: EmbeddingClient) -> None:
    """Embeds through a restart of the server, with requests under way and without."""
    assert right(await client.embed(TEXTS[:20]), TEXTS[:20])
    server.script = lambda request: Answer(delay=0.2)
    call = asyncio.create_task(client.embed(TEXTS))
    await server.wait_for(lambda: server.in_flight > 0)
    await server.astop()
    late = asyncio.create_task(client.embed_query("meanwhile"))
    await asyncio.sleep(DOWN)
    server.script = None
    await server.astart()
    assert right(await call, TEXTS)
    assert right([await late], ["meanwhile"])


@needs_nginx
class TestNginx:
    """What nginx does to requests and replies."""

    @pytest.mark.slow
    async def test_a_restart_behind_it(self) -> None:
        """While the server behind it restarts (502), calls wait, and get their vectors then."""
        async with EmbeddingServer() as server:
            with nginx(server.port) as url:
                async with EmbeddingClient(url, **PLAIN) as client:
                    await restarted(server, client)

    async def test_a_batch_that_takes_too_long_for_it(self) -> None:
        """A batch slower than its ``proxy_read_timeout`` (504) is sent again in halves."""
        async with EmbeddingServer(script=slow) as server:
            with nginx(server.port, rules="proxy_read_timeout 1s;") as url:
                async with EmbeddingClient(url, batch_size=16, concurrency=1, **PLAIN) as client:
                    assert right(await client.embed(TEXTS[:16]), TEXTS[:16])
                    assert [len(batch) for batch in server.batches] == [16, 8, 8]

    async def test_a_body_over_its_cap(self) -> None:
        """Its ``client_max_body_size`` (413) is learnt, as characters, and later requests keep to it."""
        async with EmbeddingServer() as server:
            with nginx(server.port, rules="client_max_body_size 1k;") as url:
                async with EmbeddingClient(url, batch_size=32, concurrency=1, **PLAIN) as client:
                    texts = [f"{text} {'x' * 50}" for text in TEXTS]
                    assert right(await client.embed(texts), texts)
                    assert client.server_info().max_chars is not None
                    before = len(server.batches)
                    assert right(await client.embed([text + "!" for text in texts]), [t + "!" for t in texts])
                    assert len(server.batches) - before <= 16

    @pytest.mark.parametrize(
        "rules", ["keepalive_requests 3;", "keepalive_timeout 1s;", "keepalive_timeout 0;"]
    )
    async def test_connections_that_it_closes(self, rules: str) -> None:
        """Connections that end after a few requests, or after a moment, cost no repeat."""
        async with EmbeddingServer() as server:
            with nginx(server.port, rules=rules) as url:
                async with EmbeddingClient(url, batch_size=1, max_retries=0, **PLAIN) as client:
                    assert right(await client.embed(TEXTS), TEXTS)
                    for pause in (0.9, 1.0, 1.1):
                        await asyncio.sleep(pause)
                        assert right(await client.embed([f"after {pause}"]), [f"after {pause}"])

    @pytest.mark.slow
    @pytest.mark.parametrize("status", [429, 503])
    async def test_its_rate_limit(self, status: int) -> None:
        """One request a second without any burst: each text gets its vector, and with ``rate_limit=`` at once."""
        zone = "limit_req_zone $server_name zone=one:1m rate=60r/m;"
        rules = f"limit_req zone=one; limit_req_status {status};"
        async with EmbeddingServer() as server:
            with nginx(server.port, rules=rules, http=zone) as url:
                async with EmbeddingClient(url, **PLAIN) as client:
                    assert right(await client.embed(TEXTS[:30]), TEXTS[:30])
                await asyncio.sleep(1.1)
                limit = RateLimit(per_second=1)
                async with EmbeddingClient(url, rate_limit=limit, max_retries=0, **PLAIN) as client:
                    assert right(await client.embed(TEXTS[30:45]), TEXTS[30:45])

    @pytest.mark.parametrize("path", ["/v1", "/v1/embeddings"])
    async def test_a_prefix(self, path: str) -> None:
        """A server under a prefix is found there, by its version or by the whole URL."""
        async with EmbeddingServer() as server:
            with nginx(server.port, location="/models/emb/") as url:
                async with EmbeddingClient(url + path, **PLAIN) as client:
                    assert right(await client.embed(TEXTS), TEXTS)

    async def test_a_password(self, tmp_path: Path) -> None:
        """Its basic authorization is passed with user and password in the URL; without them the error says how."""
        passwords = tmp_path / "passwords"
        passwords.write_text("user:{PLAIN}secret-of-user\n")
        async with EmbeddingServer() as server:
            rules = f'auth_basic "here"; auth_basic_user_file {passwords};'
            with nginx(server.port, rules=rules) as url:
                async with EmbeddingClient(url, **PLAIN) as client:
                    with pytest.raises(AuthenticationFailed, match=r"(?i)basic"):
                        await client.embed_query("q")
                async with EmbeddingClient(url.replace("://", "://user:secret-of-user@"), **PLAIN) as client:
                    assert right([await client.embed_query("q")], ["q"])

    async def test_tls_of_an_own_authority(self, tmp_path: Path) -> None:
        """With the authority's file it is trusted; without, the error says what to pass."""
        authority = trustme.CA()
        certificate = tmp_path / "certificate.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        async with EmbeddingServer() as server:
            with nginx(server.port, certificate=certificate) as url:
                async with EmbeddingClient(url, ssl=as_file(authority, tmp_path), **PLAIN) as client:
                    assert right(await client.embed(TEXTS), TEXTS)
                async with EmbeddingClient(url, **PLAIN) as client:
                    with pytest.raises(ConnectionFailed, match="ssl="):
                        await client.embed_query("q")
                async with EmbeddingClient(url.replace("https", "http"), **PLAIN) as client:
                    with pytest.raises(Exception, match="Put https:// into base_url"):
                        await client.embed_query("q")


@needs_haproxy
class TestHAProxy:
    """What HAProxy does to requests and replies."""

    @pytest.mark.slow
    async def test_a_restart_behind_it(self) -> None:
        """While the server behind it restarts (503), calls wait, and get their vectors then."""
        async with EmbeddingServer() as server:
            with haproxy(server.port) as url:
                async with EmbeddingClient(url, **PLAIN) as client:
                    await restarted(server, client)

    async def test_a_kept_connection_that_it_gives_up(self) -> None:
        """What it sends on an idle connection before it closes it (408) is nobody's answer, and costs no repeat."""
        async with EmbeddingServer() as server:
            with haproxy(server.port, defaults="timeout http-keep-alive 300ms") as url:
                async with EmbeddingClient(url, max_retries=0, **PLAIN) as client:
                    for pause in (0.1, 0.25, 0.29, 0.3, 0.31, 0.35, 0.5):
                        assert right(await client.embed([f"{pause}"]), [f"{pause}"])
                        await asyncio.sleep(pause)

    async def test_a_batch_that_takes_too_long_for_it(self) -> None:
        """A batch slower than its ``timeout server`` (504) is sent again in halves."""
        async with EmbeddingServer(script=slow) as server:
            with haproxy(server.port, defaults="timeout server 1s") as url:
                async with EmbeddingClient(url, batch_size=16, concurrency=1, **PLAIN) as client:
                    assert right(await client.embed(TEXTS[:16]), TEXTS[:16])
                    assert [len(batch) for batch in server.batches] == [16, 8, 8]

    async def test_its_queue(self, caplog: pytest.LogCaptureFixture) -> None:
        """Where it lets one request through at a time, the others wait there, and none is refused."""
        async with EmbeddingServer(latency=0.02) as server:
            with haproxy(server.port, server="maxconn 1") as url:
                async with EmbeddingClient(url, concurrency=8, batch_size=5, **PLAIN) as client:
                    begin = time.monotonic()
                    with caplog.at_level(logging.WARNING, "embedwire"):
                        assert right(await client.embed(TEXTS), TEXTS)
                    assert not caplog.records
                    assert server.peak_in_flight == 1
                    assert time.monotonic() - begin < 30
