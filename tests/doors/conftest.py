"""These tests need real servers, and packages that `make test-doors` installs; none is skipped where one is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from embedwire.testing import EmbeddingServer

# Nothing reports to its makers from a test; some look when they are imported.
os.environ |= {
    "ANONYMIZED_TELEMETRY": "False",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "MEM0_TELEMETRY": "False",
}


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures of the real servers, and let other people's packages warn of each other."""
    config.pluginmanager.import_plugin("tests.servers.fixtures")
    for kind in ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning", "UserWarning"):
        config.addinivalue_line("filterwarnings", f"ignore::{kind}")
    config.addinivalue_line(
        "filterwarnings", "ignore:.*AsyncConnection.*still open:ResourceWarning"
    )  # a PGEngine's


@pytest.fixture(autouse=True)
def a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has no URL and no key; what was learnt stays, as an earlier example's client may be open."""
    for name in ("EMBEDWIRE_BASE_URL", "EMBEDWIRE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A scriptable server."""
    with EmbeddingServer() as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real PostgreSQL with pgvector."""
    from tests.doors.postgres import postgres  # and with it what only one file needs

    with postgres() as url:
        yield url
