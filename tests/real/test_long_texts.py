"""Texts over the limit of a real llama.cpp."""

from __future__ import annotations

import math

import numpy as np
import pytest

from embedwire import SharedEmbeddingClient, TextRefused
from embedwire._settings.options import TooLong
from tests.helpers import numbered
from tests.servers import llamacpp
from tests.servers.fixtures import Truth


@pytest.mark.parametrize(
    ("options", "tokens"),
    [({}, 512), ({"ctx": 256}, 256)],
    ids=["500, default flags", "400, small context"],
)
def test_one_too_long_text_on_real_llama_cpp(options: dict[str, int], tokens: int) -> None:
    """One too-long text among 1000: 999 vectors in ``completed``, its index, tokens and limit in the error."""
    texts = numbered(1000)
    texts[617] = "word " * (tokens + 100)
    with llamacpp(slots=1, **options) as url, SharedEmbeddingClient(url, batch_size=50) as client:
        with pytest.raises(TextRefused) as caught:
            client.embed(texts)
        error = caught.value
        assert error.index == 617
        assert error.tokens == tokens + 102  # with [CLS] and [SEP]
        assert error.limit in (256, 512)
        assert error.completed is not None
        assert error.completed.indexes == [index for index in range(1000) if index != 617]
        assert error.attempts <= 1 + math.ceil(math.log2(50))
        assert np.abs(error.completed.vectors[616] - client.embed_array([texts[616]])[0]).max() < 1e-3


@pytest.fixture(scope="module")
def words() -> str:
    """A text of three thousand words, six times too long for the model."""
    return " ".join(f"{word} {number}" for number, word in enumerate(["river", "garden", "bridge"] * 500))


@pytest.mark.parametrize("how", ["truncate", "average"])
def test_a_text_of_three_thousand_words_on_real_llama_cpp(
    llama: str, truth: Truth, words: str, how: TooLong
) -> None:
    """It gets the vector of its beginning, or the mean of its parts', beside texts that are short enough."""
    with SharedEmbeddingClient(llama, too_long=how) as client:
        rows = client.embed_array(["a river", words, "a bridge"])
        usage = client.usage()
    truth.check(rows[[0, 2]], llama, ["a river", "a bridge"])
    assert abs(np.linalg.norm(rows[1]) - 1) < 1e-5
    assert (usage.truncated, usage.averaged) == ((1, 0) if how == "truncate" else (0, 1))
    if how == "truncate":
        assert usage.requests <= 4
        assert usage.characters > 1000  # most of 512 tokens
    else:
        assert usage.characters >= len(words) * 0.99
        assert usage.tokens is not None
        assert usage.tokens > 3000
        beginning = truth(llama, [words[:1000]])[0]
        assert 0.5 < float(beginning @ rows[1]) < 0.9999
