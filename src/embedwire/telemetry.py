"""OpenTelemetry: spans and metrics of calls and requests, named by its conventions for generative AI.

    from embedwire.telemetry import OpenTelemetry

    embeddings = EmbedwireEmbeddings("http://localhost:8080", on_event=OpenTelemetry())

It needs OpenTelemetry's API (embedwire's extra ``otel``); where the spans and metrics go is set up with its SDK, as for
any other library. No text is in a span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

try:
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.context import Context
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        'embedwire.telemetry needs opentelemetry-api: install embedwire with its extra "otel"',
        name=missing.name,
    ) from None

from embedwire._events.audience import Tracer
from embedwire._version import __version__
from embedwire.events import (
    CallFinished,
    CallStarted,
    Event,
    RequestFinished,
    RequestRepeated,
    RequestStarted,
)

__all__ = ["OpenTelemetry"]

# All names: https://github.com/open-telemetry/semantic-conventions-genai (in development), the stable ones of HTTP and
# servers, and those of this package, for which there is no convention.
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - of what a model counts
DIMENSIONS = "gen_ai.embeddings.dimension.count"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
METHOD = "http.request.method"
STATUS = "http.response.status_code"
ROUTE = "http.route"
RESEND_COUNT = "http.request.resend_count"
KIND = "embedwire.kind"
TEXTS = "embedwire.texts"
REQUESTS = "embedwire.requests"
QUEUED = "embedwire.queue.seconds"

EMBEDDINGS = "embeddings"
CANCELLED = "cancelled"

DURATION = "gen_ai.client.operation.duration"
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105 - of what a model counts
TOKEN_BUCKETS = tuple(4**power for power in range(14))
QUEUE_DURATION = "embedwire.client.queue.duration"
IN_FLIGHT = "embedwire.client.requests.in_flight"
REPEATS = "embedwire.client.repeats"

MOST = 100_000  # spans that are kept until they end; older ones are let go of
_PORTS = {"http": 80, "https": 443}
T = TypeVar("T")


class OpenTelemetry(Tracer):
    """A hook for ``on_event=`` that makes spans and metrics of what happens.

    Each call is a span ``embeddings {model}``, a child of the span that was current where it was called from, in any
    thread and on any loop. Each request is a span ``POST`` under that of the call; one that carries texts of several
    calls has a link to each of them. Requests carry the W3C ``traceparent`` header.

    Spans end in the hook's own thread, with the times at which things happened. Two with equal arguments are equal.

    Its state is the spans that have not ended.

    Args:
        tracer_provider: Where spans go. Default: the global one.
        meter_provider: Where metrics go. Default: the global one.
        provider: ``gen_ai.provider.name``: whose API the servers speak. Default: ``"openai"``.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        provider: str = "openai",
    ) -> None:
        self._arguments = tracer_provider, meter_provider, provider
        self._provider = provider
        self._tracer = trace.get_tracer("embedwire", __version__, tracer_provider)
        self._instruments = _Instruments(metrics.get_meter("embedwire", __version__, meter_provider))
        self._calls: dict[int, trace.Span] = {}
        self._requests: dict[int, tuple[trace.Span, tuple[int, ...]]] = {}  # with the calls in it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OpenTelemetry) and self._arguments == other._arguments

    def __hash__(self) -> int:
        return hash(self._arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, self._arguments

    def begins(self, event: CallStarted | RequestStarted) -> Mapping[str, str]:
        """Starts the span of a call, or of a request; what that sends along."""
        if isinstance(event, CallStarted):
            self._begin_call(event)
            return {}
        return self._begin_request(event)

    def __call__(self, event: Event) -> None:
        """Ends spans, and counts."""
        if isinstance(event, CallFinished):
            self._end_call(event)
        elif isinstance(event, RequestStarted):
            self._instruments.in_flight.add(1, _server(event.server))
        elif isinstance(event, RequestFinished):
            self._instruments.in_flight.add(-1, _server(event.server))
            self._end_request(event)
        elif isinstance(event, RequestRepeated):
            self._instruments.repeats.add(1, {**_server(event.server), ERROR_TYPE: _error(event)})

    @contextmanager
    def serving(self, route: str, headers: Mapping[str, str]) -> Iterator[Callable[[int], None]]:
        """A request that is served: its span, in the trace that its headers name, is the current one meanwhile.

        Args:
            route: Where it came in.
            headers: Of it.

        Yields:
            What to call with the status of the reply.
        """
        with self._tracer.start_as_current_span(
            f"POST {route}",
            context=propagate.extract(headers),
            kind=trace.SpanKind.SERVER,
            attributes={METHOD: "POST", ROUTE: route},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            def answered(status: int) -> None:
                span.set_attribute(STATUS, status)
                if status >= 500:
                    span.set_status(trace.Status(trace.StatusCode.ERROR))

            yield answered

    def _begin_call(self, event: CallStarted) -> None:
        attributes = self._operation(event) | {KIND: event.kind, TEXTS: event.texts}
        if event.dimensions is not None:
            attributes[DIMENSIONS] = event.dimensions
        span = self._tracer.start_span(
            _name(event.model),
            kind=trace.SpanKind.CLIENT,
            attributes=attributes,
            start_time=_nanoseconds(event),
        )
        _keep(self._calls, event.call, span)

    def _begin_request(self, event: RequestStarted) -> Mapping[str, str]:
        parents = self._spans_of(event.calls)
        attributes = _server(event.server) | {METHOD: "POST", TEXTS: event.texts}
        if event.attempt > 1:
            attributes[RESEND_COUNT] = event.attempt - 1
        span = self._tracer.start_span(
            "POST",
            # Of the callers' contexts nothing but the spans: one's baggage is not for the others.
            context=trace.set_span_in_context(parents[0], Context()) if parents else Context(),
            kind=trace.SpanKind.CLIENT,
            attributes=attributes,
            links=[trace.Link(parent.get_span_context()) for parent in parents] if len(parents) > 1 else (),
            start_time=_nanoseconds(event),
        )
        _keep(self._requests, event.request, (span, event.calls))
        headers: dict[str, str] = {}
        propagate.inject(headers, trace.set_span_in_context(span, Context()))
        return headers

    def _end_call(self, event: CallFinished) -> None:
        error = CANCELLED if event.outcome == "cancelled" else event.error
        self._instruments.count(event, self._operation(event), error)
        span = self._calls.pop(event.call, None)
        if span is None:
            return
        span.update_name(_name(event.model))
        told = {
            REQUEST_MODEL: event.model,
            RESPONSE_MODEL: event.reply_model,
            INPUT_TOKENS: event.tokens,
            ERROR_TYPE: error,
            REQUESTS: event.requests,
            QUEUED: event.waited,
        }
        span.set_attributes({name: value for name, value in told.items() if value is not None})
        if event.outcome == "failed":
            span.set_status(trace.Status(trace.StatusCode.ERROR))
        span.end(_nanoseconds(event))

    def _end_request(self, event: RequestFinished) -> None:
        span, calls = self._requests.pop(event.request, (None, ()))
        if span is None:
            return
        self._link_late(span, calls, event.calls)
        if event.status is not None:
            span.set_attribute(STATUS, event.status)
        if event.error is not None:
            span.set_attribute(ERROR_TYPE, _error(event))
            if event.error != "Cancelled":
                span.set_status(trace.Status(trace.StatusCode.ERROR))
        span.end(_nanoseconds(event))

    def _link_late(self, span: trace.Span, before: tuple[int, ...], calls: tuple[int, ...]) -> None:
        """Calls may have joined while the request was under way, for a text that was in it already."""
        late = tuple(call for call in calls if call not in before)
        linked = before if len(before) == 1 else ()  # then it is the parent, and has no link yet
        for call in self._spans_of(linked + late) if late else ():
            span.add_link(call.get_span_context())

    def _spans_of(self, calls: tuple[int, ...]) -> list[trace.Span]:
        return [self._calls[call] for call in calls if call in self._calls]

    def _operation(self, event: CallStarted | CallFinished) -> dict[str, Any]:
        attributes = {OPERATION: EMBEDDINGS, PROVIDER: self._provider, **_server(event.server)}
        return attributes | ({} if event.model is None else {REQUEST_MODEL: event.model})


class _Instruments:
    """The metrics. It has no state of its own."""

    def __init__(self, meter: metrics.Meter) -> None:
        self._duration = meter.create_histogram(
            DURATION, "s", "GenAI operation duration.", explicit_bucket_boundaries_advisory=DURATION_BUCKETS
        )
        self._tokens = meter.create_histogram(
            TOKEN_USAGE,
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._queue = meter.create_histogram(
            QUEUE_DURATION,
            "s",
            "From a call to the sending of its first text.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self.in_flight = meter.create_up_down_counter(
            IN_FLIGHT, "{request}", "Requests with texts in flight."
        )
        self.repeats = meter.create_counter(REPEATS, "{request}", "Requests that were sent again.")

    def count(self, event: CallFinished, operation: Mapping[str, Any], error: str | None) -> None:
        """A call is over."""
        about = (
            {**operation} if event.reply_model is None else {**operation, RESPONSE_MODEL: event.reply_model}
        )
        self._duration.record(event.seconds, about if error is None else about | {ERROR_TYPE: error})
        self._queue.record(event.waited, operation)
        if event.tokens is not None:
            self._tokens.record(event.tokens, about | {TOKEN_TYPE: "input"})


def _made(tracer_provider: Any, meter_provider: Any, provider: str) -> OpenTelemetry:
    """At the other end of a pickle."""
    return OpenTelemetry(tracer_provider=tracer_provider, meter_provider=meter_provider, provider=provider)


def _name(model: str | None) -> str:
    return EMBEDDINGS if model is None else f"{EMBEDDINGS} {model}"


def _nanoseconds(event: Event) -> int:
    return int(event.at * 1e9)


def _error(event: RequestFinished | RequestRepeated) -> str:
    """The status, as HTTP's conventions have it, or the class of the exception that it would be."""
    if event.error == "Cancelled":
        return CANCELLED
    failed = event.status is not None and event.status >= 400
    return str(event.status) if failed else str(event.error)


def _server(url: str) -> dict[str, Any]:
    """Address and port of a server; nothing of several."""
    if ", " in url:
        return {}
    parts = urlsplit(url)
    if parts.hostname is None:
        return {SERVER_ADDRESS: parts.path}  # of a Unix socket
    return {SERVER_ADDRESS: parts.hostname, SERVER_PORT: parts.port or _PORTS.get(parts.scheme, 0)}


def _keep(spans: dict[int, T], number: int, span: T) -> None:
    while len(spans) >= MOST:  # whose end was lost, as the hook was too slow
        spans.pop(next(iter(spans)), None)
    spans[number] = span
