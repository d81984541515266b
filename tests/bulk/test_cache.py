"""Whole corpora with a cache: what an earlier run embedded costs no request, and the output is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedwire import EmbeddingClient, InputError, SharedEmbeddingClient
from embedwire.bulk import command, embed_file, embed_rows, estimate
from embedwire.testing import EmbeddingServer
from tests.bulk.conftest import documents, sent, write_jsonl
from tests.bulk.test_command import run
from tests.helpers import numbered, right


@pytest.mark.parametrize("model", ["test-model", None], ids=str)
@pytest.mark.parametrize("out", ["o.npy", "o.jsonl", "o.parquet", "o"])
def test_a_second_run_sends_nothing(here: Path, server: EmbeddingServer, out: str, model: str | None) -> None:
    """It asks which model is served, where none is named, and embeds nothing; its output is equal to the byte."""
    write_jsonl(here / "a.jsonl", documents(300))
    client = SharedEmbeddingClient(server.url, model=model, cache="c.sqlite", encoding="float")
    embed_file("a.jsonl", f"first/{out}" if out == "o" else f"first-{out}", client)
    assert sorted(sent(server)) == sorted(numbered(300))
    embedded, asked = len(server.batches), len(server.requests)
    report = embed_file("a.jsonl", f"second/{out}" if out == "o" else f"second-{out}", client)
    assert len(server.batches) == embedded
    assert len(server.requests) == asked or model is None
    assert (report.rows, report.usage.cached, report.usage.requests) == (300, 300, 0)
    files = [sorted(here.glob(f"{run}*/**/*" if out == "o" else f"{run}*")) for run in ("first", "second")]
    contents = [
        [one.read_bytes() for one in some if one.is_file() and "manifest" not in one.name] for some in files
    ]
    assert contents[0] == contents[1] != []


def test_without_the_server(here: Path) -> None:
    """Where the model is named and the cache has all, the server need not be there."""
    with EmbeddingServer() as server:
        embed_rows(numbered(50), "a.npy", EmbeddingClient(server.url, model="m", cache="c", encoding="float"))
    embed_rows(numbered(50), "b.npy", EmbeddingClient(server.url, model="m", cache="c", encoding="float"))
    assert np.load("a.npy").tobytes() == np.load("b.npy").tobytes()


def test_what_is_new_is_sent(here: Path, server: EmbeddingServer) -> None:
    """Of a corpus that has grown, the new rows travel."""
    client = EmbeddingClient(server.url, model="m", cache="c", encoding="float")
    embed_rows(numbered(50), "a.npy", client)
    report = embed_rows([*numbered(50)[::-1], *numbered(60)], "b.npy", client)
    assert sorted(sent(server)) == sorted(numbered(60))
    assert (report.usage.cached, report.usage.texts, report.repeats) == (50, 10, 50)
    assert right(np.load("b.npy"), [*numbered(50)[::-1], *numbered(60)])


def test_an_estimate_is_of_the_server(here: Path, server: EmbeddingServer) -> None:
    """What a run would take is guessed from texts that are embedded, whatever the cache has."""
    write_jsonl(here / "a.jsonl", documents(20))
    client = EmbeddingClient(server.url, model="m", cache="c", encoding="float")
    embed_file("a.jsonl", "a.npy", client)
    before = len(sent(server))
    assert estimate("a.jsonl", client).sampled == 20
    assert len(sent(server)) == before + 20


@pytest.mark.parametrize("where", ["c.sqlite", "folder/", "there"])
def test_the_command(here: Path, server: EmbeddingServer, where: str) -> None:
    """`--cache` takes a file, or a folder for one; the summary and the JSON tell how much came from there."""
    (here / "there").mkdir()
    write_jsonl(here / "a.jsonl", documents(40))
    for number, said in enumerate(["", "40 from the cache"]):
        done = run("a.jsonl", "-o", f"{number}.npy", "--url", server.url, "--model", "m", "--cache", where)
        assert done.returncode == 0, done.stderr
        assert said in done.stderr.splitlines()[-1]
    done = run("a.jsonl", "-o", "2.npy", "--url", server.url, "--model", "m", "--cache", where, "--json")
    assert json.loads(done.stdout.splitlines()[-1])["usage"]["cached"] == 40
    assert {*sent(server)} == {*numbered(40)}
    file = here / (where if where == "c.sqlite" else f"{where}/vectors.sqlite")
    assert file.is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cache", "no/such/c"], "there is no folder"),
        (["--cache", ""], "--cache must be the path of a file or of a folder"),
        (["--cache-bytes", "100000"], "--cache-bytes needs --cache"),
        (["--cache", "a.jsonl/"], "cannot be made"),
    ],
    ids=str,
)
def test_a_wrong_one(here: Path, arguments: list[Any], said: str) -> None:
    """A cache that cannot be is told in one line, before anything is sent."""
    write_jsonl(here / "a.jsonl", documents(1))
    done = run("a.jsonl", "-o", "o.npy", "--url", "http://localhost:1", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (here / "o.npy").exists()


def test_a_size(here: Path) -> None:
    """`--cache-bytes` is the record's."""
    cache = command.cache("c", 10**6)
    assert cache is not None
    assert cache.max_bytes == 10**6
    with pytest.raises(InputError, match="max_bytes"):
        command.cache("c", 5)
