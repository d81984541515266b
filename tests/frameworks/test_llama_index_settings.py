"""`EmbedwireEmbedding` as LlamaIndex's kind of object: its arguments, and its copies, pickles and dumps."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from embedwire import BatchLimits, InputError, Prompts, RateLimit, RetryPolicy, Timeouts
from embedwire.llama_index import EmbedwireEmbedding
from tests.frameworks.both import KEY, NOBODY, last_words_without
from tests.helpers import pickled

if TYPE_CHECKING:
    from tests.servers.fixtures import Truth


def a_key() -> str:
    """A key function that a pickle can name."""
    return KEY


class TestCopies:
    """Copies behave as the original would."""

    @pytest.mark.parametrize("copied", [pickled, copy.copy, copy.deepcopy, EmbedwireEmbedding.model_copy])
    def test_keeps_every_setting_and_works(
        self,
        llama: str,
        sentences: list[str],
        truth: Truth,
        copied: Callable[[EmbedwireEmbedding], EmbedwireEmbedding],
    ) -> None:
        """A copy, made before or after first use, has the same settings and gives the same vectors."""
        original = EmbedwireEmbedding(
            base_url=llama,
            model_name="minilm",
            api_key=KEY,
            embed_batch_size=4,
            batch_size=BatchLimits(texts=3, chars=500),
            concurrency=2,
            timeout=Timeouts(total=30, connect=3, sock_read=20),
            deadline=60,
            max_retries=RetryPolicy(attempts=2, base=0.5),
            dimensions=384,
            normalize=True,
            prompts=Prompts(query="q: ", document="d: "),
            encoding="base64",
            headers={"X-Team": KEY},
            max_queued=1000,
            rate_limit=RateLimit(requests=1000, chars=100_000),
            max_reply_bytes=10_000_000,
        )
        with closing(original):
            for _ in range(2):
                twin = copied(original)
                assert twin._client == original._client
                assert twin.embed_batch_size == 4
                truth.check(
                    twin.get_text_embedding_batch(sentences[:5]),
                    llama,
                    [f"d: {text}" for text in sentences[:5]],
                )
                truth.check([original.get_query_embedding("where")], llama, ["q: where"])

    def test_model_copy_with_an_update(self, llama: str, truth: Truth) -> None:
        """A copy with another setting follows it, and the original keeps its own."""
        with closing(EmbedwireEmbedding(base_url=llama, prompts=Prompts(query="q: "))) as original:
            with closing(original.model_copy(update={"prompts": Prompts(query="other: ")})) as changed:
                truth.check([changed.get_query_embedding("where")], llama, ["other: where"])
            truth.check([original.get_query_embedding("where")], llama, ["q: where"])

    @pytest.mark.parametrize("way", ["dict", "json"])
    def test_to_and_from(self, way: str, llama: str, truth: Truth) -> None:
        """What `to_dict` and `to_json` give makes an object of the same vectors, and holds no secret."""
        arguments: dict[str, Any] = {
            "base_url": llama,
            "model_name": "minilm",
            "prompts": Prompts(query="q: ", document="d: "),
            "normalize": True,
            "dimensions": 100,
            "embed_batch_size": 77,
        }
        original = EmbedwireEmbedding(
            **arguments, api_key=KEY, headers={"X-Key": KEY}, proxy=f"http://user:{KEY}@proxy:3128"
        )
        dump: Any = getattr(original, f"to_{way}")()
        assert KEY not in str(dump)
        assert "base_url" not in dump  # wherever the model is served, it is the same
        again = getattr(EmbedwireEmbedding, f"from_{way}")(dump, base_url=llama)
        with closing(EmbedwireEmbedding(**arguments)) as plain, closing(again):
            assert again._client == plain._client
            # It is no part of what makes a vector, so it is no part of a dump or of a cache's key.
            assert again.embed_batch_size == 256
            assert again.get_query_embedding("where") == plain.get_query_embedding("where")

    def test_a_key_function_that_cannot_be_pickled(self, llama: str, truth: Truth) -> None:
        """A lambda as key refuses to be pickled, in one sentence, and the object itself works on."""
        with closing(EmbedwireEmbedding(base_url=llama, api_key=lambda: KEY)) as embed_model:
            with pytest.raises(InputError, match=r"api_key .*cannot be pickled.*pass"):
                pickle.dumps(embed_model)
            truth.check([embed_model.get_text_embedding("still here")], llama, ["still here"])
            truth.check([copy.deepcopy(embed_model).get_text_embedding("a twin")], llama, ["a twin"])

    def test_a_key_function_of_a_module(self) -> None:
        """A key function that has a name goes through a pickle."""
        assert pickled(EmbedwireEmbedding(base_url=NOBODY, api_key=a_key)).api_key is a_key

    def test_a_key_of_the_environment_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A pickle carries no key that came from the environment."""
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
        embed_model = EmbedwireEmbedding(base_url=NOBODY)
        assert KEY.encode() not in pickle.dumps(embed_model)
        assert KEY not in embed_model.to_json()


class TestArguments:
    """What is wrong is said at once, by name; what is secret stays so."""

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("base_url", ""),
            ("base_url", 8080),
            ("model_name", ""),
            ("model_name", None),
            ("embed_batch_size", 0),
            ("embed_batch_size", 2049),
            ("api_key", f"{KEY}\n"),
            ("batch_size", 0),
            ("concurrency", "many"),
            ("timeout", -1),
            ("deadline", 0),
            ("max_retries", -1),
            ("dimensions", 0),
            ("prompts", "no such family"),
            ("encoding", "hex"),
            ("headers", ["X"]),
            ("proxy", "proxy:3128"),
            ("rate_limit", 0),
            ("max_reply_bytes", None),
            ("batchsize", 5),
            ("model", 5),
        ],
    )
    def test_wrong_arguments(self, argument: str, value: object) -> None:
        """A wrong value or an unknown keyword is a ValidationError that names it and never shows a key."""
        arguments: dict[str, Any] = {"base_url": NOBODY, "api_key": KEY, "headers": {"X": KEY}}
        with pytest.raises(ValidationError, match=rf"\b{argument}\b") as failure:
            EmbedwireEmbedding(**{**arguments, argument: value})
        assert KEY not in str(failure.value)
        assert KEY not in repr(failure.value)

    @pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"api_key": f"{KEY}\n"}, {"batchsize": 5}])
    def test_wrong_arguments_as_data(self, wrong: dict[str, Any]) -> None:
        """What a web framework makes of a ValidationError shows no key either."""
        arguments: dict[str, Any] = {"base_url": NOBODY, "api_key": KEY, "headers": {"X": KEY}, **wrong}
        with pytest.raises(ValidationError) as failure:
            EmbedwireEmbedding(**arguments)
        assert KEY not in str(failure.value.errors())
        assert KEY not in failure.value.json()

    @pytest.mark.parametrize("embed_batch_size", [1, 2048])
    def test_bounds_of_embed_batch_size(self, embed_batch_size: int) -> None:
        """LlamaIndex's own bounds hold, and both ends are within them."""
        embed_model = EmbedwireEmbedding(base_url=NOBODY, embed_batch_size=embed_batch_size)
        assert embed_model.embed_batch_size == embed_batch_size

    def test_a_sync_user_gets_batches_of_256(self) -> None:
        """LlamaIndex hands over 256 texts at a time, so that a sync caller gets requests in parallel."""
        assert EmbedwireEmbedding(base_url=NOBODY).embed_batch_size == 256

    @pytest.mark.parametrize(
        "field", ["api_key", "base_url", "batch_size", "concurrency", "model_name", "prompts", "timeout"]
    )
    def test_settings_are_frozen(self, field: str) -> None:
        """A setting that would not be followed any more cannot be changed."""
        embed_model = EmbedwireEmbedding(base_url=NOBODY)
        with pytest.raises(ValidationError, match="frozen"):
            setattr(embed_model, field, None)

    def test_the_key_is_nowhere_to_be_seen(self) -> None:
        """No repr, str, dump, JSON or payload has the key, or what else may hold one."""
        embed_model = EmbedwireEmbedding(
            base_url=NOBODY, api_key=KEY, headers={"X-Key": KEY}, proxy=f"http://user:{KEY}@proxy:3128"
        )
        for shown in (
            repr(embed_model),
            str(embed_model),
            repr(embed_model.api_key),
            repr(embed_model._client),
            repr(embed_model.to_dict()),
            repr(embed_model.model_dump()),
            embed_model.to_json(),
            repr(embed_model.to_payload()),
        ):
            assert KEY not in shown


def test_says_what_to_install() -> None:
    """Without llama-index-core the import fails with one sentence that has the pip command."""
    last = last_words_without("llama_index", "embedwire.llama_index")
    assert last.endswith(
        'embedwire.llama_index needs llama-index-core: install embedwire with its extra "llama-index"'
    )
