"""The examples, each as a process of its own, as a reader would start it: they work, and leave nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedwire.testing import EmbeddingServer, is_vector_of
from tests.helpers import needs_signals, numbered
from tests.servers import free_port, reference
from tests.tools.strict import STRICT, complaints

ROOT = Path(__file__).parents[2]


def run(command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """A finished process."""
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", cwd=ROOT, env={**os.environ, **env, "PYTHONUTF8": "1"}
    )


def printed(example: str, **env: str) -> str:
    """What an example prints; any warning, or a socket left open, fails."""
    ran = run([*STRICT, f"examples/{example}.py"], **env)
    assert (ran.returncode, complaints(ran.stderr)) == (0, "")
    return ran.stdout


@pytest.mark.parametrize("example", ["quickstart_langchain", "quickstart_llama_index"])
def test_quickstarts_find_the_right_texts(example: str, llama: str) -> None:
    """Both frameworks answer both questions with the text that a person would choose."""
    assert printed(example, EMBEDWIRE_URL=llama).splitlines() == [
        "How long can I keep a book?",
        "  Books may be kept for three weeks; each further day costs ten cents.",
        "Where do I get a new card?",
        "  A lost card is replaced at the front desk.",
    ]


def test_plain_async_shows_every_call_and_an_error(llama: str) -> None:
    """Every call of the client does what the script says, and a text too long fails alone, with its index."""
    lines = printed("plain_async", EMBEDWIRE_URL=llama).splitlines()
    assert re.fullmatch(r"llama\.cpp serves .*all-MiniLM-L6-v2.*: 384 dimensions", lines[0])
    assert lines[1:7] == [
        "embed        2 lists of 384 numbers",
        "embed_query  one list of 384 numbers",
        "embed_array  float32 (20, 384)",
        "stream       lines 0 to 4",
        "stream       lines 5 to 9",
        "stream       lines 10 to 11",
    ]
    assert lines[7].startswith("TextRefused: the text has 40002 tokens and the server takes 512 (500)")
    assert lines[8:] == ["index        1", "completed    [0, 2], (2, 384)"]


def test_an_example_without_a_server_says_what_to_check() -> None:
    """Who forgot to start the server reads which URL was tried and what to do."""
    url = f"http://127.0.0.1:{free_port()}"
    ran = run([sys.executable, "examples/quickstart_langchain.py"], EMBEDWIRE_URL=url)
    assert ran.returncode == 1
    assert f"{url}/v1" in ran.stderr
    assert "Check that the server runs" in ran.stderr


RESUME = [*STRICT, "examples/resume_by_hand.py"]


def resumed(server: EmbeddingServer, folder: Path) -> dict[str, str]:
    """The environment of the example that a kill interrupts."""
    return {**os.environ, "EMBEDWIRE_URL": server.url, "OUT": str(folder / "out.npy"), "PYTHONUTF8": "1"}


def rows(path: Path, texts: list[str]) -> Path:
    """A file of rows."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path


@pytest.mark.slow
def test_resume_by_hand_survives_kills(tmp_path: Path) -> None:
    """Two kills in the middle: every row once and in its place, few texts sent twice, a whole file at the end."""
    texts = numbered(4000)
    command = [sys.executable, "examples/resume_by_hand.py", rows(tmp_path / "rows.jsonl", texts)]
    out = tmp_path / "out.npy"
    with EmbeddingServer(latency=0.02) as server:
        for kills in (1, 2):
            with subprocess.Popen(
                command, cwd=ROOT, env=resumed(server, tmp_path), stdout=subprocess.DEVNULL
            ) as process:
                server.wait(lambda least=kills * 200: len(server.batches) >= least, timeout=60)
                process.kill()
            assert not out.exists()
        sent = sum(map(len, server.batches))
        ran = subprocess.run(
            command, cwd=ROOT, env=resumed(server, tmp_path), capture_output=True, text=True, check=True
        )
        there = int(ran.stdout.split(" of 4000 rows are there.")[0])
        assert sent - 300 < there < sent
        assert sum(map(len, server.batches)) < 4400
        again = subprocess.run(
            command, cwd=ROOT, env=resumed(server, tmp_path), capture_output=True, text=True, check=False
        )
        assert (again.returncode, again.stderr) == (1, f"{out} is there already.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "rows.jsonl"]
    matrix = np.load(out)
    assert all(is_vector_of(row, text, tolerance=1e-6) for row, text in zip(matrix, texts, strict=True))


@needs_signals
def test_resume_by_hand_takes_a_file_and_ctrl_c(tmp_path: Path) -> None:
    """Rows of a file in any script; Ctrl-C is one line that says how to go on, and the second run does."""
    texts = [f"행 {number}" for number in range(1000)]
    command = [*RESUME, str(rows(tmp_path / "rows.jsonl", texts))]
    with EmbeddingServer(latency=0.05) as server:
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=resumed(server, tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            server.wait(lambda: len(server.batches) >= 40, timeout=60)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        assert (process.returncode, complaints(said).strip()) == (130, "Stopped; start it again to go on.")
    with EmbeddingServer() as server:
        subprocess.run(command, cwd=ROOT, env=resumed(server, tmp_path), capture_output=True, check=True)
        assert sum(map(len, server.batches)) < 1000
    matrix = np.load(tmp_path / "out.npy")
    assert all(is_vector_of(row, text, tolerance=1e-6) for row, text in zip(matrix, texts, strict=True))


@pytest.mark.slow
def test_demo_finds_the_right_articles_in_both_languages() -> None:
    """The demo ends with 0 and the right answers, and fits into 80 columns."""
    out = printed("demo")
    assert "All 12 answers are right" in out
    assert out.count("✓") == 24
    assert "✗" not in out
    assert max(map(columns, out.splitlines())) <= 80


@pytest.mark.slow
def test_demo_fails_when_an_answer_is_wrong() -> None:
    """The demo's own check can fail: with a wrong article expected it says so and ends with 1."""
    wrong = "import sys, examples.demo as demo; demo.QUESTIONS['Who may vote in elections?'] = 5; sys.exit(demo.main())"
    ran = run([sys.executable, "-c", wrong])
    assert ran.returncode == 1
    assert "2 of 12 answers are wrong" in ran.stdout


@pytest.mark.slow
def test_demo_takes_questions_of_its_reader() -> None:
    """Questions on the command line are answered too, and not checked."""
    ran = run([sys.executable, "examples/demo.py", "Can I go home again?"])
    assert ran.returncode == 0
    assert ran.stdout.count("Can I go home again?") == 2
    assert "✓" not in ran.stdout


def columns(line: str) -> int:
    """How wide a line stands in a terminal: Hangul takes two columns."""
    return sum(2 if "\uac00" <= char <= "\ud7a3" else 1 for char in line)


class Application:
    """The FastAPI example under a real uvicorn."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def post(self, path: str, body: object) -> tuple[int, Any]:
        """The status and the JSON of a reply."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def end(self, how: signal.Signals) -> str:
        """What it had logged by the time it was gone."""
        self.process.send_signal(how)
        _, log = self.process.communicate(timeout=15)
        return log


@contextmanager
def application(server: str) -> Iterator[Application]:
    """The example, serving, with its embedding server at a URL."""
    port = free_port()
    command = [*STRICT, "-m", "uvicorn", "examples.fastapi_app:app", "--port", str(port)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "EMBEDWIRE_URL": server},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert any("Uvicorn running" in line for line in process.stderr), "it did not start"
        yield Application(process, f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.communicate()


TEXTS = [
    "Seoul is the capital of Korea.",
    "Kimchi is a dish of fermented cabbage.",
    "It rains a lot in July.",
]


def test_fastapi_gives_the_vectors_of_the_server(llama: str) -> None:
    """What a client of the application gets is what llama.cpp says, each vector with its own text."""
    with application(llama) as app:
        status, vectors = app.post("/embed", {"texts": TEXTS})
        assert status == 200
        np.testing.assert_allclose(vectors, reference(llama, TEXTS, one_by_one=True), atol=1e-6)

        status, hits = app.post("/search", {"texts": TEXTS, "query": "What do Koreans eat?"})
        assert status == 200
        assert hits[0]["text"] == TEXTS[1]
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_fastapi_answers_422_for_a_text_that_is_too_long(llama: str) -> None:
    """A text's own fault is the caller's to mend: 422 with the index, and the application goes on."""
    with application(llama) as app:
        status, problem = app.post("/embed", {"texts": ["short", "long " * 2000]})
        assert status == 422
        assert "texts[1] of 2" in problem["detail"]
        assert app.post("/embed", {"texts": []}) == (200, [])


def test_fastapi_answers_503_without_its_server() -> None:
    """An embedding server that is gone is no bug of the application: 503 with the reason."""
    with application(f"http://127.0.0.1:{free_port()}") as app:
        status, problem = app.post("/embed", {"texts": TEXTS})
        assert status == 503
        assert "no connection could be made" in problem["detail"]


def test_fastapi_keeps_one_session_over_all_requests() -> None:
    """The blog post's singleton: one client in the lifespan, so twenty requests share one connection."""
    with EmbeddingServer() as server, application(server.url) as app:
        for text in numbered(20):
            status, (vector,) = app.post("/embed", {"texts": [text]})
            assert status == 200
            assert is_vector_of(vector, text, tolerance=1e-6)
        assert server.connections == 1
        assert server.batches == [[text] for text in numbered(20)]


@needs_signals
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_fastapi_ends_cleanly(how: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end it without a warning, and no connection stays at the embedding server."""
    with EmbeddingServer() as server, application(server.url) as app:
        assert app.post("/embed", {"texts": TEXTS})[0] == 200
        assert server.open_connections == 1
        log = app.end(how)
        server.wait(lambda: server.open_connections == 0)
    assert "Application shutdown complete." in log
    assert "Warning" not in log
    assert "Traceback" not in log
