"""``too_long=``: a text that the model cannot take whole is cut, or embedded in parts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import numpy as np

from embedwire._clients.cutting import cut, pieces
from embedwire._http.records import Matrix
from embedwire._http.vectors import normalized
from embedwire._queue.records import Future
from embedwire._queue.usage import Ledger
from embedwire._servers.lengths import Lengths
from embedwire._settings.options import TooLong
from embedwire.exceptions import Completed, RequestError, TextRefused

logger = logging.getLogger("embedwire")
T = TypeVar("T")

AT_ONCE = 32  # texts of one call that are fitted at the same time
FINE = 0.1  # of the length: so near to the longest text that the server takes is near enough
UNIT = 1e-3  # by which a vector's length may differ from 1 where the model's vectors have unit length


class Fitting:
    """Embeds what is left of a call whose too long texts were refused. It has no state of its own.

    Args:
        how: "truncate" or "average".
        embed: Embeds one text, named in errors by its index.
        prompt: What stands before each text, and before each part of one.
        lengths: What is known of the longest text.
        ledger: Where it is counted.
        server: Base URL, for messages.
    """

    def __init__(
        self,
        how: TooLong,
        embed: Callable[[str, int], Awaitable[Matrix]],
        prompt: str,
        lengths: Lengths,
        ledger: Ledger,
        server: str,
    ) -> None:
        self._how = how
        self._embed = embed
        self._prompt = prompt
        self._lengths = lengths
        self._ledger = ledger
        self._server = server

    async def run(self, whole: Awaitable[Matrix], texts: list[str], offset: int) -> Matrix:
        """The vectors of a call.

        Args:
            whole: Its vectors, or its error.
            texts: Its texts.
            offset: Index of the first one in the caller's list.

        Raises:
            RequestError: A text got no vector for another reason than its length.
        """
        try:
            return await whole
        except TextRefused as error:
            failures = {index - offset: failure for index, failure in error.failures.items()}
            if not failures or not all(_is_too_long(failure) for failure in failures.values()):
                raise
            done = error.completed
        rows: dict[int, Matrix] = {}
        if done is not None:
            rows = {index - offset: vector for index, vector in zip(done.indexes, done.vectors, strict=True)}
        refused = list(failures)
        try:
            # The first one alone finds out how long the others may be.
            for some in (
                refused[:1],
                *(refused[at : at + AT_ONCE] for at in range(1, len(refused), AT_ONCE)),
            ):
                fitted = [self._fit(texts[row], row + offset, failures[row]) for row in some]
                for row, vector in zip(some, await gathered(fitted), strict=True):
                    rows[row] = vector
        except RequestError as error:
            error.set_outcome(lambda: _completed(rows, offset), dict)
            raise
        return np.stack([rows[row] for row in range(len(texts))])

    async def _fit(self, text: str, index: int, refused: RequestError) -> Matrix:
        text = text[len(self._prompt) :]
        if self._how == "truncate":
            vector = await self._truncated(text, index, refused)
            self._note(self._ledger.truncated, "cut")
            self._ledger.truncated += 1
            return vector
        parts = await self._parts(text, index, refused)
        self._note(self._ledger.averaged, "embedded in parts")
        self._ledger.averaged += 1
        return _average(parts)

    def _note(self, before: int, what: str) -> None:
        if not before:
            message = (
                "%s: a text is longer than the model takes, and was %s (too_long=%r); usage() counts them"
            )
            logger.warning(message, self._server, what, self._how)

    async def _truncated(self, text: str, index: int, refused: RequestError) -> Matrix:
        """The vector of as much of a text as the server takes: by its numbers, by what is known, or by trying."""
        longest, shortest, best = 0, len(text), None  # that was taken, that was refused
        known = self._lengths.edge
        edge = known if known is not None and known < len(text) + len(self._prompt) else None
        size = self._size(shortest, refused)
        while best is None or shortest - longest > max(1, FINE * shortest):
            piece = cut(text, size)
            if not longest < len(piece) < shortest:
                break
            outcome = await self._tried(piece, index)
            if isinstance(outcome, TextRefused):
                shortest, refused, edge = len(piece), outcome, None
            else:
                longest, best = len(piece), outcome
                if refused.tokens is not None or edge is not None:
                    break
            size = (longest + shortest) // 2 if longest else self._size(shortest, refused)
        if best is None:
            raise refused
        self._lengths.found(longest if edge is None else edge)
        return best

    async def _parts(self, text: str, index: int, refused: RequestError) -> list[tuple[Matrix, int]]:
        """The vectors of a text's parts, and how long each is."""
        found = pieces(text, self._size(len(text), refused))
        if len(found) < 2:
            raise refused
        parts = await gathered([self._part(piece, index) for piece in found])
        return [part for some in parts for part in some]

    async def _part(self, text: str, index: int) -> list[tuple[Matrix, int]]:
        outcome = await self._tried(text, index)
        if isinstance(outcome, TextRefused):
            return await self._parts(text, index, outcome)
        self._lengths.found(max(len(text), self._lengths.edge or 0))
        return [(outcome, len(text))]

    async def _tried(self, text: str, index: int) -> Matrix | TextRefused:
        """The vector of a part of a text, or its refusal for its length."""
        try:
            return await self._embed(self._prompt + text, index)
        except TextRefused as error:
            if not error.too_long:
                raise
            return error

    def _size(self, length: int, refused: RequestError) -> int:
        """The length to try next, without the prompt."""
        fixed = len(self._prompt)
        return max(1, self._lengths.guess(length + fixed, refused.tokens, refused.limit) - fixed)


def _is_too_long(error: RequestError) -> bool:
    return isinstance(error, TextRefused) and error.too_long


def _average(parts: list[tuple[Matrix, int]]) -> Matrix:
    """The mean of the parts' vectors, weighted by their length; at unit length where they all are."""
    vectors = np.stack([vector for vector, _ in parts]).astype(np.float64)
    mean = np.average(vectors, axis=0, weights=[length for _, length in parts]).astype(np.float32)
    if np.all(np.abs(np.linalg.norm(vectors, axis=1) - 1) < UNIT):
        mean = normalized(mean[np.newaxis])[0]
    return mean


def _completed(rows: dict[int, Matrix], offset: int) -> Completed:
    done = sorted(rows)
    vectors = np.stack([rows[row] for row in done]) if done else np.empty((0, 0), dtype=np.float32)
    return Completed([row + offset for row in done], vectors)


def hand_on(task: asyncio.Task[Matrix], future: Future, loop: asyncio.AbstractEventLoop) -> None:
    """Gives a task's result to a future, and the future's cancellation to the task."""

    def end(task: asyncio.Task[Matrix]) -> None:
        with contextlib.suppress(asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
            if task.cancelled():
                future.cancel()
            elif (error := task.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(task.result())

    def cancel(future: Future) -> None:
        if future.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(task.cancel)

    task.add_done_callback(end)
    future.add_done_callback(cancel)


async def gathered(work: list[Coroutine[Any, Any, T]]) -> list[T]:
    """What all give; the rest is cancelled where one fails."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
