"""A real Ray on this machine, with a home of its own; servers, and what they were sent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = tempfile.mkdtemp(prefix="ew-ray-")  # short: Ray's sockets are in it
os.environ |= {
    "HOME": HOME,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
}

import ray  # noqa: E402

from embedwire.testing import EmbeddingServer  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """Let Ray warn of itself; all other warnings are errors."""
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")
    config.addinivalue_line("filterwarnings", "ignore:The minimum number of concurrent actors:UserWarning")


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Its address; this process is connected to it."""
    found = ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        _temp_dir=HOME,
    )
    yield found.address_info["gcs_address"]
    ray.shutdown()
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
