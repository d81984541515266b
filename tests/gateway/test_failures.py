"""`embedwire gateway`: what it answers when a server fails, and when there is too much to do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from embedwire.gateway import Limits
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.gateway.serving import SECRET, Start
from tests.helpers import numbered, right


def poison(*texts: str, answer: Answer) -> Any:
    """A script of a server that refuses each request with one of some texts in it."""

    def script(request: Request) -> Answer | None:
        return answer if request.embeds and set(texts) & set(request.texts) else None

    return script


class TestTexts:
    """One text's fault is one text's."""

    async def test_a_text_too_long_is_named(self, start: Start, server: EmbeddingServer) -> None:
        """Among many, one that is too long gets a 400 that names it, in OpenAI's code and llama.cpp's numbers."""
        server.script = poison(SECRET, answer=Answer.too_large(602, 512))
        gateway = await start(server.url)
        error = await gateway.refused({"input": [*numbered(40), SECRET]}, 400)
        assert (error["param"], error["code"]) == ("input[40]", "context_length_exceeded")
        assert (error["n_prompt_tokens"], error["n_ctx"]) == (602, 512)
        assert "input[40] of 41" in error["message"]

    async def test_a_text_that_breaks_the_model_is_named(self, start: Start, server: EmbeddingServer) -> None:
        """A text for which the server has no numbers gets a 400 that names it; all others have theirs."""
        answer = Answer.error(500, f'unsupported value: NaN in "{SECRET}"')
        server.script = poison(SECRET, answer=answer)
        gateway = await start(server.url)
        error = await gateway.refused({"input": [*numbered(9), SECRET, "b"]}, 400)
        assert (error["param"], error["code"]) == ("input[9]", "text_refused")
        texts = numbered(9)
        assert right(await gateway.vectors(texts), texts)

    async def test_does_not_touch_other_clients(self, start: Start, server: EmbeddingServer) -> None:
        """Clients whose texts share a request with a poison text get their vectors."""
        server.script = poison(SECRET, answer=Answer.too_large(602, 512))
        gateway = await start(server.url)
        good = [numbered(30, what) for what in "abcde"]
        bad = gateway.refused({"input": [*numbered(30, "f"), SECRET]}, 400)
        *rows, error = await asyncio.gather(*map(gateway.vectors, good), bad)
        assert error["param"] == "input[30]"
        assert all(right(some, texts) for some, texts in zip(rows, good, strict=True))


class TestServers:
    """A server's failure is told as such."""

    @pytest.mark.parametrize(
        ("answer", "status", "code"),
        [
            (Answer.error(500, "no"), 502, "server_unavailable"),
            (Answer.error(400, "unknown field: foo"), 400, "server_refused"),
            (Answer.error(404, "model 'm' not found"), 404, "server_refused"),
            (Answer.error(401, "Invalid API Key"), 502, "server_key_refused"),
            (Answer.error(429, "You exceeded your current quota"), 429, "insufficient_quota"),
            (Answer.redirect("https://elsewhere"), 502, "server_refused"),
            (Answer(body=b"<html><title>Welcome</title></html>"), 502, "bad_reply"),
            (Answer.items(lambda data: data[:-1]), 502, "bad_reply"),
            (Answer.hang_up(), 502, "server_unreachable"),
        ],
    )
    async def test_is_told_as_such(
        self, start: Start, server: EmbeddingServer, answer: Answer, status: int, code: str
    ) -> None:
        """Whatever the server answers, the client gets a status and a word that tell whose fault it is."""
        server.script = lambda request: answer if request.embeds else None
        gateway = await start(server.url)
        error = await gateway.refused({"input": [SECRET, "b"]}, status)
        assert error["code"] == code
        assert f'failures_total{{kind="{code}"}}' in await gateway.metrics()

    async def test_a_server_that_was_never_there(self, start: Start) -> None:
        """A wrong port is a 502 that says so, and /health says 503."""
        async with EmbeddingServer() as server:
            url = server.url
        gateway = await start(url)
        error = await gateway.refused({"input": "a"}, 502)
        assert "no connection could be made" in error["message"]
        assert url in error["message"]
        assert (await gateway.ask("GET", "/health"))[0] == 503

    async def test_a_restart_is_waited_for(self, start: Start, server: EmbeddingServer) -> None:
        """Requests that meet a server which restarts get their vectors when it is back."""
        gateway = await start(server.url)
        await gateway.vectors("first")
        await server.astop()
        waiting = asyncio.create_task(gateway.vectors(numbered(50)))
        await gateway.until(lambda told: told["queued_texts"] == 50)
        await server.astart()
        assert right(await waiting, numbered(50))

    async def test_slow_servers_time_out(self, start: Start, server: EmbeddingServer) -> None:
        """A server that does not answer in time is a 504."""
        server.script = lambda request: Answer.hang() if request.embeds else None
        gateway = await start(server.url, timeout=0.1)
        assert (await gateway.refused({"input": "a"}, 504))["code"] == "server_timeout"

    async def test_pauses_are_handed_on(self, start: Start, server: EmbeddingServer) -> None:
        """A server that asks for a longer pause than is waited for is a 429 with that pause."""
        server.script = lambda request: Answer.throttled(3600) if request.embeds else None
        gateway = await start(server.url)
        status, reply, headers = await gateway.ask("POST", "/v1/embeddings", json={"input": "a"})
        assert (status, reply["error"]["code"], headers["Retry-After"]) == (429, "server_busy", "3600")


class TestRoom:
    """There is an end to what it takes."""

    async def test_no_room_is_a_429(self, start: Start, server: EmbeddingServer) -> None:
        """More texts than may be under way are a 429 with Retry-After; what is under way is answered."""
        gateway = await start(server.url, limits=Limits(queued=100))
        with server.hold():
            first = asyncio.create_task(gateway.vectors(numbered(90)))
            await server.wait_for(lambda: server.in_flight > 0)
            status, reply, headers = await gateway.ask(
                "POST", "/embeddings", json={"input": numbered(11, "b")}
            )
            assert (status, reply["error"]["code"]) == (429, "queue_full")
            assert int(headers["Retry-After"]) > 0
            second = asyncio.create_task(gateway.vectors(numbered(10, "b")))
            await gateway.until(lambda told: told["queued_texts"] == 100)
        assert right(await first, numbered(90))
        assert right(await second, numbered(10, "b"))
        assert right(await gateway.vectors(numbered(101)), numbered(101))  # an empty gateway takes more

    async def test_bodies_are_held_within_bounds(self, start: Start, server: EmbeddingServer) -> None:
        """More bytes than may be held at once are a 429, and are free again when their requests are over."""
        gateway = await start(server.url, limits=Limits(body=10_000))
        texts = ["a" * 9_000]
        with server.hold():
            tasks = [asyncio.create_task(gateway.vectors([f"{n}" * 9_000])) for n in range(4)]
            await gateway.until(lambda told: told["queued_texts"] == 4)
            assert (await gateway.refused({"input": texts}, 429))["code"] == "queue_full"
        await asyncio.gather(*tasks)
        assert right(await gateway.vectors(texts), texts)
