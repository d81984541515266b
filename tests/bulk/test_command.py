"""`embedwire embed`: the real process, its screens, its exit codes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedwire.testing import Answer, EmbeddingServer, Request
from tests.bulk.conftest import documents, sent, write_jsonl
from tests.helpers import needs_signals, numbered, right


def command(*arguments: object) -> list[str]:
    """The command, as the shell would start it."""
    return [sys.executable, "-m", "embedwire", "embed", *map(str, arguments)]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    environ = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **options.pop("environ", {})}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environ, timeout=60, check=False, **options
    )


def test_the_screen_without_a_terminal(here: Path, server: EmbeddingServer) -> None:
    """Without a terminal a run ends with one line on stderr, which sums it up, and writes nothing to stdout."""
    write_jsonl(here / "a.jsonl", [*documents(100), *documents(3), "{broken"])
    done = run("a.jsonl", "-o", "o.jsonl", "--url", server.url, "--id-column", "id", "--rejects", "bad.jsonl")
    assert (done.returncode, done.stdout) == (0, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("103 rows in o.jsonl, 1 rejected (see bad.jsonl), 3 repeats of a text, ")
    assert "requests in 0:0" in last
    assert json.loads((here / "o.jsonl").read_text().splitlines()[0])["id"] == "d0"


def test_quiet(here: Path, server: EmbeddingServer) -> None:
    """With --quiet nothing is said."""
    write_jsonl(here / "a.jsonl", documents(10))
    done = run("a.jsonl", "-o", "o.npy", "--url", server.url, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_json(here: Path, server: EmbeddingServer) -> None:
    """With --json each line of stdout is an object, the last one the report."""
    write_jsonl(here / "a.jsonl", documents(10))
    done = run("a.jsonl", "-o", "o.npy", "--url", server.url, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["event"] for event in events[:-1]} == {"progress"}
    assert (events[-2]["phase"], events[-2]["fraction"]) == ("done", 1.0)
    assert (events[-1]["event"], events[-1]["rows"], events[-1]["files"]) == ("done", 10, ["o.npy"])
    assert done.stderr == ""


def test_stdin(here: Path, server: EmbeddingServer) -> None:
    """Rows come from stdin, as plain text too; a closed one is told."""
    done = run("-", "-o", "o.npy", "--url", server.url, "--input-format", "text", input="text 0\ntext 1\n")
    assert done.returncode == 0, done.stderr
    assert right(np.load("o.npy"), numbered(2))
    shell = " ".join(command("-", "-o", "p.npy", "--url", server.url)) + " <&-"
    closed = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=60)  # noqa: S602
    assert closed.returncode == 1
    assert "embedwire: stdin is closed; name a file" in closed.stderr
    assert "Traceback" not in closed.stderr


def test_a_dry_run(here: Path, server: EmbeddingServer) -> None:
    """--dry-run says rows, characters and time, and writes nothing."""
    write_jsonl(here / "a.jsonl", documents(100))
    done = run("a.jsonl", "--dry-run", "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("100 rows, 690 characters\nabout 0:0")
    assert os.listdir(here) == ["a.jsonl"]


def test_options_reach_the_client(here: Path, server: EmbeddingServer) -> None:
    """The options of the server's side travel: model, dimensions, prompt, further fields, batch, key."""
    write_jsonl(here / "a.jsonl", documents(20))
    options = [
        "--dimensions",
        4,
        "--prompts",
        '{"document": "doc: "}',
        "--extra-body",
        '{"user": "me"}',
        "--batch-size",
        3,
    ]
    done = run(
        "a.jsonl", "-o", "o.npy", "--url", server.url, "--model", "test-model", *options,
        environ={"EMBEDWIRE_API_KEY": "open sesame"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = [
        request
        for request in server.requests
        if request.embeds and request.texts[0] not in ("ready", "doc: ready")
    ]
    assert {text for request in asked for text in request.texts} == {f"doc: {text}" for text in numbered(20)}
    assert max(len(request.texts) for request in asked) <= 3
    body = asked[-1].json
    assert (body["model"], body["user"]) == ("test-model", "me")
    assert asked[-1].headers["authorization"] == "Bearer open sesame"
    assert np.load("o.npy").shape == (20, 4)
    assert "open sesame" not in (here / "o.npy.manifest.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.jsonl"], 2, "say where the vectors go"),
        (["none.jsonl", "-o", "o.npy"], 1, "embedwire: none.jsonl cannot be read: No such file or directory"),
        (["a.jsonl", "-o", "o.npy", "--text-column", "body"], 1, "has no column 'body'; it has 'id', 'text'"),
        (["a.jsonl", "-o", "o.npy", "--extra-body", "{"], 1, "embedwire: --extra-body must be JSON"),
        (
            ["a.jsonl", "-o", "o.npy", "--too-long", "cut"],
            1,
            "too_long must be 'raise', 'truncate' or 'average'",
        ),
        (["b.jsonl", "-o", "o.npy"], 1, "embedwire: b.jsonl, line 3: not JSON"),
        (["a.jsonl", "-o", "there.npy"], 1, "there.npy exists; choose another output"),
    ],
)
def test_what_is_wrong_is_one_line(
    here: Path, server: EmbeddingServer, arguments: list[str], code: int, message: str
) -> None:
    """What is wrong ends the command with an exit code other than 0, and a message without a traceback."""
    write_jsonl(here / "a.jsonl", documents(3))
    write_jsonl(here / "b.jsonl", [*documents(2), "{broken"])
    (here / "there.npy").touch()
    done = run(*arguments, "--url", server.url, "--quiet")
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.splitlines()) == 1


@needs_signals
def test_ctrl_c_is_one_line(here: Path, server: EmbeddingServer) -> None:
    """Ctrl-C ends the command with exit code 130 and one line; --resume goes on, and sends nothing twice but that."""
    write_jsonl(here / "a.jsonl", documents(200))

    def script(request: Request) -> Answer | None:
        return Answer.hang() if request.embeds and sum(map(len, server.batches)) > 100 else None

    server.script = script
    arguments = [
        "a.jsonl",
        "-o",
        "o.npy",
        "--url",
        server.url,
        "--batch-size",
        5,
        "--concurrency",
        1,
        "--resume",
        "-q",
    ]
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True)
    server.wait(lambda: sum(map(len, server.batches)) > 100, timeout=30)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "Stopped. What was done is kept; go on with --resume.\n")
    server.script = None
    assert run(*arguments).returncode == 0
    assert right(np.load("o.npy"), numbered(200))
    assert sum(Counter(sent(server)).values()) <= 200 + 20


@needs_signals
@pytest.mark.parametrize("out", ["o.parquet", "o.npy"])
def test_no_room_for_the_file(here: Path, server: EmbeddingServer, out: str) -> None:
    """A system that takes no more of a file ends the run with one line; what it took is kept, and gone on with."""
    write_jsonl(here / "a.jsonl", documents(300))
    arguments = ["a.jsonl", "-o", out, "--url", server.url, "--quiet", "--batch-size", 50]
    shell = f"ulimit -f 10; exec {' '.join(command(*arguments))}"  # some kilobytes
    full = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60)  # noqa: S607
    assert full.returncode == 1
    assert full.stderr.startswith(f"embedwire: {out} cannot be written: File too large. What was written")
    assert len(full.stderr.splitlines()) == 1
    assert not (here / out).exists()
    assert run(*arguments, "--resume").returncode == 0
    assert (here / out).exists()


@needs_signals
def test_nobody_reads_any_more(here: Path, server: EmbeddingServer) -> None:
    """A run whose progress nobody reads any more ends with one line."""
    write_jsonl(here / "a.jsonl", documents(300))

    def script(request: Request) -> Answer | None:
        return Answer.hang() if request.embeds and "text 5" in request.texts else None

    server.script = script
    process = subprocess.Popen(
        command(
            "a.jsonl", "-o", "o.npy", "--url", server.url, "--json", "--batch-size", 1, "--concurrency", 1
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 1
    assert said == (
        "embedwire: nobody reads what it says any more. What was done is kept; go on with --resume\n"
    )


@needs_signals
@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    """After five kills -9 the output is that of an undisturbed run, and few texts were sent twice."""
    write_jsonl(tmp_path / "a.jsonl", documents(1500))
    chance = random.Random(14)
    with EmbeddingServer(slots=4, latency=0.005) as server:

        def arguments(folder: str) -> list[Any]:
            (tmp_path / folder).mkdir(exist_ok=True)
            target = tmp_path / folder / "o"
            return [
                tmp_path / "a.jsonl",
                "-o",
                target,
                "--url",
                server.url,
                "--id-column",
                "id",
                "-q",
                "--rows-per-file",
                400,
            ]

        assert run(*arguments("whole")).returncode == 0
        server.requests.clear()
        kills = 0
        while kills < 5:
            before = len(server.requests)
            process = subprocess.Popen(command(*arguments("killed"), "--resume"))
            more = before + chance.randint(3, 60)
            server.wait(lambda more=more: len(server.requests) > more, timeout=30)  # type: ignore[misc]
            time.sleep(chance.random() * 0.02)
            process.kill()
            process.wait()
            kills += 1
        assert run(*arguments("killed"), "--resume").returncode == 0
        counts = Counter(sent(server))
    assert len(counts) == 1500
    assert sum(counts.values()) - 1500 < 5 * 40
    assert contents(tmp_path / "killed" / "o") == contents(tmp_path / "whole" / "o")


def contents(path: Path) -> dict[str, bytes]:
    """The files of an output."""
    paths = [path] if path.is_file() else [one for one in path.iterdir() if one.name[0] not in "._"]
    return {one.name: one.read_bytes() for one in paths}
