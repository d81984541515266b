"""How these tests look at servers, and the faults that they plant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from embedwire.doctor.examining import Options, examine
from embedwire.doctor.findings import Examined, Finding
from embedwire.testing import Answer, EmbeddingServer, Request, vector

WIDTH = 64


def good(**told: Any) -> EmbeddingServer:
    """A server at which nothing is wrong, but for what it is told."""
    return EmbeddingServer(**{"dimensions": WIDTH, "honours_dimensions": True, **told})


async def look(server: EmbeddingServer, **options: Any) -> Examined:
    """What is found out about a server."""
    said: list[Finding] = []
    examined = await examine(server.url, Options(**options), said.append)
    assert tuple(said) == examined.findings
    return examined


def found(examined: Examined) -> dict[str, str]:
    """The findings that are not ok: name and level."""
    return {finding.name: finding.level for finding in examined.findings if finding.level != "ok"}


def named(examined: Examined, name: str) -> Finding:
    """The one finding of a name."""
    (finding,) = [finding for finding in examined.findings if finding.name == name]
    return finding


Script = Callable[[Request], "Answer | None"]


def embeds(change: Callable[[Request, list[list[float]]], list[list[float]]]) -> Script:
    """A script: the right vectors of a request, changed."""

    def script(request: Request) -> Answer | None:
        return Answer.vectors(lambda rows: change(request, rows)) if request.embeds else None

    return script


def refuses(field: str, value: object) -> Script:
    """A script: a field of that value is refused."""

    def script(request: Request) -> Answer | None:
        if request.embeds and request.json.get(field) == value:
            return Answer.error(400, f"{field} is not supported", error_type="invalid_request_error")
        return None

    return script


def without_v1(request: Request) -> Answer | None:
    """A script: it embeds at ``/embeddings``, and knows nothing under ``/v1``."""
    if request.place == "/models":
        return Answer(body={"data": [{"id": "test-model"}]})
    if request.place == "/embeddings":
        asked = request.json
        rows = [vector(text, asked.get("dimensions", WIDTH)) for text in asked["input"]]
        data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
        reply = {"data": data, "model": "test-model"}
        if asked.get("encoding_format") == "base64":
            return Answer.error(400, "encoding_format must be float", error_type="invalid_request_error")
        return Answer(body=reply)
    return (
        Answer.error(404, "Not Found", error_type="not_found_error") if request.place[:3] == "/v1" else None
    )


def scaled(row: list[float], factor: float) -> list[float]:
    """A vector of another length."""
    return [factor * number for number in row]


def moved(row: list[float], by: float) -> list[float]:
    """A vector that is off by a part of its length, 1."""
    return [row[0] + by, *row[1:]]


def cut_after(words: int) -> Script:
    """A script: only so many words of each text count."""
    return embeds(
        lambda request, rows: [
            vector(" ".join(text.split(" ")[:words]), len(row))
            for text, row in zip(request.texts, rows, strict=True)
        ]
    )
