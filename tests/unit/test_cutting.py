"""Where a text is cut: nothing is lost but white space, and no character is torn apart."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedwire._clients.cutting import FAR, LONGEST, cut, pieces

# What a reader sees as one character, in several code points.
CLUSTERS = [
    "e\u0301",  # é, decomposed
    "\u0939\u093f",  # a Devanagari letter with its vowel
    "👩\u200d👩\u200d👧",  # a family
    "👍🏽",  # a skin tone
    "☺\ufe0f",  # a variation selector
    "🇰🇷",
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # Scotland
    "\u1112\u1161\u11ab",  # han, of three letters
    "\r\n",
]
PLAIN = [" ", "\n", "\u3000", "a", "Z", "word ", "서", "漢", "."]
texts = st.lists(st.sampled_from([*CLUSTERS, *PLAIN]), min_size=1, max_size=60)
sizes = st.integers(1, 80)


def inner(clusters: list[str]) -> set[int]:
    """The places inside of clusters."""
    places, at = set[int](), 0
    for cluster in clusters:
        places.update(range(at + 1, at + len(cluster)))
        at += len(cluster)
    return places


def ends(text: str, parts: list[str]) -> list[int]:
    """Where the parts of a text begin and end, white space between them aside; fails where something is missing."""
    places, at = [], 0
    for part in parts:
        begin = text.index(part, at)
        assert text[at:begin].strip() == ""
        at = begin + len(part)
        places += [begin, at]
    assert text[at:].strip() == ""
    return places


def torn(clusters: list[str], places: list[int]) -> list[int]:
    """Those of some places that are inside a character."""
    whole = [piece for cluster in clusters for piece in (list(cluster) if cluster == "word " else [cluster])]
    return sorted(inner(whole) & set(places))


class TestPieces:
    """A text in parts."""

    @given(texts, sizes)
    @example(["🇰🇷"] * 9, 3)
    @example(["👩\u200d👩\u200d👧"] * 5, 2)
    def test_are_the_text(self, clusters: list[str], most: int) -> None:
        """Joined they give the text back, but for white space; none is only white space; no character is torn."""
        text = "".join(clusters)
        parts = list(pieces(text, most))
        if not text.strip():
            assert len(parts) == 1
            return
        assert all(part.strip() for part in parts)
        assert torn(clusters, ends(text, parts)) == []

    @given(texts, sizes)
    def test_are_no_longer_than_they_may_be(self, clusters: list[str], most: int) -> None:
        """Only a part that is one character is longer."""
        for part in pieces("".join(clusters), most):
            assert len(part) <= most or part in CLUSTERS

    @pytest.mark.parametrize("length", [1000, 1001, 1999, 3333])
    def test_are_about_equal(self, length: int) -> None:
        """No part is a mere rest, whose vector would say little."""
        parts = [len(part) for part in pieces(("word " * length)[:length], 500)]
        assert max(parts) <= 500
        assert min(parts) > 200

    def test_end_at_white_space(self) -> None:
        """Words stay whole where there is a space within reach."""
        words = "watches breaks paints follows sells repairs forgets " * 50
        for part in pieces(words, 100):
            assert set(part.split()) <= set(words.split())

    def test_are_made_one_by_one(self) -> None:
        """A text of ten million characters is not cut all at once, which would stop a loop."""
        assert len(next(pieces("word " * 2_000_000, 2000))) <= 2000


class TestCut:
    """The beginning of a text."""

    @given(texts, sizes)
    def test_is_a_beginning(self, clusters: list[str], most: int) -> None:
        """It is not empty, does not end in the white space before the cut, and tears no character."""
        text = "".join(clusters)
        beginning = cut(text, most)
        assert beginning
        assert text.startswith(beginning)
        assert len(beginning) <= most or beginning in CLUSTERS
        assert torn(clusters, [len(beginning)]) == []
        if beginning.strip():
            assert beginning == beginning.rstrip()

    @given(st.text(min_size=1, max_size=80), sizes)
    def test_never_before_a_mark(self, text: str, most: int) -> None:
        """Whatever the text is, what follows does not begin with a mark that belongs to the character before."""
        end = len(cut(text, most))
        rest = text[end:].lstrip()
        if end < len(text) and rest == text[end:]:
            assert not unicodedata.category(rest[0]).startswith("M")
        assert 0 < end <= max(most, LONGEST)

    @pytest.mark.parametrize("most", [1, 0, -5])
    def test_takes_at_least_one_character(self, most: int) -> None:
        """However little is allowed."""
        assert cut("👩\u200d👩\u200d👧 and more", most) == "👩\u200d👩\u200d👧"

    def test_of_what_is_short_enough_is_all_of_it(self) -> None:
        """Nothing is cut where nothing need be."""
        assert cut("short", 5) == "short"
        assert list(pieces("short", 5)) == ["short"]

    @pytest.mark.parametrize(
        "endless", ["e" + "\u0301" * 5000, "👩" + "\u200d👩" * 2500, "🇰" * 5000, "x" * 5000, " " * 5000]
    )
    def test_of_what_never_ends(self, endless: str) -> None:
        """A character of thousands of code points is none that anybody reads: it is cut all the same."""
        assert 0 < len(cut(endless, 1000)) <= 1000
        assert sum(map(len, pieces(endless, 1000))) in (5000, 5001, 1000)

    def test_looks_for_white_space_nearby_only(self) -> None:
        """A space far before the end is not where the text is cut, so that no more is lost than need be."""
        text = "a " + "x" * (50 * FAR)
        assert len(cut(text, 20 * FAR)) == 20 * FAR
