"""Every recipe, as a reader would start it: each row has its vector, and nothing is asked twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from embedwire.testing import EmbeddingServer
from tests.bulk.conftest import documents, sent, write_jsonl
from tests.helpers import numbered, right

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
ROWS = 3000


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the documents, which is the current one."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "docs.jsonl", documents(ROWS))
    return tmp_path


def run(recipe: str, server: EmbeddingServer, *arguments: str, **environ: str) -> str:
    """What a recipe prints."""
    done = subprocess.run(
        [sys.executable, RECIPES / f"{recipe}.py", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "EMBEDWIRE_URL": server.url, **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(path: Path) -> Any:
    """The table there, if each row has its vector."""
    table = pq.read_table(path).sort_by("text")
    texts = table["text"].to_pylist()
    assert sorted(texts) == sorted(numbered(ROWS))
    assert right(table["embedding"].to_pylist(), texts)
    return table


def check_sent(server: EmbeddingServer, *more: str) -> None:
    """Each text was sent once, but for one that may have shown that base64 can be believed."""
    texts = sent(server)
    assert set(texts) == {*numbered(ROWS), *more}
    assert len(texts) <= ROWS + len(more) + 1


@pytest.mark.parametrize("recipe", ["polars_frames", "dask_frames", "spark_udf", "daft_frames"])
def test_frames(recipe: str, here: Path, server: EmbeddingServer) -> None:
    """A file of documents becomes Parquet with float32 vectors, each text being sent once."""
    run(recipe, server, "docs.jsonl", "vectors")
    table = check(here / "vectors")
    assert "float" in str(table.schema.field("embedding").type)
    assert "double" not in str(table.schema.field("embedding").type)
    check_sent(server)


def test_ray_data(here: Path, server: EmbeddingServer) -> None:
    """The same on a Ray of its own; usage of all actors is printed."""
    said = run("ray_data", server, "docs.jsonl", "vectors", RAY_USAGE_STATS_ENABLED="0")
    table = check(here / "vectors")
    assert table["error"].null_count == ROWS
    assert f"texts={ROWS}" in said


def test_duckdb(here: Path, server: EmbeddingServer) -> None:
    """SQL gets vectors for a column, and finds the document that is asked for."""
    said = run("duckdb_sql", server, "docs.jsonl", "text 1234")
    assert said.splitlines()[0] == "text 1234"
    check_sent(server, "text 1234")


def test_the_second_map_is_a_cache_hit(here: Path, server: EmbeddingServer) -> None:
    """The same `map` of a data set in another process sends nothing."""
    assert run("hf_datasets", server, "docs.jsonl").splitlines()[-1] == f"({ROWS}, 8)"
    check_sent(server)
    server.requests.clear()
    assert run("hf_datasets", server, "docs.jsonl").splitlines()[-1] == f"({ROWS}, 8)"
    assert server.requests == []
