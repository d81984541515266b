"""Runs `embedwire embed` and `doctor` in terminals of 80 and 120 columns, and writes their screens into docs/screens.

Run it as ``python -m scripts.write_screens``; with ``--theme dark`` or ``light`` into another folder, to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from embedwire.testing import Answer, EmbeddingServer, Request
from scripts.screens import Screen, recorded, svg, typed
from scripts.write_doctor_docs import faulty

DOCS = Path(__file__).parents[1] / "docs" / "screens"
COLUMNS = (80, 120)
ROWS = 2600
SHOWN_URL = "http://localhost:8080"


def main() -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--theme", choices=["dark", "light"])
    parser.add_argument("--folder", type=Path, default=DOCS)
    parser.add_argument("names", nargs="*", help="Only these.")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for columns in COLUMNS:
        for name, make in SCREENS.items():
            if arguments.names and name not in arguments.names:
                continue
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                screen = make(columns)
                path = arguments.folder / f"{name}-{columns}.svg"
                path.write_text(svg(screen, columns, arguments.theme), "utf-8")
                print(f"{path.name}: {len(screen)} lines, {path.stat().st_size:,} bytes")


def _rows(*, bad: bool = False) -> None:
    rows: list[object] = [
        {"id": f"d{number}", "text": f"Paragraph {number} of a manual"} for number in range(ROWS)
    ]
    rows[40:60] = rows[20:40]  # equal texts
    lines = [json.dumps(row) for row in rows]
    if bad:
        lines[700] = '{"id": "d700", "text": null}'
        lines[2000] = '{"id": "d2000", "text": "cut of'
    Path("docs.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def _run(
    line: str, columns: int, server: EmbeddingServer, wanted: Callable[[str], bool] = lambda _: True
) -> Screen:
    """What stands below a command line; the server's address is replaced by a usual one."""
    words = line.replace(SHOWN_URL, server.url).split()
    command = [sys.executable, "-m", "embedwire", *words[1:]]
    screen, _ = recorded(command, columns=columns, wanted=wanted)
    return [*typed(line, columns), *_with_usual_address(screen, server.url)]


def _with_usual_address(screen: Screen, url: str) -> Screen:
    return [[replace(one, text=one.text.replace(url, SHOWN_URL)) for one in line] for line in screen]


def _server() -> EmbeddingServer:
    return EmbeddingServer(slots=4, latency=0.02, latency_per_text=0.002)


def _halfway(text: str) -> bool:
    return re.search(r"\b[56]\d%", text) is not None


EMBED = f"embedwire embed docs.jsonl -o vectors.parquet --url {SHOWN_URL} --id-column id"


def bar(columns: int) -> Screen:
    """Halfway through a run."""
    _rows()
    with _server() as server:
        return _run(EMBED, columns, server, _halfway)


def end(columns: int) -> Screen:
    """The end of a run."""
    _rows()
    with _server() as server:
        return _run(EMBED, columns, server)


def dry_run(columns: int) -> Screen:
    """What a run would do."""
    _rows(bad=True)
    with _server() as server:
        return _run(f"embedwire embed docs.jsonl --dry-run --url {SHOWN_URL}", columns, server)


def rejects(columns: int) -> Screen:
    """A run with bad rows, and what stands in the file of rejects."""
    _rows(bad=True)
    with _server() as server:
        server.script = _refuses
        screen = _run(f"{EMBED} --rejects bad.jsonl", columns, server)
        bad = Path("bad.jsonl")
        bad.write_text(bad.read_text("utf-8").replace(server.url, SHOWN_URL), "utf-8")
        shown, _ = recorded(["cat", bad.name], columns=columns)
    return [*screen, *typed("cat bad.jsonl", columns), *shown]


def error(columns: int) -> Screen:
    """A run that a bad row ended, and how it goes on."""
    _rows(bad=True)
    with _server() as server:
        first = _run(EMBED, columns, server)
        return [*first, [], *_run(f"{EMBED} --resume --rejects bad.jsonl", columns, server)]


def doctor(columns: int) -> Screen:
    """The doctor at a server with faults."""
    with EmbeddingServer(dimensions=256, max_batch=32, script=faulty) as server:
        return _run(f"embedwire doctor {SHOWN_URL}", columns, server)


def _refuses(request: Request) -> Answer | None:
    long = "Paragraph 2500 of a manual" in request.texts
    return Answer.too_large(600, 512) if request.embeds and long else None


SCREENS: dict[str, Callable[[int], Screen]] = {
    "embed-bar": bar,
    "embed-end": end,
    "embed-dry-run": dry_run,
    "embed-rejects": rejects,
    "embed-error": error,
    "doctor": doctor,
}

if __name__ == "__main__":
    main()
