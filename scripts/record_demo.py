"""Records `make demo` as a picture of a terminal: docs/assets/demo.svg.

    python scripts/record_demo.py

Runs the demo in a terminal of its own, keeps its first two questions and its end, and draws that. The fonts are those
of the reader's system: the picture asks no host for any. Linux and macOS.
"""

from __future__ import annotations

import os
import pty
import re
import sys
import unicodedata
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "assets" / "demo.svg"
COLUMNS = 80
BEGIN, END = 16, 2  # lines that are shown: two questions and their answers, and the last ones
WIDTH, HEIGHT, MARGIN = 9.0, 21.0, 18.0  # of a character; around all
FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', 'Noto Sans Mono CJK KR', monospace"
STYLES = {1: 'font-weight="bold"', 2: 'fill="#94a3b8"', 31: 'fill="#f87171"', 32: 'fill="#4ade80"'}


def recorded(command: list[str]) -> str:
    """What a command says in a terminal."""
    said = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 65536)
        said.extend(data)
        return data

    if pty.spawn(command, read) != 0:
        sys.exit("The demo failed.")
    return said.decode("utf-8").replace("\r\n", "\n")


def shortened(said: str) -> list[str]:
    """The beginning and the end, as lines."""
    lines = said.rstrip("\n").split("\n")
    return ["\x1b[1m$ make demo\x1b[0m", *lines[:BEGIN], "", "  \x1b[2m…\x1b[0m", "", *lines[-END:]]


def words(line: str) -> Iterator[tuple[str, int]]:
    """The parts of a line of one style, and the code of that: 0 for none."""
    code = 0
    for part in re.split(r"(\x1b\[\d+m)", line):
        if style := re.fullmatch(r"\x1b\[(\d+)m", part):
            code = int(style[1])
        elif part:
            yield part, code


def drawn(lines: list[str]) -> str:
    """A terminal that shows some lines. Each run of letters of one width stands where a terminal would have it."""
    width, height = COLUMNS * WIDTH + 2 * MARGIN, len(lines) * HEIGHT + 2 * MARGIN + 22
    picture = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'font-family="{FONTS}" font-size="15" fill="#e2e8f0">',
        "<title>make demo</title>",
        f'<rect width="{width:g}" height="{height:g}" rx="10" fill="#0f172a"/>',
        *(
            f'<circle cx="{22 + 20 * at}" cy="20" r="6" fill="{colour}"/>'
            for at, colour in enumerate(["#f87171", "#fbbf24", "#4ade80"])
        ),
    ]
    for number, line in enumerate(lines, start=1):
        column = 0
        for text, code in words(line):
            for run in re.findall(r"[\u1100-\uffdc]+|[^\u1100-\uffdc]+", text):
                cells = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in run)
                if run.strip():
                    x, y = MARGIN + column * WIDTH, MARGIN + 22 + (number - 0.3) * HEIGHT
                    style = f" {STYLES[code]}" if code in STYLES else ""
                    picture.append(
                        f'<text x="{x:g}" y="{y:g}" textLength="{cells * WIDTH:g}" xml:space="preserve"{style}>'
                        f"{escape(run)}</text>"
                    )
                column += cells
    return "\n".join([*picture, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawn(shortened(recorded([sys.executable, "examples/demo.py"]))), "utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes")
