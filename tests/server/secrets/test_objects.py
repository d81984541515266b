"""Nothing that a debugger, a tracer or a dump looks at shows a secret."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import pickle
from types import CoroutineType
from typing import Any

import pytest
from langchain_core.load import dumps
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index_instrumentation import get_dispatcher
from pydantic import Field

from embedwire import EmbeddingClient
from embedwire.events import CallFinished, Event, RequestFinished, RequestRepeated
from embedwire.testing import EmbeddingServer
from tests.server.secrets.marked import (
    ASYNC_DOORS,
    DOORS,
    KEY,
    KINDS,
    RETRIES,
    SYNC_DOORS,
    Make,
    call,
    failing,
    knock,
    leaks,
    refusal,
    secrets_in,
)


def _module(thing: object) -> str:
    return str(type(thing).__module__)


def shown_by_objects() -> set[str]:
    """The classes of embedwire's, asyncio's and Python's own objects that show a secret now."""
    kinds = (asyncio.Future, asyncio.Handle, concurrent.futures.Future, CoroutineType)
    return {
        type(thing).__qualname__
        for thing in gc.get_objects()
        if isinstance(thing, kinds)
        or (_module(thing).startswith("embedwire") and not _module(thing).startswith("embedwire.testing"))
        if secrets_in(repr(thing))
    }


class Recorder(BaseEventHandler):
    """Keeps the events of LlamaIndex's instrumentation."""

    events: list[BaseEvent] = Field(default_factory=list)

    def handle(self, event: BaseEvent, **_: Any) -> None:
        """Keep it."""
        self.events.append(event)


class TestObjects:
    """Nothing that a debugger, a tracer or a dump looks at shows a secret."""

    @pytest.mark.usefixtures("all_steps_are_logged")
    async def test_show_nothing_under_way(self, make: Make, server: EmbeddingServer) -> None:
        """While calls wait at every door, no repr of a client, a record of the queue, a task or a future tells."""
        with server.hold():
            calls = [knock(make(door), door) for door in ASYNC_DOORS]
            calls += [asyncio.to_thread(lambda d=door: list(call(make(d), d))) for door in SYNC_DOORS]  # type: ignore[misc]
            under_way = asyncio.gather(*calls)
            await server.wait_for(lambda: server.in_flight >= 4)
            assert shown_by_objects() == set()
        await under_way
        assert shown_by_objects() == set()

    async def test_show_nothing_in_a_pause(self, make: Make, server: EmbeddingServer) -> None:
        """Between two attempts, after a reply that repeats all, nothing that waits shows it."""
        paused, logger = asyncio.Event(), logging.getLogger("embedwire")
        server.script = refusal(503, headers={"Retry-After": "30"})
        door = "EmbeddingClient.embed"

        def notice(record: logging.LogRecord) -> bool:
            if "sending again" in record.msg:
                paused.set()
            return True

        logger.addFilter(notice)
        under_way = asyncio.ensure_future(knock(make(door, max_retries=2), door))
        await paused.wait()
        logger.removeFilter(notice)
        assert shown_by_objects() == set()
        under_way.cancel()
        await asyncio.gather(under_way, return_exceptions=True)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_show_nothing_in_events(self, kind: str, make: Make, server: EmbeddingServer) -> None:
        """No event of a call that goes well, is sent again, or fails has a secret, although the server repeats all."""
        told: list[Event] = []
        door = next(door for door in DOORS if door.startswith(f"{kind}."))
        client = make(door, on_event=told.append, **RETRIES)
        await knock(client, door)
        for status in (400, 413, 500):
            server.script = refusal(status, "input is too large")
            await failing(client, door)
        await (client.close() if isinstance(client, EmbeddingClient) else client.aclose())
        kinds = {type(event) for event in told}
        assert {CallFinished, RequestFinished, RequestRepeated} <= kinds
        assert secrets_in(repr(told)) == []

    @pytest.mark.parametrize("kind", ["EmbedwireEmbeddings", "EmbedwireEmbedding"])
    async def test_show_nothing_in_dumps(self, kind: str, make: Make) -> None:
        """No dump that a framework makes of an adapter, used before, has a secret."""
        door = next(door for door in DOORS if door.startswith(f"{kind}."))
        client = make(door, proxy=None)
        await knock(client, door)
        shown = [repr(client), str(client), f"{client}", dumps(client), dumps({"embeddings": [client]})]
        shown += [repr(client.model_dump(mode=mode)) for mode in ("python", "json")]
        shown += [client.model_dump_json(), repr(list(client.__repr_args__()))]
        shown += [repr(client.model_dump(include={"api_key", "headers", "proxy"}))]
        for name in ("to_dict", "to_json", "to_payload"):
            if hasattr(client, name):
                shown.append(repr(getattr(client, name)()))
        assert secrets_in("".join(shown)) == []

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "EmbeddingClient"])
    async def test_take_no_key_of_the_environment_along(
        self, kind: str, make: Make, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A pickle of a client that was used with the environment's key is without it."""
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
        door = next(door for door in DOORS if door.startswith(f"{kind}."))
        client = make(door, base_url=server.url, api_key=None, headers=None)
        await knock(client, door)
        assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
        assert secrets_in(pickle.dumps(client).decode("latin-1")) == []

    @pytest.mark.parametrize("door", [door for door in DOORS if door.startswith("EmbedwireEmbedding.")])
    @pytest.mark.parametrize("status", [None, 401])
    async def test_show_no_key_to_a_tracer(
        self, status: int | None, door: str, make: Make, server: EmbeddingServer
    ) -> None:
        """LlamaIndex's events, spans and callbacks have its texts, as always, and neither key nor header."""
        server.script = None if status is None else refusal(status)
        recorder, spans, dispatcher = Recorder(), SimpleSpanHandler(), get_dispatcher()
        before = list(dispatcher.event_handlers), list(dispatcher.span_handlers)
        dispatcher.add_event_handler(recorder)
        dispatcher.add_span_handler(spans)
        debug = LlamaDebugHandler(print_trace_on_end=False)
        client = make(door, callback_manager=CallbackManager([debug]))
        if status is None:
            await knock(client, door)
        else:
            assert leaks(await failing(client, door)) == []
        dispatcher.event_handlers, dispatcher.span_handlers = before
        shown = [repr(event) + str(event) + repr(event.model_dump()) for event in recorder.events]
        shown += [repr(span) for span in (*spans.completed_spans, *spans.dropped_spans)]
        shown += [repr(event.payload) for event in debug.get_events()]
        assert len(shown) > 3
        assert secrets_in("".join(shown), texts=False) == []
        assert secrets_in("".join(str(getattr(event, "err_str", "")) for event in recorder.events)) == []
