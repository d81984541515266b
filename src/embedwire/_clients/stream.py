"""Texts of unknown number, a few batches at a time: in order, in bounded memory, errors by index.

`AsyncStream` is the only one that does it; `Stream` is the same through the bridge to the loop thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

from embedwire._clients.brief import brief
from embedwire._clients.reader import read_in_thread
from embedwire._clients.texts import check_text_at
from embedwire._http.steps import PATIENCE
from embedwire._servers.bounds import START
from embedwire._servers.known import sizing
from embedwire._servers.sizes import STREAM_CHUNK, FormSizes
from embedwire._settings.checks import shown
from embedwire._settings.options import Kind
from embedwire._settings.settings import Settings
from embedwire.exceptions import InputError, RequestError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]
    Piece: TypeAlias = tuple[int, Vectors]

OnError: TypeAlias = Literal["raise", "skip"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Feed:
    """Where a stream's texts go, and how many at a time.

    Attributes:
        sizes: How much travels at once, to each server.
        submit: Texts, and the index of the first one → their vectors.
    """

    sizes: tuple[FormSizes, ...]
    submit: Callable[[list[str], int], asyncio.Future[Vectors]]

    def size(self) -> int:
        """Texts in one piece now: as many as one request carries, or the few of a small one where sizes are found."""
        limits = [sizes.limits() for sizes in self.sizes]
        least = 1 if limits[0].work is None else START["document"].texts
        return max(least, *(one.texts or STREAM_CHUNK for one in limits))

    def window(self) -> int:
        """Texts that may be under way: enough that larger requests, and more of them, could be filled."""
        requests = sum(sizes.wish().documents for sizes in self.sizes)
        return max(4 * requests * self.size(), sum(sizes.ahead() for sizes in self.sizes))


def sizes_of(settings: Settings, kind: Kind) -> tuple[FormSizes, ...]:
    """How much of a client's texts travels at once."""
    form = settings.form_of(kind)
    return tuple(sizing(target, form.variant).of(form) for target in settings.fleet.visited().targets)


class AsyncStream:
    """Pieces ``(start, vectors)`` in order: vectors of the texts from index ``start`` on.

    ``vectors`` is float32 of shape ``(texts in the piece, dimensions)``. Leave the loop, or call `aclose`, to
    give up: what was not sent will not be, and requests on their way are cancelled. Its state is whether it was
    cancelled while it was waited for.
    """

    def __init__(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        feed: Callable[[], Awaitable[Feed]],
        *,
        on_error: OnError,
    ) -> None:
        if not isinstance(on_error, str) or on_error not in ("raise", "skip"):
            raise InputError(f"on_error must be 'raise' or 'skip', not {shown(on_error)}")
        self._broken = False
        self._skipped: dict[int, RequestError] = {}
        self._pieces = _pieces(texts, feed, self._skipped if on_error == "skip" else None)

    @property
    def failures(self) -> dict[int, RequestError]:
        """With ``on_error="skip"``: the error of each text that was skipped so far, by its index."""
        return self._skipped

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        if self._broken:
            raise UsageError("this stream was cancelled while it was waited for; begin a new one")
        try:
            with brief:
                return await self._pieces.__anext__()
        except asyncio.CancelledError:
            self._broken = True  # else it would seem to be at its end
            raise

    async def aclose(self) -> None:
        """Gives up."""
        await self._pieces.aclose()


class Runner(Protocol):
    """What runs a coroutine on the loop thread, and waits for it."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs it."""
        ...


class Stream:
    """The same as `AsyncStream` for callers without a loop.

    A list or a tuple is read where it is needed; any other iterable in a thread of its own, with the caller's context,
    so that one that is slow never holds finished vectors back.
    """

    def __init__(self, stream: AsyncStream, run: Runner) -> None:
        self._stream = stream
        self._run = run

    @property
    def failures(self) -> dict[int, RequestError]:
        """With ``on_error="skip"``: the error of each text that was skipped so far, by its index."""
        return self._stream.failures

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        with brief:
            piece = self._run(self._next)
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Gives up."""
        self._run(self._stream.aclose)

    async def _next(self) -> Piece | None:
        return await anext(self._stream, None)


def threaded(texts: Iterable[str]) -> Iterable[str] | AsyncIterable[str]:
    """A sync source for a sync caller: one that may block is read in a thread of its own."""
    return texts if isinstance(texts, Sequence) else read_in_thread(texts)


def check_source(texts: object, *, asynchronous: bool) -> None:
    """Raises InputError where ``texts`` cannot be iterated, or is one str."""
    kinds = (Iterable, AsyncIterable) if asynchronous else (Iterable,)
    if isinstance(texts, (str, bytes)) or not isinstance(texts, kinds):
        raise InputError(
            f"texts must be an iterable of str{' or an async one' * asynchronous}, not {type(texts).__name__}"
        )


async def _pieces(
    texts: Iterable[str] | AsyncIterable[str],
    feed: Callable[[], Awaitable[Feed]],
    skipped: dict[int, RequestError] | None,
) -> AsyncGenerator[Piece, None]:
    feeder = _Feeder(await feed())
    reading = asyncio.create_task(feeder.read(texts))
    try:
        while (entry := await feeder.submitted.get()) is not None:
            start, future = entry
            try:
                vectors = await future
            except RequestError as error:
                for piece in _rest(error, skipped):
                    yield piece
            else:
                yield start, vectors
            finally:
                feeder.taken()
        await reading  # raises what the source of the texts raised
    finally:
        reading.cancel()
        feeder.cancel()
        await asyncio.gather(reading, return_exceptions=True)


class _Feeder:
    """Reads texts and submits them, so that vectors come out while a slow source is waited for.

    A piece is full, or it is what was read when nothing was under way. Its state is the texts of the next piece, and
    the pieces under way, with how many texts they have.
    """

    def __init__(self, feed: Feed) -> None:
        self.submitted: asyncio.Queue[tuple[int, asyncio.Future[Vectors]] | None] = asyncio.Queue()
        self._feed = feed
        self._room = asyncio.Event()
        self._under_way: deque[tuple[asyncio.Future[Vectors], int]] = deque()
        self._texts = 0  # under way
        self._start = 0
        self._chunk: list[str] = []

    async def read(self, texts: Iterable[str] | AsyncIterable[str]) -> None:
        """Reads all texts; raises what their source raised, after the texts before it were submitted."""
        loop, full = asyncio.get_running_loop(), 1
        try:
            async for text in _each(texts):
                self._chunk.append(check_text_at(self._start + len(self._chunk), text))
                if len(self._chunk) == 1:
                    full = self._feed.size()  # once for each piece: it costs more than all else here
                    loop.call_soon(self._submit_if_idle)  # unless the source has more at once
                if len(self._chunk) >= full:
                    await self._until_room()
                    self._submit()
        finally:
            try:
                if self._chunk:
                    await self._until_room()
                    self._submit()
            finally:
                self.submitted.put_nowait(None)

    def taken(self) -> None:
        """The first piece under way was taken."""
        self._texts -= self._under_way.popleft()[1]
        self._room.set()

    def cancel(self) -> None:
        """Gives up what is under way: the last first, as what waits must not take the place of what goes."""
        self._chunk = []
        for future, _ in reversed(self._under_way):
            future.cancel()
            future.add_done_callback(_seen)

    async def _until_room(self) -> None:
        while self._texts >= self._feed.window():
            self._room.clear()
            await self._room.wait()

    def _submit(self) -> None:
        chunk, start = self._chunk, self._start
        if not chunk:  # it went while there was no room, as nothing was under way any more
            return
        self._chunk, self._start = [], start + len(chunk)
        try:
            future = self._feed.submit(chunk, start)
        except Exception as error:  # the queue is full, or the client was closed
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        self._under_way.append((future, len(chunk)))
        self._texts += len(chunk)
        future.add_done_callback(self._submit_if_idle)
        self.submitted.put_nowait((start, future))

    def _submit_if_idle(self, _: object = None) -> None:
        if self._chunk and all(future.done() for future, _ in self._under_way):
            self._submit()


def _rest(error: RequestError, skipped: dict[int, RequestError] | None) -> Iterator[Piece]:
    """The vectors around the texts that failed; raises where these are not to be skipped."""
    if skipped is None or error.index not in error.failures or error.completed is None:
        raise error
    skipped.update(error.failures)
    indexes, vectors = error.completed.indexes, error.completed.vectors
    begin = 0
    for end in range(1, len(indexes) + 1):
        if end == len(indexes) or indexes[end] != indexes[end - 1] + 1:
            yield indexes[begin], vectors[begin:end]
            begin = end


async def _each(texts: Iterable[str] | AsyncIterable[str]) -> AsyncIterator[str]:
    if isinstance(texts, AsyncIterable):
        async for text in texts:
            yield text
        return
    now = asyncio.get_running_loop().time
    since = now()
    for text in texts:
        yield text
        if now() - since > PATIENCE:
            await asyncio.sleep(0)
            since = now()


def _seen(future: asyncio.Future[Vectors]) -> None:
    if not future.cancelled():
        future.exception()
