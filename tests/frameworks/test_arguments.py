"""Both adapters' arguments: by position, from the environment, by another name, by habit; and what they tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.storage import LocalFileStore
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import TextNode
from pydantic import ValidationError

from embedwire import ByKind, EmbeddingClient, InputError, Prompts, SharedEmbeddingClient
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, EmbeddingServer, Request, vector
from tests.frameworks.both import KEY, NOBODY
from tests.helpers import numbered, pickled, right

BOTH = pytest.mark.parametrize("adapter", [EmbedwireEmbeddings, EmbedwireEmbedding])
TEXTS = numbered(3)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


def of(adapter: Any) -> SharedEmbeddingClient:
    """The client that an adapter is made of."""
    client: SharedEmbeddingClient = adapter._client
    return client


@BOTH
class TestUrl:
    """Where the server is."""

    def test_by_position(self, adapter: Any) -> None:
        """The URL may stand alone, as README says."""
        assert of(adapter("http://h:8080")) == of(adapter(base_url="http://h:8080"))
        with pytest.raises(TypeError, match="positional"):
            adapter("http://h:8080", "model")

    def test_of_the_environment(self, adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without one it is the environment's, of the moment in which the object was made."""
        monkeypatch.setenv("EMBEDWIRE_BASE_URL", "http://one")
        for made in (adapter(), adapter(None), adapter(base_url=None)):
            assert made.base_url == "http://one"
            assert of(made) == SharedEmbeddingClient()
            monkeypatch.setenv("EMBEDWIRE_BASE_URL", "http://other")
            assert of(pickled(made)) == of(made) == of(made.model_copy())
            monkeypatch.setenv("EMBEDWIRE_BASE_URL", "http://one")
        assert adapter("http://passed").base_url == "http://passed"

    def test_nowhere(self, adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without any, the error names both ways, and each works."""
        with pytest.raises(
            ValidationError, match=r"base_url was not passed, and EMBEDWIRE_BASE_URL is not set"
        ):
            adapter()
        with pytest.raises(InputError, match=r"base_url was not passed, and EMBEDWIRE_BASE_URL is not set"):
            EmbeddingClient()
        monkeypatch.setenv("EMBEDWIRE_BASE_URL", "nonsense")
        with pytest.raises(ValidationError, match="must start with http"):
            adapter()


@BOTH
class TestNames:
    """What an argument is called."""

    def test_model_and_model_name(self, adapter: Any) -> None:
        """They are one, whichever is passed, and both can be read."""
        for arguments in ({"model": "m"}, {"model_name": "m"}, {"model": "m", "model_name": "m"}):
            made = adapter(NOBODY, **arguments)
            assert (made.model, made.model_name) == ("m", "m")
            assert of(made) == SharedEmbeddingClient(NOBODY, model="m")
            for again in (pickled(made), made.model_copy()):
                assert of(again) == of(made)
            for update in ({"model": "n"}, {"model_name": "n"}):
                assert of(made.model_copy(update=update)) == SharedEmbeddingClient(NOBODY, model="n")
        assert of(adapter(NOBODY)) == SharedEmbeddingClient(NOBODY)

    def test_model_and_model_name_that_differ(self, adapter: Any) -> None:
        """One of the two would be ignored, so it is an error."""
        with pytest.raises(ValidationError, match="model and model_name are two names of one argument"):
            adapter(NOBODY, model="a", model_name="b")

    @pytest.mark.parametrize(
        ("argument", "cure"),
        [
            ("batchsize", "did you mean 'batch_size'?"),
            ("chunk_size", "pass batch_size="),
            ("openai_api_base", "pass base_url="),
            ("openai_api_key", "pass api_key="),
            ("api_base", "pass base_url="),
            ("request_timeout", "pass timeout="),
            ("check_embedding_ctx_length", "leave it out: texts are sent as they are"),
            ("model_kwargs", r"pass extra_body=\{"),
            ("additional_kwargs", r"pass extra_body=\{"),
            ("ollama_additional_kwargs", r"pass extra_body=\{"),
            ("keep_alive", r"pass extra_body=\{"),
            ("show_progress_bar", "progress=True"),
            ("default_headers", "pass headers="),
            ("default_query", r"base_url='http://host/v1\?name=value'"),
            ("http_client", "this client has connections of its own"),
            ("reuse_client", "this client has connections of its own"),
            ("deployment", "api-version"),
            ("query_instruction", r"pass prompts=Prompts\("),
        ],
    )
    def test_habits(self, adapter: Any, argument: str, cure: str) -> None:
        """What OpenAI's and Ollama's classes call otherwise is told by its name here, without the value."""
        with pytest.raises(ValidationError, match=rf"{argument}.*\n.*{cure}") as refused:
            adapter(NOBODY, **{argument: KEY})
        assert KEY not in str(refused.value)

    def test_frozen(self, adapter: Any) -> None:
        """What is read once says how to change it, and that way works."""
        made = adapter(NOBODY)
        with pytest.raises(ValidationError, match=r"frozen.*model_copy\(update=\{'batch_size': …\}\)"):
            made.batch_size = 5
        assert made.model_copy(update={"batch_size": 5}).batch_size == 5


def test_embed_batch_size_of_langchain() -> None:
    """LlamaIndex has it, so here it is a habit."""
    with pytest.raises(ValidationError, match="pass batch_size="):
        EmbedwireEmbeddings(NOBODY, embed_batch_size=5)  # type: ignore[call-arg]


@BOTH
class TestWhatTheyTell:
    """Adapters tell what the client that they are made of tells."""

    def test_ready(self, adapter: Any, server: EmbeddingServer) -> None:
        """An application waits for its server at the start, and is told what it is."""
        with closing(adapter(server.url)) as made:
            info = made.wait_ready(timeout=10)
            assert (info.dimensions, info.model) == (8, "test-model")
            assert made.server_info() == info

    async def test_ready_async(self, adapter: Any, server: EmbeddingServer) -> None:
        """On a loop, too."""
        with closing(adapter(server.url)) as made:
            assert (await made.await_ready(timeout=10)).dimensions == 8

    async def test_dimensions(self, adapter: Any, server: EmbeddingServer) -> None:
        """A store asks for the width before the first text: one word is embedded, once."""
        with closing(adapter(server.url, model="m")) as made:
            assert made.dimensions is None
            assert (made.get_dimensions(), await made.aget_dimensions(), made.get_dimensions()) == (8, 8, 8)
            assert len(server.batches) == 1
        with closing(adapter(server.url, model="n")) as made:
            assert await made.aget_dimensions() == 8
        with closing(adapter(server.url, dimensions=4)) as made:
            assert made.get_dimensions() == 4
        assert len(server.batches) == 2


Changed = pytest.mark.parametrize(
    "changed",
    [
        {"model": "another"},
        {"dimensions": 4},
        {"normalize": True},
        {"prompts": "e5"},
        {"prompts": Prompts(query="q: ")},
        {"extra_body": {"task": "x"}},
        {"extra_body": ByKind(query={"task": "x"})},
    ],
    ids=repr,
)


class TestCacheNamespaces:
    """A name for LangChain's caches that is another one where vectors are."""

    def test_is_a_files_name(self) -> None:
        """Whatever the model is called, it is short and safe, and the same in another process."""
        for model in ("/models/bge-m3.Q8_0.gguf", "BAAI/bge:m3", "문서", "a" * 500, "..", "a\nb\x00"):
            for name in (
                EmbedwireEmbeddings(NOBODY, model=model).cache_namespace,
                EmbedwireEmbeddings(NOBODY, model=model, dimensions=512).query_cache_namespace,
            ):
                assert re.fullmatch(r"[a-z0-9][a-z0-9-]{1,80}", name)
        known = EmbedwireEmbeddings(NOBODY, model="BAAI/bge:m3", dimensions=512).cache_namespace
        assert known == "baai-bge-m3-512-document-" + known[-16:]

    @Changed
    def test_knows_what_decides_a_vector(self, changed: dict[str, Any]) -> None:
        """Another model, width, length, prompt or field is another name, for queries too."""
        one, other = (
            EmbedwireEmbeddings(NOBODY, model="m"),
            EmbedwireEmbeddings(NOBODY, **{"model": "m", **changed}),
        )
        names = {*(e.cache_namespace for e in (one, other)), *(e.query_cache_namespace for e in (one, other))}
        assert len(names) == 4

    def test_outlives_a_move_and_tuning(self) -> None:
        """Another address, key or batch size is the same name."""
        names = {
            EmbedwireEmbeddings(url, model="m", **more).cache_namespace
            for url, more in (
                (NOBODY, {}),
                ("http://other", {"api_key": KEY, "batch_size": 7, "encoding": "float"}),
            )
        }
        assert len(names) == 1

    def test_wants_a_model_with_a_name(self) -> None:
        """The model that a server happens to serve may be another one tomorrow."""
        with pytest.raises(InputError, match="pass model="):
            _ = EmbedwireEmbeddings(NOBODY).cache_namespace

    def test_recipe(self, server: EmbeddingServer, tmp_path: Path) -> None:
        """As docs/CACHES.md has it: a query never gets a document's vector, and both come from the cache again."""

        def cached(embeddings: EmbedwireEmbeddings) -> CacheBackedEmbeddings:
            return CacheBackedEmbeddings.from_bytes_store(
                embeddings,
                LocalFileStore(tmp_path / "documents"),
                namespace=embeddings.cache_namespace,
                query_embedding_cache=LocalFileStore(tmp_path / embeddings.query_cache_namespace),
                key_encoder="sha256",
            )

        with closing(
            EmbedwireEmbeddings(server.url, model="m", prompts="e5", encoding="float")
        ) as embeddings:
            for _ in range(2):
                cache = cached(embeddings)
                assert right(cache.embed_documents(["a", "b"]), ["passage: a", "passage: b"])
                assert right([cache.embed_query("a")], ["query: a"])
            assert [sorted(texts) for texts in server.batches] == [["passage: a", "passage: b"], ["query: a"]]
        with closing(EmbedwireEmbeddings(server.url, model="m", encoding="float")) as embeddings:
            cache = cached(embeddings)
            assert right(cache.embed_documents(["a"]), ["a"])
            assert right([cache.embed_query("a")], ["a"])


def another(request: Request) -> Answer | None:
    """Another model, another vector."""
    if not request.embeds or request.json["model"] == "m":
        return None
    data = [{"index": at, "embedding": vector(text + "!", 8)} for at, text in enumerate(request.texts)]
    return Answer(body={"data": data})


class TestIngestionCaches:
    """LlamaIndex's cache of a pipeline survives a server that moves, where its model has a name."""

    def run(self, embed_model: EmbedwireEmbedding, cache: IngestionCache) -> list[list[float]]:
        """The vectors of a pipeline's run."""
        nodes = [TextNode(text=text, id_=text) for text in TEXTS]
        with closing(embed_model):
            done = IngestionPipeline(transformations=[embed_model], cache=cache).run(nodes=nodes)
        return [node.get_embedding() for node in done]

    def test_survives_a_move(self, server: EmbeddingServer) -> None:
        """At another address the same model's vectors come from the cache, without a request."""
        cache = IngestionCache()
        assert right(self.run(EmbedwireEmbedding(server.url, model="m"), cache), TEXTS)
        assert right(self.run(EmbedwireEmbedding(NOBODY, model="m", deadline=5), cache), TEXTS)
        assert len(server.batches) == 1

    def test_a_model_without_a_name_is_its_servers(self, server: EmbeddingServer) -> None:
        """Where the model has no name, another server's vectors are others."""
        cache = IngestionCache()
        self.run(EmbedwireEmbedding(server.url), cache)
        with EmbeddingServer(script=another, model="other") as other:
            assert not right(self.run(EmbedwireEmbedding(other.url), cache), TEXTS)

    @pytest.mark.parametrize("fields", [{"task": "x"}, ByKind(document={"task": "x"})])
    def test_knows_the_fields(self, fields: Any, server: EmbeddingServer) -> None:
        """Other fields are other vectors."""
        cache = IngestionCache()
        for extra_body in (None, fields):
            self.run(EmbedwireEmbedding(server.url, model="m", extra_body=extra_body), cache)
        assert len(server.batches) == 2

    def test_persist_and_load(self, server: EmbeddingServer, tmp_path: Path) -> None:
        """A pipeline's cache goes through a file, and serves the same model at another address."""
        nodes = [TextNode(text=text, id_=text) for text in TEXTS]
        with closing(EmbedwireEmbedding(server.url, model="m")) as embed_model:
            pipeline = IngestionPipeline(transformations=[embed_model])
            pipeline.run(nodes=nodes)
            pipeline.persist(str(tmp_path))
        with closing(EmbedwireEmbedding(NOBODY, model="m")) as embed_model:
            pipeline = IngestionPipeline(transformations=[embed_model])
            pipeline.load(str(tmp_path))
            assert right([node.get_embedding() for node in pipeline.run(nodes=nodes)], TEXTS)
        assert len(server.batches) == 1

    def test_a_dump_wants_an_address(self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A dump of a named model holds none: the environment's is taken, or the error says what to pass."""
        dump = EmbedwireEmbedding(server.url, model="m").to_dict()
        with pytest.raises(ValidationError, match="EMBEDWIRE_BASE_URL"):
            EmbedwireEmbedding.from_dict(dump)
        assert EmbedwireEmbedding.from_dict(dump, base_url=NOBODY).base_url == NOBODY
        monkeypatch.setenv("EMBEDWIRE_BASE_URL", server.url)
        with closing(EmbedwireEmbedding.from_dict(dump)) as again:
            assert right([again.get_text_embedding("a")], ["a"])
        unnamed = EmbedwireEmbedding(server.url).to_dict()
        assert unnamed["base_url"] == server.url
