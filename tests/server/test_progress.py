"""`progress=`: whoever waits for a call is told how far it is, where he waits."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from embedwire import DeadlineExceeded, InputError, Progress, RequestError, SharedEmbeddingClient
from embedwire._clients import progress as private
from embedwire.testing import Answer, EmbeddingServer
from tests.helpers import numbered, right
from tests.server.doors import Open, own, shared

TEXTS = numbered(40)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, so that no test takes long."""
    monkeypatch.setattr(private._Told, "every", 0.01)


async def embed(doors: Any, name: str, texts: list[str], progress: Any) -> Any:
    """Embeds by a door, which says how far it is."""
    if doors._kind == "own":
        return await getattr(doors.client, name)(texts, progress=progress)
    if doors._kind == "async":
        return await getattr(doors.client, "a" + name)(texts, progress=progress)
    return await asyncio.to_thread(getattr(doors.client, name), texts, progress=progress)


@pytest.mark.parametrize("name", ["embed", "embed_array"])
async def test_it_grows(name: str, open_doors: Open, server: EmbeddingServer) -> None:
    """It is told how many texts are done, never fewer than before, and in the end all of them."""
    told: list[Progress] = []
    server.script = lambda request: Answer(delay=0.03) if request.embeds else None
    rows = await embed(open_doors(batch_size=5, concurrency=1), name, TEXTS, told.append)
    assert right(rows if name == "embed" else rows.tolist(), TEXTS)
    done = [one.done for one in told]
    assert done == sorted(done)
    assert len(set(done)) > 3
    last = told[-1]
    assert (last.done, last.total, last.fraction, last.left, last.ended) == (40, 40, 1.0, 0.0, True)
    assert last.seconds > 0
    assert last.rate > 0


async def test_where_it_is_called(open_doors: Open, server: EmbeddingServer) -> None:
    """It is called where the caller waits: in his thread, or on his loop, never on the loop thread."""
    threads: set[str] = set()
    doors = open_doors()
    await embed(doors, "embed", TEXTS, lambda _: threads.add(threading.current_thread().name))
    assert len(threads) == 1
    assert "embedwire" not in threads
    assert ("MainThread" in threads) == (doors._kind != "sync")


async def test_what_it_raises_ends_the_call(open_doors: Open, server: EmbeddingServer) -> None:
    """An exception of the function comes out of the call, what waits is not sent, and the client goes on."""

    def broken(progress: Progress) -> None:
        raise ZeroDivisionError("mine")

    doors = open_doors(batch_size=1, concurrency=1)
    with server.hold(), pytest.raises(ZeroDivisionError, match="mine"):
        await embed(doors, "embed", TEXTS, broken)
    assert len(server.batches) <= 2
    assert right(await doors.embed(TEXTS), TEXTS)


async def test_a_call_that_fails(open_doors: Open, server: EmbeddingServer) -> None:
    """The call's own error comes out as ever, and it is never told that all is done."""
    told: list[Progress] = []
    server.script = lambda request: (
        Answer.too_large(600, 512) if request.embeds and "text 7" in request.texts else None
    )
    with pytest.raises(RequestError) as caught:
        await embed(open_doors(), "embed", TEXTS, told.append)
    assert caught.value.index == 7
    assert not any(one.ended for one in told)


async def test_a_deadline(open_doors: Open, server: EmbeddingServer) -> None:
    """A deadline passes as ever."""
    with server.hold(), pytest.raises(DeadlineExceeded):
        await embed(open_doors(deadline=0.2), "embed", TEXTS, lambda _: None)


async def test_a_cancelled_call(here: EmbeddingServer) -> None:
    """A call that is cancelled is withdrawn."""
    async with own(here, concurrency=1) as client:
        with here.hold():
            call = asyncio.ensure_future(client.embed(TEXTS, progress=lambda _: None))
            await here.wait_for(lambda: here.in_flight == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await here.wait_for(lambda: len(here.aborted) == 1)


async def test_hits_are_done(here: EmbeddingServer, tmp_path: Path) -> None:
    """What the cache has is done at once."""
    told: list[Progress] = []
    async with own(here, cache=tmp_path / "c") as client:
        await client.embed(TEXTS[:30])
        here.script = lambda request: Answer(delay=0.1) if request.embeds else None
        assert right(await client.embed(TEXTS, progress=told.append), TEXTS)
    assert {one.done for one in told} == {30, 40} or min(one.done for one in told[1:]) >= 30


async def test_long_texts(here: EmbeddingServer) -> None:
    """Texts that are embedded in parts count once."""
    told: list[Progress] = []
    here.script = lambda request: (
        Answer.too_large(600, 512)
        if request.embeds and any(len(text) > 100 for text in request.texts)
        else None
    )
    async with own(here, too_long="average") as client:
        await client.embed([*TEXTS, "word " * 60], progress=told.append)
    assert max(one.done for one in told) == told[-1].done == 41


@pytest.mark.parametrize("wrong", [7, "yes", [], 0.5], ids=repr)
def test_a_wrong_one(wrong: Any) -> None:
    """Anything else than a function or a bool is refused before anything is sent."""
    with pytest.raises(InputError, match="progress must be True"):
        SharedEmbeddingClient("http://localhost:1").embed(["a"], progress=wrong)


def test_an_async_one() -> None:
    """A function that would have to be awaited is refused, too; so is an object with such a one."""

    async def tell(progress: Progress) -> None: ...

    class Teller:
        async def __call__(self, progress: Progress) -> None: ...

    for progress in (tell, Teller()):
        with pytest.raises(InputError, match="not an async one"):
            SharedEmbeddingClient("http://localhost:1").embed(["a"], progress=progress)


def test_nothing_to_embed(server: EmbeddingServer) -> None:
    """Of no texts nothing is told."""
    with shared(server) as client:
        assert client.embed([], progress=lambda _: 1 / 0) == []


class TestBars:
    """With True there is a bar, or what the place allows."""

    def test_lines(self, server: EmbeddingServer, capsys: pytest.CaptureFixture[str]) -> None:
        """Without a terminal the end is told in a line on stderr."""
        with shared(server) as client:
            assert right(client.embed(TEXTS, progress=True), TEXTS)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("100%, 40 of 40 texts, ")
        assert len(err.splitlines()) == 1

    @pytest.mark.parametrize("rich", [True, False])
    def test_a_terminal(self, rich: bool, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a terminal it is drawn, with rich where that is installed; without, it is told in lines."""
        stream = io.StringIO()
        stream.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        if not rich:
            monkeypatch.setitem(sys.modules, "rich.live", None)
        with shared(server) as client:
            assert right(client.embed(TEXTS, progress=True), TEXTS)
        assert "100%" in stream.getvalue()
        assert ("━" in stream.getvalue()) == rich

    @pytest.mark.parametrize("closed", [True, False])
    def test_where_nobody_reads(
        self, closed: bool, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stderr that was closed, here or at its other end, costs nobody his vectors."""
        read, write = os.pipe()
        os.close(read)
        stream = os.fdopen(write, "w")
        if closed:
            stream.close()
        monkeypatch.setattr(sys, "stderr", stream)
        with shared(server) as client:
            assert right(client.embed(TEXTS, progress=True), TEXTS)
        with contextlib.suppress(OSError):
            stream.close()

    def test_nowhere(self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where there is no stderr, nothing is told."""
        monkeypatch.setattr(sys, "stderr", None)
        with shared(server) as client:
            assert right(client.embed(TEXTS, progress=True), TEXTS)
