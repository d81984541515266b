"""Where it is shown how far something is: a bar in a terminal or a notebook, lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from embedwire._clients.words import fitting

if TYPE_CHECKING:
    from rich.console import Console

LEAST_BAR, MOST_BAR = 8, 40  # columns


class Shown(Protocol):
    """How far something is."""

    @property
    def fraction(self) -> float | None:
        """Of it that is done; None where that is not known."""
        ...

    @property
    def ended(self) -> bool:
        """Whether all is done."""
        ...

    def words(self) -> list[str]:
        """What is to be said, the most important first."""
        ...


class Screen(Protocol):
    """Something that shows it."""

    every: float  # seconds between two looks
    blocks: bool  # it writes to where somebody may not read, so that nobody must wait for it

    def show(self, progress: Shown) -> None:
        """Shows how far it is."""
        ...

    def close(self) -> None:
        """It is over, well or not."""
        ...


def screen(stream: TextIO | None = None) -> Screen | None:
    """The best that the place allows; None where nothing can be written."""
    stream = stream or sys.stderr
    if stream is None:
        return None
    if in_notebook():
        return Rewritten(stream)
    if stream.isatty():
        try:
            return Bar(stream)
        except ModuleNotFoundError:
            pass
    return Lines(stream)


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


class Lines:
    """A line every five seconds, where nothing can be drawn."""

    every, blocks = 5.0, True

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, progress: Shown) -> None:
        """Writes a line."""
        put(self._stream, ", ".join(progress.words()) + "\n")

    def close(self) -> None:
        """Nothing."""


class Rewritten:
    """One line of text that is written over itself: what every notebook can show. Its state is its length."""

    every, blocks = 0.5, True

    def __init__(self, stream: TextIO, width: int = 100) -> None:
        self._stream, self._width = stream, width
        self._length = 0

    def show(self, progress: Shown) -> None:
        """Writes it again."""
        done = round((progress.fraction or 0) * 20)
        first, *others = progress.words()
        line = fitting([f"|{'█' * done}{' ' * (20 - done)}| {first}", *others], self._width)
        self._stream.write("\r" + line.ljust(self._length))
        self._stream.flush()
        self._length = len(line)

    def close(self) -> None:
        """Leaves it there."""
        if self._length:
            self._stream.write("\n")


class Bar:
    """A bar in a terminal, of any width. Its state is what it drew.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """

    every, blocks = 0.1, True

    def __init__(self, stream: TextIO, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(file=stream)
        self._live = Live(console=self._console, auto_refresh=False)

    def show(self, progress: Shown) -> None:
        """Draws it again."""
        if not self._live.is_started:
            self._live.start()
        self._live.update(drawn(progress, self._console.width), refresh=True)

    def close(self) -> None:
        """Leaves it there."""
        self._live.stop()


def put(stream: TextIO, text: str) -> None:
    """Writes past the stream's own lock, which would keep the process from ending where nobody reads."""
    try:
        file = stream.fileno()
    except (AttributeError, OSError):
        stream.write(text)
        stream.flush()
        return
    data = text.encode(stream.encoding or "utf-8", "replace")
    while data:
        data = data[os.write(file, data) :]


def drawn(progress: Shown, width: int, clock: Callable[[], float] = time.monotonic) -> Any:
    """The bar, as rich draws it in so many columns."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    said = progress.words()
    whole = "  ".join(said)
    room = width - len(whole) - 2
    bar = min(MOST_BAR, max(room, LEAST_BAR))
    if width < LEAST_BAR + 16:  # no room for both
        return Text(fitting(said, width), no_wrap=True, overflow="crop")
    text = Text(fitting(said, width - bar - 2), no_wrap=True, overflow="crop")
    drawn = ProgressBar(
        style="bright_black",  # of the rest: to be seen on dark and light alike
        total=None if progress.fraction is None else 1.0,
        completed=progress.fraction or 0.0,
        width=bar,
        pulse=progress.fraction is None and not progress.ended,
        animation_time=clock(),
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_row(drawn, text)
    return grid
