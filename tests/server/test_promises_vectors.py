"""A vector is that of its text, or there is an error: what came unasked, what others learnt, what only looks equal."""

from __future__ import annotations

import asyncio
import base64
import enum
import logging
import ssl
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trustme

from embedwire import EmbeddingClient, Prompts, SharedEmbeddingClient
from embedwire.testing import Answer, EmbeddingServer, Request, vector
from tests.helpers import numbered, right, simulated
from tests.server.certificates import certified, trusting
from tests.server.doors import client_of, own, shared
from tests.server.raw import DIMENSIONS, Asked, RawServer, embeddings, reply, right_reply

TEXTS = numbered(60)
TIMED_OUT = reply(b"", "408 Request Time-out", "Connection: close\r\n")
UNASKED = {
    "the reply once more": embeddings(["another text"]),
    "two replies": embeddings(["another text"]) * 2,
    "a reply without a head's end": embeddings(["another text"]).split(b"\r\n\r\n")[0],
    "a head without its body": embeddings(["another text"]).split(b"\r\n\r\n")[0] + b"\r\n\r\n",
    "408": TIMED_OUT,
    "400": reply(b"<html></html>", "400 Bad request", "Connection: close\r\n"),
    "503": reply({"error": {"message": "shutting down"}}, "503 Service Unavailable"),
    "half a status line": b"HTTP/1.1 2",
    "one byte": b"H",
    "garbage": b"\x00\xffnot HTTP\r\n\r\n",
}


class TestUnasked:
    """What comes on a kept connection unasked is no answer: the connection is closed, and another taken, for free."""

    @simulated
    @pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
    async def test_each_reply_comes_twice(self, encrypted: bool, authority: trustme.CA) -> None:
        """Where each reply comes once more, 20 ms later, each text still gets its own vector."""

        async def twice(asked: Asked) -> bytes:
            said = right_reply(asked)
            asyncio.get_running_loop().call_later(0.02, asked.line.write, said)
            return said

        async with (
            RawServer(twice, ssl=certified(authority) if encrypted else None) as server,
            client_of(
                server.url, ssl=trusting(authority), batch_size=1, concurrency=4, max_retries=0
            ) as client,
        ):
            for text in TEXTS[:6]:
                assert right([await client.embed_query(text)], [text])
                await asyncio.sleep(0.1)
            for round_ in "ab":
                texts = numbered(4, round_)
                assert right(await client.embed(texts), texts)
                await asyncio.sleep(0.1)

    @pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
    @pytest.mark.parametrize("what", UNASKED)
    async def test_costs_nothing(
        self, what: str, encrypted: bool, authority: trustme.CA, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whatever came unasked between two requests, the next one is sent once, and gets its own vector."""
        caplog.set_level(logging.INFO, "embedwire")
        async with (
            RawServer(ssl=certified(authority) if encrypted else None) as server,
            client_of(server.url, ssl=trusting(authority), max_retries=0, timeout=5) as client,
        ):
            for text in TEXTS[:6]:
                assert right([await client.embed_query(text)], [text])
                server.say(UNASKED[what])
        assert [asked.texts for asked in server.asked] == [[text] for text in TEXTS[:6]]
        assert server.connections == 6
        assert "sending again" not in caplog.text

    @pytest.mark.parametrize("what", UNASKED)
    async def test_then_hung_up(self, what: str) -> None:
        """What came before the connection's end is no answer either."""
        async with RawServer() as server, client_of(server.url, max_retries=0, timeout=5) as client:
            for text in TEXTS[:6]:
                assert right([await client.embed_query(text)], [text])
                server.say(UNASKED[what])
                server.hang_up()
        assert [asked.texts for asked in server.asked] == [[text] for text in TEXTS[:6]]

    async def test_on_all_connections(self) -> None:
        """Where it came on every kept connection, all of them are replaced."""
        together = asyncio.Event()

        async def at_once(asked: Asked) -> bytes:
            if server.in_flight == 8:
                together.set()
            await together.wait()
            return right_reply(asked)

        async with (
            RawServer(at_once) as server,
            client_of(server.url, batch_size=1, concurrency=8, max_retries=0, timeout=5) as client,
        ):
            for round_ in "abc":
                together.clear()
                texts = numbered(8, round_)
                assert right(await client.embed(texts), texts)
                server.say(embeddings(["another text"]))
        assert server.connections == 24

    async def test_the_shared_client(self) -> None:
        """Nor does the shared client take what came unasked for an answer."""
        async with (
            RawServer() as server,
            SharedEmbeddingClient(server.url, model="m", encoding="float", max_retries=0) as client,
        ):
            for text in TEXTS[:6]:
                assert right([await client.aembed_query(text)], [text])
                server.say(embeddings(["another text"]))

    async def test_a_question_is_not_answered_by_it_either(self) -> None:
        """The model is not taken from a list that nobody asked for."""
        async with (
            RawServer() as server,
            EmbeddingClient(server.url, encoding="float", max_retries=0, timeout=5) as client,
        ):
            assert right(await client.embed(["a"]), ["a"])
            server.say(reply({"data": [{"id": "another"}]}))
            assert right(await client.embed(["b"]), ["b"])
        assert {asked.json["model"] for asked in server.asked} == {"m"}


def big_endian(row: list[float]) -> str:
    """A vector in base64 in the wrong order of bytes."""
    return base64.b64encode(struct.pack(f">{len(row)}f", *row)).decode()


def backwards(row: list[float]) -> str:
    """A vector in base64, its numbers in another order."""
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row[::-1])).decode()


def as_it_should_be(row: list[float]) -> str:
    """A vector in base64."""
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


# Two tenants of one gateway: what a client is made with, and which tenant a request is of.
TENANTS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "key": ({"api_key": "key-a"}, {"api_key": "key-b"}, "authorization", "Bearer key-b"),
    "function": ({"api_key": lambda: "key-a"}, {"api_key": lambda: "key-b"}, "authorization", "Bearer key-b"),
    "header": ({"headers": {"X-Route": "a"}}, {"headers": {"X-Route": "b"}}, "x-route", "b"),
    "one header more": ({}, {"headers": {"X-Route": "b"}}, "x-route", "b"),
    "proxy": (
        {"proxy": "http://a:secret@{}"},
        {"proxy": "http://b:secret@{}"},
        "proxy-authorization",
        "Basic YjpzZWNyZXQ=",
    ),
}


def tenant(arguments: dict[str, Any], server: RawServer) -> dict[str, Any]:
    """Arguments, with the server's address as the proxy's."""
    address = server.url.removeprefix("http://")
    return {name: value.format(address) if name == "proxy" else value for name, value in arguments.items()}


@pytest.mark.parametrize("who", TENANTS)
class TestTenants:
    """Behind one URL each visitor meets a server of its own."""

    async def test_each_has_its_model(self, who: str) -> None:
        """Without `model=`, each tenant's texts are sent with the model that this tenant was told of."""
        one, other, header, second = TENANTS[who]

        def gateway(asked: Asked) -> bytes:
            mine = "model-b" if asked.headers.get(header) == second else "model-a"
            if asked.embeds:
                return embeddings([asked.json.get("model", mine) + text for text in asked.texts])
            return reply({"data": [{"id": mine}]})

        async with (
            RawServer(gateway) as server,
            EmbeddingClient(server.url, encoding="float", **tenant(one, server)) as a,
            EmbeddingClient(server.url, encoding="float", **tenant(other, server)) as b,
        ):
            assert right(await a.embed(["text"]), ["model-atext"])
            assert right(await b.embed(["text"]), ["model-btext"])
            assert (a.server_info().model, b.server_info().model) == ("model-a", "model-b")

    @pytest.mark.parametrize("code", [big_endian, backwards])
    async def test_base64_is_believed_for_one(self, code: Callable[[list[float]], str], who: str) -> None:
        """Base64 that was seen right for one tenant is not believed for another."""
        one, other, header, second = TENANTS[who]

        def gateway(asked: Asked) -> bytes:
            if not asked.embeds:
                return right_reply(asked)
            packed = asked.json.get("encoding_format") == "base64"
            wrong = asked.headers.get(header) == second
            return embeddings(asked.texts, (code if wrong else as_it_should_be) if packed else list)

        async with (
            RawServer(gateway) as server,
            EmbeddingClient(server.url, model="m", **tenant(one, server)) as a,
            EmbeddingClient(server.url, model="m", **tenant(other, server)) as b,
        ):
            for texts in (numbered(100, "first"), numbered(100, "second")):
                assert right(await a.embed(texts), texts)
                assert right(await b.embed(texts), texts)
            assert (a.server_info().base64, b.server_info().base64) == (True, False)

    async def test_their_texts_never_share_a_request(self, who: str) -> None:
        """Equal texts of two tenants that wait together travel in requests of their own."""
        one, other, header, second = TENANTS[who]

        def gateway(asked: Asked) -> bytes:
            if not asked.embeds:
                return right_reply(asked)
            mine = "b" if asked.headers.get(header) == second else "a"
            return embeddings([mine + text for text in asked.texts])

        async with RawServer(gateway) as server:
            arguments = {"model": "m", "encoding": "float", "concurrency": 1}
            async with (
                EmbeddingClient(server.url, **arguments, **tenant(one, server)) as a,
                EmbeddingClient(server.url, **arguments, **tenant(other, server)) as b,
            ):
                first, again = await asyncio.gather(a.embed(TEXTS), b.embed(TEXTS))
        assert right(first, ["a" + text for text in TEXTS])
        assert right(again, ["b" + text for text in TEXTS])


class TestBase64:
    """Base64 is believed where it was seen to be right, and nowhere else."""

    @pytest.mark.parametrize("differ", ["model", "dimensions"])
    async def test_each_model_has_its_own(self, differ: str) -> None:
        """Base64 that was seen right for one model, or one number of dimensions, is not believed for another."""
        one, other = (
            ({"model": "m"}, {"model": "n"}) if differ == "model" else ({"dimensions": 4}, {"dimensions": 5})
        )

        def script(request: Request) -> Answer | None:
            if not request.embeds or request.json.get("encoding_format") != "base64":
                return None
            if request.json.get(differ) == other[differ]:
                return Answer.vectors(lambda rows: [row[::-1] for row in rows])
            return None

        async with (
            EmbeddingServer(script=script, honours_dimensions=True) as server,
            EmbeddingClient(server.url, **{"model": "m", **one}) as a,
            EmbeddingClient(server.url, **{"model": "m", **other}) as b,
        ):
            for texts in (numbered(100, "first"), numbered(100, "second")):
                assert right(await a.embed(texts), texts, tolerance=1e-6)
                assert right(await b.embed(texts), texts, tolerance=1e-6)

    @pytest.mark.parametrize("code", [big_endian, backwards])
    @pytest.mark.parametrize("header", ["Server: other", "X-Powered-By: other"])
    async def test_other_software_is_not_believed(
        self, code: Callable[[list[float]], str], header: str
    ) -> None:
        """After a restart with other software, base64 is not believed before it was seen right again."""
        old = True

        def handle(asked: Asked) -> bytes:
            if not asked.embeds:
                return right_reply(asked)
            packed = asked.json.get("encoding_format") == "base64"
            said = embeddings(asked.texts, (as_it_should_be if old else code) if packed else list)
            return said if old else said.replace(b"\r\n", f"\r\n{header}\r\n".encode(), 1)

        async with RawServer(handle) as server, EmbeddingClient(server.url, model="m") as client:
            texts = numbered(100, "before")
            assert right(await client.embed(texts), texts)
            assert client.server_info().base64 is True
            old = False
            server.hang_up()
            texts = numbered(100, "after")
            assert right(await client.embed(texts), texts)


class CaseBlind(str):
    """Compares without case."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.lower())


class AllAlike(str):
    """Is equal to everything, and says that it is something else."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    def __str__(self) -> str:
        return "something else"

    def __len__(self) -> int:
        return 1


class Named(str, enum.Enum):
    """Members whose `str()` is not their value, and whose hash is that of their names."""

    ONE = "one"
    TWO = "two"

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 2


LOOKALIKES: dict[str, list[str]] = {
    "compare without case": [CaseBlind("Apple"), CaseBlind("APPLE"), CaseBlind("apple"), "apple", "APPLE"],
    "equal to everything": [*map(AllAlike, ("one", "two", "three")), "three", "something else"],
    "members of an enum": [Named.ONE, Named.TWO, "one", "Named.ONE"],
}


@pytest.mark.parametrize("what", LOOKALIKES)
class TestEqual:
    """Texts are equal where the same would be sent, whatever their classes say."""

    async def test_in_one_call(self, what: str, here: EmbeddingServer) -> None:
        """Texts of one call that only look equal get a vector each."""
        texts, plain = LOOKALIKES[what], [str.__str__(text) for text in LOOKALIKES[what]]
        async with own(here) as client:
            assert right(await client.embed(texts), plain)
            assert right(await client.embed_array(texts), plain)
            pieces = [piece async for piece in client.stream(texts)]
            assert right(np.vstack([rows for _, rows in pieces]), plain)
        with shared(here) as client:
            assert right(await client.aembed(texts), plain)

    async def test_in_several_calls(self, what: str, here: EmbeddingServer) -> None:
        """Texts of several callers that only look equal get a vector each."""
        texts, plain = LOOKALIKES[what], [str.__str__(text) for text in LOOKALIKES[what]]
        async with own(here, concurrency=1) as client:
            with here.hold():
                first = asyncio.ensure_future(client.embed_query("first"))
                await here.wait_for(lambda: here.in_flight == 1)
                calls = [asyncio.ensure_future(client.embed_query(text)) for text in texts]
                calls += [asyncio.ensure_future(client.embed_query(text)) for text in plain]
                await asyncio.sleep(0)
            assert right([await call for call in calls], plain * 2)
            await first

    async def test_after_a_prompt(self, what: str, here: EmbeddingServer) -> None:
        """A prompt stands before what a text holds, not before what its class says that it is."""
        texts, plain = LOOKALIKES[what], [str.__str__(text) for text in LOOKALIKES[what]]
        async with own(here, prompts=Prompts(query="q: ", document="d: ")) as client:
            assert right(await client.embed(texts), ["d: " + text for text in plain])
            assert right([await client.embed_query(text) for text in texts], ["q: " + text for text in plain])


class TestEqualSettings:
    """Settings are equal where the same would be sent, too."""

    async def test_names_of_models(self, here: EmbeddingServer) -> None:
        """Two models whose names only look equal are two models."""
        async with own(here, model=CaseBlind("M")) as one, own(here, model=CaseBlind("m")) as other:
            with here.hold():
                calls = [asyncio.ensure_future(client.embed(["text"])) for client in (one, other)]
                await here.wait_for(lambda: here.in_flight == 2)
            for call in calls:
                assert right(await call, ["text"])
        assert [request.json["model"] for request in here.requests] == ["M", "m"]

    @pytest.mark.parametrize("how", ["key", "header"])
    async def test_keys_and_headers(self, how: str, here: EmbeddingServer) -> None:
        """Two keys, or two values of a header, that only look equal are two visitors."""
        values = CaseBlind("Secret"), CaseBlind("secret")
        one, other = ({"api_key": v} if how == "key" else {"headers": {"X-Route": v}} for v in values)
        async with own(here, **one) as a, own(here, **other) as b:
            await a.embed(["text"])
            await b.embed(["text"])
        name = "authorization" if how == "key" else "x-route"
        assert [request.headers[name].removeprefix("Bearer ") for request in here.requests] == [
            "Secret",
            "secret",
        ]


async def test_two_certificates_are_two_visitors(authority: trustme.CA) -> None:
    """What a server tells the holder of one client certificate is not believed for the holder of another."""
    asking = certified(authority)
    asking.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(asking)
    holders = []
    for name in ("a@example.org", "b@example.org"):
        holders.append(trusting(authority))
        authority.issue_cert(name).configure_cert(holders[-1])

    def gateway(asked: Asked) -> bytes:
        if not asked.embeds:
            return right_reply(asked)
        names = asked.line.get_extra_info("peercert")["subjectAltName"]
        packed = asked.json.get("encoding_format") == "base64"
        wrong = ("email", "b@example.org") in names
        return embeddings(asked.texts, (backwards if wrong else as_it_should_be) if packed else list)

    async with (
        RawServer(gateway, ssl=asking) as server,
        EmbeddingClient(server.url, model="m", ssl=holders[0]) as a,
        EmbeddingClient(server.url, model="m", ssl=holders[1]) as b,
    ):
        for texts in (numbered(100, "first"), numbered(100, "second")):
            assert right(await a.embed(texts), texts)
            assert right(await b.embed(texts), texts)


async def test_one_call_of_two_lengths(here: EmbeddingServer) -> None:
    """Two callers of one text at one moment, of whom one wants fewer numbers, get what they asked for."""
    async with own(here) as whole, own(here, dimensions=4) as cut:
        rows, short = await asyncio.gather(whole.embed(TEXTS), cut.embed(TEXTS))
    assert right(rows, TEXTS)
    assert right(short, TEXTS, tolerance=1e-6)
    assert {len(row) for row in short} == {4}
    assert len(vector("text", DIMENSIONS)) == len(rows[0])
