"""The benchmarks, as far as a test can tell: embedwire does every job rightly, and no check is only for show."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
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

from benchmarks.speed import auto, clients, results, waiting
from benchmarks.speed.auto import Try
from benchmarks.speed.kinds import AUTO, BESIDE, KINDS
from benchmarks.speed.measure import serving, take
from benchmarks.speed.models import Behaviour, Workers, ideal
from benchmarks.speed.pictures import PICTURES
from benchmarks.speed.report import report
from benchmarks.speed.results import FIGURES, Result, Results
from benchmarks.speed.texts import QUERIES, are_right, table, text, texts
from benchmarks.speed.worker import Job, Sample
from benchmarks.speed.workloads import REASONS, WORKLOADS

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
    for kind in KINDS:
        assert any(line.startswith(f"right auto-{kind}-") for line in lines), kind
    for do in ("lists", "arrays", "stream", "query", "together", "steps", "beside-llama4"):
        assert any(line.startswith(f"right {do} ") for line in lines), do


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
        with serving(Behaviour(options={"cap": 0})) as url:
            job = Job(client=OURS, do="lists", url=url, texts=5, batch=5, concurrency=1, warm_up=0)
            sample = take(job)
        assert not sample.right
        assert "maximum allowed batch size 0" in (sample.error or "")

    def test_one_wrong_sample_takes_the_figure_away(self) -> None:
        """The report shows a failure, and no figure and no met target, and the command fails."""
        done = Sample(wall=1, cpu=1, right=True)
        wrong = arrays(Sample(wall=0.1, cpu=0.1, right=False), done)
        assert "failed: a text did not get its own vector" in report(wrong)
        assert "| matrix: CPU beside baseten's | ≤ 0.22 | ✗ no figure | " in report(wrong)
        assert not results.all_right(wrong)
        failed = arrays(done, Sample(error="ValueError: no"))
        assert "failed: ValueError: no" in report(failed)
        assert results.all_right(failed)  # a peer's failure is a result


def everything() -> Results:
    """Results of all workloads, in which all figures are the same for all clients."""
    sample = Sample(wall=2, cpu=1, server_cpu=0.1, requests=9, grown=10**6, right=True)
    sample = replace(sample, p50=0.02, p95=0.03, lone=0.01, gap=0.015)
    tries = [Try(batch=8, concurrency=4, speed=100.0, samples=1)]
    return {
        work.name: Result(
            date="2026-11-22",
            machine={"CPU": "a slow one"},
            samples={client: [sample] for client in work.clients},
            tries=tries if work.is_swept else [],
        )
        for work in WORKLOADS
    }


class TestReport:
    """The page says what was measured, and what was not."""

    def test_targets_stand_beside_what_was_measured(self) -> None:
        """A target that was met, one that was missed and one that was not measured look different."""
        met = report(arrays(Sample(cpu=0.2, right=True), Sample(cpu=1, right=True)))
        missed = report(arrays(Sample(cpu=0.3, right=True), Sample(cpu=1, right=True)))
        assert "| matrix: CPU beside baseten's | ≤ 0.22 | ✓ 0.2 |  |" in met
        assert "| matrix: CPU beside baseten's | ≤ 0.22 | ✗ 0.3 | " in missed
        assert "| 64 slots: time over the ideal | ≤ 1.6 | not measured |  |" in met

    def test_a_miss_has_its_reason_beside_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was missed says why, where that is known; what was met does not."""
        monkeypatch.setitem(REASONS, "matrix: CPU beside baseten's", "a reason")
        met = report(arrays(Sample(cpu=0.2, right=True), Sample(cpu=1, right=True)))
        missed = report(arrays(Sample(cpu=0.3, right=True), Sample(cpu=1, right=True)))
        assert "✗ 0.3 | a reason |" in missed
        assert "a reason" not in met

    def test_has_a_figure_for_everything(self) -> None:
        """Where all was measured, each target has its figure, each server its line, each workload its table."""
        page = report(everything())
        assert "not measured" not in page
        assert "✗ no figure" not in page
        assert "failed:" not in page
        for work in WORKLOADS:
            assert all(target.text in page for target in work.targets), work.name
            assert work.title in page or work in AUTO, work.name
        for kind in KINDS.values():
            assert page.count(f"| {kind.what} | ") == len(kind.limits), kind.what
        assert "## On a GPU, version 0.1" in page
        assert "| 32 slots | 5 x 36 | 490 | 367 |" in page

    def test_of_targets_with_one_text_the_worst_is_shown(self) -> None:
        """A target for servers of all kinds names the one at which it is missed most."""
        all_results = everything()
        slow = Sample(wall=7, cpu=1, right=True)
        all_results["auto-hosted-500"].samples["embedwire defaults"] = [slow]
        line = "search included: servers of all kinds, 500 texts | ≤ 1.5 | ✗ 3.5 (auto-hosted-500) |"
        assert line in report(all_results)
        del all_results["auto-hosted-500"]
        assert "≤ 1.5 | ✓ 1 (auto-" in report(all_results)
        assert ", 1 not measured |" in report(all_results)

    def test_a_rate_has_its_limit_from_below(self) -> None:
        """Bulk that is slower than nineteen twentieths of the best is a miss."""
        all_results = everything()
        all_results["beside-llama4"].samples["embedwire defaults"] = [
            Sample(wall=2.2, p50=1, lone=1, right=True)
        ]
        what = "bulk beside queries: rate over the best fixed numbers', like llama.cpp, 4 slots"
        assert f"| {what} | ≥ 0.95 | ✗ 0.909 (embedwire defaults) |" in report(all_results)

    def test_pictures_show_what_there_is(self) -> None:
        """Each picture's workload, figure and clients exist."""
        by_name = {work.name: work for work in WORKLOADS}
        for picture in PICTURES.values():
            work = by_name[picture.workload]
            assert picture.figure in work.figures
            assert picture.labels.keys() <= set(work.clients)

    def test_workloads_name_what_there_is(self) -> None:
        """Names are unique; figures and clients exist; a workload whose numbers hold for another comes before it."""
        names = [work.name for work in WORKLOADS]
        assert len(set(names)) == len(names)
        known = {**clients.OURS, **clients.PEERS}
        for work in WORKLOADS:
            assert set(work.figures) <= FIGURES.keys()
            assert {target.figure for target in work.targets} <= FIGURES.keys()
            assert work.do == "import" or set(work.clients) <= known.keys()
            if work.numbers_of is not None:
                assert names.index(work.numbers_of) < names.index(work.name)


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


class TestCandidates:
    """Numbers that may be best are found in simulated time."""

    def test_are_large_where_that_pays(self) -> None:
        """At 4 slots that take 20 ms and 2 ms per text, requests of 5 texts are no candidates."""
        (work,) = (work for work in AUTO if work.name == "auto-slots4-5000")
        found = auto.candidates(work)
        assert all(batch >= 32 and concurrency >= 4 for batch, concurrency in found)

    def test_are_none_that_are_refused(self) -> None:
        """A server that takes 32 texts, or fails above 16, has no candidate above that."""
        by_name = {work.name: work for work in AUTO}
        assert max(batch for batch, _ in auto.candidates(by_name["auto-capped-500"])) <= 32
        assert max(batch for batch, _ in auto.candidates(by_name["auto-error500-500"])) <= 16

    def test_are_the_fastest_beside_queries_too(self) -> None:
        """At a server with dynamic batching, bulk beside queries needs hundreds of texts in flight."""
        (work,) = (work for work in BESIDE if work.name == "beside-infinity")
        assert all(batch * concurrency >= 512 for batch, concurrency in auto.candidates(work))


class TestWaiting:
    """Who waits beside other work is measured to the full."""

    async def test_queries_count_from_when_they_were_to_be_asked(self) -> None:
        """Bulk that stops the loop for a third of a second makes all the queries wait that were due meanwhile."""

        class Stopping:
            async def lists(self, many: list[str]) -> list[str]:
                await asyncio.sleep(0)
                time.sleep(0.33)  # noqa: ASYNC251 - that is what it is about
                return many

            async def query(self, one: str) -> str:
                return one

        done = await waiting.beside(Stopping(), texts(3))
        assert done.vectors == texts(3)
        assert done.answers == texts(waiting.LONE + len(done.took), QUERIES)
        assert len(done.took) >= 6
        assert max(done.took) >= 0.3

    async def test_a_sync_client_is_asked_in_threads(self) -> None:
        """Queries of a sync client are asked while its bulk is under way."""
        asked = threading.Event()

        class Sync:
            def lists(self, many: list[str]) -> bool:
                return asked.wait(10)

            def query(self, one: str) -> str:
                if one == text(QUERIES + waiting.LONE + 1):
                    asked.set()
                return one

        assert (await waiting.beside(Sync(), [])).vectors is True

    async def test_the_longest_step_is_seen(self) -> None:
        """A step of a tenth of a second between short ones is found."""

        async def work() -> str:
            for seconds in (0.001, 0.1, 0.001):
                await asyncio.sleep(0.005)
                time.sleep(seconds)  # noqa: ASYNC251
            return "done"

        outcome, longest = await waiting.steps(work())
        assert outcome == "done"
        assert longest >= 0.09


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
        with (
            serving(Behaviour(options={"slots": 2, "fixed": 0.05, "per_text": 0.01})) as url,
            ThreadPoolExecutor(6) as threads,
        ):
            begin = time.monotonic()
            list(threads.map(lambda number: ask(url, texts(5, number)), range(6)))
            assert time.monotonic() - begin >= 0.295  # timers may ring a little early

    def test_refuses_as_told(self) -> None:
        """More texts than the cap, or than it can take, get the status they should."""
        with serving(Behaviour(options={"cap": 4})) as url:
            assert (len(ask(url, texts(4))["data"]), ask(url, texts(5))) == (4, 422)
        with serving(Behaviour(options={"fails_above": 4})) as url:
            assert (len(ask(url, texts(4))["data"]), ask(url, texts(5))) == (4, 500)

    def test_says_what_it_is_like(self) -> None:
        """One like llama.cpp is known by its header, its list of models and its slots; others tell no slots."""
        with serving(Behaviour("llama.cpp", {"slots": 7})) as url:
            with urllib.request.urlopen(f"{url}/props", timeout=10) as reply:
                assert (reply.headers["Server"], json.load(reply)["total_slots"]) == ("llama.cpp", 7)
            with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as reply:
                assert json.load(reply)["data"][0]["owned_by"] == "llamacpp"
        with serving(Behaviour("infinity")) as url:
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{url}/props", timeout=10)
            refused.value.close()

    def test_answers_texts_of_mixed_lengths(self) -> None:
        """Texts of 8 to 240 words get the vectors of their numbers, at a server that sorts them by length."""
        many = texts(300, mixed=True)
        assert {len(one.split()) for one in many} == set(range(8, 241))
        with serving(Behaviour("infinity", {"launch": 0.0, "per_char": 0.0, "outside": 0.0})) as url:
            vectors = [item["embedding"] for item in ask(url, many)["data"]]
        assert are_right(np.array(vectors, dtype=np.float32), 300)

    def test_ideal_is_when_no_slot_ever_waits(self) -> None:
        """The ideal time is that of the busiest slot."""
        two = Workers(slots=2, fixed=1.0, per_text=0.5)
        assert ideal([two], texts=8, batch=4) == 3.0
        assert ideal([two], texts=9, batch=4) == 4.5
        assert ideal([Workers(fixed=1.0, per_text=0.5)], texts=100, batch=4) == 3.0

    def test_ideal_of_several_servers(self) -> None:
        """Each batch goes to the server that will have done it first, so that the quicker one does more."""
        slow, quick = Workers(slots=1, per_text=2.0), Workers(slots=1, per_text=1.0)
        assert ideal([slow, quick], texts=6, batch=1) == 4.0
        assert ideal([slow, quick], texts=7, batch=2) == 5.0
