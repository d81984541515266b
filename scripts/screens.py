"""A command in a terminal → what stood on its screen, as SVG: run for real, in a terminal of any size.

`recorded` runs the command and keeps the screen each time it is drawn; `svg` draws one, in the colours of a dark or a
light terminal, as whoever looks at it prefers.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import pty
import select
import struct
import termios
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

import pyte

CELL, LINE, SIZE, EDGE = (
    8.4,
    19,
    14,
    14,
)  # pixels: width of a column, height of a line, of the letters, and around all
LIGHT = {
    "default": "#24292f", "black": "#24292f", "red": "#b3261e", "green": "#1a7f37", "brown": "#8a5a00",
    "blue": "#0550ae", "magenta": "#8250df", "cyan": "#0f6674", "white": "#57606a", "grey": "#8c959f",
    "paper": "#ffffff",
}  # fmt: skip
DARK = {
    "default": "#e6edf3", "black": "#6e7681", "red": "#ff7b72", "green": "#56d364", "brown": "#e3b341",
    "blue": "#79c0ff", "magenta": "#d2a8ff", "cyan": "#56d4dd", "white": "#b1bac4", "grey": "#6e7681",
    "paper": "#161b22",
}  # fmt: skip
Theme = Literal["dark", "light"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Characters beside each other that look alike: where they begin, their colour (a name, or rgb as hex), bold?"""

    column: int
    text: str
    colour: str
    bold: bool


Screen = list[list[Piece]]


def recorded(
    command: Sequence[str],
    *,
    columns: int,
    lines: int = 120,
    environ: Mapping[str, str] | None = None,
    wanted: Callable[[str], bool] = lambda _: True,
) -> tuple[Screen, int]:
    """Runs a command in a terminal.

    Args:
        command: And its arguments.
        columns: Of the terminal.
        lines: Of it.
        environ: Added to the environment.
        wanted: Of a screen's text, whether it is the one to keep; of several the last one is kept.

    Returns:
        The screen, without the empty lines at its end, and the exit code.
    """
    screen = pyte.Screen(columns, lines)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if not child:
        os.environ.update({"TERM": "xterm-256color", "COLORTERM": "truecolor", **(environ or {})})
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            os.environ.pop(name, None)
        os.execvp(command[0], command)  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    kept: Screen = []
    while True:
        select.select([terminal], [], [])
        try:
            data = os.read(terminal, 2**16)
        except OSError:  # Linux says so that the other end is closed
            data = b""
        if not data:
            break
        stream.feed(data)
        if wanted("\n".join(screen.display)):
            kept = _pieces(screen)
    os.close(terminal)
    return kept, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _pieces(screen: pyte.Screen) -> Screen:
    found: Screen = []
    for number in range(screen.lines):
        cells = [screen.buffer[number][column] for column in range(screen.columns)]
        line, column = [], 0
        for (colour, bold), group in itertools.groupby(cells, lambda cell: (cell.fg, cell.bold)):
            text = "".join(cell.data for cell in group)
            if text.strip():
                line.append(Piece(column, text, colour, bold))
            column += len(text)
        found.append(line)
    while found and not found[-1]:
        found.pop()
    return found


def typed(line: str, columns: int) -> Screen:
    """A command line as the user typed it, behind a prompt; a long one goes on in the next line."""
    lines = textwrap.wrap(line, columns - 6, break_long_words=False, break_on_hyphens=False)
    lines = [f"{one} \\" for one in lines[:-1]] + lines[-1:]
    return [
        [Piece(0, "$ ", "green", True), Piece(2, one, "default", False)]
        if not number
        else [Piece(4, one, "default", False)]
        for number, one in enumerate(lines)
    ]


def svg(screen: Screen, columns: int, theme: Theme | None = None) -> str:
    """A screen as SVG; without a theme it has both, and whoever shows it chooses."""
    width, height = round(columns * CELL + 2 * EDGE), len(screen) * LINE + 2 * EDGE
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{_style(theme)}</style>",
        f'<rect class="paper" width="{width}" height="{height}" rx="6"/>',
    ]
    for number, line in enumerate(screen):
        y = EDGE + number * LINE + SIZE
        for piece in line:
            start = piece.column + len(piece.text) - len(piece.text.lstrip(" "))
            text = piece.text.strip(" ")
            kind = (
                f'class="{piece.colour.replace("brightblack", "grey").removeprefix("bright")}'
                + ' b"' * piece.bold
                + '"' * (not piece.bold)
            )
            if len(piece.colour) == 6 and not set(piece.colour) - set("0123456789abcdef"):
                kind = f'fill="#{piece.colour}"' + ' class="b"' * piece.bold
            drawn.append(
                f'<text {kind} x="{EDGE + start * CELL:.1f}" y="{y}" textLength="{len(text) * CELL:.1f}" '
                f'xml:space="preserve">{escape(text)}</text>'
            )
    return "\n".join([*drawn, "</svg>", ""])


def _style(theme: Theme | None) -> str:
    common = f"text{{font:{SIZE}px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}}.b{{font-weight:bold}}"
    if theme is not None:
        return common + _colours(DARK if theme == "dark" else LIGHT)
    return common + _colours(LIGHT) + f"@media (prefers-color-scheme:dark){{{_colours(DARK)}}}"


def _colours(palette: Mapping[str, str]) -> str:
    return "".join(f".{name}{{fill:{value}}}" for name, value in palette.items())
