"""What `embedwire tune` says: the table in any width, the verdict, JSON, and the picture."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from embedwire._servers.known import ServerInfo
from embedwire.tune.heatmap import colour_of, lightness, svg
from embedwire.tune.plan import complete
from embedwire.tune.records import Cell, Ending, Grid, Outcome, Sample, Texts
from embedwire.tune.report import as_json, end, exit_code, number, percent, plain, seconds, table
from embedwire.tune.samples import COUNT, samples
from embedwire.tune.texts import Pool, Read, mixed
from tests.unit.test_tune_plan import taken

GRID = Grid(batches=(1, 2, 4, 8, 16, 32, 64, 128), requests=(1, 2, 4, 8, 16, 32, 64))
TAKEN = replace(
    taken(
        {
            (1, 1): 62.4, (1, 8): [401, 405], (8, 1): 312, (8, 8): [523, 517, 531], (64, 8): [530, 528],
            (4, 8): [470, 474], (16, 8): 520, (8, 4): 480, (8, 16): 515, (16, 4): 500, (4, 4): 440, (4, 16): 505,
            (16, 16): 519,
        },
        (499, 503),
    ),
    ends={Cell(128, 8): Ending(reason="refused", what="the server answered 429")},
    start=Sample(rate=420.0, latency=None, seconds=6.0, texts=2500),
    found=Cell(8, 6),
)  # fmt: skip
OUTCOME = Outcome(
    url="http://gpu:8080/v1",
    info=ServerInfo(url="http://gpu:8080/v1", software="uvicorn", model="<bge>-m3", dimensions=1024),
    grid=GRID,
    taken=TAKEN,
    texts=Texts(source="docs.jsonl", count=1000, characters=240.4, skipped=3, refused=2, passes=1),
    seconds=58.7,
    budget=60.0,
    complete=True,
)


@pytest.mark.parametrize(("width", "first"), [(120, "table"), (80, "table"), (40, "list"), (20, "list")])
def test_the_table_fits(width: int, first: str) -> None:
    """In any width no line is too long: a table where there is room for it, and else a list of the fastest."""
    lines = plain(table(GRID, TAKEN, width, Cell(32, 8)))
    assert max(map(len, lines)) <= width
    if first == "table":
        assert lines[1].split() == ["request", "1", "2", "4", "8", "16", "32", "64"]
        assert lines[5].split() == ["8", "312", ".", "480", "*523", "515", ".", "."]
        assert lines[7].split() == ["32", ".", ".", ".", "?", ".", ".", "."]
        assert lines[9].split() == ["128", ".", ".", ".", "x", ".", ".", "."]
    else:
        assert lines[0].split() == ["64", "x", "8", "529"]
        assert any("*523" in line for line in lines)


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_the_report_fits(width: int) -> None:
    """The words of a report are wrapped at the width; only what is to be pasted is as long as it is."""
    words = end(OUTCOME, width).partition("LangChain:")[0]
    assert max(len(line) for line in words.splitlines() if "://" not in line) <= width


def test_the_verdict() -> None:
    """It says the best sizes, how sure that is, and how far the automatic ones are, warmed up and from the start."""
    said = " ".join(end(OUTCOME, 110).split())
    assert "http://gpu:8080/v1: uvicorn, model <bge>-m3" in said
    assert "1,000 texts, 240 characters on average: docs.jsonl" in said
    assert "2 more are left out, as the model does not take them" in said
    assert "sent again with a number in front" in said
    assert "Best: 8 texts in a request, 8 in flight: 523 texts/s (517 to 531 in 3 measurements)" in said
    assert "The fastest was 64 x 8, by 1.1 %: up to 3 % counts as equal" in said
    assert "x 128 texts in a request, 8 in flight: the server answered 429" in said
    assert "from the start: 420 texts/s in the first 6 s, 20 % less than the best" in said
    assert "warmed up (8 x 6 at the end): 501 texts/s (499 to 503 in 2 measurements), 4.2 % less" in said
    assert "Setting them gains 4.4 %" in said
    assert 'EmbedwireEmbeddings("http://gpu:8080/v1", model="<bge>-m3", batch_size=8, concurrency=8)' in said
    assert "--batch-size 8 --concurrency 8" in said


def test_automatic_sizes_that_are_as_good() -> None:
    """Where the automatic sizes are as good, it says that there is nothing to set."""
    same = replace(OUTCOME, taken=replace(TAKEN, automatic=taken({}, (520,)).automatic))
    assert "there is nothing to set: leave out batch_size and concurrency" in " ".join(end(same, 110).split())
    assert json.loads(as_json(same))["automatic"]["as_good"] is True


def test_automatic_sizes_that_are_far_off() -> None:
    """Where setting sizes makes more than twice as fast, it is said in times."""
    far = replace(OUTCOME, taken=replace(TAKEN, automatic=taken({}, (104.6,)).automatic))
    assert "Setting them makes it 5.0 times as fast. To paste:" in " ".join(end(far, 110).split())


def test_too_little_time() -> None:
    """Where time was too short, it says so, and calls nothing the best; the exit code tells."""
    short = replace(OUTCOME, complete=False, taken=taken({(1, 1): 5}), seconds=9.6, budget=10.0)
    said = " ".join(end(short, 110).split())
    assert "9.6 s were not enough to tell which sizes are best: 1 pair of sizes could be measured" in said
    assert "--seconds 60" in said
    assert "Best:" not in said
    assert "batch_size=" not in said
    assert json.loads(as_json(short))["best"] is None
    assert [exit_code(one) for one in (OUTCOME, short, replace(short, error="gone"))] == [0, 3, 1]


def test_an_early_end() -> None:
    """Where the server failed meanwhile, nobody is told that more time would help."""
    failed = replace(OUTCOME, complete=False, taken=taken({(1, 1): 5}), error="gone")
    said = " ".join(end(failed, 110).split())
    assert "It ended early: gone" in said
    assert "the fastest so far is 1 x 1." in said
    assert "--seconds" not in said


def test_json() -> None:
    """The report as JSON has all that was measured, the best, the fastest, the automatic sizes, and what to paste."""
    told = json.loads(as_json(OUTCOME))
    assert (told["best"]["batch_size"], told["best"]["concurrency"], told["best"]["rate"]) == (8, 8, 523)
    assert told["fastest"]["batch_size"] == 64
    assert len(told["cells"]) == len(TAKEN.cells)
    assert told["ended"] == [
        {"batch_size": 128, "concurrency": 8, "reason": "refused", "what": "the server answered 429"}
    ]
    assert told["automatic"]["from_the_start"]["rate"] == 420
    assert set(told["settings"]) == {"LangChain", "LlamaIndex", "Without a framework", "Whole corpora"}


def test_numbers_are_short() -> None:
    """Rates have five characters at most, times and parts a unit."""
    rates = (3.14159, 99.7, 1234.5, 12_345.0, 123_456.0)
    assert [number(rate) for rate in rates] == ["3.1", "100", "1,234", "12.3k", "123k"]
    assert [seconds(value) for value in (0.0123, 1.26)] == ["12.3 ms", "1.26 s"]
    assert [percent(part) for part in (0.034, -0.5, 0.2)] == ["3.4 %", "50 %", "20 %"]


class TestThePicture:
    """The heat map."""

    def test_is_an_svg_with_all_numbers(self) -> None:
        """It is well-formed, whatever a model is called, and has a title, both axes, and the number of each cell."""
        root = ET.fromstring(svg(OUTCOME))  # noqa: S314 - our own
        said = [text for element in root.iter() for text in [element.text or ""]]
        assert "Texts per second: uvicorn, <bge>-m3" in said
        assert "requests in flight" in said
        assert "texts in a request" in said
        for wanted in ("523", "62", "529", "✕", "-", "128"):
            assert wanted in said
        assert any(
            "8 texts in a request, 8 in flight: 523 texts/s (517 to 531, 3 times)" in text for text in said
        )
        frames = [element for element in root.iter() if element.get("class") == "best"]
        assert len(frames) == 1

    def test_reads_in_light_and_dark(self) -> None:
        """It has colours of its own for dark pages, and paints its background in both."""
        drawn = svg(OUTCOME)
        assert "@media (prefers-color-scheme: dark)" in drawn
        assert 'class="page"' in drawn

    def test_numbers_stand_out(self) -> None:
        """On each colour the number has the contrast that WCAG asks for, 4.5 to 1; the faster, the brighter."""
        lights = [lightness(colour_of(part / 100)) for part in range(101)]
        assert lights == sorted(lights)
        for light in lights:
            contrast = (light + 0.05) / 0.05 if light > 0.179 else 1.05 / (light + 0.05)
            assert contrast >= 4.5

    def test_without_a_verdict_nothing_is_framed(self) -> None:
        """Where there is no best, none is framed."""
        assert not re.search('<rect class="best"', svg(replace(OUTCOME, complete=False)))


class TestTexts:
    """What is sent."""

    def test_none_is_sent_twice(self) -> None:
        """However few texts there are, no two that are sent are equal."""
        pool = Pool(Read("a", [f"text {number}" for number in range(7)]))
        sent = pool.take(5) + pool.take(20)
        assert len(set(sent)) == 25
        assert sum(text.startswith("text ") for text in sent) == 7
        assert pool.told().passes == 3

    def test_any_in_a_row_are_about_as_long(self) -> None:
        """All texts come, in an order in which those of a few requests are as long as those of any others."""
        texts = samples()
        order = mixed(texts)
        assert sorted(order) == sorted(texts)
        sums = [sum(map(len, order[start : start + 40])) for start in range(0, len(order) - 40, 40)]
        assert max(sums) < 1.25 * min(sums)

    def test_what_is_refused_comes_no_more(self) -> None:
        """A text that the model does not take is left out, also with a number in front, and counted."""
        pool = Pool(Read("a", ["one two", "three four"]))
        pool.take(2)
        pool.drop(["1 one two"])
        assert {text.partition(" ")[2] for text in pool.take(5)} == {"three four"}
        assert (pool.told().count, pool.told().refused) == (1, 1)

    def test_work_is_in_average_texts(self) -> None:
        """Longer texts count as more, so that a piece with long texts is not slow."""
        pool = Pool(Read("a", ["x" * 60, "y" * 160]))
        assert pool.work(["x" * 60]) == pytest.approx(100 / 150)
        assert pool.work(["x" * 60, "y" * 160]) == pytest.approx(2)

    def test_the_built_in_ones_differ(self) -> None:
        """Built-in texts are the same each time, no two equal, of a few words to some two hundred."""
        texts = samples()
        assert texts == samples()
        assert len(set(texts)) == len(texts) == COUNT
        words = sorted(len(text.split()) for text in texts)
        assert words[0] < 12
        assert 150 < words[-1] < 330


def test_what_is_complete() -> None:
    """A verdict needs the best measured more than once, and its neighbours measured or known to be in vain."""
    assert not complete(GRID, taken({(1, 1): 5}))
    small = Grid(batches=(1, 2), requests=(1,))
    assert not complete(small, taken({(1, 1): [5, 5]}))
    assert complete(small, taken({(1, 1): [5, 5], (2, 1): 5}))
