"""`embedwire gateway --otel`: the trace of a client's request is carried on to the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from embedwire.events import CallFinished, Event
from embedwire.testing import EmbeddingServer
from tests.gateway.serving import SECRET, Client, Start, process

sdk = pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402

from embedwire.telemetry import OpenTelemetry  # noqa: E402

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Where spans go."""
    return InMemorySpanExporter()


@pytest.fixture
def hook(exporter: InMemorySpanExporter) -> Iterator[OpenTelemetry]:
    """What makes them."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield OpenTelemetry(tracer_provider=provider)
    provider.shutdown()


async def post(gateway: Client, body: object) -> int:
    """The status of a request in the trace."""
    status, _, _ = await gateway.ask("POST", "/v1/embeddings", json=body, headers=HEADERS)
    return status


async def all_ended(exporter: InMemorySpanExporter, count: int) -> list[ReadableSpan]:
    """The spans, once there are so many."""
    while len(spans := exporter.get_finished_spans()) < count:  # noqa: ASYNC110 - of a thread
        await asyncio.sleep(0.001)
    return list(spans)


async def test_is_carried_on(
    start: Start, server: EmbeddingServer, hook: OpenTelemetry, exporter: InMemorySpanExporter
) -> None:
    """The client's span, the gateway's, its call's, its request's and the header that the server gets are one trace."""
    gateway = await start(server.url, on_event=hook, around=hook.serving)
    assert await post(gateway, {"input": ["a"], "model": "m"}) == 200
    spans = {span.name: span for span in await all_ended(exporter, 3)}
    served, call, request = spans["POST /v1/embeddings"], spans["embeddings m"], spans["POST"]
    assert served.kind is SpanKind.SERVER
    assert served.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
    }
    assert served.parent is not None
    assert f"{served.parent.span_id:016x}" == SPAN
    assert [span.parent and span.parent.span_id for span in (call, request)] == [
        served.context.span_id,
        call.context.span_id,
    ]
    sent = next(one for one in server.requests if one.path == "/v1/embeddings")
    assert sent.headers["traceparent"].split("-")[1:3] == [TRACE, f"{request.context.span_id:016x}"]


async def test_refusals(
    start: Start, server: EmbeddingServer, hook: OpenTelemetry, exporter: InMemorySpanExporter
) -> None:
    """A request that is refused has its status; only what is the gateway's fault is an error, and nothing is shown."""
    gateway = await start(server.url, on_event=hook, around=hook.serving)
    assert await post(gateway, {"input": [SECRET, 5]}) == 400
    (span,) = await all_ended(exporter, 1)
    assert span.attributes is not None
    assert span.attributes["http.response.status_code"] == 400
    assert span.status.status_code is StatusCode.UNSET
    assert SECRET not in span.to_json()


async def test_events(start: Start, server: EmbeddingServer) -> None:
    """Any hook is told of what the gateway has embedded."""
    told: list[Event] = []
    gateway = await start(server.url, on_event=told.append)
    await gateway.vectors(["a", "b"])
    while not (finished := [event for event in told if isinstance(event, CallFinished)]):
        await gateway.ask("GET", "/health")
    assert [event.texts for event in finished] == [2]


async def test_the_command(server: EmbeddingServer) -> None:
    """With the API alone, which makes no spans, the client's header is passed on as it is."""
    with process(server.url, "--otel") as (_, url):
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/embeddings", json={"input": "a"}, headers=HEADERS) as response,
        ):
            assert response.status == 200
    sent = next(one for one in server.requests if one.path == "/v1/embeddings")
    assert sent.headers["traceparent"] == HEADERS["traceparent"]
