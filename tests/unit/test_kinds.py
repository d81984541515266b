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
from embedwire._servers.kinds import KINDS, Meaning, Told, meaning, owner, recognised
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
        final: Statuses that no repeat helps against.
    """

    headers: list[dict[str, str]] = field(default_factory=list)
    path: str | None = None
    tells: list[tuple[Any, Told]] = field(default_factory=list)
    says: list[tuple[tuple[str, str, dict[str, Any]], Meaning]] = field(default_factory=list)
    spare_threads: int | None = None
    drops_work: bool = False
    final: tuple[int, ...] = ()


TOO_LARGE = (
    "input (602 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
)
OVER_CONTEXT = "the request exceeds the available context size. try increasing it"
ABOUT_CONTEXT = "This model's maximum context length is 8192 tokens, however you requested 9000 tokens"
OF_TEXT = Meaning(of_text=True)
TOO_LONG = Meaning(of_text=True, too_long=True)
TOO_LONG_BY = Meaning(of_text=True, too_long=True, tokens=9000, limit=8192)
OF_MODEL = Meaning(of_request=True, of_model=True)
THROTTLED_SIZE = Meaning(too_large=True, throttled=True)
ARRAY = Meaning(max_texts=2048)

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
            (
                (TOO_LARGE, "server_error", {"code": 500}),
                Meaning(of_text=True, too_long=True, tokens=602, limit=512),
            ),
            (
                (OVER_CONTEXT, "exceed_context_size_error", {"n_prompt_tokens": 302, "n_ctx": 256}),
                Meaning(of_text=True, too_long=True, tokens=302, limit=256),
            ),
            ((OVER_CONTEXT, "", {}), TOO_LONG),
            (("too long", "exceed_context_size_error", {}), TOO_LONG),
            (
                ("no", "exceed_context_size_error", {"n_prompt_tokens": "302", "n_ctx": True}),
                TOO_LONG,
            ),
            (("Loading model", "unavailable_error", {"code": 503}), Meaning(loading=True)),
            (
                ("Pooling type 'none' is not OAI compatible", "server_error", {}),
                Meaning(
                    of_request=True,
                    cure="Start llama-server with the model's own pooling: --pooling mean, cls or last.",
                ),
            ),
            (
                (
                    "This server does not support embeddings. Start it with `--embeddings`",
                    "not_supported_error",
                    {},
                ),
                Meaning(of_request=True, cure="Start llama-server with --embeddings."),
            ),
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
                Meaning(of_text=True, too_long=True, tokens=600, limit=512),
            ),
            (("Model is not ready", "unhealthy", {}), Meaning(loading=True)),
            (("Model is overloaded", "Overloaded", {}), Meaning()),
        ],
    ),
    "infinity": Row(
        headers=[{"server": "infinity"}, {"server": "infinity/0.0.78"}],
        says=[(("The engine is not ready", "", {}), Meaning(loading=True))],
    ),
    "ollama": Row(
        headers=[{"server": "ollama"}, {"server": "Ollama/0.9"}],
        says=[
            (("failed to encode response: json: unsupported value: NaN", "api_error", {}), OF_TEXT),
            (("json: unsupported value: -Inf", "", {}), OF_TEXT),
            (("the input length exceeds the context length", "", {}), TOO_LONG),
            (
                ('model "m" not found, try pulling it first', "api_error", {}),
                Meaning(
                    of_request=True,
                    of_model=True,
                    cure="Run `ollama pull` for the model, or correct model=.",
                ),
            ),
            (("server busy, maximum pending requests exceeded", "", {}), Meaning(throttled=True)),
        ],
        drops_work=True,
    ),
    "vllm": Row(
        headers=[{"server": "vllm"}, {"server": "vLLM/0.9"}],
        says=[
            (
                (ABOUT_CONTEXT, "BadRequestError", {"code": 400}),
                TOO_LONG_BY,
            ),
            (
                (
                    "This model's maximum context length is 512 tokens. However, your request has 1084 input tokens.",
                    "BadRequestError",
                    {},
                ),
                Meaning(of_text=True, too_long=True, tokens=1084, limit=512),
            ),
            (('Model "m" does not support matryoshka representation', "", {}), Meaning(of_request=True)),
        ],
        drops_work=True,
    ),
    "lm-studio": Row(
        headers=[{"server": "LM Studio"}, {"server": "lm studio 0.3"}],
        says=[
            (("Loading model", "", {}), Meaning(loading=True)),
            (("Model was unloaded while the request was still in queue..", "", {}), Meaning(unloaded=True)),
            (('Failed to load model "m". Error: Operation canceled.', "", {}), Meaning(unloaded=True)),
            (
                ("No models loaded. Please load a model in the developer page.", "", {}),
                Meaning(unloaded=True, cure="Load the model in LM Studio, or pass model=."),
            ),
        ],
    ),
    "embedwire-gateway": Row(
        headers=[{"server": "embedwire-gateway"}],
        says=[
            (("input[3]: no", "text_refused", {}), OF_TEXT),
            (("input[3]: no", "invalid_request_error", {"code": "text_refused"}), OF_TEXT),
            (("input[3]: no", "context_length_exceeded", {}), TOO_LONG),
            (("No server is there.", "not_ready", {}), Meaning(loading=True)),
        ],
        drops_work=True,
        final=(500, 502, 503, 504),
    ),
    "openai-like": Row(
        says=[
            (
                (ABOUT_CONTEXT, "invalid_request_error", {}),
                TOO_LONG_BY,
            ),
            (
                ("Input id 3 has 9000 tokens, exceeding max 8192 tokens", "", {}),
                TOO_LONG_BY,
            ),
            (
                ("Input length 600 exceeds maximum allowed token size 512", "", {}),
                Meaning(of_text=True, too_long=True, tokens=600, limit=512),
            ),
            (
                ("Request too large for m on tokens per min (TPM): Limit 9, Requested 12", "", {}),
                THROTTLED_SIZE,
            ),
            (("Too many tokens overall, split into more batches.", "", {}), Meaning(too_large=True)),
            (("max allowed tokens per submitted batch is 120000", "", {}), Meaning(too_large=True)),
            (("'input_type' parameter is required for asymmetric models", "", {}), Meaning(of_request=True)),
            (("Unsupported parameter: encoding_format", "", {}), Meaning(of_request=True)),
            (("extra fields not permitted: ['user']", "", {}), Meaning(of_request=True)),
            (("no", "", {"param": "model"}), Meaning(of_request=True)),
            (("model 'bge' not found", "", {}), Meaning(of_request=True, of_model=True)),
            (("invalid model ID", "", {}), Meaning(of_request=True, of_model=True)),
            (("The model `m` does not exist.", "", {"code": "model_not_found"}), OF_MODEL),
            (("API key not valid. Please pass a valid API key.", "", {}), Meaning(of_key=True)),
            (("Authentication Error, Invalid proxy server token passed", "", {}), Meaning(of_key=True)),
            (("no", "", {"code": "insufficient_quota"}), Meaning(used_up=True)),
            (
                ("Access denied, please make sure your account is in good standing.", "", {}),
                Meaning(used_up=True),
            ),
            (("Model BAAI/bge-large-zh is currently loading", "", {}), Meaning(loading=True)),
            (("the instance is warming up", "", {}), Meaning(loading=True)),
            (("RPM limit exceeded", "", {}), Meaning(throttled=True)),
            (("Too Many Requests", "", {}), Meaning(throttled=True)),
            (("Too many inputs. The max number of inputs is 16.", "", {}), Meaning(max_texts=16)),
            (("Invalid 'input': array too long. Expected an array with maximum length 2048", "", {}), ARRAY),
            (("Input is too long", "", {}), TOO_LONG),
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
    """A server is known by its headers, or by its list of models."""

    @pytest.mark.parametrize(("name", "headers"), cases("headers"))
    def test_by_its_headers(self, name: str, headers: dict[str, str]) -> None:
        """Each kind is recognised by the headers that it sends."""
        assert recognised(headers) is NAMED[name]

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            *[
                {"server": server}
                for server in (
                    "my-llama.cpp",
                    "nginx (ollama)",
                    "not vllm",
                    "uvicorn",
                    "nginx/1.27",
                    "Caddy",
                    "",
                )
            ],
            {"x-powered-by": "Express"},
        ],
    )
    def test_not_by_a_proxy(self, headers: dict[str, str]) -> None:
        """A proxy's header, or a name that stands somewhere else in one, tells nothing of the server."""
        assert recognised(headers) is None

    @pytest.mark.parametrize(
        ("name", "owned_by"),
        [
            ("llama.cpp", "llamacpp"),
            ("vllm", "vllm"),
            ("infinity", "infinity"),
            ("ollama", "library"),
            ("lm-studio", "organization_owner"),
            ("embedwire-gateway", "embedwire-gateway"),
        ],
    )
    def test_by_its_list_of_models(self, name: str, owned_by: str) -> None:
        """A kind is recognised through any proxy by whose its models are said to be."""
        assert owner(["someone", owned_by]) is NAMED[name]
        assert owner([owned_by.upper()]) is NAMED[name]
        assert owner(["openai", ""]) is None


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
        """Threads to spare, whether it stops computing when its client leaves, what it repeated by itself."""
        kind, row = NAMED[name], TABLE[name]
        assert (kind.spare_threads, kind.drops_work) == (row.spare_threads, row.drops_work)
        assert kind.final == row.final
