"""`--engine ray`: the job of one process in the tasks of a cluster, whoever of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from embedwire import EmbeddingClient, InputError, SharedEmbeddingClient, TextRefused, UsageError
from embedwire.bulk import Progress, RayEngine, embed_file
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.bulk.conftest import documents, read_jsonl, sent, write_jsonl

ROWS, PER_FILE = 5000, 500


def command(*arguments: object) -> list[str]:
    """The command, as the shell would start it."""
    return [sys.executable, "-m", "embedwire", "embed", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    environ = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=100, env=environ)


def contents(folder: Path) -> dict[str, bytes]:
    """The finished files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] not in "._"}


def workers(out: Path) -> list[int]:
    """Ids of the processes that have a shard in work, as they say themselves."""
    return [int(path.read_text() or 0) for path in (out / ".work").glob("rows-*.lock")]


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_dies_then_the_driver(here: Path, cluster: str) -> None:
    """Every row is there once, as without a death; less than a shard per kill goes twice; the job again: no request."""
    write_jsonl(here / "a.jsonl", documents(ROWS))
    with EmbeddingServer(slots=4, latency=0.03) as server:
        shared = ["a.jsonl", "--url", server.url, "--id-column", "id", "--rows-per-file", PER_FILE, "-q"]
        shared += ["--batch-size", 10, "--concurrency", 4]
        assert run(*shared, "-o", "whole").returncode == 0
        server.requests.clear()
        on_ray = [*shared, "-o", "out", "--engine", "ray", "--address", cluster, "--resume"]

        driver = subprocess.Popen(command(*on_ray), stderr=subprocess.PIPE, text=True)
        server.wait(lambda: len(sent(server)) > 700, timeout=60)
        worker = workers(here / "out")[0]
        os.kill(worker, signal.SIGKILL)
        server.wait(lambda: len(sent(server)) > 2500, timeout=60)
        assert driver.poll() is None
        driver.kill()
        driver.communicate()

        done = run(*on_ray)
        assert (done.returncode, done.stderr) == (0, "")
        counts = Counter(sent(server))
        assert set(counts) == {row["text"] for row in documents(ROWS)}
        twice = sum(counts.values()) - ROWS
        print(f"{twice} texts were sent twice, {max(counts.values())} times at most")
        assert twice < 2 * PER_FILE
        assert contents(here / "out") == contents(here / "whole")
        assert sorted(path.name for path in (here / "out").iterdir())[0] == "_manifest.json"

        server.requests.clear()
        again = run(*on_ray)
        assert (again.returncode, again.stderr) == (0, "")
        assert server.requests == []


@pytest.mark.parametrize("form", ["parquet", "jsonl", "npy"])
def test_the_output_is_that_of_one_process(
    here: Path, server: EmbeddingServer, cluster: str, form: Any
) -> None:
    """Files of every format are those of the engine in one process, to the byte; what is reported is the same."""
    write_jsonl(
        here / "a.jsonl",
        [{"id": n, "text": f"text {n % 70}", "x": n / 2 if n > 50 else n} for n in range(95)],
    )
    given: Any = {"rows_per_file": 20, "output_format": form, "dtype": "float16"}
    if form != "npy":
        given |= {"id_column": "id", "keep": ["x"]}
    local = embed_file("a.jsonl", "local", server.url, **given)
    seen: list[Progress] = []
    there = embed_file("a.jsonl", "ray", server.url, engine="ray", progress=seen.append, **given)
    assert contents(here / "ray") == contents(here / "local")
    assert (there.rows, there.rejects, there.resumed) == (local.rows, local.rejects, local.resumed)
    assert [path.name for path in there.files] == [path.name for path in local.files]
    assert there.usage.texts >= 95
    assert (seen[0].phase, seen[-1].phase, seen[-1].rows, seen[-1].fraction) == ("waiting", "done", 95, 1.0)


def test_what_is_in_flight_is_what_the_user_said(here: Path, cluster: str) -> None:
    """All workers together have no more in flight at the server than `concurrency`."""
    write_jsonl(here / "a.jsonl", documents(400))
    with EmbeddingServer(latency=0.02) as server:
        client = EmbeddingClient(server.url, batch_size=5, concurrency=3, model="test-model")
        embed_file("a.jsonl", "out", client, rows_per_file=100, engine=RayEngine(workers=2))
        assert server.peak_in_flight == 3
        with pytest.raises(InputError, match="concurrency=3 cannot be shared out among 4 processes"):
            embed_file("a.jsonl", "more", client, rows_per_file=100, engine=RayEngine(workers=4))


class TestBadRows:
    """A text that gets no vector ends the run with file and line, or goes to the rejects."""

    @staticmethod
    def script(request: Request) -> Answer | None:
        """Refuses one text."""
        return Answer.too_large(600, 512) if request.embeds and "text 57" in request.texts else None

    def test_file_and_line(self, here: Path, server: EmbeddingServer, cluster: str) -> None:
        """The error is that of one process: its class, and file and line; then the run goes on with rejects."""
        write_jsonl(here / "a.jsonl", [*documents(70), "{broken", *documents(30, 70)])
        server.script = self.script
        client = SharedEmbeddingClient(server.url, batch_size=5)
        with pytest.raises(TextRefused, match=r"^a\.jsonl, line 58: .*--rejects FILE") as caught:
            embed_file("a.jsonl", "out", client, rows_per_file=20, engine=RayEngine(workers=1))
        assert "text 57" not in str(caught.value)
        report = embed_file(
            "a.jsonl",
            "out",
            client,
            rows_per_file=20,
            engine="ray",
            resume=True,
            rejects="bad.jsonl",
        )
        assert (report.rows, report.rejects) == (99, 2)
        assert report.resumed >= 40
        bad = read_jsonl(here / "bad.jsonl")
        assert [(one["row"], one["file"], one["line"]) for one in bad] == [
            (57, "a.jsonl", 58),
            (70, "a.jsonl", 71),
        ]
        counts = Counter(sent(server))
        assert counts["text 0"] == counts["text 39"] == 1
        assert pq.read_table("out")["row"].to_pylist() == [n for n in range(101) if n not in (57, 70)]

    def test_the_command_says_one_line(self, here: Path, server: EmbeddingServer, cluster: str) -> None:
        """What is wrong ends the command with exit code 1 and a line without a traceback."""
        write_jsonl(here / "a.jsonl", [*documents(30), {"text": None}])
        shared = ["a.jsonl", "--url", server.url, "-o", "out", "--rows-per-file", 10, "--engine", "ray"]
        done = run(*shared, "--address", cluster, "-q")
        assert done.returncode == 1
        assert done.stderr.startswith("embedwire: a.jsonl, line 31: 'text' is null.")
        assert len(done.stderr.splitlines()) == 1
        done = run(*shared, "--address", "127.0.0.1:1", "-q", "--resume")
        assert done.returncode == 1
        assert done.stderr.startswith("embedwire: Ray at 127.0.0.1:1 cannot be reached: ")
        assert len(done.stderr.splitlines()) == 1


class TestEngines:
    """A job that one engine began is gone on with by the other."""

    @pytest.mark.parametrize("first", ["local", "ray"])
    def test_either_way(self, here: Path, server: EmbeddingServer, cluster: str, first: Any) -> None:
        """The finished files stay, the others are made, and all are those of one engine."""
        second: Any = "ray" if first == "local" else "local"
        write_jsonl(here / "a.jsonl", documents(100))
        client = SharedEmbeddingClient(server.url, batch_size=5, concurrency=1)
        embed_file("a.jsonl", "whole", client, rows_per_file=20)
        server.requests.clear()
        server.script = lambda request: Answer.too_large(600, 512) if "text 50" in request.texts else None
        with pytest.raises(TextRefused):
            embed_file("a.jsonl", "out", client, rows_per_file=20, engine=first)
        server.script = None
        report = embed_file("a.jsonl", "out", client, rows_per_file=20, engine=second, resume=True)
        assert report.rows == 100
        assert contents(here / "out") == contents(here / "whole")
        counts = Counter(sent(server))
        assert all(counts[f"text {number}"] == 1 for number in range(40))

    def test_another_job_is_refused(self, here: Path, server: EmbeddingServer, cluster: str) -> None:
        """Another input, and another model, are refused on both engines alike."""
        write_jsonl(here / "a.jsonl", documents(30))
        embed_file("a.jsonl", "out", server.url, rows_per_file=10)
        with pytest.raises(InputError, match="dimensions was None and is 4"):
            embed_file(
                "a.jsonl",
                "out",
                SharedEmbeddingClient(server.url, dimensions=4),
                rows_per_file=10,
                resume=True,
                engine="ray",
            )
        with pytest.raises(InputError, match="exists; choose another output"):
            embed_file("a.jsonl", "out", server.url, rows_per_file=10, engine="ray")
        again = embed_file("a.jsonl", "out", server.url, rows_per_file=10, engine="ray", overwrite=True)
        assert (again.rows, again.resumed) == (30, 0)

    def test_two_runs(self, here: Path, server: EmbeddingServer, cluster: str) -> None:
        """A second run on one output is refused, whichever engine has it."""
        write_jsonl(here / "a.jsonl", documents(30))
        shared: Any = {"rows_per_file": 10, "resume": True}

        def again(progress: Progress) -> None:
            if progress.phase == "embedding":
                with pytest.raises(UsageError, match="another run is writing there"):
                    embed_file("a.jsonl", "out", server.url, **shared)

        embed_file("a.jsonl", "out", server.url, engine="ray", progress=again, **shared)


def test_a_ray_of_its_own(here: Path, server: EmbeddingServer) -> None:
    """Without an address the command starts a Ray of its own, which ends with it; Ctrl-C is one line."""
    write_jsonl(here / "a.jsonl", documents(40))
    arguments = ["a.jsonl", "--url", server.url, "-o", "out", "--rows-per-file", 10, "--engine", "ray"]
    arguments += ["--workers", 1, "--address", "local", "--resume", "--json"]
    hanging = server.hold()
    with hanging:
        process = subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        server.wait(lambda: bool(server.batches), timeout=60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "Stopped. What was done is kept; go on with --resume.\n")
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (events[-1]["event"], events[-1]["rows"]) == ("done", 40)


def test_no_key_is_shown(here: Path, cluster: str) -> None:
    """A key reaches the workers, and stands in none of Ray's logs, nor in the manifest."""
    write_jsonl(here / "a.jsonl", documents(30))
    with EmbeddingServer(api_key="open sesame") as server:
        client = SharedEmbeddingClient(server.url, api_key="open sesame")
        assert embed_file("a.jsonl", "out", client, rows_per_file=10, engine="ray").rows == 30
        wrong = SharedEmbeddingClient(server.url, api_key="close sesame", model="test-model")
        with pytest.raises(Exception, match="key") as caught:
            embed_file("a.jsonl", "no", wrong, rows_per_file=10, engine="ray")
    assert "close sesame" not in str(caught.value)
    logs = [path for path in Path(os.environ["HOME"]).rglob("*") if path.is_file() and "logs" in path.parts]
    assert logs
    for path in [*logs, here / "out" / "_manifest.json"]:
        assert b"sesame" not in path.read_bytes(), path
