"""What is checked and put before a text; and that nothing else ever happens to it."""

from __future__ import annotations

import enum
from collections import UserList, deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire import InputError, Prompts
from embedwire._clients.texts import check_kind, check_text, check_text_at, check_texts, with_prompt

STRANGE = [
    "",
    " ",
    "\n\t",
    "\0",
    "🙂",
    "한국어",
    "a\r\nb",
    "  both ends  ",
    "\ufeffmark",
    "e\u0301",
    "x" * 100_000,
]


class Word(str):
    """A str of somebody's own kind."""

    __slots__ = ()


class Other(str):
    """A str that says it is equal to others, and shows another one."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "blue"


class Colour(str, enum.Enum):
    """A str that is an enum."""

    RED = "red"


class TestTexts:
    """Only lists of valid str pass."""

    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
    def test_every_list_of_unicode_passes_unchanged(self, texts: list[str]) -> None:
        """No valid text is refused, stripped, cut or changed."""
        assert check_texts(texts) == texts

    def test_strange_texts_pass_unchanged(self) -> None:
        """Empty, blank, NUL, huge and decomposed texts are texts like any other."""
        assert check_texts(STRANGE) == STRANGE
        assert [check_text(text) for text in STRANGE] == STRANGE

    def test_the_list_is_a_copy(self) -> None:
        """What the caller does to the list later changes nothing."""
        texts = ["a", "b"]
        checked = check_texts(texts)
        texts.clear()
        assert checked == ["a", "b"]

    @pytest.mark.parametrize("kind", [list, tuple, deque, UserList])
    def test_any_sequence_of_str_is_a_list(self, kind: Any) -> None:
        """A tuple, a deque or a list of somebody's own kind do as well."""
        assert check_texts(kind(["a", "b"])) == ["a", "b"]

    @pytest.mark.parametrize("text", [Word("red"), Colour.RED, np.str_("red"), Other("red")])
    def test_a_kind_of_str_is_a_str(self, text: Any) -> None:
        """Subclasses of str pass as the str that they hold; numpy's strings are among them."""
        for checked in (*check_texts(["a", text, "b"])[1:2], check_text(text)):
            assert type(checked) is str
            assert checked == "red"

    @pytest.mark.parametrize(
        "texts",
        [
            "ab",
            b"ab",
            bytearray(b"ab"),
            memoryview(b"ab"),
            None,
            5,
            {"a"},
            {"a": 1},
            iter(["a"]),
            np.array(["a"]),
        ],
        ids=lambda texts: type(texts).__name__,
    )
    def test_what_is_no_list_is_refused_by_type(self, texts: Any) -> None:
        """Anything but a sequence of texts is an InputError that names its type and says the cure."""
        with pytest.raises(
            InputError, match=r"^texts must be a list of str.*(pass list\(texts\)|pass \[text\])"
        ):
            check_texts(texts)

    @pytest.mark.parametrize("bad", [None, 5, 1.5, True, b"a", ["a"], ("a",), {"text": "a"}, object()])
    def test_the_first_bad_item_is_named(self, bad: Any) -> None:
        """An item that is no str is an InputError with its index and type, not its value."""
        with pytest.raises(InputError, match=rf"^texts\[1\] must be a str, not {type(bad).__name__}$"):
            check_texts(["a", bad, bad])
        with pytest.raises(InputError, match=rf"must be a str, not {type(bad).__name__}$"):
            check_text(bad)

    @pytest.mark.parametrize("bad", ["\ud800", "a\udfffb", "\udc00\ud800"])
    def test_a_lone_surrogate_is_named(self, bad: str) -> None:
        """What no UTF-8 can carry is an InputError with its index; its cure works."""
        with pytest.raises(InputError, match=r"texts\[2\] holds a lone surrogate") as refused:
            check_texts(["a", "한", bad])
        assert "text.encode('utf-8', 'replace').decode()" in str(refused.value)
        assert check_text(bad.encode("utf-8", "replace").decode())
        with pytest.raises(InputError, match="the text to embed holds a lone surrogate"):
            check_text(bad)

    def test_an_index_counts_in_the_callers_list(self) -> None:
        """In a part of a longer list, the index is that of the whole."""
        with pytest.raises(InputError, match=r"^texts\[101\] "):
            check_text_at(101, 5)

    @given(st.lists(st.one_of(st.text(), st.none(), st.integers(), st.binary()), max_size=8))
    def test_nothing_slips_through(self, texts: list[Any]) -> None:
        """Whatever comes out is a list of valid str; whatever cannot be is an InputError."""
        try:
            checked = check_texts(texts)
        except InputError:
            return
        assert [text.encode().decode() for text in checked] == texts


class TestKind:
    """A text is a document or a query."""

    def test_both_kinds_pass(self) -> None:
        """There are two kinds."""
        check_kind("document")
        check_kind("query")

    @pytest.mark.parametrize("kind", ["", "passage", "QUERY", None, 1, ["query"], b"query"])
    def test_others_are_refused(self, kind: Any) -> None:
        """Another kind is an InputError that names both."""
        with pytest.raises(InputError, match=r"^kind must be 'document' or 'query', not "):
            check_kind(kind)


class TestPrompt:
    """A prompt stands before the text as it is."""

    @given(st.lists(st.text()), st.text(), st.text())
    def test_is_put_before_each_text_of_its_kind(self, texts: list[str], query: str, document: str) -> None:
        """Each text is its prompt and itself, and nothing in between or behind."""
        prompts = Prompts(query=query, document=document)
        assert with_prompt(texts, "query", prompts) == [query + text for text in texts]
        assert with_prompt(texts, "document", prompts) == [document + text for text in texts]

    def test_none_is_put_by_default(self) -> None:
        """Without prompts, texts stay as they are."""
        for text in STRANGE:
            assert with_prompt([text], "query", Prompts()) == [text]
            assert with_prompt([text], "document", Prompts()) == [text]
