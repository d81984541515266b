"""`EmbedwireEmbedding` under LlamaIndex's indexes, pipelines and caches, against a real llama.cpp server."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores import SimpleVectorStore
from pydantic import ValidationError

from embedwire import BatchLimits, Prompts, RetryPolicy, TextRefused, Timeouts, UsageError
from embedwire.llama_index import EmbedwireEmbedding
from tests.frameworks.both import KEY, NOBODY, result_of

if TYPE_CHECKING:
    from tests.servers.fixtures import Truth

Test = TypeVar("Test", bound=Callable[..., Any])

E5 = Prompts(query="query: ", document="passage: ")


@pytest.fixture
def embed_model(llama: str) -> Iterator[EmbedwireEmbedding]:
    """An embedding model as most users make it."""
    with closing(EmbedwireEmbedding(base_url=llama)) as embed_model:
        yield embed_model


@pytest.fixture
def prompted(llama: str) -> Iterator[EmbedwireEmbedding]:
    """One whose queries and documents differ."""
    with closing(EmbedwireEmbedding(base_url=llama, prompts=E5)) as embed_model:
        yield embed_model


def nodes_of(texts: Sequence[str]) -> list[BaseNode]:
    """Ready-made nodes."""
    return [TextNode(text=text, id_=f"node {number}") for number, text in enumerate(texts)]


def content(nodes: Sequence[BaseNode]) -> list[str]:
    """What was embedded for each node."""
    return [node.get_content() for node in nodes]


def vectors(nodes: Sequence[BaseNode]) -> list[list[float]]:
    """The nodes' own."""
    return [node.get_embedding() for node in nodes]


class TestIndex:
    """`VectorStoreIndex` holds each node's own vector."""

    @pytest.mark.parametrize("use_async", [False, True])
    def test_build_insert_retrieve(
        self, prompted: EmbedwireEmbedding, use_async: bool, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """Built and inserted nodes have the vectors that urllib gets, and a retriever finds them."""
        nodes = nodes_of(sentences)
        index = VectorStoreIndex(nodes[:20], embed_model=prompted, use_async=use_async)
        index.insert_nodes(nodes[20:])
        store = index.vector_store
        assert isinstance(store, SimpleVectorStore)
        held = store.data.embedding_dict
        assert sorted(held) == sorted(node.node_id for node in nodes)
        truth.check([held[node.node_id] for node in nodes], llama, [f"passage: {text}" for text in sentences])
        retriever = index.as_retriever(similarity_top_k=1)
        for text in sentences[:3]:
            assert [found.text for found in retriever.retrieve(text)] == [text]
            assert [found.text for found in asyncio.run(retriever.aretrieve(text))] == [text]

    async def test_on_a_running_loop(self, embed_model: EmbedwireEmbedding, sentences: list[str]) -> None:
        """In a notebook an index is built, added to and asked, sync and async."""
        index = VectorStoreIndex(nodes_of(sentences), embed_model=embed_model)
        index.insert(Document(text="Seoul is the capital and largest city of South Korea."))
        retriever = index.as_retriever(similarity_top_k=1)
        question = "Where does the Korean government sit?"
        for found in (retriever.retrieve(question), await retriever.aretrieve(question)):
            assert [node.text for node in found] == ["Seoul is the capital and largest city of South Korea."]

    def test_settings(
        self,
        embed_model: EmbedwireEmbedding,
        llama: str,
        sentences: list[str],
        truth: Truth,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As `Settings.embed_model` it serves whatever does not name a model."""
        monkeypatch.setattr(Settings, "_embed_model", None)
        Settings.embed_model = embed_model
        index = VectorStoreIndex.from_documents([Document(text=text) for text in sentences])
        assert Settings.embed_model is embed_model
        store = index.vector_store
        assert isinstance(store, SimpleVectorStore)
        held = store.data.embedding_dict
        assert sorted(content(index.docstore.get_nodes(list(held)))) == sorted(sentences)
        truth.check(list(held.values()), llama, content(index.docstore.get_nodes(list(held))))
        found = index.as_retriever(similarity_top_k=1).retrieve(sentences[4])
        assert [node.text for node in found] == [sentences[4]]


def in_several_processes(test: Test) -> Test:
    """A test that starts workers: lets the warnings pass that LlamaIndex and Python give about it."""
    for warning in (
        "Specified num_workers exceed number of CPUs:UserWarning",  # on a machine with one
        "This process .* is multi-threaded:DeprecationWarning",  # Python 3.12 and 3.13, where LlamaIndex forks
    ):
        test = pytest.mark.filterwarnings(f"ignore:{warning}")(test)
    return test


@pytest.fixture
def stuck_workers_die() -> Iterator[None]:
    """Ends workers that hang, so that a broken fork is a failure: LlamaIndex would wait for them for ever."""

    def end_them() -> None:
        for worker in multiprocessing.active_children():
            worker.kill()

    timer = threading.Timer(60, end_them)
    timer.start()
    yield
    timer.cancel()
    timer.join()


class TestPipeline:
    """`IngestionPipeline` gives each node its own vector, in every way that it runs."""

    def test_run(self, embed_model: EmbedwireEmbedding, llama: str, corpus: list[str], truth: Truth) -> None:
        """A sync run fills in the vectors that urllib gets."""
        nodes = IngestionPipeline(transformations=[embed_model]).run(nodes=nodes_of(corpus[:60]))
        assert content(nodes) == corpus[:60]
        truth.check(vectors(nodes), llama, corpus[:60])

    async def test_arun(
        self, embed_model: EmbedwireEmbedding, llama: str, corpus: list[str], truth: Truth
    ) -> None:
        """An async run fills in the same."""
        nodes = await IngestionPipeline(transformations=[embed_model]).arun(nodes=nodes_of(corpus[:60]))
        assert content(nodes) == corpus[:60]
        truth.check(vectors(nodes), llama, corpus[:60])

    @pytest.mark.slow
    @in_several_processes
    def test_run_in_spawned_workers(
        self, prompted: EmbedwireEmbedding, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """Two spawned workers fill in the same, for the cache too, and the object that they came from works on."""
        sentences = sentences[:22]
        prompted.get_query_embedding("used before")
        pipeline = IngestionPipeline(transformations=[prompted])
        nodes = pipeline.run(nodes=nodes_of(sentences), num_workers=2)
        assert content(nodes) == sentences
        truth.check(vectors(nodes), llama, [f"passage: {text}" for text in sentences])
        truth.check([prompted.get_query_embedding("and after")], llama, ["query: and after"])
        if multiprocessing.cpu_count() > 1:  # else there was one worker, and one part
            prompted.close()  # from here on a request would be an error
            nodes = pipeline.run(nodes=nodes_of(sentences)[:11])  # the part of one worker
            truth.check(vectors(nodes), llama, [f"passage: {text}" for text in sentences[:11]])

    @in_several_processes
    @pytest.mark.usefixtures("stuck_workers_die")
    async def test_arun_in_forked_workers(
        self, prompted: EmbedwireEmbedding, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """Two forked workers fill in the same, while the object that they were forked from is in use."""
        await prompted.aget_query_embedding("used before")
        pipeline = IngestionPipeline(transformations=[prompted])
        nodes, queries = await asyncio.gather(
            pipeline.arun(nodes=nodes_of(sentences), num_workers=2),
            asyncio.gather(*(prompted.aget_query_embedding(text) for text in sentences)),
        )
        assert content(nodes) == sentences
        truth.check(vectors(nodes), llama, [f"passage: {text}" for text in sentences])
        truth.check(queries, llama, [f"query: {text}" for text in sentences])

    @pytest.mark.parametrize("way", ["run", "arun"])
    async def test_docstore_with_upserts(
        self, embed_model: EmbedwireEmbedding, way: str, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """Of documents seen before only those that changed are embedded, and the store follows them."""
        store = SimpleVectorStore()
        pipeline = IngestionPipeline(
            transformations=[embed_model],
            docstore=SimpleDocumentStore(),
            vector_store=store,
            docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
            disable_cache=True,
        )

        async def run(texts: dict[str, str]) -> list[str]:
            documents = [Document(text=text, id_=id_) for id_, text in texts.items()]
            return content(await result_of(getattr(pipeline, way)(documents=documents)))

        texts = {f"document {number}": text for number, text in enumerate(sentences)}
        assert await run(texts) == sentences
        texts["document 3"] = "This one is new."
        assert await run(texts) == ["This one is new."]
        held = store.data.embedding_dict
        assert sorted(held) == sorted(texts)
        truth.check([held[id_] for id_ in texts], llama, list(texts.values()))
        embed_model.close()  # from here on a request would be an error
        assert await run(texts) == []

    @pytest.mark.parametrize("way", ["run", "arun"])
    async def test_stores_nothing_when_a_text_fails(
        self, embed_model: EmbedwireEmbedding, way: str, sentences: list[str]
    ) -> None:
        """One text that the server refuses is an error, and no node of that run is stored."""
        store = SimpleVectorStore()
        pipeline = IngestionPipeline(transformations=[embed_model], vector_store=store)
        with pytest.raises(TextRefused, match=r"texts\[5\] of 6"):
            await result_of(getattr(pipeline, way)(nodes=nodes_of([*sentences[:5], "word " * 600])))
        assert store.data.embedding_dict == {}


class TestCaches:
    """Vectors that LlamaIndex has are not asked for again; vectors of other settings are."""

    def cached(self, embed_model: EmbedwireEmbedding, cache: IngestionCache, texts: list[str]) -> Any:
        """The vectors of a pipeline with this cache."""
        return vectors(
            IngestionPipeline(transformations=[embed_model], cache=cache).run(nodes=nodes_of(texts))
        )

    @pytest.mark.parametrize(
        "changed",
        [
            {},
            {"api_key": KEY},
            {"batch_size": 3},
            {"batch_size": BatchLimits(texts=2, chars=50)},
            {"concurrency": 1},
            {"timeout": Timeouts(total=9)},
            {"deadline": 60},
            {"max_retries": 0},
            {"max_retries": RetryPolicy(attempts=7)},
            {"encoding": "base64"},
            {"headers": {"X": "y"}},
            {"max_queued": 77},
            {"rate_limit": 600},
            {"max_reply_bytes": 10_000_000},
            {"embed_batch_size": 100},
            {"num_workers": 2},
            {"callback_manager": CallbackManager([LlamaDebugHandler(print_trace_on_end=False)])},
        ],
        ids=lambda changed: "-".join(changed) or "nothing",
    )
    def test_ingestion_cache_outlives_tuning(
        self,
        embed_model: EmbedwireEmbedding,
        changed: dict[str, Any],
        llama: str,
        sentences: list[str],
        truth: Truth,
    ) -> None:
        """A second run sends nothing, also where a knob that changes no vector was turned meanwhile."""
        cache, texts = IngestionCache(), sentences[:4]
        truth.check(self.cached(embed_model, cache, texts), llama, texts)
        again = EmbedwireEmbedding(base_url=llama, **changed)
        again.close()  # from here on a request would be an error
        truth.check(self.cached(again, cache, texts), llama, texts)

    @pytest.mark.parametrize(
        "changed",
        [
            {"model_name": "another"},
            {"prompts": "e5"},
            {"prompts": Prompts(document="passage: ")},
            {"dimensions": 100},
            {"normalize": True},
        ],
        ids=repr,
    )
    def test_ingestion_cache_knows_what_decides_a_vector(
        self, embed_model: EmbedwireEmbedding, changed: dict[str, Any], llama: str, sentences: list[str]
    ) -> None:
        """Another model, prompt or width is not served from the cache."""
        cache, texts = IngestionCache(), sentences[:4]
        self.cached(embed_model, cache, texts)
        other = EmbedwireEmbedding(base_url=llama, **changed)
        other.close()  # so the attempt to send shows
        with pytest.raises(UsageError):
            self.cached(other, cache, texts)

    async def test_embeddings_cache(self, llama: str, sentences: list[str], truth: Truth) -> None:
        """LlamaIndex's own cache of embeddings works: a text that it has is not sent again."""
        with closing(EmbedwireEmbedding(base_url=llama, embeddings_cache=SimpleKVStore())) as embed_model:
            truth.check(embed_model.get_text_embedding_batch(sentences[:5]), llama, sentences[:5])
            truth.check(await embed_model.aget_text_embedding_batch(sentences), llama, sentences)
        truth.check(embed_model.get_text_embedding_batch(sentences), llama, sentences)

    @pytest.mark.parametrize("prompts", ["e5", "bge", Prompts(query="q: "), Prompts(document="d: ")])
    def test_embeddings_cache_with_prompts_that_differ(self, prompts: Prompts | str) -> None:
        """That cache knows only the bare text, so with prompts that differ it is refused, and the error says why."""
        with pytest.raises(ValidationError, match="embeddings_cache knows a vector by its bare text"):
            EmbedwireEmbedding(base_url=NOBODY, prompts=prompts, embeddings_cache=SimpleKVStore())

    def test_embeddings_cache_with_equal_prompts(self, llama: str, truth: Truth) -> None:
        """Where query and document get the same prompt, that cache is fine."""
        prompts = Prompts(query="topic: ", document="topic: ")
        with closing(
            EmbedwireEmbedding(base_url=llama, prompts=prompts, embeddings_cache=SimpleKVStore())
        ) as embed_model:
            truth.check([embed_model.get_text_embedding("cats")], llama, ["topic: cats"])
        truth.check([embed_model.get_query_embedding("cats")], llama, ["topic: cats"])
