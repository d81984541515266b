"""A sync source of texts, read in a thread of its own: it may block, and holds nobody up."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from _queue import SimpleQueue
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from functools import partial

from embedwire._http.native import start_thread

AHEAD = 256  # texts that are read ahead


class _Reader:
    """Its state is the texts that were read and not yet taken, and how the source ended."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self._loop = asyncio.get_running_loop()
        self._room: SimpleQueue[None] = SimpleQueue()  # for so many texts; no greenlets' queue or semaphore
        for _ in range(AHEAD):
            self._room.put(None)
        self._read: deque[str] = deque()
        self._came = asyncio.Event()
        self._over = False
        self._given_up = False
        self._error: BaseException | None = None

    def begin(self) -> None:
        context = contextvars.copy_context()
        start_thread(partial(context.run, self._run), "embedwire-reader")

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
        self._room.put(None)

    def give_up(self) -> None:
        """Nobody wants more; the thread ends with the text that it waits for."""
        self._given_up = True
        self._room.put(None)

    def _run(self) -> None:
        try:
            for text in self._texts:
                self._room.get()
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
