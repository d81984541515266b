"""`EmbedwireEmbeddings` under LangChain's own suites, stores and helpers, against a real llama.cpp server."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import faiss
import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import SecretStr, ValidationError

from embedwire import BatchLimits, Prompts, RateLimit, RetryPolicy, TextRefused, Timeouts, UsageError
from embedwire.langchain import EmbedwireEmbeddings
from tests.frameworks.both import KEY, NOBODY, last_words_without, result_of
from tests.helpers import pickled
from tests.servers import free_port

if TYPE_CHECKING:
    from tests.servers.fixtures import Truth


@pytest.fixture
def embeddings(llama: str) -> Iterator[EmbedwireEmbeddings]:
    """Embeddings as most users make them."""
    with closing(EmbedwireEmbeddings(base_url=llama)) as embeddings:
        yield embeddings


class OnLlama:
    """What LangChain's suites need to know."""

    url: str

    @pytest.fixture(autouse=True)
    def _server(self, llama: str) -> None:
        self.url = llama

    @property
    def embeddings_class(self) -> type[EmbedwireEmbeddings]:
        """The class under test."""
        return EmbedwireEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        """What it is made with."""
        return {"base_url": self.url}


class TestUnitSuite(OnLlama, EmbeddingsUnitTests):
    """LangChain's unit suite passes."""

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        """A key in the environment is used, and not kept in the object."""
        return {"EMBEDWIRE_API_KEY": KEY}, {"base_url": self.url}, {"api_key": None}


class TestIntegrationSuite(OnLlama, EmbeddingsIntegrationTests):
    """LangChain's integration suite passes."""


def memory(embeddings: EmbedwireEmbeddings) -> InMemoryVectorStore:
    """An empty store."""
    return InMemoryVectorStore(embeddings)


def faiss_index(embeddings: EmbedwireEmbeddings) -> FAISS:
    """An empty store."""
    return FAISS(embeddings, faiss.IndexFlatL2(384), InMemoryDocstore(), {})


def stored(store: VectorStore) -> dict[str, list[float]]:
    """The vector that a store holds for each text."""
    if isinstance(store, InMemoryVectorStore):
        return {row["text"]: row["vector"] for row in store.store.values()}
    assert isinstance(store, FAISS)
    assert isinstance(store.docstore, InMemoryDocstore)
    return {
        store.docstore._dict[id_].page_content: store.index.reconstruct(row).tolist()
        for row, id_ in store.index_to_docstore_id.items()
    }


def documents(texts: list[str]) -> list[Document]:
    """Documents that know where they come from."""
    return [Document(text, id=str(number), metadata={"source": text}) for number, text in enumerate(texts)]


Empty = Callable[[EmbedwireEmbeddings], VectorStore]
both_stores = pytest.mark.parametrize("empty", [memory, faiss_index])


class TestStores:
    """Vector stores hold each text's own vector."""

    @both_stores
    @pytest.mark.parametrize("way", ["add_texts", "add_documents", "from_texts", "from_documents"])
    def test_sync(
        self,
        embeddings: EmbedwireEmbeddings,
        empty: Empty,
        way: str,
        llama: str,
        sentences: list[str],
        truth: Truth,
    ) -> None:
        """However texts get into a store, the vectors there are those that urllib gets, and searches find them."""
        store, items = empty(embeddings), documents(sentences) if "documents" in way else sentences
        if way.startswith("from"):
            store = getattr(type(store), way)(items, embeddings)
        else:
            getattr(store, way)(items)
        held = stored(store)
        assert sorted(held) == sorted(sentences)
        truth.check([held[text] for text in sentences], llama, sentences)
        retriever = store.as_retriever(search_kwargs={"k": 1})
        for text in sentences[:3]:
            assert [found.page_content for found in store.similarity_search(text, k=1)] == [text]
            assert [found.page_content for found in retriever.invoke(text)] == [text]

    @both_stores
    @pytest.mark.parametrize("way", ["aadd_texts", "aadd_documents", "afrom_texts", "afrom_documents"])
    async def test_async(
        self,
        embeddings: EmbedwireEmbeddings,
        empty: Empty,
        way: str,
        llama: str,
        sentences: list[str],
        truth: Truth,
    ) -> None:
        """The async doors of a store keep the same promise."""
        store, items = empty(embeddings), documents(sentences) if "documents" in way else sentences
        if way.startswith("afrom"):
            store = await getattr(type(store), way)(items, embeddings)
        else:
            await getattr(store, way)(items)
        held = stored(store)
        assert sorted(held) == sorted(sentences)
        truth.check([held[text] for text in sentences], llama, sentences)
        retriever = store.as_retriever(search_kwargs={"k": 1})
        for text in sentences[:3]:
            assert [found.page_content for found in await store.asimilarity_search(text, k=1)] == [text]
            assert [found.page_content for found in await retriever.ainvoke(text)] == [text]

    @both_stores
    def test_finds_by_meaning(self, embeddings: EmbedwireEmbeddings, empty: Empty) -> None:
        """A question finds the text that answers it."""
        answer = "Seoul is the capital and largest city of South Korea."
        store = empty(embeddings)
        store.add_texts(["Bread is baked from flour and water.", answer, "A violin has four strings."])
        found = store.similarity_search("Where does the Korean government sit?", k=1)
        assert [document.page_content for document in found] == [answer]

    @both_stores
    def test_stores_nothing_when_a_text_fails(
        self, embeddings: EmbedwireEmbeddings, empty: Empty, sentences: list[str]
    ) -> None:
        """One text that the server refuses is an error with its place in the list, and nothing is stored."""
        store = empty(embeddings)
        with pytest.raises(TextRefused, match=r"texts\[7\] of 24") as failure:
            store.add_texts([*sentences[:7], "word " * 600, *sentences[7:]])
        assert failure.value.index == 7
        assert stored(store) == {}


class TestIndexing:
    """`langchain_core.indexing` sends what changed, and nothing else."""

    def test_index(
        self, embeddings: EmbedwireEmbeddings, llama: str, corpus: list[str], truth: Truth
    ) -> None:
        """More documents than one of its batches get their vectors; of a second run only the change is sent."""
        texts = sorted(dict.fromkeys(corpus), key=len)[:120]
        store, records = memory(embeddings), InMemoryRecordManager("test")
        records.create_schema()

        def run(texts: list[str]) -> Any:
            documents = [Document(text) for text in texts]
            return index(documents, records, store, cleanup="full", key_encoder="sha256")

        assert run(texts) == {"num_added": 120, "num_updated": 0, "num_skipped": 0, "num_deleted": 0}
        held = stored(store)
        truth.check([held[text] for text in texts], llama, texts)

        changed = [*texts[1:], "a new document"]
        assert run(changed) == {"num_added": 1, "num_updated": 0, "num_skipped": 119, "num_deleted": 1}
        held = stored(store)
        assert sorted(held) == sorted(changed)
        truth.check([held[text] for text in changed], llama, changed)

        embeddings.close()  # from here on a request would be an error
        assert run(changed) == {"num_added": 0, "num_updated": 0, "num_skipped": 120, "num_deleted": 0}

    async def test_aindex(
        self, embeddings: EmbedwireEmbeddings, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """The async twin keeps the same promise."""
        store, records = memory(embeddings), InMemoryRecordManager("test")
        await records.acreate_schema()

        async def run(texts: list[str]) -> Any:
            documents = [Document(text) for text in texts]
            return await aindex(documents, records, store, cleanup="full", key_encoder="sha256")

        assert (await run(sentences))["num_added"] == 23
        await embeddings.aclose()  # from here on a request would be an error
        assert (await run(sentences))["num_skipped"] == 23
        held = stored(store)
        truth.check([held[text] for text in sentences], llama, sentences)

    def test_cache_backed_embeddings(
        self, embeddings: EmbedwireEmbeddings, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """LangChain's cache stores the vectors and gives them back without a request."""
        cached = CacheBackedEmbeddings.from_bytes_store(
            embeddings,
            InMemoryByteStore(),
            namespace="minilm",
            query_embedding_cache=True,
            key_encoder="sha256",
        )
        truth.check(cached.embed_documents(sentences[:9]), llama, sentences[:9])
        truth.check(cached.embed_documents(sentences), llama, sentences)
        truth.check([cached.embed_query("a question")], llama, ["a question"])
        embeddings.close()  # from here on a request would be an error
        truth.check(cached.embed_documents(sentences), llama, sentences)
        truth.check([cached.embed_query("a question")], llama, ["a question"])


class TestAnywhere:
    """The same object works wherever a framework calls it."""

    async def test_sync_methods_on_a_running_loop(
        self, embeddings: EmbedwireEmbeddings, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """In a notebook or a handler, where a loop runs already, the sync methods work too."""
        truth.check(embeddings.embed_documents(sentences), llama, sentences)
        truth.check([embeddings.embed_query(sentences[0])], llama, sentences[:1])

    def test_one_object_over_several_event_loops(
        self, embeddings: EmbedwireEmbeddings, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """Every `asyncio.run` may use the same object, and sync calls may come between."""
        for _ in range(3):
            truth.check(asyncio.run(embeddings.aembed_documents(sentences[:6])), llama, sentences[:6])
            truth.check([embeddings.embed_query(sentences[6])], llama, sentences[6:7])
            truth.check([asyncio.run(embeddings.aembed_query(sentences[7]))], llama, sentences[7:8])

    def test_many_threads(
        self, embeddings: EmbedwireEmbeddings, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """Sixteen threads, sync and with loops of their own, each get the vectors of their own texts."""

        def work(number: int) -> tuple[list[str], list[list[float]]]:
            mine = sentences[number:] + sentences[:number]
            if number % 2:
                return mine, embeddings.embed_documents(mine)
            return mine, asyncio.run(embeddings.aembed_documents(mine))

        with ThreadPoolExecutor(16) as threads:
            for texts, rows in threads.map(work, range(16)):
                truth.check(rows, llama, texts)

    async def test_many_tasks(
        self, embeddings: EmbedwireEmbeddings, llama: str, sentences: list[str], truth: Truth
    ) -> None:
        """Calls made at the same time, queries among them, each get their own vectors."""
        batches, queries = await asyncio.gather(
            asyncio.gather(*(embeddings.aembed_documents(sentences[at::3]) for at in range(3))),
            asyncio.gather(*(embeddings.aembed_query(text) for text in sentences)),
        )
        truth.check(queries, llama, sentences)
        for at in range(3):
            truth.check(batches[at], llama, sentences[at::3])


def dumped(embeddings: EmbedwireEmbeddings) -> EmbedwireEmbeddings:
    """Through the dump that pydantic makes; it has no secrets."""
    return EmbedwireEmbeddings(**embeddings.model_dump())


def json_dumped(embeddings: EmbedwireEmbeddings) -> EmbedwireEmbeddings:
    """Through JSON."""
    return EmbedwireEmbeddings.model_validate_json(embeddings.model_dump_json())


class TestCopies:
    """Copies behave as the original would."""

    @pytest.mark.parametrize(
        "copied", [pickled, copy.copy, copy.deepcopy, EmbedwireEmbeddings.model_copy, dumped, json_dumped]
    )
    def test_keeps_every_setting_and_works(
        self,
        llama: str,
        sentences: list[str],
        truth: Truth,
        copied: Callable[[EmbedwireEmbeddings], EmbedwireEmbeddings],
    ) -> None:
        """A copy, made before or after first use, has the same settings and gives the same vectors."""
        original = EmbedwireEmbeddings(
            base_url=llama,
            model="minilm",
            batch_size=BatchLimits(texts=3, chars=500),
            concurrency=2,
            timeout=Timeouts(total=30, connect=3, sock_read=20),
            deadline=60,
            max_retries=RetryPolicy(attempts=2, base=0.5),
            dimensions=384,
            normalize=True,
            prompts=Prompts(query="q: ", document="d: "),
            encoding="base64",
            max_queued=1000,
            rate_limit=RateLimit(requests=1000, chars=100_000),
            max_reply_bytes=10_000_000,
        )
        with closing(original):
            for _ in range(2):
                twin = copied(original)
                assert twin._client == original._client
                truth.check(
                    twin.embed_documents(sentences[:5]), llama, [f"d: {text}" for text in sentences[:5]]
                )
                truth.check([original.embed_query("where")], llama, ["q: where"])

    def test_model_copy_with_an_update(self, llama: str, truth: Truth) -> None:
        """A copy with another setting follows it, and the original keeps its own."""
        with closing(EmbedwireEmbeddings(base_url=llama, prompts=Prompts(query="q: "))) as original:
            with closing(original.model_copy(update={"prompts": Prompts(query="other: ")})) as changed:
                truth.check([changed.embed_query("where")], llama, ["other: where"])
            truth.check([original.embed_query("where")], llama, ["q: where"])

    def test_equal_settings_are_equal(self) -> None:
        """Two objects of the same arguments are equal, and so is one that went through a pickle."""
        one, two = (EmbedwireEmbeddings(base_url=NOBODY, prompts="e5") for _ in range(2))
        assert one == two == pickled(one)
        assert one != EmbedwireEmbeddings(base_url=NOBODY)

    def test_pickle_carries_an_explicit_key_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key that was passed goes through a pickle, one of the environment does not."""
        key = pickled(EmbedwireEmbeddings(base_url=NOBODY, api_key=KEY)).api_key
        assert isinstance(key, SecretStr)
        assert key.get_secret_value() == KEY
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
        assert KEY.encode() not in pickle.dumps(EmbedwireEmbeddings(base_url=NOBODY))


class TestArguments:
    """What is wrong is said at once, by name; what is secret stays so."""

    @pytest.mark.parametrize("way", ["embed_documents", "aembed_documents"])
    async def test_no_texts_no_request(self, way: str) -> None:
        """`[]` gives `[]`, even where no server is."""
        with closing(EmbedwireEmbeddings(base_url=f"http://127.0.0.1:{free_port()}")) as embeddings:
            assert await result_of(getattr(embeddings, way)([])) == []

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("base_url", ""),
            ("base_url", None),
            ("base_url", "localhost:8080"),
            ("base_url", "http://user:word@localhost:8080"),
            ("model", ""),
            ("model", 5),
            ("api_key", f"{KEY}\n"),
            ("api_key", ""),
            ("api_key", 5),
            ("batch_size", 0),
            ("batch_size", "5"),
            ("batch_size", True),
            ("concurrency", -1),
            ("concurrency", 2.5),
            ("timeout", 0),
            ("timeout", "60"),
            ("timeout", float("nan")),
            ("deadline", -1),
            ("max_retries", -1),
            ("max_retries", 1.5),
            ("dimensions", 0),
            ("dimensions", "384"),
            ("normalize", 1),
            ("prompts", "no such family"),
            ("prompts", ("q", "d")),
            ("encoding", "hex"),
            ("headers", {"X": "a\nb"}),
            ("headers", "X: a"),
            ("ssl", 5),
            ("proxy", "proxy:3128"),
            ("trust_env", "yes"),
            ("max_queued", 0),
            ("rate_limit", 0),
            ("max_reply_bytes", None),
            ("batchsize", 5),
            ("openai_api_key", KEY),
        ],
    )
    def test_wrong_arguments(self, argument: str, value: object) -> None:
        """A wrong value or an unknown keyword is a ValidationError that names it and never shows a key."""
        arguments: dict[str, Any] = {"base_url": NOBODY, "api_key": KEY, "headers": {"X": KEY}}
        with pytest.raises(ValidationError, match=rf"\b{argument}\b") as failure:
            EmbedwireEmbeddings(**{**arguments, argument: value})
        assert KEY not in str(failure.value)
        assert KEY not in repr(failure.value)

    @pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"api_key": f"{KEY}\n"}, {"batchsize": 5}])
    def test_wrong_arguments_as_data(self, wrong: dict[str, Any]) -> None:
        """What a web framework makes of a ValidationError shows no key either."""
        arguments: dict[str, Any] = {"base_url": NOBODY, "api_key": KEY, "headers": {"X": KEY}, **wrong}
        with pytest.raises(ValidationError) as failure:
            EmbedwireEmbeddings(**arguments)
        assert KEY not in str(failure.value.errors())
        assert KEY not in failure.value.json()

    @pytest.mark.parametrize("field", sorted(EmbedwireEmbeddings.model_fields))
    def test_fields_are_frozen(self, field: str) -> None:
        """A setting that would not be followed any more cannot be changed."""
        embeddings = EmbedwireEmbeddings(base_url=NOBODY)
        with pytest.raises(ValidationError, match="frozen"):
            setattr(embeddings, field, None)

    def test_the_key_is_nowhere_to_be_seen(self) -> None:
        """No repr, str, dump or JSON has the key, or what else may hold one."""
        embeddings = EmbedwireEmbeddings(
            base_url=NOBODY, api_key=KEY, headers={"X-Key": KEY}, proxy=f"http://user:{KEY}@proxy:3128"
        )
        for shown in (
            repr(embeddings),
            str(embeddings),
            repr(embeddings.api_key),
            repr(embeddings._client),
            repr(embeddings._client.__reduce__()),
            repr(embeddings.model_dump()),
            embeddings.model_dump_json(),
            repr(list(embeddings.__repr_args__())),
        ):
            assert KEY not in shown

    def test_a_closed_object_says_so(self, embeddings: EmbedwireEmbeddings) -> None:
        """After `close`, which may come twice, a call is an error that says the cure."""
        embeddings.close()
        embeddings.close()
        with pytest.raises(UsageError, match="closed; make a new one"):
            embeddings.embed_query("too late")


def test_says_what_to_install() -> None:
    """Without langchain-core the import fails with one sentence that has the pip command."""
    last = last_words_without("langchain_core", "embedwire.langchain")
    assert last.endswith(
        'embedwire.langchain needs langchain-core: install embedwire with its extra "langchain"'
    )
