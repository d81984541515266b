"""Each fault that is planted is named, and nothing else; a good server has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from embedwire.doctor.comparing import compared
from embedwire.doctor.examining import Options, examine
from embedwire.doctor.findings import exit_code
from embedwire.testing import Answer, Request, vector
from tests.doctor.looks import (
    WIDTH,
    cut_after,
    embeds,
    found,
    good,
    look,
    moved,
    named,
    refuses,
    scaled,
    without_v1,
)
from tests.helpers import simulated

pytestmark = simulated


async def test_a_good_server_has_no_fault() -> None:
    """Each check says ok, the exit code is 0, and the requests are those that the server saw, few at a time."""
    async with good(slots=1, latency=0.01) as server:
        examined = await look(server)
    assert found(examined) == {}
    assert len(examined.findings) == 17
    assert exit_code([examined], []) == 0
    assert examined.requests == len(server.batches) < 100
    assert server.peak_in_flight <= 4


FAULTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "base64 refused": ({"script": refuses("encoding_format", "base64")}, {"base64": "note"}),
    "base64 ignored": (
        {"script": lambda request: _in_decimal(request)},
        {"base64": "note"},
    ),
    "base64 wrong": (
        {"script": embeds(lambda request, rows: [row[::-1] for row in rows] if _base64(request) else rows)},
        {"base64": "problem"},
    ),
    "dimensions ignored": ({"honours_dimensions": False}, {"dimensions": "note"}),
    "dimensions refused": ({"script": refuses("dimensions", 32)}, {"dimensions": "note"}),
    "dimensions of its own": (
        {"script": embeds(lambda request, rows: [row[:5] if len(row) == 32 else row for row in rows])},
        {"dimensions": "problem"},
    ),
    "dimensions without a new length": (
        {
            "script": embeds(
                lambda request, rows: [scaled(row, 0.6) if len(row) == 32 else row for row in rows]
            )
        },
        {"dimensions": "note"},
    ),
    "cap 32": ({"max_batch": 32}, {"batch size": "note"}),
    "drift": (
        {
            "script": embeds(
                lambda request, rows: [moved(row, 0.2) for row in rows] if len(rows) > 1 else rows
            )
        },
        {"batch and alone": "problem"},
    ),
    "a little drift": (
        {
            "script": embeds(
                lambda request, rows: [moved(row, 1e-3) for row in rows] if len(rows) > 1 else rows
            )
        },
        {"batch and alone": "note"},
    ),
    "another order": (
        {"script": embeds(lambda request, rows: rows[::-1])},
        {"batch and alone": "problem"},
    ),
    "silent truncation": ({"script": cut_after(300)}, {"long texts": "problem"}),
    "no normalisation": (
        {"script": embeds(lambda request, rows: [scaled(row, 7.5) for row in rows])},
        {"unit length": "note"},
    ),
    "cut at NUL": (
        {"script": embeds(lambda request, rows: [rows[0]] * len(rows) if _nul(request) else rows)},
        {"NUL": "problem"},
    ),
    "Korean unknown": (
        {"script": embeds(lambda request, rows: [rows[0]] * len(rows) if _korean(request) else rows)},
        {"Korean, emoji": "note"},
    ),
    "encoding_format refused": (
        {"script": refuses("encoding_format", "float")},
        {"fields": "note"},
    ),
    "no connection kept": ({"close_after": 1}, {"keep-alive": "note"}),
    "connections closed early": ({"idle_timeout": 1.0}, {"keep-alive": "note"}),
    "no /health": (
        {"script": lambda request: Answer(status=404) if request.place == "/health" else None},
        {"health": "note"},
    ),
    "e5": ({"model": "intfloat/multilingual-e5-base"}, {"prompts": "note"}),
    "slow with many": ({"latency_per_text": 0.2}, {"batch size": "note"}),
    "slow": ({"latency": 2.2}, {"latency": "note"}),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_planted_fault_is_named(fault: str) -> None:
    """It is named, with what to do about it, and nothing else is."""
    told, expected = FAULTS[fault]
    async with good(**told) as server:
        examined = await look(server)
    assert found(examined) == expected
    assert all(named(examined, name).cure for name in expected)
    assert exit_code([examined], []) == int("problem" in expected.values())
    assert examined.requests == len(server.batches)


@pytest.mark.parametrize("lists", [True, False], ids=["with a list of models", "without"])
async def test_v1_missing_is_named(lists: bool) -> None:
    """A server that embeds at /embeddings is asked there, and the settings lead straight there."""

    def script(request: Request) -> Answer | None:
        listless = request.place == "/models" and not lists
        return Answer.error(404, "Not Found") if listless else without_v1(request)

    async with good(script=script) as server:
        examined = await look(server)
    assert found(examined) == {"path": "note", "base64": "note"}
    path = named(examined, "path")
    assert "it embeds at /embeddings, not at /v1/embeddings: without /v1" in path.what
    assert f"{server.url}/embeddings" in path.cure
    assert all(f'base_url="{server.url}/embeddings"' in code for _, code in examined.settings)


async def test_v1_needed_is_named() -> None:
    """A path that lacks /v1 is told, and the URL that has it."""

    def under_api(request: Request) -> Answer | None:
        if not request.place.startswith("/api/"):
            return None
        if request.place.startswith("/api/v1/"):
            return without_v1(_at(request, request.path[len("/api/v1") :]))
        return Answer(status=404)

    async with good(script=under_api) as server:
        examined = await examine(f"{server.url}/api", Options(), lambda finding: None)
    path = named(examined, "path")
    assert path.what == "it embeds at /api/v1/embeddings, not at /api/embeddings: with /v1"
    assert f"{server.url}/api/v1" in path.cure


@pytest.mark.parametrize(
    ("told", "level"),
    [
        ({}, "ok"),
        ({"model": "other-model"}, "note"),
        ({"dimensions": 32}, "problem"),
        ({"script": embeds(lambda request, rows: [row[::-1] for row in rows])}, "problem"),
        ({"model": "other", "script": embeds(lambda request, rows: [row[::-1] for row in rows])}, "problem"),
        ({"script": embeds(lambda request, rows: [moved(row, 0.01) for row in rows])}, "note"),
    ],
    ids=["none", "another name", "another width", "same name", "another model", "other weights"],
)
async def test_another_model_on_the_second_url_is_named(told: dict[str, Any], level: str) -> None:
    """The second server is compared with the first: by name, by width, by the same text's vector."""
    async with good() as one, good(**told) as other:
        looked = [await look(server) for server in (one, other)]
    (finding,) = compared(looked)
    assert (finding.name, finding.level) == ("same model", level)
    assert bool(finding.cure) == (level != "ok")
    assert other.url in finding.what
    assert exit_code(looked, [finding]) == int(level == "problem")


@pytest.mark.parametrize("words", [200, 300, 700, 5000])
async def test_where_truncation_starts(words: int) -> None:
    """The length from which on nothing counts is found to within a sixteenth, in few requests."""
    async with good(script=cut_after(words)) as server:
        examined = await look(server)
    what = named(examined, "long texts").what
    told = int(what.partition("about ")[2].split()[0])
    assert words <= told <= words * 17 / 16
    assert sum(len(batch) == 1 and len(batch[0].split()) > 100 for batch in server.batches) <= 14


async def test_a_refusal_with_a_limit_is_told() -> None:
    """A server that refuses a long text in numbers does right; one whose physical batch is smaller is told how."""

    def limited(limit: int, answer: Any) -> Any:
        def script(request: Request) -> Answer | None:
            tokens = max((len(text.split()) for text in request.texts), default=0)
            return answer(tokens, limit) if tokens > limit else None

        return script

    async with good(script=limited(512, Answer.exceed_context)) as server:
        examined = await look(server)
    assert found(examined) == {}
    assert "refused above 512 tokens" in named(examined, "long texts").what
    async with good(script=limited(256, Answer.too_large)) as server:
        examined = await look(server)
    assert found(examined) == {"long texts": "note"}
    assert "-ub 512" in named(examined, "long texts").cure


async def test_a_refusal_without_a_limit_is_searched_for() -> None:
    """Where a refusal names no number, the length is searched for."""

    def script(request: Request) -> Answer | None:
        if any(len(text.split()) > 1500 for text in request.texts):
            return Answer.error(413, "payload too large", error_type="invalid_request_error")
        return None

    async with good(script=script) as server:
        examined = await look(server)
    what = named(examined, "long texts").what
    assert 1500 < int(what.partition("about ")[2].split()[0]) < 1600
    assert found(examined) == {}


def _base64(request: Request) -> bool:
    return bool(request.json.get("encoding_format") == "base64")


def _nul(request: Request) -> bool:
    return any("\0" in text for text in request.texts)


def _korean(request: Request) -> bool:
    return any("서울" in text for text in request.texts)


def _in_decimal(request: Request) -> Answer | None:
    if not (request.embeds and _base64(request)):
        return None
    data = [{"index": index, "embedding": vector(text, WIDTH)} for index, text in enumerate(request.texts)]
    return Answer(body={"data": data, "model": "test-model"})


def _at(request: Request, path: str) -> Request:
    return replace(request, path=path)
