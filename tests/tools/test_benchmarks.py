"""The benchmarks, as far as a test can tell: embedwire does every job rightly, and no check is only for show."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if sys.platform == "win32":
    pytest.skip("the benchmarks need CPU times that Windows does not tell", allow_module_level=True)

from benchmarks.speed import auto, clients, results
from benchmarks.speed.auto import Try
from benchmarks.speed.measure import serving, take
from benchmarks.speed.report import report
from benchmarks.speed.results import Result, Results
from benchmarks.speed.server import Behaviour
from benchmarks.speed.texts import are_right, table, text, texts
from benchmarks.speed.worker import Job, Sample
from benchmarks.speed.workloads import AUTO

ROOT = Path(__file__).parents[2]
PEER, OURS = "baseten", "embedwire"


def ask(url: str, many: list[str], encoding: str = "float") -> Any:
    """A reply of the mock server; its status where it refuses."""
    body = json.dumps({"input": many, "model": "m", "encoding_format": encoding}).encode()
    try:
        with urllib.request.urlopen(f"{url}/v1/embeddings", body, timeout=10) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def arrays(ours: Sample, peer: Sample) -> Results:
    """The results of one workload, whose target is a quarter of the peer's CPU time."""
    samples = {OURS: [ours], PEER: [peer]}
    return {"arrays": Result(date="2026-11-22", machine={"CPU": "a slow one"}, samples=samples)}


@pytest.mark.slow
def test_every_door_does_every_job_rightly() -> None:
    """Quick mode: through every door, and on every kind of server, each text gets its own vector."""
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", "--quick"], cwd=ROOT, capture_output=True, text=True
    )
    lines = ran.stderr.splitlines()
    assert [line for line in lines if not line.startswith("right ")] == []
    assert ran.returncode == 0
    for door in clients.OURS.keys() - {clients.BEST_FIXED}:
        assert any(f" {door}  " in line for line in lines), door
    for work in AUTO:
        assert any(line.startswith(f"right {work.name} ") for line in lines), work.name


class TestRightness:
    """A client that gets something wrong has no figure."""

    def test_sees_every_mistake(self) -> None:
        """Two vectors in each other's place, one missing or too many, another type, a wrong bit: all are seen."""
        rows = table()[np.arange(40)]
        assert are_right(rows, 40)
        assert are_right(rows[7:].tolist(), 33, start=7)
        assert not are_right(rows[[1, 0, *range(2, 40)]], 40)
        assert not are_right(rows[1:], 40)
        assert not are_right(rows, 39)
        assert not are_right(rows.astype(np.float64), 40)
        assert not are_right(list(rows), 40)
        wrong = rows.copy()
        wrong[39, -1] = np.nextafter(wrong[39, -1], np.float32(1))
        assert not are_right(wrong, 40)

    def test_a_worker_tells_what_failed(self) -> None:
        """A client that cannot do its job gives an error instead of a figure."""
        with serving(Behaviour(cap=0)) as url:
            job = Job(client=OURS, do="lists", url=url, texts=5, batch=5, concurrency=1, warm_up=0)
            sample = take(job)
        assert not sample.right
        assert "maximum allowed batch size 0" in (sample.error or "")

    def test_one_wrong_sample_takes_the_figure_away(self) -> None:
        """The report shows a failure, and no figure and no met target, and the command fails."""
        done = Sample(wall=1, cpu=1, right=True)
        wrong = arrays(Sample(wall=0.1, cpu=0.1, right=False), done)
        assert "failed: a text did not get its own vector" in report(wrong)
        assert "| matrix: CPU beside baseten's | ≤ 0.25 | ✗ no figure |" in report(wrong)
        assert not results.all_right(wrong)
        failed = arrays(done, Sample(error="ValueError: no"))
        assert "failed: ValueError: no" in report(failed)
        assert results.all_right(failed)  # a peer's failure is a result


def test_targets_stand_beside_what_was_measured() -> None:
    """A target that was met, one that was missed and one that was not measured look different."""
    met = report(arrays(Sample(cpu=0.2, right=True), Sample(cpu=1, right=True)))
    missed = report(arrays(Sample(cpu=0.3, right=True), Sample(cpu=1, right=True)))
    assert "| matrix: CPU beside baseten's | ≤ 0.25 | ✓ 0.2 |" in met
    assert "| matrix: CPU beside baseten's | ≤ 0.25 | ✗ 0.3 |" in missed
    assert "| 64 slots: time over the ideal | ≤ 1.6 | not measured |" in met


def test_results_are_kept(tmp_path: Path) -> None:
    """What was measured can be read again, so that single workloads can be measured anew."""
    tries = [Try(batch=8, concurrency=4, speed=100.0, samples=1)]
    kept = arrays(Sample(cpu=0.2, right=True, p50=0.001), Sample(error="no"))
    kept["arrays"] = replace(kept["arrays"], tries=tries)
    results.save(tmp_path / "kept.json", kept)
    assert results.load(tmp_path / "kept.json") == kept
    assert results.load(tmp_path / "none.json") == {}


def test_the_best_fixed_numbers_are_those_tried_most_and_fastest() -> None:
    """A lucky single sample does not beat one that was tried again; one that never finished does not count."""
    lucky = Try(batch=1, concurrency=1, speed=300.0, samples=1)
    sure = Try(batch=2, concurrency=2, speed=200.0, samples=3)
    slower = Try(batch=4, concurrency=4, speed=100.0, samples=3)
    given_up = Try(batch=8, concurrency=8, speed=900.0, samples=0)
    assert auto.best([lucky, sure, slower, given_up]) == sure
    assert auto.best([given_up]) is None


class TestMockServer:
    """The server against which all are measured does what it says."""

    def test_gives_each_text_its_vector(self) -> None:
        """Vectors are those of the texts' numbers, in both encodings, in the order of the request."""
        many = [text(5), text(3), text(100_000)]
        with serving(Behaviour()) as url:
            decimal, base64 = ask(url, many), ask(url, many, "base64")
        assert [item["index"] for item in decimal["data"]] == [0, 1, 2]
        expected = table()[[5, 3, 100_000 % len(table())]]
        assert np.array_equal([item["embedding"] for item in decimal["data"]], expected)
        assert len(base64["data"][0]["embedding"]) == 5464

    def test_slots_are_held(self) -> None:
        """Six requests at two slots take three times as long as one, and no less."""
        with serving(Behaviour(slots=2, fixed=0.05, per_text=0.01)) as url, ThreadPoolExecutor(6) as threads:
            begin = time.monotonic()
            list(threads.map(lambda number: ask(url, texts(5, number)), range(6)))
            assert time.monotonic() - begin >= 0.295  # timers may ring a little early

    def test_refuses_as_told(self) -> None:
        """More texts than the cap, or than it can take, get the status they should."""
        with serving(Behaviour(cap=4)) as url:
            assert (len(ask(url, texts(4))["data"]), ask(url, texts(5))) == (4, 422)
        with serving(Behaviour(fails_above=4)) as url:
            assert (len(ask(url, texts(4))["data"]), ask(url, texts(5))) == (4, 500)

    def test_ideal_is_when_no_slot_ever_waits(self) -> None:
        """The ideal time is that of the busiest slot."""
        two = Behaviour(slots=2, fixed=1.0, per_text=0.5)
        assert two.ideal(texts=8, batch=4) == 3.0
        assert two.ideal(texts=9, batch=4) == 4.5
        assert Behaviour(fixed=1.0, per_text=0.5).ideal(texts=100, batch=4) == 3.0
