"""Where a run's progress is shown: where a call's is, as JSON for machines, or by a callback."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol, TextIO

import orjson

from embedwire._clients.showing import put, screen
from embedwire.bulk.records import Progress, Show


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
    if wanted is True:
        return screen(stream) or Callback(lambda _: None)
    if wanted is None or wanted is False:
        return Callback(lambda _: None)
    return Callback(wanted) if callable(wanted) else wanted


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
        put(self._stream, orjson.dumps({"event": event, **facts}, default=str).decode() + "\n")

    def close(self) -> None:
        """Nothing."""
