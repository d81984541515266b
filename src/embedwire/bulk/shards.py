"""Rows → shards of equal size, by their place in the input alone: the pieces of a run that others may work on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from embedwire.bulk.embedding import changed
from embedwire.bulk.output import digested
from embedwire.bulk.records import Chunk, Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Rows that become one file of the output.

    Attributes:
        first: Number of its first row.
        rows: How many it has.
        own: Digest of its texts.
        digest: Digest of all texts up to its end.
        pieces: Its chunks, as ``put`` gave them.
        begin: How much of the input was read before it.
        end: The same at its end.
    """

    first: int
    rows: int = 0
    own: int = 0
    digest: int
    pieces: tuple[Any, ...] = ()
    begin: int = 0
    end: int = 0

    @property
    def name(self) -> str:
        """What it is, for people and files: it tells another input's shard from this one."""
        return f"rows {self.first} to {self.first + self.rows - 1}, {self.own:08x}"

    def behind(self) -> Shard:
        """The next one, without rows as yet."""
        return Shard(first=self.first + self.rows, digest=self.digest, begin=self.end, end=self.end)

    def and_more(self, chunk: Chunk, piece: object) -> Shard:
        """It with the rows of one more chunk."""
        own, digest = self.own, self.digest
        for text in chunk.texts:
            own, digest = digested(own, text), digested(digest, text)
        rows = self.rows + len(chunk.texts)
        begin = self.begin if self.rows else chunk.start
        pieces = (*self.pieces, piece)
        return replace(self, rows=rows, own=own, digest=digest, pieces=pieces, begin=begin, end=chunk.read)


def shards_of(
    chunks: Iterable[Chunk], done: Position, rows: int, put: Callable[[Chunk], object]
) -> Iterator[Shard]:
    """The shards behind what is done.

    Args:
        chunks: The whole input.
        done: How far the output is; the texts before are compared with it.
        rows: In each shard; the last one may have fewer.
        put: What is kept of a chunk; called as it is read.

    Raises:
        InputError: The input was changed since; what reading it raises.
    """
    shard = Shard(first=done.next, digest=done.digest)
    for chunk in _behind(chunks, done):
        at = 0
        while at < len(chunk.texts):
            part = cut(chunk, at, min(len(chunk.texts), at + rows - shard.rows))
            at += len(part.texts)
            shard = shard.and_more(part, put(part))
            if shard.rows == rows:
                yield shard
                shard = shard.behind()
    if shard.rows:
        yield shard


def _behind(chunks: Iterable[Chunk], done: Position) -> Iterator[Chunk]:
    """The chunks behind what is done, once that was found to be the same."""
    number = digest = 0
    for chunk in chunks:
        known = min(len(chunk.texts), max(0, done.next - number))
        for text in chunk.texts[:known]:
            digest = digested(digest, text)
        number += len(chunk.texts)
        if known and number >= done.next and digest != done.digest:
            raise changed(done.next)
        if known < len(chunk.texts):
            yield cut(chunk, known, len(chunk.texts))
    if number < done.next:
        raise changed(number)


def cut(chunk: Chunk, start: int, end: int) -> Chunk:
    """Some of the rows of a chunk."""
    if end - start == len(chunk.texts):
        return chunk
    carried = chunk.carried
    each = (chunk.read - chunk.start) / len(chunk.texts)
    return replace(
        chunk,
        lines=chunk.lines[start:end],
        texts=chunk.texts[start:end],
        problems={at - start: why for at, why in chunk.problems.items() if start <= at < end},
        carried=carried[start:end] if isinstance(carried, list) else carried.slice(start, end - start),
        start=round(chunk.start + each * start),
        read=round(chunk.start + each * end),
    )
