"""What a request asks for beside its vectors, and what a refusal teaches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from embedwire._http.asking import Asked, Lesson, asked_for, lesson_of
from embedwire._http.fields import DIMENSIONS, ENCODING, Spoken
from embedwire._http.records import Fault
from embedwire._servers.facts import ModelFacts
from embedwire._settings.settings import Form
from embedwire.exceptions import BadReply, ServerRefused, TextRefused
from tests.unit.arguments import form

E, D = frozenset({ENCODING}), frozenset({DIMENSIONS})


def wanted(encoding: str | None, dimensions: int | None = None) -> Form:
    """A form."""
    return replace(form(dimensions=dimensions), encoding=encoding)  # type: ignore[arg-type]


def refusal(
    fields: frozenset[str] = frozenset(), wants: str | None = None, status: int = 400, **more: Any
) -> Fault:
    """A refusal that speaks of some fields."""
    fault = Fault(error=ServerRefused, what="no", cure="", status=status, spoken=Spoken(fields, wants))
    return replace(fault, **more)


class TestAskedFor:
    """What is asked for, as the user wants it and the server takes it."""

    @pytest.mark.parametrize(
        ("encoding", "known", "asked"),
        [
            ("auto", {}, "float"),
            ("auto", {"base64": True}, "base64"),
            ("auto", {"base64": False}, "float"),
            ("auto", {"only": "base64"}, "base64"),
            ("auto", {"left_out": E, "base64": True}, None),
            ("auto", {"left_out": D, "base64": True}, "base64"),
            ("float", {"base64": True, "only": "base64"}, "float"),
            ("float", {"left_out": E}, None),
            ("base64", {"base64": False, "left_out": E}, "base64"),
            ("base64", {"agrees": False}, "float"),
            (None, {"base64": True, "only": "base64"}, None),
        ],
    )
    def test_encoding(self, encoding: str | None, known: dict[str, Any], asked: str | None) -> None:
        """The user's word counts, but where the server refuses it or means something else by it."""
        assert asked_for(wanted(encoding), ModelFacts(**known)).encoding == asked

    def test_dimensions(self) -> None:
        """As wanted, where they are not refused."""
        assert asked_for(wanted("auto", 4), ModelFacts()).dimensions == 4
        assert asked_for(wanted("auto", 4), ModelFacts(left_out=D)).dimensions is None


class TestLessons:
    """What a refusal teaches, and when that was wrong."""

    @pytest.mark.parametrize(
        ("encoding", "asked", "fault", "fields", "only"),
        [
            ("auto", "float", refusal(E), E, None),
            ("float", "float", refusal(E), E, None),
            ("auto", "float", refusal(E, "base64"), frozenset(), "base64"),
            ("float", "float", refusal(E, "base64"), E, None),
            ("auto", None, refusal(E), frozenset(), "base64"),
            ("auto", "float", refusal(E | D), E | D, None),
            ("auto", "float", refusal(D), D, None),
            ("base64", "base64", refusal(D), D, None),
        ],
    )
    def test_of_fields(
        self, encoding: str, asked: str | None, fault: Fault, fields: frozenset[str], only: str | None
    ) -> None:
        """Fields that it names are left out, or the one encoding is asked for that it wants."""
        lesson = lesson_of(fault, Asked(asked, 4), wanted(encoding, 4), ModelFacts(), tried=False)
        assert lesson is not None
        assert (lesson.fields, lesson.only, lesson.base64) == (fields, only, False)

    @pytest.mark.parametrize(
        ("encoding", "asked", "fault", "known"),
        [
            ("auto", "float", refusal(), {}),
            ("auto", "float", refusal(E), {"innocent": E}),
            ("base64", "base64", refusal(E), {}),
            ("base64", "base64", refusal(error=BadReply, status=200), {}),
            ("float", None, refusal(E, "base64"), {}),
            (None, None, refusal(E, "base64"), {}),
            ("auto", None, refusal(E, "float"), {}),
            ("auto", "base64", refusal(status=503), {"base64": True}),
            ("auto", "base64", refusal(status=500), {"base64": True}),
            ("auto", "base64", refusal(error=TextRefused, status=429), {"base64": True}),
        ],
    )
    def test_nothing(
        self, encoding: str | None, asked: str | None, fault: Fault, known: dict[str, Any]
    ) -> None:
        """Where the user's word stands, the field is no suspect any more or another reason is nearer: nothing."""
        facts = ModelFacts(**known)
        assert lesson_of(fault, Asked(asked, None), wanted(encoding, 4), facts, tried=False) is None

    @pytest.mark.parametrize("fault", [refusal(), refusal(status=500), refusal(error=BadReply, status=200)])
    def test_of_base64(self, fault: Fault) -> None:
        """Whatever refuses the request that tries base64 is due to that, until decimal is refused the same way."""
        facts = ModelFacts()
        lesson = lesson_of(fault, Asked("base64", None), wanted("auto"), facts, tried=True)
        assert lesson is not None
        lesson.learn(facts)
        assert facts.base64 is False
        assert lesson.is_wrong(fault)
        assert not lesson.is_wrong(replace(fault, status=422))
        lesson.unlearn(facts)
        assert facts.base64 is None

    def test_is_unlearnt(self) -> None:
        """What was learnt in vain is not believed, nor suspected again."""
        facts = ModelFacts()
        for lesson, known in (
            (Lesson(fault=refusal(E | D), fields=E | D), E | D),
            (Lesson(fault=refusal(E), only="base64"), frozenset()),
        ):
            lesson.learn(facts)
            assert (facts.left_out, facts.only) == (known, lesson.only)
            assert lesson.is_wrong(lesson.fault)
            assert not lesson.is_wrong(refusal())
            assert not lesson.is_wrong(replace(lesson.fault, status=422))
            lesson.unlearn(facts)
            assert (facts.left_out, facts.only, facts.innocent) == (frozenset(), None, E | D)
