"""Servers on a thread or on the test's own loop, and what the clients of these tests are made with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from embedwire.testing import EmbeddingServer
from tests.server.doors import Doors, Open
from tests.server.names import Names
from tests.server.scripts import Script, scripts
from tests.server.world import World, a_world


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


@pytest.fixture
async def here() -> AsyncIterator[EmbeddingServer]:
    """A server on the test's own loop, and on its clock."""
    async with EmbeddingServer() as server:
        yield server


@pytest.fixture(params=["own", "async", "sync"])
async def open_doors(request: pytest.FixtureRequest, server: EmbeddingServer) -> AsyncIterator[Open]:
    """Makes clients of each kind, and closes them."""
    made: list[Doors] = []

    def make(**arguments: Any) -> Doors:
        made.append(Doors(request.param, server, **arguments))
        return made[-1]

    yield make
    for doors in made:
        await doors.close()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """What the doors of a test run on, in simulated time."""
    with a_world(monkeypatch) as world:
        yield world


@pytest.fixture
def script(tmp_path: Path, server: EmbeddingServer) -> Iterator[Script]:
    """Starts a script in a process of its own, in which any warning is an error."""
    with scripts(tmp_path, server.url) as start:
        yield start


@pytest.fixture
def no_idle_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let idle connections stay, so that only a close closes them."""
    monkeypatch.setattr("embedwire._http.sessions.KEEP_ALIVE", 3600)


@pytest.fixture
def on_the_loops_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let aiohttp's pool and DNS cache, which read the clock by themselves, live in simulated time too."""
    monkeypatch.setattr("aiohttp.connector.monotonic", lambda: asyncio.get_running_loop().time())


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """DNS of this test."""
    names = Names()
    monkeypatch.setattr("embedwire._http.sessions.ThreadedResolver", names.resolver)
    return names


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """The one that is trusted."""
    return trustme.CA()
