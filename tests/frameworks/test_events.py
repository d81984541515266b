"""`on_event=` of both adapters: told as by the client, in no dump, and no part of equality."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.load import dumps
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from pydantic import ValidationError

from embedwire import InputError
from embedwire.events import CallFinished, Event, RequestFinished
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import EmbeddingServer
from tests.frameworks.both import NOBODY, Door, every_door

ADAPTERS = pytest.mark.parametrize("adapter", [EmbedwireEmbeddings, EmbedwireEmbedding])
seen: list[Event] = []


def of_this_module(event: Event) -> None:
    """A hook that a pickle can carry."""
    seen.append(event)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


@every_door
async def test_tells(door: Door, server: EmbeddingServer) -> None:
    """What happens is told, of each adapter as of the client."""
    told: list[Event] = []
    await door(server.url, ["one", "two"], model="m", on_event=told.append)
    (finished,) = [event for event in told if isinstance(event, CallFinished)]
    assert (finished.texts, finished.outcome, finished.model) == (2, "done", "m")
    assert [event.texts for event in told if isinstance(event, RequestFinished)] == [2]


@ADAPTERS
def test_is_in_no_dump(adapter: Any) -> None:
    """Neither dump nor repr shows a hook, and what decides a vector does not depend on it."""
    plain, twin = adapter(NOBODY, model="m"), adapter(NOBODY, model="m")
    hooked = adapter(NOBODY, model="m", on_event=of_this_module)
    assert (plain == hooked) is (plain == twin)  # LlamaIndex's never are
    assert plain._client == hooked._client
    assert plain.model_dump() == hooked.model_dump()
    assert plain.model_dump_json() == hooked.model_dump_json()
    assert "on_event" not in repr(hooked) + str(hooked.model_dump(include={"on_event", "model"}))
    assert "of_this_module" not in repr(hooked) + dumps(hooked)
    if isinstance(hooked, EmbedwireEmbedding):
        assert hooked.to_dict() == plain.to_dict()
    else:
        assert hooked.cache_namespace == plain.cache_namespace


@ADAPTERS
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda one: one.model_copy(deep=True)])
def test_copies_share_hooks(adapter: Any, again: Any, server: EmbeddingServer) -> None:
    """A copy tells the same hook, whatever it is."""
    told: list[Event] = []
    twin = again(adapter(server.url, model="m", on_event=told.append))
    twin._client.embed(["a"])
    twin.close()
    assert [event.texts for event in told if isinstance(event, CallFinished)] == [1]


@ADAPTERS
def test_a_pickle(adapter: Any, server: EmbeddingServer) -> None:
    """A function of a module goes along; with a lambda it says what to do."""
    seen.clear()
    twin = pickle.loads(pickle.dumps(adapter(server.url, model="m", on_event=of_this_module)))
    twin._client.embed(["a"])
    twin.close()
    assert any(isinstance(event, CallFinished) for event in seen)
    with pytest.raises(InputError, match="on_event cannot be pickled"):
        pickle.dumps(adapter(NOBODY, on_event=lambda _: None))


@ADAPTERS
def test_something_else(adapter: Any) -> None:
    """What is no function is refused, by name."""
    with pytest.raises((ValidationError, InputError), match="on_event must be a function"):
        adapter(NOBODY, on_event="print")


def test_llama_index_tells_its_own(server: EmbeddingServer) -> None:
    """LlamaIndex's events are what they are without a hook."""
    counts = []
    for hook in (None, of_this_module):
        handler = LlamaDebugHandler(print_trace_on_end=False)
        model = EmbedwireEmbedding(server.url, callback_manager=CallbackManager([handler]), on_event=hook)
        model.get_text_embedding_batch(["one", "two"])
        model.close()
        counts.append(len(handler.get_event_pairs(CBEventType.EMBEDDING)))
    assert counts == [1, 1]
