"""A gateway, and a server behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from embedwire.testing import EmbeddingServer
from tests.gateway.serving import Start, gateways


@pytest.fixture
async def server() -> AsyncIterator[EmbeddingServer]:
    """A server on the test's own loop."""
    async with EmbeddingServer() as server:
        yield server


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts gateways on the test's own loop."""
    async with gateways() as start:
        yield start
