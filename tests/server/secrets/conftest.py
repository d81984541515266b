"""These tests look at all that is shown while they run."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from embedwire import EmbeddingClient
from embedwire._clients.loop_thread import loop_thread
from embedwire.testing import EmbeddingServer
from tests.server.secrets.marked import Make, made, secrets_in


@pytest.fixture(autouse=True)
def nothing_is_shown_meanwhile(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """With all loggers at DEBUG, those of frameworks too, neither logs nor output nor warnings have a secret."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
    logged = {record.name: secrets_in(_all_of(record)) for record in caplog.get_records("call")}
    assert {name: secrets for name, secrets in logged.items() if secrets} == {}
    assert secrets_in("".join(capfd.readouterr())) == []
    assert [str(warning.message) for warning in warned] == []


def _all_of(record: logging.LogRecord) -> str:
    return logging.Formatter().format(record) + repr(record.args)


@pytest.fixture
async def all_steps_are_logged() -> AsyncIterator[None]:
    """In debug mode both loops log each step, and the arguments of its function."""
    shared = loop_thread().loop
    for loop in (shared, asyncio.get_running_loop()):
        loop.set_debug(True)
        loop.slow_callback_duration = 0
    yield
    shared.slow_callback_duration = 0.1
    shared.set_debug(False)


@pytest.fixture
async def make(server: EmbeddingServer) -> AsyncIterator[Make]:
    """Makes the clients of doors, and closes them in the end."""
    clients = []

    def make(door: str, **arguments: Any) -> Any:
        clients.append(made(door, server, **arguments))
        return clients[-1]

    yield make
    for client in clients:
        await (client.close() if isinstance(client, EmbeddingClient) else client.aclose())
