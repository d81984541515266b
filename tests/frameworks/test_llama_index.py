"""`EmbedwireEmbedding` under LlamaIndex's own indexes and pipelines, against a real llama.cpp server."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import BaseNode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.events.span import SpanDropEvent
from pydantic import Field, ValidationError

from embedwire import (
    BatchLimits,
    ConnectionFailed,
    InputError,
    Prompts,
    RateLimit,
    RetryPolicy,
    TextRefused,
    Timeouts,
    UsageError,
)
from embedwire.llama_index import EmbedwireEmbedding
from tests.servers import free_port

if TYPE_CHECKING:
    from tests.conftest import Truth

Test = TypeVar("Test", bound=Callable[..., Any])

KEY = "sk-do-not-show-4711"
NOBODY = "http://127.0.0.1:9"  # for objects that are looked at and send nothing
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


def a_key() -> str:
    """A key function that a pickle can name."""
    return KEY


def nodes_of(texts: Sequence[str]) -> list[BaseNode]:
    """Ready-made nodes."""
    return [TextNode(text=text, id_=f"node {number}") for number, text in enumerate(texts)]


def content(nodes: Sequence[BaseNode]) -> list[str]:
    """What was embedded for each node."""
    return [node.get_content() for node in nodes]


def vectors(nodes: Sequence[BaseNode]) -> list[list[float]]:
    """The nodes' own."""
    return [node.get_embedding() for node in nodes]


async def result_of(value: Any) -> Any:
    """The value of a sync or an async call."""
    return await value if isinstance(value, Awaitable) else value


class TestHooks:
    """Whichever door LlamaIndex uses, a text gets its own vector."""

    @pytest.mark.parametrize("door", ["get_query_embedding", "aget_query_embedding"])
    async def test_queries(
        self, prompted: EmbedwireEmbedding, door: str, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """A query goes out behind the query prompt, sync, on a running loop too, and async."""
        rows = [await result_of(getattr(prompted, door)(text)) for text in sentences[:4]]
        truth.check(rows, llama, [f"query: {text}" for text in sentences[:4]])

    @pytest.mark.parametrize("door", ["get_text_embedding", "aget_text_embedding"])
    async def test_single_texts(
        self, prompted: EmbedwireEmbedding, door: str, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """A text goes out behind the document prompt, sync, on a running loop too, and async."""
        rows = [await result_of(getattr(prompted, door)(text)) for text in sentences[:4]]
        truth.check(rows, llama, [f"passage: {text}" for text in sentences[:4]])

    @pytest.mark.parametrize("door", ["get_text_embedding_batch", "aget_text_embedding_batch"])
    @pytest.mark.parametrize("embed_batch_size", [1, 7, 256])
    @pytest.mark.parametrize("num_workers", [None, 2])
    async def test_lists(
        self,
        door: str,
        embed_batch_size: int,
        num_workers: int | None,
        llama: str,
        sentences: list[str],
        truth: Truth,
    ) -> None:
        """A list comes back in its order, however LlamaIndex cuts it."""
        with closing(
            EmbedwireEmbedding(
                base_url=llama, prompts=E5, embed_batch_size=embed_batch_size, num_workers=num_workers
            )
        ) as embed_model:
            rows = await result_of(getattr(embed_model, door)(sentences))
        truth.check(rows, llama, [f"passage: {text}" for text in sentences])
        assert all(type(number) is float for row in rows for number in row)

    async def test_aggregated_queries(
        self, prompted: EmbedwireEmbedding, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """The mean of several queries is the mean of their vectors."""
        expected = truth(llama, [f"query: {text}" for text in sentences[:3]]).mean(axis=0).tolist()
        assert prompted.get_agg_embedding_from_queries(sentences[:3]) == pytest.approx(expected, abs=1e-6)
        found = await prompted.aget_agg_embedding_from_queries(sentences[:3])
        assert found == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("door", ["get_text_embedding_batch", "aget_text_embedding_batch"])
    async def test_no_texts_no_request(self, door: str) -> None:
        """`[]` gives `[]`, even where no server is, from the hooks too."""
        url = f"http://127.0.0.1:{free_port()}"
        with closing(EmbedwireEmbedding(base_url=url)) as embed_model:
            assert await result_of(getattr(embed_model, door)([])) == []
            assert embed_model._get_text_embeddings([]) == []
            assert await embed_model._aget_text_embeddings([]) == []

    def test_one_object_over_several_event_loops(
        self, embed_model: EmbedwireEmbedding, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """Every `asyncio.run` may use the same object, and sync calls may come between."""
        for _ in range(3):
            truth.check(
                asyncio.run(embed_model.aget_text_embedding_batch(sentences[:6])), llama, sentences[:6]
            )
            truth.check([embed_model.get_query_embedding(sentences[6])], llama, sentences[6:7])

    @pytest.mark.parametrize("door", ["get_text_embedding_batch", "aget_text_embedding_batch"])
    async def test_a_text_that_fails(
        self, embed_model: EmbedwireEmbedding, door: str, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """A refused text is an error with its place, and the vectors of the others are in it."""
        with pytest.raises(TextRefused) as failure:
            await result_of(getattr(embed_model, door)([*sentences[:7], "word " * 600, *sentences[7:]]))
        error = failure.value
        assert error.index == 7
        assert error.completed is not None
        assert error.completed.indexes == [*range(7), *range(8, 24)]
        truth.check(error.completed.vectors, llama, sentences)


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
            {"on_full": "raise"},
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


class Recorder(BaseEventHandler):
    """Keeps the events of LlamaIndex's instrumentation."""

    events: list[BaseEvent] = Field(default_factory=list)

    def handle(self, event: BaseEvent, **_: Any) -> None:
        """Keep it."""
        self.events.append(event)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Events of this test."""
    recorder, dispatcher = Recorder(), get_dispatcher()
    before = list(dispatcher.event_handlers)
    dispatcher.add_event_handler(recorder)
    yield recorder
    dispatcher.event_handlers = before


class TestEvents:
    """LlamaIndex sees what it sees of its own models."""

    @pytest.mark.parametrize("door", ["get_text_embedding_batch", "aget_text_embedding_batch"])
    async def test_callbacks(self, llama: str, door: str, sentences: list[str], truth: Truth) -> None:
        """Handlers get an EMBEDDING event for each batch of LlamaIndex, with its texts and vectors."""
        handler = LlamaDebugHandler(print_trace_on_end=False)
        manager = CallbackManager([handler])
        with closing(
            EmbedwireEmbedding(base_url=llama, api_key=KEY, callback_manager=manager, embed_batch_size=10)
        ) as embed_model:
            await result_of(getattr(embed_model, door)(sentences))
        pairs = handler.get_event_pairs(CBEventType.EMBEDDING)
        ends = [end.payload or {} for _, end in pairs]
        assert [end[EventPayload.CHUNKS] for end in ends] == [
            sentences[:10],
            sentences[10:20],
            sentences[20:],
        ]
        for end in ends:
            truth.check(end[EventPayload.EMBEDDINGS], llama, end[EventPayload.CHUNKS])
        assert KEY not in repr([event.payload for pair in pairs for event in pair])

    @pytest.mark.parametrize("door", ["get_query_embedding", "aget_query_embedding"])
    async def test_instrumentation(self, llama: str, door: str, recorder: Recorder, truth: Truth) -> None:
        """A dispatcher's handlers get a start that names the model and no key, and an end with text and vector."""
        with closing(EmbedwireEmbedding(base_url=llama, model_name="minilm", api_key=KEY)) as embed_model:
            await result_of(getattr(embed_model, door)("where"))
        start, end = recorder.events
        assert isinstance(start, EmbeddingStartEvent)
        assert isinstance(end, EmbeddingEndEvent)
        assert start.model_dict["model_name"] == "minilm"
        assert start.model_dict["class_name"] == "EmbedwireEmbedding"
        assert end.chunks == ["where"]
        truth.check(end.embeddings, llama, ["where"])
        assert KEY not in repr(recorder.events)
        assert KEY not in start.model_dump_json()

    def test_an_error_passes_through(self, recorder: Recorder) -> None:
        """An error reaches the caller as it was raised, though LlamaIndex marks it, and its events show no key."""
        with (
            closing(
                EmbedwireEmbedding(base_url=f"http://127.0.0.1:{free_port()}", api_key=KEY)
            ) as embed_model,
            pytest.raises(ConnectionFailed) as failure,
        ):
            embed_model.get_text_embedding("a text")
        dropped = {event.err_str for event in recorder.events if isinstance(event, SpanDropEvent)}
        assert dropped == {str(failure.value)}
        assert KEY not in repr(recorder.events)


def pickled(embed_model: EmbedwireEmbedding) -> EmbedwireEmbedding:
    """Through a pickle."""
    again: EmbedwireEmbedding = pickle.loads(pickle.dumps(embed_model))
    return again


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
            on_full="raise",
            rate_limit=RateLimit(requests=1000, chars=100_000),
            max_reply_bytes=10_000_000,
        )
        with closing(original):
            for _ in range(2):
                twin = copied(original)
                assert twin._client._hold.settings == original._client._hold.settings
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
        again = getattr(EmbedwireEmbedding, f"from_{way}")(dump)
        with closing(EmbedwireEmbedding(**arguments)) as plain, closing(again):
            assert again._client._hold.settings == plain._client._hold.settings
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
            ("on_full", "drop"),
            ("rate_limit", 0),
            ("max_reply_bytes", None),
            ("batchsize", 5),
            ("model", "minilm"),
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
    code = "import sys; sys.modules['llama_index'] = None; import embedwire.llama_index"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith('embedwire.llama_index needs llama-index-core: pip install "embedwire[llama-index]"')
