"""A server, files to read, and runs of both."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from embedwire.testing import EmbeddingServer


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


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """Writes rows as JSON Lines; a str is a line as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[Any]:
    """Its rows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def documents(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows with an id and a text each."""
    return [{"id": f"d{number}", "text": f"text {number}"} for number in range(start, start + count)]


def sent(server: EmbeddingServer) -> list[str]:
    """The texts that a server was sent, without the word that asks whether it is ready."""
    return [text for batch in server.batches for text in batch if text != "ready"]
