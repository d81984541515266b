"""Never two models in one index: each server is compared with the others before its vectors count."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import pytest

from embedwire import BadReply, EmbeddingClient, ServerRefused
from embedwire.testing import Answer, EmbeddingServer
from tests.helpers import numbered, right, simulated
from tests.server.fleet import OTHER, client_of, fleet, info_of, states, texts_of


def narrow(vectors: list[list[float]]) -> list[list[float]]:
    """Vectors of half the width."""
    return [row[:4] for row in vectors]


def near(vectors: list[list[float]]) -> list[list[float]]:
    """Vectors of a quantised twin, say: a little beside those of the original."""
    moved = [[row[0] + 0.1, *row[1:]] for row in vectors]
    return [[number / math.hypot(*row) for number in row] for row in moved]


def named(name: str | None) -> Answer:
    """Replies that name another model, or none."""
    return Answer.mutate(lambda reply: {**reply, "model": name})


def always(answer: Answer) -> Any:
    """A script that gives each embedding request the same answer."""
    return lambda request: answer if request.embeds else None


class TestLeftOut:
    """A server that differs is left out, with one warning and the reason."""

    @simulated
    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (Answer.vectors(narrow), "vectors of 4 numbers"),
            (OTHER, "another vector"),
            (Answer.vectors(near), "another vector"),
            (Answer.vectors(lambda rows: [[2 * number for number in row] for row in rows]), "length"),
            (named("another"), "the model 'another'"),
        ],
        ids=["width", "vector", "a little", "length", "name"],
    )
    async def test_one_that_differs(
        self, caplog: pytest.LogCaptureFixture, answer: Answer, reason: str
    ) -> None:
        """One of three with another model gets no text, is named in one warning and tells the reason."""
        async with fleet(3) as servers, client_of(servers) as client:
            servers[0].script = always(answer)
            for number in range(3):
                texts = numbered(100, number)
                assert right(await client.embed_array(texts), texts)
            assert texts_of(servers[0]) == 1
            info = info_of(client, servers[0])
            assert info.state == "left out"
            assert reason in info.reason
        warnings = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
        assert len(warnings) == 1
        assert servers[0].url in warnings[0]

    async def test_a_name_that_is_lost_is_no_other(self) -> None:
        """A server that names no model any more is judged by its vectors."""
        async with fleet(3) as servers, client_of(servers) as client:
            servers[2].script = always(named(None))
            await client.embed(numbered(200))
            assert states(client) == ["in use"] * 3

    async def test_a_quantised_twin_is_allowed(self) -> None:
        """With `same_model=` names say nothing, and vectors that near are the same."""
        async with fleet(2) as servers, client_of(servers, same_model=0.9) as client:
            servers[1].script = always(Answer.vectors(near))
            await client.embed(numbered(200))
            assert states(client) == ["in use"] * 2
        async with fleet(2) as servers, client_of(servers, same_model=0.98) as client:
            servers[1].script = always(named("model-q8"))
            await client.embed(numbered(200))
            assert states(client) == ["in use"] * 2

    async def test_folders_and_endings_of_a_file_are_no_name(self) -> None:
        """Replies that name files of one model in other folders agree."""
        async with fleet(2) as servers, client_of(servers) as client:
            servers[0].script = always(named("/models/MiniLM.gguf"))
            servers[1].script = always(named("C:\\weights\\minilm"))
            await client.embed(numbered(200))
            assert states(client) == ["in use"] * 2

    async def test_none_agree(self) -> None:
        """Where no two servers agree the error names all, and no vector is used."""
        async with fleet(2) as servers, client_of(servers) as client:
            servers[1].script = always(OTHER)
            for _ in range(2):
                with pytest.raises(ServerRefused, match="do not have the same model") as failed:
                    await client.embed(["a"])
                assert all(server.url in str(failed.value) for server in servers)
                assert "same_model=" in str(failed.value)
            servers[1].script = None
            assert right(await client.embed(["a"]), ["a"])

    @simulated
    async def test_the_first_waits_a_moment_for_the_others(self) -> None:
        """The largest set that agrees is used, though the one that differs answers first."""
        async with (
            EmbeddingServer() as quick,
            EmbeddingServer(latency=0.5) as one,
            EmbeddingServer(latency=0.5) as two,
            client_of([quick, one, two]) as client,
        ):
            quick.script = always(OTHER)
            assert right(await client.embed(["a"]), ["a"])
            assert states(client) == ["left out", "in use", "in use"]

    @simulated
    async def test_late_comers_are_compared(self) -> None:
        """A server that answers long after the others is compared with them, and left out where it differs."""
        async with (
            EmbeddingServer() as quick,
            EmbeddingServer(latency=5) as slow,
            client_of([quick, slow]) as client,
        ):
            slow.script = lambda request: Answer(body=OTHER.body, delay=5) if request.embeds else None
            assert right(await client.embed(["a"]), ["a"])
            assert states(client) == ["in use", "not met"]
            await asyncio.sleep(10)
            assert states(client) == ["in use", "left out"]

    async def test_comparisons_are_counted(self) -> None:
        """Each request that compares servers is one of the client's, and no repeat."""
        async with fleet(2) as servers, client_of(servers) as client:
            await client.embed_query("a")
            await client.embed_query("b")
            sent = sum(len(server.batches) for server in servers)
            assert (client.usage().requests, client.usage().repeats) == (sent, 0) == (4, 0)


class TestComesBack:
    """A server that was away is compared again before its vectors count."""

    @simulated
    async def test_with_another_model(self) -> None:
        """A server that is restarted with another model is left out; with the right one again it is taken back."""
        async with fleet(3, latency=0.05) as servers, client_of(servers) as client:
            texts = numbered(300)
            assert right(await client.embed_array(texts), texts)
            await servers[0].astop()
            servers[0].script = always(OTHER)
            await servers[0].astart()
            for number in range(3):
                texts = numbered(100, number)
                assert right(await client.embed_array(texts), texts)
            assert states(client) == ["left out", "in use", "in use"]
            servers[0].script = None
            await asyncio.sleep(130)
            assert states(client) == ["in use"] * 3

    @simulated
    async def test_exchanged_between_two_calls(self) -> None:
        """A server that is exchanged while nothing is sent has none of its new vectors used."""
        async with fleet(2) as servers, client_of(servers) as client:
            await client.embed(numbered(100))
            await servers[1].astop()
            servers[1].script = always(OTHER)
            await servers[1].astart()
            for number in range(20):
                assert right([await client.embed_query(f"q{number}")], [f"q{number}"])

    @simulated
    async def test_all_with_another_model(self, caplog: pytest.LogCaptureFixture) -> None:
        """Where all come back with one other model it is used, with a warning; a call with old vectors fails."""
        caplog.set_level(logging.WARNING, "embedwire")
        async with (
            fleet(2, latency=0.5) as servers,
            client_of(servers, batch_size=2, concurrency=1) as client,
        ):
            call = asyncio.ensure_future(client.embed_array(numbered(40)))
            await asyncio.sleep(3)
            for server in servers:
                await server.astop()
                server.script = always(OTHER)
                await server.astart()
            with pytest.raises(BadReply, match="another model"):
                await call
            await asyncio.sleep(10)
            await client.embed(["a"])
            await asyncio.sleep(130)
            assert states(client) == ["in use"] * 2
            assert not right(await client.embed(["a"]), ["a"])
        assert any("must be embedded again" in record.getMessage() for record in caplog.records)

    async def test_the_reference_stays(self) -> None:
        """A new client of the same servers in the same process compares with what was agreed before."""
        async with fleet(3) as servers:
            async with client_of(servers) as client:
                await client.embed(numbered(100))
            for server in servers[:2]:
                server.script = always(OTHER)
            async with client_of(servers) as client:
                texts = numbered(50)
                assert right(await client.embed_array(texts), texts)
                assert states(client)[2] == "in use"

    async def test_without_a_model_each_is_asked(self) -> None:
        """Where no model is named each server is asked for its own; two names are two models."""
        async with (
            EmbeddingServer(model="one") as one,
            EmbeddingServer(model="two") as two,
            EmbeddingClient([one.url, two.url]) as client,
        ):
            with pytest.raises(ServerRefused, match="'two'"):
                await client.embed(["a"])
