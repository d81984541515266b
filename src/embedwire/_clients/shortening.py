"""One text that is too long: as much of it as the model takes, or the mean of its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import numpy as np

from embedwire._clients.cutting import cut, pieces
from embedwire._http.records import Matrix
from embedwire._http.threads import in_thread
from embedwire._http.vectors import normalized
from embedwire._servers.lengths import Lengths
from embedwire.exceptions import RequestError, TextRefused

T = TypeVar("T")

AT_ONCE = 32  # texts of one call, and parts of one text, that are embedded at the same time
FINE = 0.1  # of the length: so near to the longest text that the server takes is near enough
BELIEVED = 3  # cuts by the server's own numbers, before a text that is still too long is halved
UNIT = 1e-3  # by which a vector's length may differ from 1 where the model's vectors have unit length
MANY = 256  # vectors, or errors, that are not put together on the loop


class Shortening:
    """Embeds texts that are too long, one at a time. It has no state of its own.

    Args:
        embed: Embeds one text, named in errors by its index.
        prompt: What stands before each text, and before each part of one.
        lengths: What is known of the longest text.
    """

    def __init__(self, embed: Callable[[str, int], Awaitable[Matrix]], prompt: str, lengths: Lengths) -> None:
        self._embed = embed
        self._prompt = prompt
        self._lengths = lengths

    async def truncated(self, text: str, index: int, refused: TextRefused) -> Matrix:
        """The vector of as much of a text as the server takes.

        Args:
            text: It, without its prompt.
            index: Its index in the caller's list.
            refused: What became of it as a whole.

        Raises:
            TextRefused: Nothing of it is taken.
        """
        return await self._longest(text, index, refused)

    async def averaged(self, text: str, index: int, refused: TextRefused) -> Matrix:
        """The mean of the vectors of a text's parts, weighted by their length; see `truncated`."""
        if not _tells(refused) and not self._lengths.knows(text, len(text) + len(self._prompt)):
            await self._longest(text, index, refused)  # which finds out how long a part may be
        parts = await self._parts(text, index, refused)
        return await off_loop(len(parts), lambda: mean(parts))

    async def _longest(self, text: str, index: int, whole: TextRefused) -> Matrix:
        """By the server's numbers, by what is known, or by trying."""
        refused, fixed = whole, len(self._prompt)
        least, most, best, tries = 0, len(text), None, 0  # that was taken, that was refused
        size = self._size(text, most, refused)
        sure = _tells(refused) or self._lengths.knows(text, most + fixed)
        while not _near(least, most) and least < len(piece := cut(text, size)) < most:
            outcome, tries = await self._tried(piece, index), tries + 1
            if isinstance(outcome, TextRefused):
                most, refused = len(piece), outcome
                self._lengths.too_long(text, most + fixed)
                sure = _tells(refused) and tries < BELIEVED
            else:
                least, best = len(piece), outcome
                if sure:
                    break
            between = (least + most) // 2
            size = between if least or tries >= BELIEVED else self._size(text, most, refused)
        if best is None:
            raise whole
        (self._lengths.fits if sure else self._lengths.found)(text, least + fixed)
        return best

    async def _parts(self, text: str, index: int, refused: TextRefused) -> list[tuple[Matrix, int]]:
        """The vectors of a text's parts, and how long each is."""
        size = self._size(text, len(text), refused)
        if len(cut(text, size)) == len(text):
            raise refused
        work = (self._part(piece, index) for piece in pieces(text, size))
        return [part for parts in await gathered(work, len(text) // size + 1) for part in parts]

    async def _part(self, text: str, index: int) -> list[tuple[Matrix, int]]:
        outcome, length = await self._tried(text, index), len(text) + len(self._prompt)
        if isinstance(outcome, TextRefused):
            self._lengths.too_long(text, length)
            return await self._parts(text, index, outcome)
        self._lengths.fits(text, length)
        return [(outcome, len(text))]

    async def _tried(self, text: str, index: int) -> Matrix | TextRefused:
        """The vector of a part of a text, or its refusal for its length."""
        try:
            return await self._embed(self._prompt + text, index)
        except TextRefused as error:
            if not error.too_long:
                raise
            return error

    def _size(self, text: str, length: int, refused: TextRefused) -> int:
        """The length to try next, without the prompt."""
        fixed = len(self._prompt)
        return max(1, self._lengths.guess(text, length + fixed, refused.tokens, refused.limit) - fixed)


def _near(taken: int, refused: int) -> bool:
    """Whether a length that was taken is near enough to one that was refused."""
    return 0 < taken >= refused - max(1, FINE * refused)


def mean(parts: list[tuple[Matrix, int]]) -> Matrix:
    """The mean of some vectors, each with its weight; at unit length where they all are."""
    vectors = np.stack([vector for vector, _ in parts]).astype(np.float64)
    middle = np.average(vectors, axis=0, weights=[weight for _, weight in parts]).astype(np.float32)
    if np.all(np.abs(np.linalg.norm(vectors, axis=1) - 1) < UNIT):
        middle = normalized(middle[np.newaxis])[0]
    return middle


def _tells(error: RequestError) -> bool:
    """Whether the server's numbers say how much of the text is too much."""
    return error.tokens is not None and error.limit is not None and error.tokens > error.limit


async def off_loop(count: int, make: Callable[[], T]) -> T:
    """What a function makes of so many things: in a thread, where they are many."""
    return await in_thread(make) if count > MANY else make()


async def gathered(work: Iterator[Coroutine[Any, Any, T]], most: int) -> list[T]:
    """What some things give, in their order; each is begun when there is room, and none goes on where one fails.

    Args:
        work: They.
        most: About how many they are.
    """
    numbered = enumerate(work)
    results: dict[int, T] = {}

    async def some() -> None:
        for number, one in numbered:
            results[number] = await one

    tasks = [asyncio.ensure_future(some()) for _ in range(min(most, AT_ONCE))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[number] for number in range(len(results))]
