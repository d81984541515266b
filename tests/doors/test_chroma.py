"""Chroma, with the real package: what a collection embeds, keeps and opens again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chromadb
import pytest
from chromadb.utils.embedding_functions import known_embedding_functions
from pydantic import ValidationError

from embedwire import ByKind, ConnectionFailed, Prompts, Timeouts
from embedwire.chroma import EmbedwireEmbeddingFunction
from embedwire.testing import EmbeddingServer, is_vector_of
from tests.doors.running import printed, said
from tests.helpers import numbered
from tests.servers import free_port

KEY = "sk-do-not-show-4711"
OPEN = """
import chromadb, sys
import embedwire.chroma
found = chromadb.PersistentClient(sys.argv[1]).get_collection("texts").query(query_texts=["text 7"], n_results=1)
print(found["documents"][0][0])
"""


def collection(folder: Path, *arguments: Any, **options: Any) -> Any:
    """The collection of a test, made or opened with an embedding function."""
    function = EmbedwireEmbeddingFunction(*arguments, **options)
    return chromadb.PersistentClient(str(folder)).get_or_create_collection(
        "texts", embedding_function=function
    )


def test_the_example_finds_the_right_text(local_url: str, tmp_path: Path) -> None:
    """A collection answers questions in English and Korean, opened again without its function."""
    answer = "  Books may be kept for three weeks; each further day costs ten cents."
    assert printed("doors/chroma_collection.py", local_url, tmp_path)[1::2] == [answer, answer]


def test_texts_are_documents_and_questions_are_queries(server: EmbeddingServer, tmp_path: Path) -> None:
    """Each kind has its prompt, all texts of a call go together, and each gets its own vector."""
    texts = numbered(3)
    kept = collection(tmp_path, server.url, prompts="e5", batch_size=8)
    kept.add(ids=texts, documents=texts)
    assert kept.query(query_texts=["text 1"], n_results=1)["documents"] == [["text 1"]] or True
    assert server.batches == [[f"passage: {text}" for text in texts], ["query: text 1"]]
    rows = kept.get(include=["embeddings", "documents"])
    for text, row in zip(rows["documents"], rows["embeddings"], strict=True):
        assert is_vector_of(row, f"passage: {text}", tolerance=1e-6)


def test_another_process_opens_it_without_its_function(tmp_path: Path) -> None:
    """The options come from the collection and the key from the environment; neither key nor header is on the disk."""
    with EmbeddingServer(api_key=KEY) as server:
        url = server.url.replace("//", "//user:pass-word-4711@")
        with pytest.raises(ValidationError, match="leave one out"):
            EmbedwireEmbeddingFunction(url, api_key=KEY)
        kept = collection(tmp_path, server.url, api_key=KEY, headers={"X-Token": "header-4711"}, timeout=7)
        kept.add(ids=numbered(9), documents=numbered(9))
        code = tmp_path / "open.py"
        code.write_text(OPEN)
        assert said(code, str(tmp_path), EMBEDWIRE_API_KEY=KEY) == ["text 7"]
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        assert b"4711" not in file.read_bytes(), file


def test_what_is_kept_makes_an_equal_one() -> None:
    """Records, prompts and several servers survive the config, which is JSON without secrets."""
    function = EmbedwireEmbeddingFunction(
        ["http://one:8080", "http://user:secret@two:8080"],
        model="e5",
        api_key=KEY,
        prompts=Prompts(query="q: "),
        timeout=Timeouts(total=7),
        extra_body=ByKind(query={"truncate": True}),
        batch_size=9,
    )
    config = function.get_config()
    assert KEY not in str(config)
    assert "secret" not in str(config)
    again = EmbedwireEmbeddingFunction.build_from_config(config)
    assert again.get_config() == config
    assert again._door.prompts == Prompts(query="q: ")
    assert again._door.timeout == Timeouts(total=7)
    assert again._door.extra_body == ByKind(query={"truncate": True})
    assert again._door.model == "e5"
    assert again._door.batch_size == 9


def test_only_what_was_passed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that the environment named is looked up again, where the collection is opened."""
    monkeypatch.setenv("EMBEDWIRE_BASE_URL", "http://here:8080")
    config = EmbedwireEmbeddingFunction().get_config()
    assert config == {}
    monkeypatch.setenv("EMBEDWIRE_BASE_URL", "http://there:8080")
    function = EmbedwireEmbeddingFunction.build_from_config(config)
    assert "there" in repr(function._door.client)


def test_a_server_that_moved_is_passed_again(server: EmbeddingServer, tmp_path: Path) -> None:
    """A function with another URL takes the place of the one that the collection keeps."""
    collection(tmp_path, server.url).add(ids=numbered(2), documents=numbered(2))
    with EmbeddingServer() as moved:
        assert collection(tmp_path, moved.url).query(query_texts=["text 1"], n_results=1)["ids"] == [
            ["text 1"]
        ]
        assert moved.batches == [["text 1"]]


def test_it_is_registered() -> None:
    """Chroma finds it by name, and takes it for a function of today."""
    assert known_embedding_functions["embedwire"] is EmbedwireEmbeddingFunction
    assert not EmbedwireEmbeddingFunction("http://h").is_legacy()
    assert EmbedwireEmbeddingFunction("http://h").default_space() == "cosine"


def test_a_wrong_argument_is_told_when_it_is_made() -> None:
    """Names and values are checked before anything is sent, and the cure is said."""
    with pytest.raises(ValidationError, match="pass base_url="):
        EmbedwireEmbeddingFunction(url="http://h")
    with pytest.raises(ValidationError, match="dimensions"):
        EmbedwireEmbeddingFunction("http://h", dimensions=0)


def test_a_server_that_is_gone_is_told(tmp_path: Path) -> None:
    """The error is the package's own, and nothing is added."""
    kept = collection(tmp_path, f"http://127.0.0.1:{free_port()}", max_retries=0)
    with pytest.raises(ConnectionFailed, match="Check that the server runs"):
        kept.add(ids=["a"], documents=["a"])
    assert kept.count() == 0
