"""Connections over real TLS: to the server that was named, or not at all."""

from __future__ import annotations

import asyncio
import datetime
import gc
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from embedwire import BadReply, ConnectionFailed, RequestError, RetryPolicy, SharedEmbeddingClient
from embedwire.testing import EmbeddingServer
from tests.helpers import numbered, right
from tests.server.certificates import as_file, certified, trusting
from tests.server.doors import KEY, client_of

TEXTS = numbered(60)
PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
FUTURE = datetime.datetime(2200, 1, 1, tzinfo=datetime.timezone.utc)


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
        monkeypatch.setattr("embedwire._http.sessions.KEEP_ALIVE", 3600)
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
