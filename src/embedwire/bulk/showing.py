"""Where progress is shown: a bar in a terminal or a notebook, lines elsewhere, JSON for machines, or a callback."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import orjson

from embedwire.bulk.progress import fitting, words
from embedwire.bulk.records import Progress, Show

if TYPE_CHECKING:
    from rich.console import Console

LEAST_BAR, MOST_BAR = 8, 40  # columns


class Shower(Protocol):
    """Something that shows progress."""

    every: float  # seconds between two looks
    blocks: bool  # it writes to where somebody may not read, so that the run must not wait for it

    def show(self, progress: Progress) -> None:
        """Shows how far it is."""
        ...

    def close(self) -> None:
        """The run is over, well or not."""
        ...


def shower(wanted: Show | bool | Shower | None, stream: TextIO | None = None) -> Shower:
    """What shows progress: True for the best that the place allows, a callback, or nothing."""
    if wanted is None or wanted is False:
        return Callback(lambda _: None)
    if wanted is not True:
        return Callback(wanted) if callable(wanted) else wanted
    stream = stream or sys.stderr
    if stream is None:
        return Callback(lambda _: None)
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


class Callback:
    """Calls a function of the user's, twice a second and at the end."""

    every, blocks = 0.5, False

    def __init__(self, call: Show) -> None:
        self._call = call

    def show(self, progress: Progress) -> None:
        """Calls it."""
        self._call(progress)

    def close(self) -> None:
        """Nothing."""


class Lines:
    """A line every five seconds, where nothing can be drawn. Its state is when the last one was written."""

    every, blocks = 5.0, True

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, progress: Progress) -> None:
        """Writes a line."""
        _put(self._stream, ", ".join(words(progress)) + "\n")

    def close(self) -> None:
        """Nothing."""


class JsonLines:
    """A JSON object a second, for machines."""

    every, blocks = 1.0, True

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, progress: Progress) -> None:
        """Writes one."""
        self.write("progress", asdict(progress))

    def write(self, event: str, facts: dict[str, Any]) -> None:
        """Writes what happened."""
        _put(self._stream, orjson.dumps({"event": event, **facts}, default=str).decode() + "\n")

    def close(self) -> None:
        """Nothing."""


class Rewritten:
    """One line of text that is written over itself: what every notebook can show. Its state is its length."""

    every, blocks = 0.5, True

    def __init__(self, stream: TextIO, width: int = 100) -> None:
        self._stream, self._width = stream, width
        self._length = 0

    def show(self, progress: Progress) -> None:
        """Writes it again."""
        done = round((progress.fraction or 0) * 20)
        line = fitting(
            [f"|{'█' * done}{' ' * (20 - done)}| {words(progress)[0]}", *words(progress)[1:]], self._width
        )
        self._stream.write("\r" + line.ljust(self._length))
        self._stream.flush()
        self._length = len(line)

    def close(self) -> None:
        """Leaves it there."""
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
        self._live.start()

    def show(self, progress: Progress) -> None:
        """Draws it again."""
        self._live.update(drawn(progress, self._console.width), refresh=True)

    def close(self) -> None:
        """Leaves it there."""
        self._live.stop()


def _put(stream: TextIO, text: str) -> None:
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


def drawn(progress: Progress, width: int, clock: Callable[[], float] = time.monotonic) -> Any:
    """The bar, as rich draws it in so many columns."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    said = words(progress)
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
        pulse=progress.fraction is None and progress.phase != "done",
        animation_time=clock(),
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_row(drawn, text)
    return grid
