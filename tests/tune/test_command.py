"""`embedwire tune`: the real process, its screens, its files, its exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from embedwire.testing import Answer, EmbeddingServer
from embedwire.tune.records import Cell, Look
from embedwire.tune.showing import Lines, Live, drawn
from tests.helpers import needs_signals
from tests.unit.test_tune_report import GRID, OUTCOME, TAKEN

LOOK = Look(phase="8 texts in a request, 8 in flight", grid=GRID, taken=TAKEN, current=Cell(32, 8), end=100.0)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own, at which a sweep takes seconds."""
    with EmbeddingServer(slots=2, latency=0.005, latency_per_text=0.001) as server:
        yield server


def command(*arguments: object) -> list[str]:
    """The command, as the shell would start it."""
    return [sys.executable, "-m", "embedwire", "tune", *map(str, arguments)]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    environ = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100", **options.pop("environ", {})}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environ, timeout=90, check=False, **options
    )


SMALL = ("--seconds", 6, "--max-batch", 4, "--max-in-flight", 2)


def test_a_sweep(tmp_path: Path, server: EmbeddingServer) -> None:
    """A sweep of the user's texts prints table, verdict and settings, and writes picture and JSON."""
    lines = [f"text number {number}\n" for number in range(500)]
    (tmp_path / "docs.txt").write_text("".join([*lines, lines[7]]))
    done = run(
        server.url,
        tmp_path / "docs.txt",
        *SMALL,
        "--heatmap",
        tmp_path / "map.svg",
        "-o",
        tmp_path / "a.json",
    )
    assert done.returncode in (0, 3), (done.stdout, done.stderr)  # a busy machine tells nothing
    assert "500 texts, 15 characters on average" in done.stdout
    assert "1 row had no text, or one that was there before" in " ".join(done.stdout.split())
    assert ("Best: " in done.stdout) == ("EmbedwireEmbeddings(" in done.stdout) == (done.returncode == 0)
    assert "\033" not in done.stdout + done.stderr
    assert "1 text in a request, 1 in flight: " in done.stderr
    assert (tmp_path / "map.svg").read_text("utf-8").startswith("<svg")
    told = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert told["exit_code"] == done.returncode
    assert (told["best"] is None) == (done.returncode == 3)


def test_json_and_built_in_texts(server: EmbeddingServer) -> None:
    """With --json stdout is one object; without a file built-in texts are sent, which is said; --quiet says nothing."""
    done = run(server.url, *SMALL, "--json", "--quiet")
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (told["exit_code"], "")
    assert told["texts"]["source"] == "built-in sample texts"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["URL", "none.jsonl"], 1, "embedwire: none.jsonl cannot be read: No such file or directory"),
        (["URL", "a.jsonl", "--text-column", "body"], 1, "has no column 'body'; it has 'text'"),
        (["URL", "empty.jsonl"], 1, "empty.jsonl holds no text to embed"),
        (["URL", "blank.jsonl"], 1, "blank.jsonl, line 1: 'text' is null"),
        (["URL", "http://other:8080"], 2, "sizes are those of one server"),
        (["a.jsonl"], 2, "name the server first"),
        (["http://127.0.0.1:9"], 1, "127.0.0.1:9"),
        (["nowhere"], 1, "must start with http:// or https://"),
        (["URL", "--extra-body", "{"], 2, "--extra-body must be a JSON object"),
        (["URL", "--extra-body", "[1]"], 2, "--extra-body must be a JSON object"),
        (["URL", "--prompts", "{"], 2, "--prompts must be a JSON object"),
        (["URL", "--prompts", "no such family"], 1, "prompts"),
        (["URL", "--heatmap", "there/map.svg"], 1, "there is no folder there"),
        (["URL", "--heatmap", "map.pdf"], 1, "--heatmap writes *.svg, not map.pdf"),
        (["URL", "--seconds", "0"], 2, "seconds"),
        (["URL", "--input-format", "xml", "a.jsonl"], 1, "the format of the input must be one of"),
    ],
)
def test_what_is_wrong_is_told(
    tmp_path: Path, server: EmbeddingServer, arguments: list[str], code: int, message: str
) -> None:
    """What is wrong ends it with an exit code other than 0, and a message without a traceback."""
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text('{"text": null}\n{"text": " "}\n')
    arguments = [server.url if one == "URL" else one for one in arguments]
    done = run(*arguments, "--quiet", *([] if "--seconds" in arguments else ["--seconds", 3]), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.splitlines()) == 1


def test_a_png_becomes_an_svg(tmp_path: Path) -> None:
    """Where a PNG is wanted, the picture is an SVG beside it, and how to make one of the other is said at once."""
    done = run("http://127.0.0.1:9", "--heatmap", tmp_path / "map.png", "--seconds", 2)
    assert "map.svg" in done.stderr.splitlines()[0]
    assert "rsvg-convert" in done.stderr


def test_a_key_is_taken_from_the_environment() -> None:
    """The key comes from EMBEDWIRE_API_KEY, and is shown nowhere; a wrong one is an error in one line."""
    with EmbeddingServer(api_key="open sesame", latency=0.005) as server:
        done = run(server.url, *SMALL, environ={"EMBEDWIRE_API_KEY": "open sesame"})
        assert done.returncode in (0, 3), done.stderr
        assert "open sesame" not in done.stdout + done.stderr
        done = run(server.url, *SMALL, "-q", environ={"EMBEDWIRE_API_KEY": "wrong key"})
        assert done.returncode == 1
        assert "wrong key" not in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_stdin(server: EmbeddingServer) -> None:
    """Texts come from stdin, too; a closed one is told."""
    done = run(server.url, "-", "--input-format", "text", *SMALL, input="one\ntwo\nthree\n")
    assert done.returncode in (0, 3), done.stderr
    assert "3 texts" in done.stdout
    assert "sent again with a number in front" in " ".join(done.stdout.split())
    shell = " ".join(command(server.url, "-", "--seconds", 2)) + " <&-"
    closed = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=60)  # noqa: S602
    assert closed.returncode == 1
    assert "stdin is closed" in closed.stderr


@needs_signals
def test_ctrl_c_shows_what_was_measured(server: EmbeddingServer) -> None:
    """Ctrl-C ends it with exit code 130 and one line, and what was measured so far is shown."""
    process = subprocess.Popen(
        command(server.url, "--seconds", 30), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    seen = ""
    while "2 texts in a request" not in seen and "8 texts in a request" not in seen:
        seen = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "Stopped."
    assert "Traceback" not in err
    assert "Texts per second:" in out


@needs_signals
def test_ctrl_c_before_anything_was_measured() -> None:
    """Ctrl-C before the first measurement is one line."""
    with EmbeddingServer(script=lambda request: Answer.hang()) as server:
        process = subprocess.Popen(
            command(server.url, "-q"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while not server.requests:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "Stopped.\n")


@pytest.mark.parametrize("width", [20, 80, 120])
def test_the_live_table_fits(width: int) -> None:
    """In a terminal of any width the live table fits, and says what is done and the time left."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(drawn(LOOK, width, lambda: 58.0))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith("42 s left")
    assert any("*523" in line for line in lines)


def test_the_live_table_is_drawn_in_its_place() -> None:
    """A terminal gets the table again in its place, and in the end it is taken away."""
    stream = io.StringIO()
    live = Live(stream, Console(file=stream, width=80, force_terminal=True))
    live.show(LOOK)
    live.show(LOOK)
    live.close()
    assert stream.getvalue().count("*523") >= 2
    assert "\x1b[2K" in stream.getvalue()


def test_lines_say_what_came_of_each() -> None:
    """Without a terminal each measurement is a line, a refusal too."""
    stream = io.StringIO()
    lines = Lines(stream)
    begin = Look(phase="asking the server what it is", grid=None, taken=TAKEN, current=None, end=0.0)
    for current in (None, Cell(128, 8), Cell(8, 8), None):
        lines.show(Look(phase=begin.phase, grid=GRID, taken=TAKEN, current=current, end=0.0))
    said = stream.getvalue().splitlines()
    assert said == [
        "asking the server what it is …",
        "128 texts in a request, 8 in flight: the server answered 429",
        "8 texts in a request, 8 in flight: 531 texts/s",
    ]


@pytest.mark.parametrize("name", ["LangChain", "LlamaIndex", "Without a framework"])
def test_what_is_to_be_pasted_works(name: str) -> None:
    """What is to be pasted is Python that makes a client with these sizes."""
    pytest.importorskip("llama_index.core")
    from dataclasses import replace

    from embedwire.tune.pasting import settings

    outcome = replace(
        OUTCOME, arguments={"dimensions": 4, "prompts": {"document": "a: "}, "extra_body": {"user": "me"}}
    )
    code = dict(settings(outcome, Cell(64, 8)))[name]
    made: dict[str, Any] = {}
    exec(code, made)  # noqa: S102 - it is what a user pastes
    (one,) = (made[variable] for variable in ("embeddings", "embed_model", "client") if variable in made)
    assert "gpu:8080" in repr(one)
    assert ("embed_batch_size=2048" in code) == (name == "LlamaIndex")
