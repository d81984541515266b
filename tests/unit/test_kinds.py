"""What differs between servers: how each kind is recognised, what it tells of itself, what its words mean."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire._servers import kinds
from embedwire._servers.kinds import KINDS, Meaning, Told, meaning, recognised
from embedwire._servers.kinds.base import Words

FOLDER = Path(kinds.__file__).parent


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is promised of one kind.

    Attributes:
        headers: Of its replies, each of which is enough to recognise it.
        path: Where it tells of itself.
        tells: What it replies there → what is known then.
        says: Its words, its type and its fields → what they mean.
        spare_threads: Connections beyond its slots.
        drops_work: Whether it stops when its client leaves.
    """

    headers: list[dict[str, str]] = field(default_factory=list)
    path: str | None = None
    tells: list[tuple[Any, Told]] = field(default_factory=list)
    says: list[tuple[tuple[str, str, dict[str, Any]], Meaning]] = field(default_factory=list)
    spare_threads: int | None = None
    drops_work: bool = False


TOO_LARGE = (
    "input (602 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
)
OVER_CONTEXT = "the request exceeds the available context size. try increasing it"
ABOUT_CONTEXT = "This model's maximum context length is 8192 tokens, however you requested 9000 tokens"
OF_TEXT = Meaning(of_text=True)

TABLE = {
    "llama.cpp": Row(
        headers=[{"server": "llama.cpp"}, {"server": "llama.cpp/b11434"}, {"server": "LLAMA.CPP"}],
        path="/props",
        tells=[
            (
                {"total_slots": 4, "default_generation_settings": {"n_ctx": 512}},
                Told(slots=4, context=512),
            ),
            ({"total_slots": 1}, Told(slots=1)),
            ({"default_generation_settings": {"n_ctx": 256}}, Told(context=256)),
            ({"total_slots": 0, "default_generation_settings": {"n_ctx": -1}}, Told()),
            ({"total_slots": True, "default_generation_settings": [1]}, Told()),
            ({"total_slots": "4", "default_generation_settings": {"n_ctx": 1e9}}, Told()),
            ({"total_slots": 10**12}, Told()),
            ({}, Told()),
        ],
        says=[
            ((TOO_LARGE, "server_error", {"code": 500}), Meaning(of_text=True, tokens=602, limit=512)),
            (
                (OVER_CONTEXT, "exceed_context_size_error", {"n_prompt_tokens": 302, "n_ctx": 256}),
                Meaning(of_text=True, tokens=302, limit=256),
            ),
            ((OVER_CONTEXT, "", {}), OF_TEXT),
            (("too long", "exceed_context_size_error", {}), OF_TEXT),
            (
                ("no", "exceed_context_size_error", {"n_prompt_tokens": "302", "n_ctx": True}),
                OF_TEXT,
            ),
            (("Loading model", "unavailable_error", {"code": 503}), Meaning(loading=True)),
            (("Pooling type 'none' is not OAI compatible", "server_error", {}), Meaning()),
        ],
        spare_threads=4,
    ),
    "text-embeddings-inference": Row(
        headers=[{"x-compute-type": "cpu"}, {"x-compute-type": "gpu+optimized", "server": "nginx"}],
        path="/info",
        tells=[
            (
                {"model_id": "m", "max_input_length": 8192, "max_client_batch_size": 32},
                Told(context=8192, max_texts=32),
            ),
            ({"max_input_length": 512}, Told(context=512)),
            ({"max_client_batch_size": -1, "max_input_length": None}, Told()),
            ({}, Told()),
        ],
        says=[
            (("batch size 64 > maximum allowed batch size 32", "Validation", {}), Meaning(max_texts=32)),
            (
                (
                    "Input validation error: `inputs` must have less than 512 tokens. Given: 600",
                    "Validation",
                    {},
                ),
                OF_TEXT,
            ),
            (("Model is overloaded", "Overloaded", {}), Meaning()),
        ],
    ),
    "infinity": Row(
        headers=[{"server": "infinity"}, {"server": "infinity/0.0.78"}],
        says=[(("The engine is not ready", "", {}), Meaning())],
    ),
    "ollama": Row(
        headers=[{"server": "ollama"}, {"server": "Ollama/0.9"}],
        says=[
            (("failed to encode response: json: unsupported value: NaN", "api_error", {}), OF_TEXT),
            (("json: unsupported value: -Inf", "", {}), OF_TEXT),
            (("the input length exceeds the context length", "", {}), OF_TEXT),
            (('model "m" not found, try pulling it first', "api_error", {}), Meaning()),
        ],
        drops_work=True,
    ),
    "vllm": Row(
        headers=[{"server": "vllm"}, {"server": "vLLM/0.9"}],
        says=[((ABOUT_CONTEXT, "BadRequestError", {"code": 400}), OF_TEXT)],
        drops_work=True,
    ),
    "lm-studio": Row(
        headers=[{"server": "LM Studio"}, {"server": "lm studio 0.3"}],
        says=[(("Loading model", "", {}), Meaning(loading=True))],
    ),
    "openai-like": Row(
        headers=[
            {},
            {"server": "uvicorn"},
            {"server": "cloudflare"},
            {"server": ""},
            {"x-powered-by": "Express"},
        ],
        says=[
            ((ABOUT_CONTEXT, "invalid_request_error", {}), OF_TEXT),
            (("Input is too long", "", {}), OF_TEXT),
            (("batch size is invalid, it should not be larger than 10.", "", {}), Meaning(max_texts=10)),
            (("The number of inputs must not exceed 64", "", {}), Meaning(max_texts=64)),
            (("'$.input' array may not exceed 2048 items", "", {}), Meaning(max_texts=2048)),
            (("total number of texts must be at most 96 - received 100", "", {}), Meaning(max_texts=96)),
            (("list must have less than or equal to 128 items", "", {}), Meaning(max_texts=128)),
            (("max batch size is 25", "", {}), Meaning(max_texts=25)),
            (("Too many documents: up to 50 are allowed", "", {}), Meaning(max_texts=50)),
            (("each of the texts must be at most 512 tokens", "", {}), Meaning()),
            (("temperature must be at most 2", "", {}), Meaning()),
            (("batch of at most 0", "", {}), Meaning()),
            (("", "", {}), Meaning()),
        ],
    ),
}
NAMED = {kind.name: kind for kind in KINDS}
NAME = re.compile(r"^[a-z][a-z.-]+$")


def cases(of: str) -> list[Any]:
    """One test for each line of the table, under its kind's name."""
    return [
        pytest.param(name, *(case if isinstance(case, tuple) else (case,)), id=f"{name}-{number}")
        for name, row in TABLE.items()
        for number, case in enumerate(getattr(row, of))
    ]


def test_every_kind_has_a_row() -> None:
    """No kind is without a row here, each has a name and a file of its own, and the last is the rest."""
    assert KINDS[-1].name == "openai-like"
    assert len(NAMED) == len(KINDS)
    assert set(NAMED) == set(TABLE)
    assert all(NAME.match(name) for name in NAMED)
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "base"}
    assert len(files) == len(KINDS)


class TestRecognised:
    """A server is known by its headers alone."""

    @pytest.mark.parametrize(("name", "headers"), cases("headers"))
    def test_by_its_headers(self, name: str, headers: dict[str, str]) -> None:
        """Each kind is recognised by the headers that it sends."""
        assert recognised(headers).name == name

    @pytest.mark.parametrize(
        "server", ["my-llama.cpp", "nginx (ollama)", "not vllm", "x-compute-type", "openai-like"]
    )
    def test_not_by_a_name_inside(self, server: str) -> None:
        """A name that stands somewhere else in a header is nobody's."""
        assert recognised({"server": server}).name == "openai-like"

    @given(
        st.dictionaries(st.sampled_from(["server", "via", "x-powered-by"]), st.text(max_size=20), max_size=3)
    )
    def test_any_headers_are_of_some_kind(self, headers: dict[str, str]) -> None:
        """Whatever the headers, there is a kind."""
        assert recognised(headers) in KINDS


class TestTells:
    """What a server says of itself is used where it can be read."""

    @pytest.mark.parametrize("name", TABLE)
    def test_where(self, name: str) -> None:
        """The path at which a kind tells, and nothing is read from kinds that have none."""
        kind = NAMED[name]
        assert kind.tells == TABLE[name].path
        assert (kind.tells is not None) == bool(TABLE[name].tells)
        if kind.tells is None:
            everything = {"total_slots": 4, "max_input_length": 5, "max_client_batch_size": 6}
            assert kind.read(everything) == Told()

    @pytest.mark.parametrize(("name", "reply", "told"), cases("tells"))
    def test_what(self, name: str, reply: dict[str, Any], told: Told) -> None:
        """Slots, context and batch cap, each only where it is a sensible number."""
        assert NAMED[name].read(reply) == told
        assert NAMED[name].read({**reply, "version": "1", "unknown": [None]}) == told

    @given(
        st.dictionaries(
            st.sampled_from(
                ["total_slots", "default_generation_settings", "max_input_length", "max_client_batch_size"]
            ),
            st.recursive(
                st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
                lambda inner: (
                    st.dictionaries(st.just("n_ctx"), inner, max_size=1) | st.lists(inner, max_size=2)
                ),
                max_leaves=3,
            ),
        )
    )
    def test_never_nonsense(self, reply: dict[str, Any]) -> None:
        """Whatever a server replies, what is known then is whole numbers above 0, or nothing."""
        for kind in KINDS:
            told = kind.read(reply)
            for number in (told.slots, told.context, told.max_texts):
                assert number is None or (type(number) is int and 0 < number < 2**31)


class TestMeaning:
    """Words of an error are understood, whichever server's they are."""

    @pytest.mark.parametrize(("name", "said", "means"), cases("says"))
    def test_of_each_kind(self, name: str, said: tuple[str, str, dict[str, Any]], means: Meaning) -> None:
        """Each kind's words mean what they mean there, in any case of letters."""
        words, error_type, fields = said
        assert meaning(words, error_type, fields) == means
        assert meaning(words.upper(), error_type.upper(), fields) == means
        assert meaning(words.lower(), error_type.lower(), fields) == means

    @pytest.mark.parametrize("name", TABLE)
    def test_every_word_of_a_kind_has_a_line(self, name: str) -> None:
        """No pattern of a kind is untested: each finds something in one of its lines here."""
        words = NAMED[name].words
        said = [f"{line} {kind}" for (line, kind, _), _ in TABLE[name].says]
        for pattern in (getattr(words, meant) for meant in Words.__dataclass_fields__):
            found = [re.search(pattern, line, re.IGNORECASE | re.DOTALL) for line in said]
            assert not pattern or any(found), pattern

    @pytest.mark.parametrize(
        "unit", [" tokens", "tokens", " characters", " words", " bytes", "kB", " MB", "MiB"]
    )
    def test_another_unit_is_no_number_of_texts(self, unit: str) -> None:
        """A limit in tokens, characters or bytes is not taken for one in texts."""
        assert meaning(f"the batch must not exceed 4096{unit}", "", {}).max_texts is None

    @given(
        st.text(max_size=300),
        st.text(max_size=20),
        st.dictionaries(
            st.sampled_from(["n_ctx", "n_prompt_tokens"]),
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
        ),
    )
    def test_any_words_mean_something_or_nothing(
        self, words: str, error_type: str, fields: dict[str, Any]
    ) -> None:
        """Whatever a server says, what it means are whole numbers, or nothing."""
        means = meaning(words, error_type, fields)
        for number in (means.tokens, means.limit, means.max_texts):
            assert number is None or type(number) is int


class TestHowItWorks:
    """What a kind does with connections and with work that nobody waits for."""

    @pytest.mark.parametrize("name", TABLE)
    def test_connections_and_work(self, name: str) -> None:
        """Threads to spare, and whether it stops computing when its client leaves."""
        kind, row = NAMED[name], TABLE[name]
        assert (kind.spare_threads, kind.drops_work) == (row.spare_threads, row.drops_work)
