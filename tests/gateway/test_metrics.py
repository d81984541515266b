"""`embedwire gateway`: what /metrics tells, as Prometheus' own parser reads it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from embedwire.gateway.metrics import BUCKETS, Metrics
from embedwire.testing import EmbeddingServer
from tests.gateway.serving import SECRET, Start
from tests.helpers import numbered

parser: Any = pytest.importorskip("prometheus_client.parser")


def families(text: str) -> dict[str, Any]:
    """The families in a text, by name."""
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def values(family: Any) -> dict[tuple[str, ...], float]:
    """A family's samples, by the values of their labels."""
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


async def test_each_family_says_what_it_counts(start: Start, server: EmbeddingServer) -> None:
    """Requests, texts, tokens, failures, seconds, what is in flight and queued, and each server's, as counted."""
    gateway = await start(server.url)
    await gateway.vectors("a query")
    await gateway.vectors(numbered(20))
    await gateway.refused({"input": [SECRET, 5]}, 400)
    with server.hold():
        waiting = asyncio.create_task(gateway.vectors("another"))
        await server.wait_for(lambda: server.in_flight == 1)
        status, text, headers = await gateway.ask("GET", "/metrics")
    await waiting
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = {name.removeprefix("embedwire_gateway_"): family for name, family in families(text).items()}
    assert all(family.documentation and family.type != "unknown" for family in found.values())
    assert values(found["requests"]) == {("200",): 2, ("400",): 1}
    assert values(found["texts"]) == {("query",): 1, ("document",): 20}
    assert values(found["tokens"]) == {(): sum(len(t.split()) + 2 for b in server.batches[:-1] for t in b)}
    assert values(found["failures"]) == {("invalid_request",): 1}
    assert values(found["in_flight"]) == {(): 1}
    assert values(found["queued_texts"]) == {(): 1}
    url = f"{server.url}/v1"
    assert values(found["server_ready"]) == {(url,): 1}
    assert values(found["server_in_flight"]) == {(url,): 1}
    assert values(found["server_texts"]) == {(url,): 21}
    counts = [sample for sample in found["request_seconds"].samples if sample.name.endswith("_count")]
    assert {sample.labels["kind"]: sample.value for sample in counts} == {"query": 1, "document": 1}
    assert SECRET not in text


def test_a_histogram_adds_up() -> None:
    """Each bucket counts what took no longer than its bound, the bound included; the last one counts all."""
    metrics = Metrics()
    for seconds in (0.001, 0.005, 0.0051, 7.0, 1000.0):
        metrics.embedded("query", 1, None, seconds)
    family = families(metrics.text({}))["embedwire_gateway_request_seconds"]
    buckets = {
        sample.labels["le"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["kind"] == "query"
    }
    assert [buckets[str(bound)] for bound in BUCKETS] == [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4]
    assert buckets["+Inf"] == 5
    total = next(s for s in family.samples if s.name.endswith("_sum") and s.labels["kind"] == "query")
    assert total.value == pytest.approx(1007.0111)


def test_any_url_is_a_label() -> None:
    """Quotes, backslashes and line breaks in a label come out as they went in."""
    url = 'unix:///a\\b"c\nd'
    text = Metrics().text({url: {"ready": 1, "in_flight": 0, "texts": 5}})
    assert values(families(text)["embedwire_gateway_server_ready"]) == {(url,): 1}
