"""These tests need real servers."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures once for all folders; imported here they would be this folder's, with servers of its own."""
    config.pluginmanager.import_plugin("tests.servers.fixtures")
