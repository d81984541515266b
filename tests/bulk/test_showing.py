"""What a run shows: in terminals of any width, in notebooks, and where there is neither."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from embedwire import EmbeddingClient
from embedwire._clients.showing import Bar, Lines, Rewritten, drawn
from embedwire._clients.words import clock, fitting, short
from embedwire.bulk import embed_rows
from embedwire.bulk.progress import Pace
from embedwire.bulk.records import Progress
from embedwire.bulk.showing import Callback, JsonLines, shower
from embedwire.testing import EmbeddingServer
from tests.bulk.conftest import documents, write_jsonl

HALF = Progress(
    phase="embedding",
    rows=123_456,
    rejects=7,
    repeats=4_321,
    rate=812.4,
    tokens=9_876_543,
    fraction=0.5,
    seconds=152.0,
    left=151.7,
)


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (120, "50%  123,456 rows  2:32 left  812 rows/s  7 rejected  9.9M tokens  4.3k repeats"),
        (80, "50%  123,456 rows  2:32 left  812 rows/s  7 rejected  9.9M tokens"),
        (40, "50%  123,456 rows  2:32 left"),
        (20, "50%  123,456 rows"),
        (5, "50%"),
        (2, "5…"),
    ],
)
def test_the_bar_fits(width: int, expected: str) -> None:
    """In any width the bar is one line, which says the most important first."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(drawn(HALF, width), end="")
    lines = captured.get().splitlines()
    assert len(lines) == 1
    assert len(lines[0]) <= width
    assert lines[0].strip(" ━╸╺─") == expected
    assert ("━" in lines[0]) == (width >= 24)


def test_phases_have_words() -> None:
    """What is waited for is said before there are rows."""
    assert Progress(phase="waiting").words() == ["waiting for the server"]
    assert Progress(phase="skipping").words() == ["finding the place where the last run ended"]
    assert Progress(phase="done", rows=5, fraction=1.0).words() == ["100%", "5 rows"]


def test_numbers_are_short() -> None:
    """Times and large numbers are short."""
    assert [clock(seconds) for seconds in (0.4, 65, 3600 * 2 + 184)] == ["0:00", "1:05", "2:03:04"]
    assert [short(number) for number in (950, 12_345, 4_500_000, 10**10)] == ["950", "12.3k", "4.5M", "10.0G"]
    assert fitting(["abc", "de"], 4) == "abc"


def test_the_pace_is_of_the_last_seconds() -> None:
    """Rate and time left are of the last ten seconds, so that a slow start is forgotten."""
    pace = Pace()
    assert (pace.rate, pace.left) == (0.0, None)
    for second in range(100):
        rows = second if second < 50 else 50 + (second - 50) * 10
        pace.see(float(second), rows, rows / 1000)
    assert pace.rate == pytest.approx(10)
    assert pace.left == pytest.approx((1000 - 540) / 10)


def test_where_nothing_can_be_drawn() -> None:
    """Without a terminal there are lines; without a stream, or where nothing is wanted, nothing."""
    stream = io.StringIO()
    assert isinstance(shower(True, stream), Lines)
    shower(True, stream).show(HALF)
    assert stream.getvalue().startswith("50%, 123,456 rows, 2:32 left, 812 rows/s")
    assert isinstance(shower(None), Callback)
    assert isinstance(shower(False), Callback)


def test_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook one line is written over itself."""
    monkeypatch.setattr("embedwire._clients.showing.in_notebook", lambda: True)
    stream = io.StringIO()
    bar = shower(True, stream)
    assert isinstance(bar, Rewritten)
    bar.show(HALF)
    bar.show(Progress(phase="done", rows=5, fraction=1.0))
    bar.close()
    first, last = stream.getvalue().strip("\r\n").split("\r")
    assert first.startswith(f"|{'█' * 10}{' ' * 10}| 50%  123,456 rows")
    assert len(last) >= len(first)
    assert last.strip() == f"|{'█' * 20}| 100%  5 rows"


def test_in_a_terminal() -> None:
    """In a terminal there is a bar, drawn again in its place."""
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True)
    bar = Bar(stream, console)
    bar.show(HALF)
    bar.show(HALF)
    bar.close()
    assert stream.getvalue().count("123,456 rows") >= 2
    assert "\x1b[2K" in stream.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
@pytest.mark.parametrize("columns", [20, 120])
def test_a_real_terminal(here: Path, server: EmbeddingServer, columns: int) -> None:
    """In a real terminal of few columns or many the command draws one line, and sums up at the end."""
    import fcntl
    import pty
    import struct
    import termios

    write_jsonl(here / "a.jsonl", documents(50))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "embedwire", "embed", "a.jsonl", "-o", "o.npy", "--url", server.url],
        stderr=theirs,
        env={**environ, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    said = b""
    try:
        while data := os.read(ours, 65536):
            said += data
    except OSError:  # its other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0
    assert b"50 rows in o.npy" in said
    assert b"100%" in said


def test_nobody_reads(tmp_path: Path) -> None:
    """A pipe that is full, as nobody reads it, holds up what is shown, and not the run."""
    there = tmp_path / "o.npy"

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            while not there.exists():  # as long as that: it would be for ever, if the run waited for it
                time.sleep(0.01)
            return super().write(text)

    class Often(JsonLines):
        every = 0.001

    full = Full()
    with EmbeddingServer(latency=0.01) as server:
        client = EmbeddingClient(server.url, batch_size=5, concurrency=1)
        embed_rows([f"text {number}" for number in range(50)], there, client, progress=Often(full))
    assert json.loads(full.getvalue().splitlines()[-1])["phase"] == "done"
