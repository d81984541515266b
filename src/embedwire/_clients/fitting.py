"""``too_long=``: a text that the model cannot take whole is cut, or embedded in parts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import numpy as np

from embedwire._clients.shortening import Shortening, gathered, off_loop
from embedwire._events.audience import Tell
from embedwire._events.heard import Heard
from embedwire._http.messages import to_error
from embedwire._http.records import Matrix
from embedwire._queue.outcomes import other_width
from embedwire._queue.records import Future, Part
from embedwire._queue.usage import Ledger
from embedwire._servers.lengths import Lengths
from embedwire._settings.options import TooLong
from embedwire.events import Noticed
from embedwire.exceptions import Completed, RequestError, TextRefused

T = TypeVar("T")


class Fitting:
    """Embeds what is left of a call whose too long texts were refused.

    Its state is the call: its vectors so far, and what failed.

    Args:
        how: "truncate" or "average".
        embed: Embeds one text, named in errors by its index.
        texts: The call's texts.
        part: Where they stand in the caller's list; None: they are all of it.
        prompt: What stands before each text, and before each part of one.
        lengths: What is known of the longest text.
        ledger: Where it is counted.
        server: Base URL, for messages.
        tell: Told that there are too long texts.
    """

    def __init__(
        self,
        how: TooLong,
        embed: Callable[[str, int], Awaitable[Matrix]],
        *,
        texts: list[str],
        part: Part | None,
        prompt: str,
        lengths: Lengths,
        ledger: Ledger,
        server: str,
        tell: Tell,
    ) -> None:
        self._how = how
        self._tell = tell
        self._embed = embed
        self._texts = texts
        self._indexes = range(len(texts)) if part is None else part.indexes
        self._prompt = prompt
        self._lengths = lengths
        self._shorten = Shortening(self._embed_part, prompt, lengths)
        self._ledger = ledger
        self._server = server
        self._done = Completed([], np.empty((0, 0), dtype=np.float32))
        self._fitted: dict[int, Matrix] = {}  # by index
        self._failures: dict[int, RequestError] = {}  # by index
        self._width: int | None = None

    async def run(self, refused: RequestError) -> Matrix:
        """The vectors of the call.

        Args:
            refused: What it failed with.

        Raises:
            RequestError: A text got no vector for another reason than its length, or no part of it did.
        """
        self._failures = dict(await self._made(lambda: refused.failures))
        rows: dict[str, list[int]] = {}  # indexes by text: equal ones are fitted once
        for index, failure in self._failures.items():
            if _is_too_long(failure):
                rows.setdefault(self._texts[bisect_left(self._indexes, index)], []).append(index)
        if not rows or refused.index not in self._failures:
            raise refused  # of no text's own, or not of its length
        done = await self._made(lambda: refused.completed)
        if done is not None and done.indexes:
            self._done, self._width = done, done.vectors.shape[1]
        work = iter(rows.items())
        try:
            # The first one alone finds out how long the others may be; where nothing of it is taken, none is tried.
            if await self._fit(*next(work)):
                await gathered((self._fit(*one) for one in work), len(rows))
        except RequestError as error:
            failures = dict(self._failures)
            error.set_outcome(self._completed, lambda: failures)
            raise
        if self._failures:
            raise self._error()
        return (await self._made(self._completed)).vectors

    async def _fit(self, text: str, indexes: list[int]) -> bool:
        """Puts a text's vector into its rows; False where no part of it is short enough."""
        refused, body = self._failures[indexes[0]], text[len(self._prompt) :]
        assert isinstance(refused, TextRefused)  # noqa: S101 - it is too long
        fit = self._shorten.truncated if self._how == "truncate" else self._shorten.averaged
        try:
            vector = await fit(body, indexes[0], refused)
        except RequestError as error:
            if error.index not in error.failures and error is not refused:
                raise  # it is not the text's own
            if _is_too_long(error):
                return False
            self._failures[indexes[0]] = error
            return True
        for index in indexes:
            self._fitted[index] = vector
            del self._failures[index]
        self._count(len(indexes))
        return True

    def _count(self, texts: int) -> None:
        truncated = self._how == "truncate"
        if truncated:
            self._ledger.truncated += texts
        else:
            self._ledger.averaged += texts
        if self._how not in self._lengths.told:
            self._lengths.told.add(self._how)
            done = "cut" if truncated else "embedded in parts"
            how = f"{done} (too_long={self._how!r}); usage() counts such texts"
            what = f"a text is longer than the model takes, and was {how}"
            self._tell(Noticed(server=self._server, level="warning", what=what))

    async def _embed_part(self, text: str, index: int) -> Matrix:
        vector = await self._embed(text, index)
        if self._width is not None and self._width != len(vector):
            fault = other_width(len(vector), self._width)
            raise to_error(fault, attempts=1, server=self._server, index=index, count=None)
        self._width = len(vector)
        return vector

    def _completed(self) -> Completed:
        """All vectors so far, in the order of their texts."""
        fitted = sorted(self._fitted)
        if not fitted:
            return self._done
        indexes = sorted([*self._done.indexes, *fitted])
        matrix = np.empty((len(indexes), self._width or 0), dtype=np.float32)
        if self._done.indexes:
            matrix[np.searchsorted(indexes, self._done.indexes)] = self._done.vectors
        for place, index in zip(np.searchsorted(indexes, fitted).tolist(), fitted, strict=True):
            matrix[place] = self._fitted[index]
        return Completed(indexes, matrix)

    def _error(self) -> RequestError:
        """What the call fails with: its first text's own error."""
        error, failures = copy.copy(self._failures[min(self._failures)]), self._failures
        error.set_outcome(self._completed, lambda: failures)
        return error

    async def _made(self, make: Callable[[], T]) -> T:
        return await off_loop(len(self._texts), make)


def _is_too_long(error: RequestError) -> bool:
    return isinstance(error, TextRefused) and error.too_long


def fit_or_hand_on(
    whole: asyncio.Future[Matrix],
    future: Future,
    run: Callable[[RequestError], Coroutine[Any, Any, Matrix]],
    tasks: set[asyncio.Task[Matrix]],
    heard: Heard | None = None,
) -> None:
    """Gives a call's vectors to a future; where a text was refused, what is made of that.

    Args:
        whole: The call's; cancelled where the future is.
        future: The caller's.
        run: The call's error → its vectors.
        tasks: Where what runs is kept.
        heard: Tells hooks how the call ended.
    """
    loop = whole.get_loop()

    def done(whole: asyncio.Future[Matrix]) -> None:
        if whole.cancelled() or not isinstance(error := whole.exception(), RequestError) or future.done():
            _hand_on(whole, future, heard)
            return
        hand_on_from(loop.create_task(run(error)), future, tasks, heard)

    whole.add_done_callback(done)
    _cancel_with(future, whole)


def hand_on_from(
    task: asyncio.Task[Matrix],
    future: Future,
    tasks: set[asyncio.Task[Matrix]],
    heard: Heard | None = None,
) -> None:
    """Ends a future as a task ends, which is cancelled where the future is, and kept in a set meanwhile."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    task.add_done_callback(lambda task: _hand_on(task, future, heard))
    _cancel_with(future, task)


def _cancel_with(future: Future, work: asyncio.Future[Matrix]) -> None:
    """Cancels some work where nobody waits for it any more."""

    def cancel(future: Future) -> None:
        if future.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop has ended
                work.get_loop().call_soon_threadsafe(work.cancel)

    future.add_done_callback(cancel)


def _hand_on(work: asyncio.Future[Matrix], future: Future, heard: Heard | None) -> None:
    """Ends a future as some work ended; before that hooks are told."""
    if heard is not None:
        cancelled = work.cancelled() or future.cancelled()
        heard.finish(None if cancelled else work.exception(), cancelled=cancelled)
    with contextlib.suppress(asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
        if work.cancelled():
            future.cancel()
        elif (error := work.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(work.result())
