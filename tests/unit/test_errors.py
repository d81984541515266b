"""What went wrong → what is said about it, and what is never said."""

from __future__ import annotations

import inspect
import json
import re
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire import (
    BadReply,
    Completed,
    ConnectionFailed,
    DeadlineExceeded,
    EmbedwireError,
    InputError,
    Overloaded,
    RequestError,
    RequestTimeout,
    ServerRefused,
    TextRefused,
    UsageError,
    exceptions,
)
from embedwire._http.failures import judge
from embedwire._http.messages import WITHHELD, screened, to_error
from embedwire._http.records import Fault
from tests.helpers import copies
from tests.unit.replies import NEW, reply, says

LONG = " ".join(f"word{number:06d}" for number in range(181_819))[:2_000_000]


class TestScreen:
    """A server's words are shown only where they repeat neither a text nor the key."""

    TEXT = "The patient is called Kim and lives in Busan."
    KEY = "sk-0123456789abcdef"

    @pytest.mark.parametrize(
        "words",
        [
            f"cannot embed '{TEXT}'",
            "bad input: The patient is called...",
            "…called Kim and l…",
            f"invalid key {KEY}",
            "invalid key 0123456789abcdef",
        ],
    )
    def test_withholds_what_repeats_a_text_or_the_key(self, words: str) -> None:
        """A message that quotes 15 characters or more of either is withheld whole."""
        assert screened(words, [self.KEY, "other", self.TEXT]) == WITHHELD

    def test_withholds_a_short_text(self) -> None:
        """Of a shorter text, all of it is not to be repeated."""
        assert "Park" not in screened("cannot embed Park", ["Park"])
        assert (
            screened("at most 32", ["32"]) == "at most 32"
        )  # a server says numbers and single words of its own

    @pytest.mark.parametrize("words", ["Invalid API Key", "the patience of the server", "", "sk-"])
    def test_shows_the_rest(self, words: str) -> None:
        """Words that repeat nothing are shown as they are."""
        assert screened(words, [self.KEY, self.TEXT, ""]) == words

    @pytest.mark.parametrize(
        "text",
        [
            "age 41\nweight 80\nHIV yes",
            "Kim\tPark\tLee\tChoi\tHan",
            "a  b  c  d  e  f  g",
            "name:\u00a0Kim,\u00a0HIV\u00a0yes",
        ],
    )
    def test_white_space_hides_nothing(self, text: str) -> None:
        """A text that stands in the message with other white space is found too."""
        words = judge(says(400, f"cannot embed {text}!"), NEW).fault.words
        assert screened(words, [text]) != words

    @pytest.mark.parametrize(
        "quote", [repr, json.dumps, ascii, lambda text: json.dumps(text)[1:-1], str.lower]
    )
    @pytest.mark.parametrize(
        "text", ["환자 이름은 김철수이고 부산에 산다", 'he said "no"\nand \\left\\', TEXT]
    )
    def test_quoting_hides_nothing(self, text: str, quote: Any) -> None:
        """A text that the server escapes when it quotes it is found too."""
        words = judge(says(400, f"cannot embed {quote(text)}!"), NEW).fault.words
        assert screened(words, [text]) != words

    @given(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=15),
        st.text(max_size=20),
        st.text(max_size=20),
    )
    def test_no_message_has_a_text(self, text: str, before: str, after: str) -> None:
        """Whatever stands around it, a text of 15 characters or more does not get through."""
        words = judge(reply(400, json.dumps({"error": before + text + after}).encode()), NEW).fault.words
        shown = screened(words, [text])
        runs = (text[at : at + 15] for at in range(len(text) - 14))
        assert not any(run in shown for run in runs if run.strip())

    @pytest.mark.parametrize("place", [0, 1_000_000, 1_999_988])
    def test_finds_a_quotation_of_a_text_of_megabytes(self, place: int) -> None:
        """Twelve characters of a text of 2,000,000, wherever they stand in it, are not repeated."""
        assert screened(f"near '{LONG[place : place + 12]}'", ["other", LONG, self.KEY]) == WITHHELD
        assert screened(f"near '{LONG[place : place + 11]}'", [LONG]) != WITHHELD

    @pytest.mark.parametrize(
        "text", ["x" * 2_000_000, "ab" * 1_000_000, "가나다" * 666_667], ids=["one letter", "two", "three"]
    )
    def test_takes_a_text_of_megabytes_as_it_is(self, text: str) -> None:
        """A long text that repeats itself is found where it is quoted, and nowhere else."""
        words = text[5:16] + " is not " + text[:11]
        assert screened(words, [text]) == words
        assert screened(f"cannot embed {text[:12]}", [text]) == WITHHELD

    def test_looks_at_a_long_text_as_a_whole(self) -> None:
        """Screening 2,000,000 characters takes a few steps of Python, not one for each: numpy does it."""
        words, steps = "the context is too small for this " * 8, 0

        def trace(*_: object) -> Any:
            nonlocal steps
            steps += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            shown = screened(words, [LONG])
        finally:
            sys.settrace(before)
        assert shown == words
        assert 0 < steps < 5000


FAULT = Fault(
    error=TextRefused, what="the text has 600 tokens and the server takes 512 (500)", cure="Split the text."
)


class TestErrors:
    """An error says what, where, which text, after how many requests, and the cure; and carries it as data."""

    @pytest.mark.parametrize(
        ("fault", "attempts", "index", "count", "message"),
        [
            (
                FAULT,
                3,
                7,
                100,
                "the text has 600 tokens and the server takes 512 (500): http://h/v1, texts[7] of 100, "
                "after 3 requests. Split the text.",
            ),
            (
                FAULT,
                1,
                700,
                None,
                "the text has 600 tokens and the server takes 512 (500): http://h/v1, texts[700], "
                "after 1 request. Split the text.",
            ),
            (
                FAULT,
                0,
                None,
                None,
                "the text has 600 tokens and the server takes 512 (500): http://h/v1. Split the text.",
            ),
            (
                Fault(error=ServerRefused, what="no", cure="Ask.", words="we are closed"),
                2,
                0,
                1,
                'no: http://h/v1, texts[0] of 1, after 2 requests. The server says: "we are closed". Ask.',
            ),
        ],
    )
    def test_message(
        self, fault: Fault, attempts: int, index: int | None, count: int | None, message: str
    ) -> None:
        """The message has every part that is known, in one line."""
        error = to_error(fault, attempts=attempts, server="http://h/v1", index=index, count=count)
        assert type(error) is fault.error
        assert str(error) == message

    @pytest.mark.parametrize("words", ["No.", "why?", "really!", "a …"])
    def test_message_has_no_double_full_stop(self, words: str) -> None:
        """The server's own punctuation does not pile up with ours."""
        fault = Fault(error=ServerRefused, what="no", cure="Ask.", words=words)
        message = str(to_error(fault, attempts=1, server="http://h/v1", index=None, count=None))
        assert '.".' not in message

    def test_carries_data(self) -> None:
        """Status, index, attempts, Retry-After, tokens and limit are attributes."""
        fault = Fault(
            error=TextRefused, what="no", cure="Split.", status=500, retry_after=1.5, tokens=600, limit=512
        )
        error = to_error(fault, attempts=2, server="http://h/v1", index=3, count=9)
        assert (error.server, error.index, error.attempts, error.status) == ("http://h/v1", 3, 2, 500)
        assert (error.retry_after, error.tokens, error.limit) == (1.5, 600, 512)

    @copies
    @pytest.mark.parametrize("kind", [*RequestError.__subclasses__(), RequestError])
    def test_survives_a_pickle(self, kind: type[RequestError], again: Any) -> None:
        """An error comes out of a pickle or a copy with its message and all its attributes."""
        fault = Fault(
            error=kind, what="no", cure="Split.", status=500, retry_after=1.5, tokens=600, limit=512
        )
        error = to_error(fault, attempts=2, server="http://h/v1", index=3, count=9)
        other = to_error(fault, attempts=1, server="http://h/v1", index=5, count=9)
        done = Completed([0], np.ones((1, 2), dtype=np.float32))
        error.set_outcome(lambda: done, lambda: {3: error, 5: other})
        twin = again(error)
        assert (type(twin), str(twin)) == (kind, str(error))
        for name in ("server", "index", "status", "attempts", "retry_after", "tokens", "limit"):
            assert getattr(twin, name) == getattr(error, name)
        assert twin.completed.indexes == [0]
        assert twin.completed.vectors.tolist() == [[1, 1]]
        assert str(twin.failures[5]) == str(other)

    def test_completed_and_failures_are_made_once_when_asked_for(self) -> None:
        """What an error carries of a large call costs nothing until somebody looks, and is the same each time."""
        asked: list[str] = []
        error = RequestError("no")
        assert (error.completed, error.failures) == (None, {})

        def completed() -> Completed:
            asked.append("completed")
            return Completed([0], np.ones((1, 2), dtype=np.float32))

        def failures() -> dict[int, RequestError]:
            asked.append("failures")
            return {3: RequestError("no")}

        error.set_outcome(completed, failures)
        assert str(error) == "no"
        assert asked == []
        assert error.completed is error.completed
        assert error.failures is error.failures
        assert asked == ["completed", "failures"]

    def test_takes_new_attributes(self) -> None:
        """Frameworks note things on the exceptions that pass through them."""
        for kind in (InputError, UsageError, Overloaded, RequestError, BadReply):
            error = kind("no")
            error.event_added = True  # type: ignore[union-attr]
            assert str(error) == "no"

    def test_tree_is_the_printed_one(self) -> None:
        """The tree at the top of the module is the real one, standard bases included."""
        printed: dict[str, tuple[str | None, str | None]] = {}
        above: list[tuple[int, str]] = []
        for line in (exceptions.__doc__ or "").splitlines():
            if match := re.match(r"^( {4}[│├└─ ]*)(\w+)(?: +\((\w+)\))?(?:  |$)", line):
                depth, name, base = len(match[1]), match[2], match[3]
                while above and above[-1][0] >= depth:
                    above.pop()
                printed[name] = (above[-1][1] if above else None, base)
                above.append((depth, name))
        real: dict[str, tuple[str | None, str | None]] = {}
        for name, kind in vars(exceptions).items():
            if inspect.isclass(kind) and issubclass(kind, EmbedwireError):
                bases = {base.__module__: base.__name__ for base in kind.__bases__}
                standard = bases.get("builtins")
                real[name] = (
                    bases.get("embedwire.exceptions"),
                    None if standard == "Exception" else standard,
                )
        assert printed == real
        assert list(printed) == list(real)

    def test_standard_bases_catch_them(self) -> None:
        """Who catches ValueError, TimeoutError or ConnectionError catches ours."""
        pairs = [
            (InputError, ValueError),
            (UsageError, RuntimeError),
            (DeadlineExceeded, TimeoutError),
            (RequestTimeout, TimeoutError),
            (ConnectionFailed, ConnectionError),
        ]
        assert all(issubclass(own, standard) for own, standard in pairs)
