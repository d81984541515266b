"""`cache=` in both frameworks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from pydantic import ValidationError

from embedwire import VectorCache
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import EmbeddingServer
from tests.helpers import numbered, pickled, right

TEXTS = numbered(30)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a cache may be."""
    return tmp_path / "vectors.sqlite"


async def test_langchain(server: EmbeddingServer, path: Path) -> None:
    """Documents and queries come from the cache the second time, by sync and async methods."""
    for cached in (0, 60 + 2):
        embeddings = EmbedwireEmbeddings(server.url, model="test-model", cache=path)
        assert right(embeddings.embed_documents(TEXTS), TEXTS)
        assert right(await embeddings.aembed_documents(TEXTS), TEXTS)
        assert right([embeddings.embed_query("q"), await embeddings.aembed_query("q")], ["q", "q"])
        assert embeddings.usage().cached == (cached or 30 + 1)
        embeddings.close()


def test_llama_index(server: EmbeddingServer, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pipeline's nodes get the same vectors from the cache, and `show_progress` shows each batch."""
    for cached in (0, 30):
        embed = EmbedwireEmbedding(server.url, model_name="test-model", cache=str(path), embed_batch_size=10)
        nodes = IngestionPipeline(transformations=[embed]).run(nodes=[TextNode(text=text) for text in TEXTS])
        assert right([node.embedding for node in nodes], TEXTS)
        assert embed.usage().cached == cached
        capsys.readouterr()
        assert right(embed.get_text_embedding_batch(TEXTS, show_progress=True), TEXTS)
        assert "30/30" in capsys.readouterr().err
        embed.close()


def test_is_no_part_of_an_ingestion_caches_key(path: Path, tmp_path: Path) -> None:
    """LlamaIndex's dump, of which its cache's key is made, is the same with a cache as without one."""
    other = VectorCache(tmp_path / "other")
    dumps = [
        EmbedwireEmbedding("http://x", model_name="m", cache=cache).to_dict() for cache in (None, path, other)
    ]
    assert dumps[0] == dumps[1] == dumps[2]


@pytest.mark.parametrize("record", [False, True])
def test_goes_through_dumps(record: bool, path: Path) -> None:
    """A pickle, a copy and LangChain's dumps carry the path and the size, and no more."""
    cache: Any = VectorCache(path, max_bytes=10**6) if record else path
    one = EmbedwireEmbeddings("http://x", model="m", cache=cache)
    assert pickled(one).cache == one.model_copy().cache == cache
    again = EmbedwireEmbeddings(**json.loads(one.model_dump_json()))
    assert (again.cache if record else Path(again.cache)) == cache  # type: ignore[arg-type]
    assert not path.exists()


@pytest.mark.parametrize("kind", [EmbedwireEmbeddings, EmbedwireEmbedding])
def test_a_wrong_one(kind: Any, tmp_path: Path) -> None:
    """A folder is refused when the object is made."""
    with pytest.raises((ValidationError, ValueError), match="is a folder"):
        kind("http://x", cache=tmp_path)
