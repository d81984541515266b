"""Where a sweep is watched: a live table in a terminal, and lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from embedwire.tune.choosing import best, middle
from embedwire.tune.records import Cell, Look, words
from embedwire.tune.report import number, seconds, table

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"": "", "best": "bold green", "current": "bold yellow", "faint": "dim"}


class Shower(Protocol):
    """Something that shows how far a sweep is."""

    def show(self, look: Look) -> None:
        """Shows it."""
        ...

    def close(self) -> None:
        """The sweep is over, well or not."""
        ...


def shower(stream: TextIO | None, *, quiet: bool) -> Shower:
    """A live table where the stream is a terminal, lines where not, and nothing where nothing is wanted."""
    if stream is None or quiet:
        return Silent()
    if stream.isatty():
        try:
            return Live(stream)
        except ModuleNotFoundError:
            pass
    return Lines(stream)


class Silent:
    """Shows nothing."""

    def show(self, look: Look) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """A line for each measurement. Its state is what was last to be shown."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._said: Look | None = None

    def show(self, look: Look) -> None:
        """Says what came of the last measurement."""
        before, self._said = self._said, look
        if before is not None and before.current is not None:
            self._write(f"{words(before.current)}: {_came(before.current, look)}")
        elif before is not None and len(look.taken.automatic) > len(before.taken.automatic):
            self._write(f"{before.phase}: {number(look.taken.automatic[-1].rate)} texts/s")
        elif look.current is None and look.phase:
            self._write(f"{look.phase} …")

    def close(self) -> None:
        """Nothing."""

    def _write(self, line: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        self._stream.flush()


def _came(cell: Cell, look: Look) -> str:
    if cell in look.taken.ends:
        return look.taken.ends[cell].what
    samples = look.taken.cells.get(cell)
    if not samples:
        return "measured once more"
    waits = "" if samples[-1].latency is None else f", a request takes {seconds(samples[-1].latency)}"
    return f"{number(samples[-1].rate)} texts/s{waits}"


class Live:
    """The table so far, drawn again four times a second; its state is what was last to be shown.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """

    def __init__(self, stream: TextIO, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(file=stream, highlight=False)
        self._look: Look | None = None
        self._live = Live(
            get_renderable=self._drawn, console=self._console, refresh_per_second=4, transient=True
        )
        self._live.start()

    def show(self, look: Look) -> None:
        """Draws it."""
        self._look = look
        self._live.refresh()

    def close(self) -> None:
        """Takes it away."""
        self._live.stop()

    def _drawn(self) -> Any:
        return "" if self._look is None else drawn(self._look, self._console.width)


def drawn(look: Look, width: int, clock: Callable[[], float] = time.monotonic) -> Any:
    """The table and what is done just now, as rich draws them in so many columns."""
    from rich.text import Text

    lines = [] if look.grid is None else table(look.grid, look.taken, width, look.current)
    text = Text(no_wrap=True, overflow="ellipsis")
    for line in lines:
        text.append_text(Text.assemble(*((piece.text, STYLES[piece.style]) for piece in line)))
        text.append("\n")
    found = best(look.taken)
    if found is not None:
        rate = number(middle(look.taken.cells[found.cell]))
        text.append(cut(f"best so far {found.cell}: {rate} texts/s", width) + "\n")
    text.append(cut(f"{max(0.0, look.end - clock()):.0f} s left  {look.phase}", width))
    return text


def cut(line: str, width: int) -> str:
    """As much of a line as there is room for."""
    return line if len(line) <= width else line[: width - 1] + "…"
