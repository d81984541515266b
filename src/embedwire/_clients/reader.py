"""A sync source of texts, read in a thread of its own: it may block, and holds nobody up."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import AsyncGenerator, Iterable

AHEAD = 256  # texts that are read ahead


class _Reader:
    """Its state is the texts that were read and not yet taken, and how the source ended."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(AHEAD)
        self._read: deque[str] = deque()
        self._came = asyncio.Event()
        self._over = False
        self._given_up = False
        self._error: BaseException | None = None

    def begin(self) -> None:
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run,), name="embedwire-reader", daemon=True).start()

    async def next(self) -> list[str]:
        """What was read meanwhile; empty at the end."""
        while not self._read and not self._over:
            await self._came.wait()
            self._came.clear()
        texts = []
        while self._read:
            texts.append(self._read.popleft())
        if not texts and self._error is not None:
            raise self._error
        return texts

    def taken(self) -> None:
        """One text was taken."""
        self._room.release()

    def give_up(self) -> None:
        """Nobody wants more; the thread ends with the text that it waits for."""
        self._given_up = True
        self._room.release()

    def _run(self) -> None:
        try:
            for text in self._texts:
                self._room.acquire()
                if self._given_up:
                    return
                self._read.append(text)
                self._tell()
        except BaseException as error:  # it belongs to the caller
            self._error = error
        finally:
            self._over = True
            self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is over
            self._loop.call_soon_threadsafe(self._came.set)


async def read_in_thread(texts: Iterable[str]) -> AsyncGenerator[str, None]:
    """The texts of a source that may block, at most 256 read ahead. Raises what the source raises."""
    reader = _Reader(texts)
    reader.begin()
    try:
        while batch := await reader.next():
            for text in batch:
                reader.taken()
                yield text
    finally:
        reader.give_up()
