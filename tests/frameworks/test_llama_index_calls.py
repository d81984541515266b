"""`EmbedwireEmbedding` through every door of LlamaIndex's, and the events of it, against a real llama.cpp server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.events.span import SpanDropEvent
from pydantic import Field

from embedwire import ConnectionFailed, Prompts, TextRefused
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import EmbeddingServer, vector
from tests.frameworks.both import KEY, result_of
from tests.servers import free_port

if TYPE_CHECKING:
    from tests.servers.fixtures import Truth

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

    async def test_each_batch_in_a_step_of_its_own(
        self, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No step of the caller's loop tells of more than one batch: each number of a batch is looked at for that."""
        steps: list[int] = []
        run, here = asyncio.Handle._run, threading.get_ident()

        def told() -> int:
            return sum(isinstance(event, EmbeddingEndEvent) for event in recorder.events)

        def counted(handle: asyncio.Handle) -> None:
            before = told()
            run(handle)
            if threading.get_ident() == here:
                steps.append(told() - before)

        texts = [f"text {number}" for number in range(40)]
        with (
            EmbeddingServer() as server,
            closing(EmbedwireEmbedding(server.url, embed_batch_size=8)) as model,
        ):
            monkeypatch.setattr(asyncio.Handle, "_run", counted)
            vectors = await model.aget_text_embedding_batch(texts)
        assert vectors == [vector(text, 8) for text in texts]
        assert max(steps) == 1
        assert sum(steps) == 5

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
