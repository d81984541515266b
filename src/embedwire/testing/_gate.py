"""Waiting without sleeping: for a gate that a test opens, for a condition on what the server saw."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Condition", "Gate", "Watch"]

Condition: TypeAlias = Callable[[], bool]


class Gate:
    """Holds requests until it is opened, by `open()` from any thread or at the end of a `with` block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened = False
        self._waiting: list[Future[None]] = []

    def open(self) -> None:
        """Let through whoever waits, and whoever comes later."""
        with self._lock:
            self._opened = True
            waiting, self._waiting = self._waiting, []
        for future in waiting:
            _settle(future)

    async def wait(self) -> None:
        """Wait until the gate is open."""
        future: Future[None] = Future()
        with self._lock:
            if self._opened:
                return
            self._waiting.append(future)
        await asyncio.wrap_future(future)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()


class Watch:
    """Conditions that somebody waits for, looked at again whenever `look` is called."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: list[tuple[Condition, Future[None]]] = []

    def until(self, condition: Condition) -> Future[None]:
        """Return a future that is done when the condition is seen to hold."""
        future: Future[None] = Future()
        with self._lock:
            self._watched.append((condition, future))
        self.look()
        return future

    def look(self) -> None:
        """Look at each condition again."""
        with self._lock:
            self._watched = [entry for entry in self._watched if not _settled(*entry)]


def _settled(condition: Condition, future: Future[None]) -> bool:
    try:
        holds = condition()
    except Exception as error:  # the condition is the test's own, so the test shall get it
        _settle(future, error)
        return True
    if holds:
        _settle(future)
    return holds or future.cancelled()


def _settle(future: Future[None], error: Exception | None = None) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error) if error else future.set_result(None)
