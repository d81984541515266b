"""Texts of unknown number, a few batches at a time: in order, in bounded memory, failures by index."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from typing import TYPE_CHECKING, Literal, TypeAlias

from embedwire._config import Settings
from embedwire._discreet import discreet
from embedwire._limits import STREAM_CHUNK, batch_limits, concurrency, learned
from embedwire.exceptions import InputError, RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]
    Piece: TypeAlias = tuple[int, Vectors]

OnError: TypeAlias = Literal["raise", "skip"]


class Failures:
    """What to do with texts that fail: raise, or note the error by index and go on."""

    def __init__(self, on_error: OnError) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
        self._skip = on_error == "skip"
        self.by_index: dict[int, RequestError] = {}

    def rest(self, error: RequestError) -> Iterator[Piece]:
        """The vectors around the texts that failed; raises where the failure is not the texts' own."""
        if not self._skip or not error.failures or error.completed is None:
            raise error
        self.by_index.update(error.failures)
        indexes, vectors = error.completed.indexes, error.completed.vectors
        begin = 0
        for end in range(1, len(indexes) + 1):
            if end == len(indexes) or indexes[end] != indexes[end - 1] + 1:
                yield indexes[begin], vectors[begin:end]
                begin = end


class AsyncStream:
    """Pieces ``(start, vectors)`` in order: vectors of the texts from index ``start`` on.

    ``vectors`` is float32 of shape ``(texts in the piece, dimensions)``. Leave the loop, or call `aclose`, to
    give up: what was not sent will not be, and requests on their way are cancelled.
    """

    def __init__(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        submit: Callable[[list[str], int], asyncio.Future[Vectors]],
        *,
        size: Callable[[], int],
        window: Callable[[], int],
        on_error: OnError,
    ) -> None:
        self._failures = Failures(on_error)
        self._pieces = _async_pieces(texts, submit, size, window, self._failures)

    @property
    def failures(self) -> dict[int, RequestError]:
        """With ``on_error="skip"``: the error of each text that was skipped so far, by its index."""
        return self._failures.by_index

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    @discreet
    async def __anext__(self) -> Piece:
        return await self._pieces.__anext__()

    async def aclose(self) -> None:
        """Gives up."""
        await self._pieces.aclose()


class Stream:
    """The same as `AsyncStream` for callers without a loop. The texts are read in the caller's thread."""

    def __init__(
        self,
        texts: Iterable[str],
        submit: Callable[[list[str], int], concurrent.futures.Future[Vectors]],
        *,
        size: Callable[[], int],
        window: Callable[[], int],
        on_error: OnError,
    ) -> None:
        self._failures = Failures(on_error)
        self._pieces = _pieces(texts, submit, size, window, self._failures)

    @property
    def failures(self) -> dict[int, RequestError]:
        """With ``on_error="skip"``: the error of each text that was skipped so far, by its index."""
        return self._failures.by_index

    def __iter__(self) -> Iterator[Piece]:
        return self

    @discreet
    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """Gives up."""
        self._pieces.close()


def stream_chunk(settings: Settings) -> int:
    """Texts in one piece of a stream now: as many as one request carries."""
    return batch_limits(settings.form, learned(settings.base_url)).texts or STREAM_CHUNK


def stream_window(settings: Settings) -> int:
    """Pieces of a stream that may be under way: enough that larger requests, and more of them, could be filled."""
    return 4 * concurrency(settings.form, learned(settings.base_url))


def check_source(texts: object, *, asynchronous: bool) -> None:
    """Raises InputError where ``texts`` cannot be iterated, or is one str."""
    kinds = (Iterable, AsyncIterable) if asynchronous else (Iterable,)
    if isinstance(texts, (str, bytes)) or not isinstance(texts, kinds):
        raise InputError(
            f"texts must be an iterable of str{' or an async one' * asynchronous}, not {type(texts).__name__}"
        )


def _pieces(
    texts: Iterable[str],
    submit: Callable[[list[str], int], concurrent.futures.Future[Vectors]],
    size: Callable[[], int],
    window: Callable[[], int],
    failures: Failures,
) -> Generator[Piece, None, None]:
    under_way: deque[tuple[int, concurrent.futures.Future[Vectors]]] = deque()
    problem: Exception | None = None
    chunks = _chunks(texts, size)
    try:
        while problem is None:
            try:
                start, chunk = next(chunks)
                under_way.append((start, submit(chunk, start)))
            except StopIteration:
                break
            except Exception as error:  # of the source, or a bad text: after the vectors of what came before
                problem = error
            while len(under_way) >= window():
                yield from _piece(*under_way.popleft(), failures)
        while under_way:
            yield from _piece(*under_way.popleft(), failures)
        if problem is not None:
            raise problem
    finally:
        for _, future in reversed(
            under_way
        ):  # the last first: what waits must not take the place of what goes
            future.cancel()


def _piece(start: int, future: concurrent.futures.Future[Vectors], failures: Failures) -> Iterator[Piece]:
    try:
        yield start, future.result()
    except RequestError as error:
        yield from failures.rest(error)
    finally:
        future.cancel()


def _chunks(texts: Iterable[str], size: Callable[[], int]) -> Iterator[tuple[int, list[str]]]:
    start, chunk = 0, []
    for text in texts:
        chunk.append(text)
        if len(chunk) >= size():
            yield start, chunk
            start, chunk = start + len(chunk), []
    if chunk:
        yield start, chunk


async def _async_pieces(
    texts: Iterable[str] | AsyncIterable[str],
    submit: Callable[[list[str], int], asyncio.Future[Vectors]],
    size: Callable[[], int],
    window: Callable[[], int],
    failures: Failures,
) -> AsyncGenerator[Piece, None]:
    """A feeder reads the texts and submits them, so that vectors come out while a slow source is waited for."""
    room = asyncio.Event()
    submitted: asyncio.Queue[tuple[int, asyncio.Future[Vectors]] | None] = asyncio.Queue()
    under_way: dict[asyncio.Future[Vectors], None] = {}  # in order

    async def feed() -> None:
        try:
            start, chunk = 0, []
            async for text in _each(texts):
                chunk.append(text)
                if len(chunk) >= size():
                    await until_room()
                    hand_in(start, chunk)
                    start, chunk = start + len(chunk), []
            if chunk:
                await until_room()
                hand_in(start, chunk)
        finally:
            submitted.put_nowait(None)

    async def until_room() -> None:
        while len(under_way) >= window():
            room.clear()
            await room.wait()

    def hand_in(start: int, chunk: list[str]) -> None:
        future = submit(chunk, start)
        under_way[future] = None
        submitted.put_nowait((start, future))

    feeder = asyncio.create_task(feed())
    try:
        while (entry := await submitted.get()) is not None:
            start, future = entry
            try:
                vectors = await future
            except RequestError as error:
                for piece in failures.rest(error):
                    yield piece
            else:
                yield start, vectors
            finally:
                under_way.pop(future, None)
            room.set()
        await feeder  # raises what the source of the texts raised
    finally:
        feeder.cancel()
        for future in reversed(list(under_way)):  # the last first, as above
            future.cancel()
            future.add_done_callback(_seen)
        await asyncio.gather(feeder, return_exceptions=True)


async def _each(texts: Iterable[str] | AsyncIterable[str]) -> AsyncIterator[str]:
    if isinstance(texts, AsyncIterable):
        async for text in texts:
            yield text
    else:
        for text in texts:
            yield text


def _seen(future: asyncio.Future[Vectors]) -> None:
    if not future.cancelled():
        future.exception()
