"""The recipes: packages that need no adapter, each with the real package."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedwire import SharedEmbeddingClient
from embedwire.testing import EmbeddingServer, is_vector_of
from tests.doors.running import printed

ANSWER = "  Books may be kept for three weeks; each further day costs ten cents."
CAT = "  I have an old cat called Nabi."


def test_dspy_finds_the_right_text(local_url: str, tmp_path: Path) -> None:
    """DSPy's retriever answers questions in English and Korean."""
    assert printed("recipes/dspy_retriever.py", local_url, tmp_path)[1::2] == [ANSWER, ANSWER]


def test_sklearn_tells_topics(local_url: str, tmp_path: Path) -> None:
    """A classifier that was trained on six English sentences knows a topic in Korean too."""
    assert [line.split()[0] for line in printed("recipes/sklearn_classifier.py", local_url, tmp_path)] == [
        "food",
        "travel",
        "food",
    ]


def test_sklearn_clones_and_pickles_it(server: EmbeddingServer) -> None:
    """A transformer of a client goes through `clone`, cross-validation and a pickle."""
    from sklearn.base import clone
    from sklearn.preprocessing import FunctionTransformer

    from tests.helpers import pickled

    step = FunctionTransformer(SharedEmbeddingClient(server.url).embed_array)
    for twin in (clone(step), pickled(step)):
        (row,) = twin.fit_transform(["one"])
        assert is_vector_of(row, "one")


def test_redisvl_makes_vectors(local_url: str, tmp_path: Path) -> None:
    """Redisvl's vectorizer gives vectors, and bytes as Redis wants them."""
    first, second = printed("recipes/redisvl_vectorizer.py", local_url, tmp_path)
    dimensions = int(first.removeprefix("2 vectors of ").removesuffix(" numbers"))
    assert second == f"{4 * dimensions} bytes"


def test_lightrag_makes_vectors(local_url: str, tmp_path: Path) -> None:
    """LightRAG's embedding function gives a matrix of the size that it was told."""
    (line,) = printed("recipes/lightrag_function.py", local_url, tmp_path)
    assert line.startswith("float32 (2, ")


def test_mem0_remembers(local_url: str, tmp_path: Path) -> None:
    """mem0 finds the memory that answers, asked in either language, without a word to an LLM."""
    lines = printed("recipes/mem0_memory.py", local_url, tmp_path, OPENAI_API_KEY="none")
    assert lines[1::2] == [CAT, CAT]


@pytest.mark.parametrize("action", ["add", "search", "update"])
def test_mem0_embeds_all_as_queries(server: EmbeddingServer, action: str) -> None:
    """mem0's LangChain embedder calls `embed_query` for memories too, so that they would get a query's prompt."""
    from mem0.configs.embeddings.base import BaseEmbedderConfig
    from mem0.embeddings.langchain import LangchainEmbedding

    from embedwire.langchain import EmbedwireEmbeddings

    embeddings = EmbedwireEmbeddings(server.url, prompts="e5")
    LangchainEmbedding(BaseEmbedderConfig(model=embeddings)).embed("a memory", action)
    assert server.batches == [["query: a memory"]]
