"""Haystack, with the real package: both embedders in pipelines, their YAML, and what they count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret
from pydantic import ValidationError

from embedwire import ConnectionFailed, InputError, Prompts, Timeouts
from embedwire.haystack import EmbedwireDocumentEmbedder, EmbedwireTextEmbedder
from embedwire.testing import EmbeddingServer, is_vector_of
from tests.doors.running import printed
from tests.servers import free_port

KEY = "sk-do-not-show-4711"
DOCUMENTS = [
    Document(content="one", meta={"title": "First", "page": 1}),
    Document(content="two", meta={"page": 2, "title": None}),
    Document(content=None, meta={"title": "Third"}),
]


def test_the_example_finds_the_right_text(local_url: str, tmp_path: Path) -> None:
    """Both pipelines together answer questions in English and Korean."""
    answer = "  Books: They may be kept for three weeks; each further day costs ten cents."
    assert printed("doors/haystack_pipeline.py", local_url, tmp_path)[1::2] == [answer, answer]


@pytest.fixture(params=["run", "run_async"])
def run(request: pytest.FixtureRequest) -> Any:
    """A component's `run` or `run_async`, as a coroutine function."""

    async def run(component: Any, *arguments: Any) -> dict[str, Any]:
        if request.param == "run":
            made: dict[str, Any] = component.run(*arguments)
            return made
        awaited: dict[str, Any] = await component.run_async(*arguments)
        return awaited

    return run


async def test_documents_get_vectors(run: Any, server: EmbeddingServer) -> None:
    """Fields of the meta go before the content, what is not there is left out, and the documents passed in stay."""
    embedder = EmbedwireDocumentEmbedder(
        server.url, prompts="e5", meta_fields_to_embed=["title", "page"], embedding_separator=" | "
    )
    made = await run(embedder, DOCUMENTS)
    texts = ["passage: First | 1 | one", "passage: 2 | two", "passage: Third | "]
    assert [text for batch in server.batches for text in batch] == texts
    for document, text in zip(made["documents"], texts, strict=True):
        assert is_vector_of(document.embedding, text)
    assert [document.id for document in made["documents"]] == [document.id for document in DOCUMENTS]
    assert all(document.embedding is None for document in DOCUMENTS)
    assert made["meta"]["model"] == "test-model"
    assert made["meta"]["usage"]["prompt_tokens"] == made["meta"]["usage"]["total_tokens"] > 9


async def test_a_query_gets_a_vector(run: Any, server: EmbeddingServer) -> None:
    """A text is a query, and the tokens of that call are told."""
    embedder = EmbedwireTextEmbedder(server.url, prompts="e5")
    for _ in range(2):
        made = await run(embedder, "one")
        assert is_vector_of(made["embedding"], "query: one")
        assert made["meta"] == {"model": "test-model", "usage": {"prompt_tokens": 4, "total_tokens": 4}}


async def test_no_documents(run: Any, server: EmbeddingServer) -> None:
    """An empty list is no request."""
    assert (await run(EmbedwireDocumentEmbedder(server.url), []))["documents"] == []
    assert server.batches == []


async def test_the_other_embedder_is_named(run: Any) -> None:
    """Who passes documents where a text is wanted, or the other way round, reads what takes them."""
    with pytest.raises(TypeError, match="EmbedwireDocumentEmbedder"):
        await run(EmbedwireTextEmbedder("http://h"), DOCUMENTS)
    with pytest.raises(TypeError, match="EmbedwireTextEmbedder"):
        await run(EmbedwireDocumentEmbedder("http://h"), "one")


def pipeline(url: str) -> Pipeline:
    """Both embedders, with options of each sort."""
    made = Pipeline()
    made.add_component(
        "documents",
        EmbedwireDocumentEmbedder(
            url,
            api_key=Secret.from_env_var("MY_KEY"),
            headers={"X-Token": "header-4711"},
            prompts=Prompts(document="d: "),
            timeout=Timeouts(total=7),
            meta_fields_to_embed=["title"],
        ),
    )
    made.add_component("query", EmbedwireTextEmbedder(url, api_key=Secret.from_env_var("MY_KEY"), model="m"))
    return made


def test_a_pipeline_comes_back_from_its_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is in it by its name alone, other secrets not at all, and what was loaded works as what was dumped."""
    monkeypatch.setenv("MY_KEY", KEY)
    with EmbeddingServer(api_key=KEY) as server:
        dumped = pipeline(server.url).dumps()
        assert "4711" not in dumped
        loaded = Pipeline.loads(dumped)
        assert loaded.dumps() == dumped
        made = loaded.run({"documents": {"documents": DOCUMENTS[:1]}, "query": {"text": "one"}})
        assert is_vector_of(made["documents"]["documents"][0].embedding, "d: First\none")
        assert is_vector_of(made["query"]["embedding"], "one")


def test_yaml_is_loaded_where_there_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is looked up when it is warmed up, and a key that is missing is told then, by its name."""
    monkeypatch.delenv("MY_KEY", raising=False)
    loaded = Pipeline.loads(pipeline("http://127.0.0.1:9").dumps())
    with pytest.raises(ValueError, match="MY_KEY"):
        loaded.warm_up()


def test_a_pipeline_writes(server: EmbeddingServer) -> None:
    """An indexing pipeline ends with the documents in their store, each with its vector."""
    store = InMemoryDocumentStore()
    indexing = Pipeline()
    indexing.add_component("embedder", EmbedwireDocumentEmbedder(server.url))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    indexing.run({"embedder": {"documents": DOCUMENTS}})
    assert {document.content: document.embedding is not None for document in store.filter_documents()} == {
        "one": True,
        "two": True,
        None: True,
    }


async def test_an_async_pipeline_asks(server: EmbeddingServer) -> None:
    """A pipeline's `run_async` takes the async door."""
    asking = Pipeline()
    asking.add_component("query", EmbedwireTextEmbedder(server.url))
    made = await asking.run_async({"query": {"text": "one"}})
    assert is_vector_of(made["query"]["embedding"], "one")


def test_keys_are_secrets() -> None:
    """A key in plain is refused before it can get into a YAML; a token's secret is refused there by Haystack."""
    with pytest.raises(InputError, match="Secret"):
        EmbedwireTextEmbedder("http://h", api_key=KEY)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Cannot serialize"):
        EmbedwireTextEmbedder("http://h", api_key=Secret.from_token(KEY)).to_dict()


def test_close_gives_up_the_connections(server: EmbeddingServer) -> None:
    """After `close` no connection is open, and the next run opens one."""
    embedder = EmbedwireTextEmbedder(server.url)
    embedder.run("one")
    embedder.close()
    server.wait(lambda: server.open_connections == 0)
    assert is_vector_of(embedder.run("two")["embedding"], "two")


def test_errors_are_the_packages_own() -> None:
    """A server that is gone is told; a wrong argument when the component is made."""
    embedder = EmbedwireTextEmbedder(f"http://127.0.0.1:{free_port()}", max_retries=0)
    with pytest.raises(ConnectionFailed, match="Check that the server runs"):
        embedder.run("one")
    with pytest.raises(ValidationError, match="pass base_url="):
        EmbedwireTextEmbedder(api_base="http://h")
