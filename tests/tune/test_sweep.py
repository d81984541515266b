"""A whole sweep over real sockets, in simulated time: what is found, and what ends it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from embedwire import AuthenticationFailed, ConnectionFailed, InputError, TextRefused
from embedwire.testing import Answer, EmbeddingServer, Request
from embedwire.tune.choosing import best
from embedwire.tune.records import Cell, Look, Outcome
from embedwire.tune.sweeping import Options, Sweep
from embedwire.tune.texts import Pool, Read
from tests.helpers import now, numbered, simulated

PLAIN = {"server_header": "uvicorn"}  # of no kind with slots


async def swept(
    server: EmbeddingServer, texts: Sequence[str] = (), looks: list[Look] | None = None, **options: Any
) -> Outcome:
    """What a sweep finds at a server."""
    pool = Pool(Read("test", list(texts) or numbered(2_000)))
    sweep = Sweep(Options(url=server.url, **{"seconds": 15.0, "batch": 4, "requests": 8, **options}), pool)
    seen: list[Look] = [] if looks is None else looks
    await sweep.run(seen.append)
    return sweep.outcome()


def sent(server: EmbeddingServer) -> list[str]:
    """The texts that a server was sent, without the word that asks whether it is ready."""
    return [text for batch in server.batches for text in batch if text != "ready"]


@simulated
async def test_the_best_is_found() -> None:
    """At a server with four slots that gains from batches, the best is found in time, and no text comes twice."""
    async with EmbeddingServer(slots=4, latency=0.2, latency_per_text=0.02, **PLAIN) as server:  # type: ignore[arg-type]
        begun = now()
        outcome = await swept(server, numbered(300), batch=16, seconds=60.0)
        assert now() - begun <= 61
    found = best(outcome.taken)
    assert found is not None
    assert found.cell == Cell(16, 4)
    assert outcome.taken.cells[Cell(16, 4)][0].rate == pytest.approx(4 * 16 / 0.52, rel=0.05)
    assert outcome.taken.cells[Cell(1, 1)][0].rate == pytest.approx(1 / 0.22, rel=0.05)
    assert outcome.complete
    assert outcome.texts.passes >= 1
    twice = [text for text, count in Counter(sent(server)).items() if count > 1]
    assert len(twice) <= 3  # the longest, asked for alone at first, and those that show that base64 is right
    assert outcome.taken.start is not None
    assert len(outcome.taken.automatic) >= 2


@simulated
async def test_requests_have_their_size() -> None:
    """While sizes are measured, each request has as many texts as are measured, and as many are in flight."""
    looks: list[Look] = []
    async with EmbeddingServer(latency=0.2, **PLAIN) as server:  # type: ignore[arg-type]
        outcome = await swept(server, looks=looks, batch=4, requests=4)
    sizes = Counter(map(len, server.batches))
    assert set(outcome.taken.cells) <= {Cell(batch, many) for batch in (1, 2, 4) for many in (1, 2, 4)}
    for cell, samples in outcome.taken.cells.items():
        assert samples[0].rate == pytest.approx(cell.in_flight / 0.2, rel=0.1)
        assert samples[0].latency == pytest.approx(0.2, rel=0.1)
        assert sizes[cell.batch] >= 3
    assert {look.current for look in looks if look.current} == set(outcome.taken.cells)


@simulated
async def test_a_llama_server_gets_no_more_than_it_has_threads_for() -> None:
    """At llama.cpp no more requests are in flight than its slots and four, whatever the user allows."""
    async with EmbeddingServer(slots=2, latency_per_text=0.02) as server:
        outcome = await swept(server, requests=64)
    assert outcome.grid.requests[-1] == 6
    assert "2 slots" in outcome.grid.why
    assert server.peak_in_flight <= 6


@simulated
async def test_a_refusal_ends_a_direction() -> None:
    """A server that answers 429 to more than four at once is not pushed beyond that again and again."""

    def script(request: Request) -> Answer | None:
        return Answer.throttled() if request.embeds and server.in_flight > 4 else None

    async with EmbeddingServer(latency=0.2, script=script, **PLAIN) as server:  # type: ignore[arg-type]
        outcome = await swept(server, batch=2)
    assert {cell.requests for cell in outcome.taken.ends} == {8}
    assert {ending.reason for ending in outcome.taken.ends.values()} == {"refused"}
    found = best(outcome.taken)
    assert found is not None
    assert found.cell == Cell(2, 4)
    # What happened to larger ones is not held against it.
    assert outcome.taken.cells[found.cell][-1].rate == pytest.approx(40, rel=0.05)
    assert outcome.complete


@simulated
async def test_a_cap_ends_a_direction() -> None:
    """Texts in a request beyond what the server takes are not measured, and it is said how many that is."""
    async with EmbeddingServer(latency=0.2, max_batch=6, **PLAIN) as server:  # type: ignore[arg-type]
        outcome = await swept(server, batch=16, requests=2, seconds=30.0)
    assert max(cell.batch for cell in outcome.taken.cells) <= 4
    assert any("texts in a request" in ending.what for ending in outcome.taken.ends.values())
    assert outcome.complete


@simulated
async def test_growing_latency_ends_a_direction() -> None:
    """A server that hangs from some sizes on costs one measurement, and is not given up."""

    def script(request: Request) -> Answer | None:
        return Answer.hang() if request.embeds and len(request.texts) > 4 else None

    async with EmbeddingServer(latency=0.2, script=script, **PLAIN) as server:  # type: ignore[arg-type]
        outcome = await swept(server, batch=8, requests=2, seconds=60.0)
    assert {cell.batch for cell in outcome.taken.ends} == {8}
    assert {ending.reason for ending in outcome.taken.ends.values()} == {"slow"}
    assert outcome.complete


@simulated
async def test_too_long_texts_are_left_out() -> None:
    """Texts that the model does not take are found with a handful of requests, left out, and counted."""

    def script(request: Request) -> Answer | None:
        longest = max(map(len, request.texts)) if request.embeds else 0
        return Answer.exceed_context(longest, 500) if longest > 500 else None

    texts = [f"{number} " + "x" * (10 * number) for number in range(100)]
    async with EmbeddingServer(latency=0.2, script=script, **PLAIN) as server:  # type: ignore[arg-type]
        outcome = await swept(server, texts, batch=2, requests=2)
    assert outcome.texts.refused == sum(len(text) > 497 for text in texts) or outcome.texts.refused >= 50
    assert sum(len(text) > 500 for text in sent(server)) <= 12
    assert outcome.complete


@simulated
async def test_a_slow_server_is_told_in_time() -> None:
    """At a server that takes 5 s for a text the time is kept to, and nothing is called the best."""
    async with EmbeddingServer(slots=1, latency_per_text=5.0, **PLAIN) as server:  # type: ignore[arg-type]
        begun = now()
        outcome = await swept(server, seconds=60.0)
        assert now() - begun <= 61
    assert not outcome.complete


@simulated
async def test_a_server_that_goes_away() -> None:
    """Where the server is gone in the middle, what was measured is kept, beside the reason."""
    async with EmbeddingServer(latency=0.2, **PLAIN) as server:  # type: ignore[arg-type]
        looks: list[Look] = []
        running = asyncio.ensure_future(swept(server, looks=looks))
        while len(looks) < 6:  # noqa: ASYNC110 - in simulated time
            await asyncio.sleep(0.1)
        await server.astop()
        outcome = await running
    assert outcome.taken.cells
    assert outcome.error is not None
    assert "was not reached" in outcome.error or "not ready" in outcome.error


@simulated
async def test_a_server_that_is_not_there() -> None:
    """A server that is away, or refuses the key, is an error at once."""
    async with EmbeddingServer(api_key="open sesame") as server:
        with pytest.raises(AuthenticationFailed):
            await swept(server)
    with pytest.raises(ConnectionFailed):
        await swept(server, seconds=5.0)


@simulated
async def test_texts_that_are_all_too_long() -> None:
    """Where the model takes none of the texts, that is the error."""

    def script(request: Request) -> Answer | None:
        return Answer.exceed_context(600, 500) if request.embeds and request.texts != ["ready"] else None

    async with EmbeddingServer(script=script) as server:
        with pytest.raises(TextRefused, match="tokens"):
            await swept(server, ["a", "bb", "ccc"])


def test_several_servers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are those of one server: several in the environment are an error that says so."""
    monkeypatch.setenv("EMBEDWIRE_BASE_URL", "http://one:8080,http://two:8080")
    with pytest.raises(InputError, match="sizes are those of one server"):
        Sweep(Options(), Pool(Read("test", ["a"])))


@simulated
async def test_the_options_reach_the_server() -> None:
    """Model, dimensions, prompt and further fields travel with each request."""
    async with EmbeddingServer(latency=0.2, honours_dimensions=True, **PLAIN) as server:  # type: ignore[arg-type]
        outcome = await swept(
            server, model="test-model", dimensions=4, prompts={"document": "doc: "}, extra_body={"user": "me"}, batch=1,
            requests=1, seconds=5.0,
        )  # fmt: skip
    asked = [request for request in server.requests if request.embeds]
    assert all(request.json["user"] == "me" and request.json["dimensions"] == 4 for request in asked)
    assert all(text.startswith("doc: ") for request in asked for text in request.texts if text != "ready")
    assert outcome.info is not None
    assert outcome.info.dimensions == 4
    assert set(outcome.arguments) == {"dimensions", "prompts", "extra_body"}
