"""Texts over the limit of a real llama.cpp."""

from __future__ import annotations

import math

import numpy as np
import pytest

from embedwire import SharedEmbeddingClient, TextRefused
from tests.helpers import numbered
from tests.servers import llamacpp


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
