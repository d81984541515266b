"""The texts that are sent: the user's own or the built-in ones, and none of them twice."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest

from embedwire._servers.tuner import PER_TEXT
from embedwire.bulk.reading import chunks_of
from embedwire.bulk.records import Chunk, Columns, InputFormat
from embedwire.bulk.sources import sources_of
from embedwire.exceptions import InputError
from embedwire.tune.records import Texts
from embedwire.tune.samples import samples

MOST_TEXTS, MOST_CHARACTERS = 20_000, 2**25  # that are read; what stands behind them is not
STRATA = 20  # by length
BUILT_IN = "built-in sample texts"


@dataclass(frozen=True, slots=True)
class Read:
    """What was read.

    Attributes:
        source: Where from, in words.
        texts: No two equal.
        skipped: Rows without a text to embed, or with one that was there before.
    """

    source: str
    texts: Sequence[str]
    skipped: int = 0


def read(inputs: Sequence[str], column: str, told: InputFormat | None) -> Read:
    """The texts of files, folders, patterns or stdin, as `embedwire embed` reads them; none: the built-in ones.

    Raises:
        InputError: Something cannot be read, lacks the column, or holds no text.
    """
    if not inputs:
        return Read(BUILT_IN, samples())
    name = "stdin" if list(inputs) == ["-"] else ", ".join(inputs)
    texts: dict[str, None] = {}
    characters = rows = 0
    first_bad, more = "", False
    with closing(_chunks(inputs, column, told)) as chunks:
        for chunk in chunks:
            sound = _sound(chunk)
            rows += len(chunk.texts)
            characters += sum(len(text) for text in sound if text not in texts)
            texts |= sound
            first_bad = first_bad or _problem(chunk)
            more = len(texts) >= MOST_TEXTS or characters >= MOST_CHARACTERS
            if more:
                break
    if not texts:
        raise InputError(f"{name} holds no text to embed{first_bad}")
    return Read(f"{name} (its beginning)" if more else name, list(texts), rows - len(texts))


def _sound(chunk: Chunk) -> dict[str, None]:
    """Its texts that can be embedded, each once."""
    return dict.fromkeys(text for text in chunk.texts if text is not None and text.strip())


def _problem(chunk: Chunk) -> str:
    """What is wrong with the first row of it that has no text; "" where none is."""
    index = min(chunk.problems, default=None)
    return "" if index is None else f"; {chunk.place(index)}: {chunk.problems[index]}"


def _chunks(inputs: Sequence[str], column: str, told: InputFormat | None) -> Generator[Chunk, None, None]:
    columns = Columns(text=column, id=None, keep=())
    for source in sources_of(inputs, told):
        yield from chunks_of(source, columns)


def mixed(texts: Sequence[str]) -> list[str]:
    """All of them in an order by chance, in which any some twenty in a row are together about as long as any others."""
    chance = random.Random(len(texts))  # noqa: S311 - an order, no key
    ranked = sorted(texts, key=len)
    size = -(-len(ranked) // STRATA)
    strata = [ranked[start : start + size] for start in range(0, len(ranked), size)]
    for stratum in strata:
        chance.shuffle(stratum)
    order: list[str] = []
    for row in zip_longest(*strata):
        turn = [text for text in row if text is not None]
        chance.shuffle(turn)
        order += turn
    return order


class Pool:
    """Texts to send. Its state is which is next, and which the model does not take.

    When all were sent they
    come again with a number in front, so that neither a cache nor embedwire sees a text twice.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._texts = mixed(read.texts)
        self._known = frozenset(self._texts)
        self._per_text = sum(map(len, self._texts)) / len(self._texts) + PER_TEXT
        self._next = self._passes = 0
        self._refused: set[str] = set()

    def take(self, count: int) -> list[str]:
        """So many texts.

        Raises:
            InputError: The model takes none of them.
        """
        taken: list[str] = []
        while len(taken) < count:
            if self._next == len(self._texts):
                self._check()
                self._next = 0
                self._passes += 1
            text = self._texts[self._next]
            self._next += 1
            if text not in self._refused:
                taken.append(f"{self._passes} {text}" if self._passes else text)
        return taken

    def drop(self, texts: Iterable[str]) -> None:
        """The model does not take these, which were sent as they are here."""
        self._refused |= {text if text in self._known else text.partition(" ")[2] for text in texts}

    def by_length(self) -> list[str]:
        """All that may be sent, the shortest first."""
        return sorted((text for text in self._texts if text not in self._refused), key=len)

    def work(self, texts: Sequence[str]) -> float:
        """The work in some texts, in texts of the average length."""
        return (sum(map(len, texts)) + PER_TEXT * len(texts)) / self._per_text

    def told(self) -> Texts:
        """What was sent."""
        left = self.by_length()
        return Texts(
            source=self._read.source,
            count=len(left),
            characters=sum(map(len, left)) / max(1, len(left)),
            skipped=self._read.skipped,
            refused=len(self._refused),
            passes=self._passes,
        )

    def _check(self) -> None:
        if self._known <= self._refused:
            raise InputError(f"the model takes none of the {len(self._texts):,} texts of {self._read.source}")
