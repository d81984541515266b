"""How far a call is, and who is told: a function of the caller's, or a bar."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from embedwire._clients.showing import Screen, screen
from embedwire._clients.words import clock
from embedwire._settings.checks import shown
from embedwire.exceptions import InputError

if TYPE_CHECKING:
    from embedwire._queue.records import Call

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a call is.

    Attributes:
        done: Texts that have a vector.
        total: Texts of the call.
        rate: Texts per second since it began.
        seconds: Since it began.
        left: Seconds that the rest will take; None where nothing tells.
    """

    done: int
    total: int
    rate: float
    seconds: float
    left: float | None

    @property
    def fraction(self) -> float:
        """Of the texts that are done, 0 to 1."""
        return self.done / self.total if self.total else 1.0

    @property
    def ended(self) -> bool:
        """Whether all are done."""
        return self.done == self.total

    def words(self) -> list[str]:
        """What a bar says, the most important first."""
        said = [f"{self.fraction:.0%}", f"{self.done:,} of {self.total:,} texts"]
        if self.left is not None and not self.ended:
            said.append(f"{clock(self.left)} left")
        return [*said, f"{self.rate:,.0f} texts/s"]


Show: TypeAlias = Callable[[Progress], object]


class Shower(Protocol):
    """Who is told."""

    every: float  # seconds between two looks

    def show(self, progress: Progress) -> None:
        """Is told how far it is."""
        ...

    def close(self) -> None:
        """It is over, well or not."""
        ...


class Watch:
    """Looks how far a call is, where its caller waits. Its state is the calls of the queue. Written by `_clients`.

    Args:
        shower: Who is told.
        total: Texts of the call.

    Attributes:
        calls: Those that its texts wait in.
        cached: Texts that were found in a cache.
    """

    def __init__(self, shower: Shower, total: int) -> None:
        self._shower = shower
        self._total = total
        self._begun = time.monotonic()
        self.calls: list[Call] = []
        self.cached = 0

    @property
    def every(self) -> float:
        """Seconds between two looks."""
        return self._shower.every

    def look(self, *, ended: bool = False) -> None:
        """Tells how far it is; raises what that raises."""
        done = self.cached + sum(call.rows.count(1) for call in list(self.calls))
        done = self._total if ended else min(done, self._total)
        seconds = time.monotonic() - self._begun
        rate = done / seconds if seconds > 0 else 0.0
        left = (self._total - done) / rate if rate > 0 else None
        self._shower.show(Progress(done=done, total=self._total, rate=rate, seconds=seconds, left=left))

    def begin_anew(self) -> None:
        """All of it is sent, whatever was done before."""
        self.calls, self.cached = [], 0

    def close(self) -> None:
        """The call is over."""
        self._shower.close()


class _Told:
    """Calls a function of the caller's, twice a second and at the end."""

    every = 0.5

    def __init__(self, show: Show) -> None:
        self._show = show

    def show(self, progress: Progress) -> None:
        """Calls it."""
        self._show(progress)

    def close(self) -> None:
        """Nothing."""


class _Drawn:
    """A bar, or lines. Its state is whether it can be drawn: where nobody can see it, no call fails for it."""

    def __init__(self, where: Screen) -> None:
        self._where = where
        self._broken = False
        self.every = where.every

    def show(self, progress: Progress) -> None:
        """Draws it."""
        if not self._broken:
            try:
                self._where.show(progress)
            except (OSError, ValueError):  # it was closed, or cannot say it
                self._broken = True

    def close(self) -> None:
        """Leaves it there."""
        with contextlib.suppress(OSError, ValueError):
            self._where.close()


def watch_of(progress: Show | bool | None, total: int) -> Watch | None:
    """What looks how far a call of so many texts is; None where nobody wants to know.

    Raises:
        InputError: It is no function.
    """
    if progress is None or progress is False:
        return None
    if progress is True:
        try:
            where = screen()
        except ValueError:  # it was closed
            return None
        return None if where is None else Watch(_Drawn(where), total)
    call = getattr(progress, "__call__", None)  # noqa: B004 - of an object of a class, too
    if not callable(progress) or any(map(inspect.iscoroutinefunction, (progress, call))):
        what = "an async one" if callable(progress) else shown(progress)
        raise InputError(
            f"progress must be True for a bar, a plain function that gets a Progress, or None, not {what}"
        )
    return Watch(_Told(progress), total)


async def watched(work: Awaitable[T], watch: Watch | None) -> T:
    """What some work returns or raises, while it is looked at on the running loop."""
    if watch is None:
        return await work
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=watch.every))[0]:
            watch.look()
        result = task.result()
        watch.look(ended=True)
        return result
    finally:
        if not task.done():  # the function raised, or the caller is gone
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        watch.close()
