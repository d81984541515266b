"""`embedwire.telemetry`: spans and metrics by OpenTelemetry's conventions, as its SDK exports them."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from embedwire import RequestError, RetryPolicy, SharedEmbeddingClient
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.testing import Answer, EmbeddingServer, Gate, Request
from tests.helpers import numbered, pickled, right
from tests.server.doors import Open, own, shared
from tests.server.fleet import client_of, fleet

sdk = pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry import baggage, context, trace  # noqa: E402
from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402

from embedwire.telemetry import DURATION_BUCKETS, TOKEN_BUCKETS, OpenTelemetry  # noqa: E402

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[13]")


@dataclass
class Telemetry:
    """What was exported, and the hook that made it."""

    hook: OpenTelemetry
    tracer: trace.Tracer
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    @property
    def spans(self) -> list[ReadableSpan]:
        """In the order in which they ended."""
        return list(self.exporter.get_finished_spans())

    def named(self, start: str) -> list[ReadableSpan]:
        """The spans whose names begin so."""
        return [span for span in self.spans if span.name.startswith(start)]

    @property
    def calls(self) -> list[ReadableSpan]:
        """Those of calls."""
        return self.named("embeddings")

    @property
    def requests(self) -> list[ReadableSpan]:
        """Those of requests."""
        return self.named("POST")

    def points(self, name: str) -> list[Any]:
        """The data of a metric."""
        data = self.reader.get_metrics_data()
        metrics = [
            metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Spans and metrics in memory."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    traces, meters = TracerProvider(shutdown_on_exit=False), MeterProvider([reader], shutdown_on_exit=False)
    traces.add_span_processor(SimpleSpanProcessor(exporter))
    hook = OpenTelemetry(tracer_provider=traces, meter_provider=meters)
    yield Telemetry(hook, traces.get_tracer("test"), exporter, reader)
    traces.shutdown()
    meters.shutdown()


def too_long(request: Request) -> Answer | None:
    """A server that takes no text of more than 500 characters."""
    most = max(map(len, request.texts), default=0)
    return Answer.too_large(most, 500) if most > 500 else None


def address(server: EmbeddingServer) -> dict[str, Any]:
    """What a span says of where it went."""
    port = int(server.url.rpartition(":")[2])
    return {"server.address": "127.0.0.1", "server.port": port}


class TestSpans:
    """A span for each call, and one for each request under it."""

    async def test_by_each_door(
        self, open_doors: Open, server: EmbeddingServer, telemetry: Telemetry
    ) -> None:
        """Names, kinds and attributes are the conventions'; the caller's span is the parent, over threads and loops."""
        doors = open_doors(on_event=telemetry.hook, dimensions=8)
        with telemetry.tracer.start_as_current_span("a caller") as caller:
            await doors.embed(["one", "two words"])
        await doors.close()
        (call,), (request,) = telemetry.calls, telemetry.requests
        assert call.name == "embeddings m"
        assert call.kind is request.kind is SpanKind.CLIENT
        assert call.attributes == {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "m",
            "gen_ai.response.model": "m",
            "gen_ai.usage.input_tokens": 7,
            "gen_ai.embeddings.dimension.count": 8,
            **address(server),
            "embedwire.kind": "document",
            "embedwire.texts": 2,
            "embedwire.requests": 1,
            "embedwire.queue.seconds": pytest.approx(0.5, abs=0.5),
        }
        assert request.attributes == {
            "http.request.method": "POST",
            "http.response.status_code": 200,
            **address(server),
            "embedwire.texts": 2,
        }
        assert call.parent is not None
        assert call.parent.span_id == caller.get_span_context().span_id
        assert request.parent is not None
        assert request.parent.span_id == call.context.span_id
        assert {span.context.trace_id for span in telemetry.spans} == {caller.get_span_context().trace_id}
        assert call.status.status_code is request.status.status_code is StatusCode.UNSET
        assert call.links == request.links == ()

    async def test_a_stream(self, open_doors: Open, telemetry: Telemetry) -> None:
        """Each piece of a stream is a span under that of who reads it."""
        doors = open_doors(on_event=telemetry.hook, batch_size=4)
        with telemetry.tracer.start_as_current_span("a caller") as caller:
            await doors.pieces(numbered(10))
        await doors.close()
        assert [span.parent and span.parent.span_id for span in telemetry.calls] == [
            caller.get_span_context().span_id
        ] * 3

    @pytest.mark.parametrize("how", ["truncate", "average"])
    async def test_long_texts(self, how: str, here: EmbeddingServer, telemetry: Telemetry) -> None:
        """A call whose texts are cut or divided is one span, and all its requests are under it."""
        here.script = too_long
        async with own(here, too_long=how, on_event=telemetry.hook) as client:
            await client.embed(["long " * 200])
        (call,) = telemetry.calls
        assert len(telemetry.requests) == len(here.requests) > 1
        assert {span.parent and span.parent.span_id for span in telemetry.requests} == {call.context.span_id}
        assert call.status.status_code is StatusCode.UNSET

    async def test_times(self, server: EmbeddingServer, telemetry: Telemetry) -> None:
        """Spans have the times at which things happened, however late the hook hears of them."""
        client = shared(server, on_event=[telemetry.hook])
        with telemetry.tracer.start_as_current_span("a caller"):
            await client.aembed(["a"])
        await client.aclose()
        (call,), (request,), (caller,) = telemetry.calls, telemetry.requests, telemetry.named("a caller")
        times = [span.start_time for span in (caller, call, request)]
        times += [span.end_time for span in (request, call, caller)]
        assert times == sorted(times)  # type: ignore[type-var]

    async def test_without_a_caller(self, here: EmbeddingServer, telemetry: Telemetry) -> None:
        """Where no span is current, the call's is the first of its trace."""
        async with own(here, on_event=telemetry.hook) as client:
            await client.embed_query("a")
        assert telemetry.calls[0].parent is None
        assert telemetry.calls[0].attributes is not None
        assert telemetry.calls[0].attributes["embedwire.kind"] == "query"

    async def test_without_a_name(self, here: EmbeddingServer, telemetry: Telemetry) -> None:
        """Where the user named no model, the call has the name of the one that is served, once that is known."""
        async with own(here, model=None, on_event=telemetry.hook) as client:
            await client.embed(["a"])
        assert telemetry.calls[0].name == "embeddings test-model"

    async def test_a_failure(self, here: EmbeddingServer, telemetry: Telemetry) -> None:
        """A request has its status as `error.type`, the call the class of its exception; both are errors."""
        here.script = lambda request: Answer.error(401, "no key")
        async with own(here, on_event=telemetry.hook) as client:
            with pytest.raises(RequestError):
                await client.embed(["a"])
        (call,), (request,) = telemetry.calls, telemetry.requests
        assert call.attributes is not None
        assert request.attributes is not None
        assert call.attributes["error.type"] == "AuthenticationFailed"
        assert request.attributes["error.type"] == "401"
        assert request.attributes["http.response.status_code"] == 401
        assert call.status.status_code is request.status.status_code is StatusCode.ERROR

    async def test_a_repeat(self, here: EmbeddingServer, telemetry: Telemetry) -> None:
        """Each attempt has a span of its own under the call, which went well."""
        here.answer(Answer.error(500, "no"))
        async with own(here, max_retries=RetryPolicy(base=0), on_event=telemetry.hook) as client:
            await client.embed(["a"])
        (call,), (first, second) = telemetry.calls, telemetry.requests
        assert call.status.status_code is StatusCode.UNSET
        assert first.attributes is not None
        assert second.attributes is not None
        assert first.attributes["error.type"] == "500"
        assert second.attributes["http.request.resend_count"] == 1
        assert {span.parent.span_id for span in (first, second)} == {call.context.span_id}  # type: ignore[union-attr]

    async def test_a_caller_that_leaves(self, server: EmbeddingServer, telemetry: Telemetry) -> None:
        """Its spans end, as cancelled, and are no errors."""
        async with own(server, on_event=telemetry.hook) as client:
            with server.hold():
                task = asyncio.ensure_future(client.embed(["a"]))
                await server.wait_for(lambda: server.in_flight == 1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        for span in (*telemetry.calls, *telemetry.requests):
            assert span.attributes is not None
            assert span.attributes["error.type"] == "cancelled"
            assert span.status.status_code is StatusCode.UNSET
        assert len(telemetry.spans) == 2

    async def test_of_several_servers(self, telemetry: Telemetry) -> None:
        """A call to several servers names none, its requests the one that they went to."""
        async with fleet(2) as servers, client_of(servers, on_event=telemetry.hook) as client:
            await client.embed(["a"])
        (call,), (request,) = telemetry.calls, telemetry.requests
        assert call.attributes is not None
        assert request.attributes is not None
        assert "server.address" not in call.attributes
        assert request.attributes["server.address"] == "127.0.0.1"

    async def test_no_text(self, here: EmbeddingServer, telemetry: Telemetry) -> None:
        """Nothing that is exported has a text or a key in it."""
        secret, key = "The patient is called Kim", "sk-never-to-be-seen"
        here.answer(Answer.error(500, f"{secret} {key}"))
        async with own(here, api_key=key, max_retries=RetryPolicy(base=0), on_event=telemetry.hook) as client:
            await client.embed([secret])
        exported = "".join(span.to_json() for span in telemetry.spans)
        assert exported
        assert secret not in exported
        assert key not in exported


class TestSharedRequests:
    """Callers share requests."""

    async def test_a_link_to_each(self, server: EmbeddingServer, telemetry: Telemetry) -> None:
        """A request with texts of several callers is under the first one's call, and has a link to each."""
        client = shared(server, concurrency=1, on_event=telemetry.hook)
        gate = Gate()
        server.answer(Answer.hold(gate))
        plug = asyncio.ensure_future(client.aembed_query("plug"))
        await server.wait_for(lambda: server.in_flight == 1)

        async def caller(name: str) -> None:
            with telemetry.tracer.start_as_current_span(name):
                await client.aembed_query(name)

        callers = [asyncio.ensure_future(caller(name)) for name in ("one", "two", "three")]
        await asyncio.sleep(0.05)
        gate.open()
        await asyncio.gather(plug, *callers)
        await client.aclose()
        calls = {span.context.span_id: span for span in telemetry.calls}
        traces = {span.context.trace_id for name in ("one", "two", "three") for span in telemetry.named(name)}
        (together,) = [span for span in telemetry.requests if span.links]
        assert {link.context.trace_id for link in together.links} == traces
        assert {link.context.span_id for link in together.links} <= calls.keys()
        assert together.parent is not None
        assert together.parent.span_id in {link.context.span_id for link in together.links}

    async def test_who_joins_late(self, server: EmbeddingServer, telemetry: Telemetry) -> None:
        """A call for a text that is on its way has its link, too."""
        client = shared(server, on_event=telemetry.hook)
        with server.hold():
            calls = [asyncio.ensure_future(client.aembed(["a"]))]
            await server.wait_for(lambda: server.in_flight == 1)
            calls.append(asyncio.ensure_future(client.aembed(["a"])))
            await asyncio.sleep(0.05)
        await asyncio.gather(*calls)
        await client.aclose()
        (request,) = telemetry.requests
        assert {link.context.span_id for link in request.links} == {
            span.context.span_id for span in telemetry.calls
        }

    async def test_equal_hooks_are_one(self, server: EmbeddingServer, telemetry: Telemetry) -> None:
        """Clients with a hook each that has the same arguments make one span of a shared request."""
        provider, meters, name = telemetry.hook._arguments
        twin = OpenTelemetry(tracer_provider=provider, meter_provider=meters, provider=name)
        assert twin == telemetry.hook
        first, second = shared(server, on_event=telemetry.hook), shared(server, on_event=twin)
        with server.hold():
            calls = [asyncio.ensure_future(first.aembed(["a"])), asyncio.ensure_future(second.aembed(["a"]))]
            await server.wait_for(lambda: server.in_flight == 1)
            await asyncio.sleep(0.05)
        await asyncio.gather(*calls)
        await asyncio.gather(first.aclose(), second.aclose())
        assert len(telemetry.requests) == 1
        assert len(telemetry.calls) == 2


class TestTraceparent:
    """The server is told which span a request belongs to."""

    async def test_arrives(self, open_doors: Open, server: EmbeddingServer, telemetry: Telemetry) -> None:
        """Each request names its own span; other headers and baggage are not touched."""
        doors = open_doors(on_event=telemetry.hook, api_key="key", headers={"X-Own": "mine"})
        token = context.attach(baggage.set_baggage("user", "secret"))
        with telemetry.tracer.start_as_current_span("a caller"):
            await doors.embed(["a"])
        context.detach(token)
        await doors.close()
        (sent,), (span,) = server.requests, telemetry.requests
        match = TRACEPARENT.fullmatch(sent.headers["traceparent"])
        assert match is not None
        assert (int(match[1], 16), int(match[2], 16)) == (span.context.trace_id, span.context.span_id)
        assert sent.headers["authorization"] == "Bearer key"
        assert sent.headers["x-own"] == "mine"
        assert "baggage" not in sent.headers

    async def test_is_the_users_where_he_sets_it(self, here: EmbeddingServer, telemetry: Telemetry) -> None:
        """A header that the user set is sent as it is."""
        async with own(here, headers={"TraceParent": "mine"}, on_event=telemetry.hook) as client:
            await client.embed(["a"])
        assert here.requests[0].headers["traceparent"] == "mine"

    async def test_is_not_sent_otherwise(self, here: EmbeddingServer, telemetry: Telemetry) -> None:
        """Without the hook nothing is sent, although a span is current."""
        async with own(here, on_event=print) as client:
            with telemetry.tracer.start_as_current_span("a caller"):
                await client.embed(["a"])
        assert "traceparent" not in here.requests[0].headers

    async def test_shares_connections(self, server: EmbeddingServer, telemetry: Telemetry) -> None:
        """A client that traces uses the connections of one that does not."""
        plain, traced = shared(server), shared(server, on_event=telemetry.hook)
        await plain.aembed(["a"])
        await traced.aembed(["b"])
        await asyncio.gather(plain.aclose(), traced.aclose())
        assert {request.connection for request in server.requests} == {1}


class TestMetrics:
    """What is counted."""

    async def test_of_calls(self, server: EmbeddingServer, telemetry: Telemetry) -> None:
        """Duration and tokens of each call, with the conventions' buckets and attributes."""
        client = shared(server, on_event=telemetry.hook)
        for number in range(3):
            await client.aembed([f"text {number}"])
        server.answer(Answer.error(401, "no"))
        with pytest.raises(RequestError):
            await client.aembed(["b"])
        await client.aclose()
        about = {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "m",
            **address(server),
        }
        good, bad = sorted(
            telemetry.points("gen_ai.client.operation.duration"), key=lambda point: -point.count
        )
        assert (good.count, dict(good.attributes)) == (3, about | {"gen_ai.response.model": "m"})
        assert good.explicit_bounds == DURATION_BUCKETS == tuple(0.01 * 2**power for power in range(14))
        assert (bad.count, dict(bad.attributes)) == (1, about | {"error.type": "AuthenticationFailed"})
        (tokens,) = telemetry.points("gen_ai.client.token.usage")
        assert (tokens.count, tokens.sum) == (3, 12)
        assert tokens.explicit_bounds == TOKEN_BUCKETS
        assert TOKEN_BUCKETS[:3] == (1, 4, 16)
        assert TOKEN_BUCKETS[-1] == 67108864
        assert dict(tokens.attributes) == about | {
            "gen_ai.response.model": "m",
            "gen_ai.token.type": "input",
        }
        (queue,) = telemetry.points("embedwire.client.queue.duration")
        assert (queue.count, dict(queue.attributes)) == (4, about)

    async def test_of_requests(self, here: EmbeddingServer, telemetry: Telemetry) -> None:
        """How many are in flight, and how many were sent again, by why."""
        here.answer(Answer.error(500, "no"))
        async with own(here, max_retries=RetryPolicy(base=0), on_event=telemetry.hook) as client:
            await client.embed(numbered(12))
        (flight,) = telemetry.points("embedwire.client.requests.in_flight")
        assert (flight.value, dict(flight.attributes)) == (0, address(here))
        (repeats,) = telemetry.points("embedwire.client.repeats")
        assert (repeats.value, dict(repeats.attributes)) == (1, address(here) | {"error.type": "500"})


class TestEverywhere:
    """Adapters, pickles, forks, and where the extra is not installed."""

    async def test_langchain(self, server: EmbeddingServer, telemetry: Telemetry) -> None:
        """An adapter's calls are spans under that of the chain that calls it."""
        embeddings = EmbedwireEmbeddings(server.url, model="m", on_event=telemetry.hook)
        with telemetry.tracer.start_as_current_span("a chain") as chain:
            await asyncio.to_thread(embeddings.embed_documents, ["a"])
            await embeddings.aembed_query("b")
        await embeddings.aclose()
        assert {span.parent.span_id for span in telemetry.calls} == {chain.get_span_context().span_id}  # type: ignore[union-attr]
        assert len(telemetry.calls) == 2

    def test_a_pickle(self) -> None:
        """What uses the global providers goes through a pickle."""
        client = SharedEmbeddingClient("http://localhost:8080", on_event=OpenTelemetry())
        assert list(pickled(client)._hooks) == [OpenTelemetry()]

    async def test_without_an_sdk(self, here: EmbeddingServer) -> None:
        """With the API alone nothing is sent along, and nothing fails."""
        async with own(here, on_event=OpenTelemetry()) as client:
            assert right(await client.embed(["a"]), ["a"])
        assert "traceparent" not in here.requests[0].headers

    def test_without_the_extra(self) -> None:
        """Where OpenTelemetry is not installed, the import says which extra brings it; clients need none of it."""
        script = (
            "import sys; sys.modules['opentelemetry'] = None\n"
            "import embedwire, embedwire.events\n"
            "try:\n    import embedwire.telemetry\n"
            "except ModuleNotFoundError as error:\n    print(error)"
        )
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert 'with its extra "otel"' in ran.stdout

    def test_is_not_imported(self) -> None:
        """`import embedwire` loads no OpenTelemetry."""
        script = "import sys, embedwire; print([name for name in sys.modules if 'opentelemetry' in name])"
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == "[]"
