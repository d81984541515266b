"""Records `make demo` as a picture of a terminal: docs/assets/demo.svg.

    python scripts/record_demo.py

Runs the demo in a terminal of 80 columns of its own, keeps its first two questions and its end, and draws that with
rich. The fonts are those of the reader's system: the picture asks no host for any. Linux and macOS.
"""

from __future__ import annotations

import os
import pty
import re
import sys
from io import StringIO
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "assets" / "demo.svg"
COLUMNS = 80
LINES = 16  # of the beginning: two questions and their answers
END = 2
FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', 'Noto Sans Mono CJK KR', monospace"


def recorded(command: list[str]) -> str:
    """What a command says in a terminal."""
    said = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 65536)
        said.extend(data)
        return data

    os.environ["COLUMNS"] = str(COLUMNS)
    if pty.spawn(command, read) != 0:
        sys.exit("The demo failed.")
    return said.decode("utf-8").replace("\r\n", "\n")


def shortened(said: str) -> str:
    """The beginning and the end."""
    lines = said.rstrip("\n").split("\n")
    begin, end = lines[:LINES], lines[-END:]
    return "\n".join(["\x1b[1m$ make demo\x1b[0m", *begin, "", "  \x1b[2m…\x1b[0m", "", *end])


def drawn(said: str) -> str:
    """A terminal that shows it."""
    console = Console(
        record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text.from_ansi(said))
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    template = re.sub(r"font-family: [^;]*;", f"font-family: {FONTS};", template)
    return console.export_svg(title="make demo", code_format=template, unique_id="demo")


if __name__ == "__main__":
    PICTURE.write_text(drawn(shortened(recorded([sys.executable, "examples/demo.py"]))) + "\n", "utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes")
