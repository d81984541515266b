"""The right reply to each request: what llama.cpp's server says, as a pure function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embedwire.testing._answer import Answer
from embedwire.testing._http import Request
from embedwire.testing._vectors import to_base64, vector

__all__ = ["Api"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """What is served; `EmbeddingServer` says what each means."""

    dimensions: int
    model: str
    total_slots: int
    n_ctx: int
    max_batch: int | None
    api_key: str | None
    honours_dimensions: bool

    def reply(self, request: Request) -> Answer:
        """Return the right reply to any request."""
        endpoint = (request.method, request.place)
        if endpoint == ("GET", "/health"):
            return Answer(body={"status": "ok"})
        if self.api_key is not None and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return Answer.error(401, "Invalid API Key", error_type="authentication_error")
        if endpoint == ("GET", "/v1/models"):
            listed = {"id": self.model, "object": "model", "meta": {"n_embd": self.dimensions}}
            return Answer(body={"object": "list", "data": [listed]})
        if endpoint == ("GET", "/props"):
            settings = {"n_ctx": self.n_ctx}
            return Answer(body={"total_slots": self.total_slots, "default_generation_settings": settings})
        if request.embeds:
            return self._embed(request)
        return Answer.error(404, "File Not Found", error_type="not_found_error")

    def _embed(self, request: Request) -> Answer:
        try:
            asked = request.json
        except ValueError:
            return _invalid("parse error: the body is not JSON")
        if not isinstance(asked, dict) or "input" not in asked:
            return _invalid('"input" or "content" must be provided')
        encoding = asked.get("encoding_format", "float")
        if encoding not in ("float", "base64"):
            return _invalid("The format to return the embeddings in. Can be either float or base64")
        texts = request.texts
        if not texts:
            empty = asked["input"] == []
            return _invalid('"input" must not be empty' if empty else '"input" must be a string or strings')
        if self.max_batch is not None and len(texts) > self.max_batch:
            return _batch_too_long(len(texts), self.max_batch)
        wanted = asked.get("dimensions") if self.honours_dimensions else None
        rows = [vector(text, wanted or self.dimensions) for text in texts]
        return Answer(body=_embeddings(rows, texts, asked.get("model", self.model), encoding))


def _embeddings(rows: list[list[float]], texts: list[str], model: object, encoding: str) -> dict[str, Any]:
    tokens = sum(len(text.split()) + 2 for text in texts)
    coded: list[dict[str, object]] = (
        [{"embedding": to_base64(row), "encoding_format": "base64"} for row in rows]
        if encoding == "base64"
        else [{"embedding": row} for row in rows]
    )
    return {
        "model": model,
        "object": "list",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "data": [{**item, "index": index, "object": "embedding"} for index, item in enumerate(coded)],
    }


def _invalid(message: str) -> Answer:
    return Answer.error(400, message, error_type="invalid_request_error")


def _batch_too_long(size: int, limit: int) -> Answer:
    message = f"batch size {size} > maximum allowed batch size {limit}"  # as TEI words and shapes it
    return Answer(status=422, body={"message": message, "code": 422, "type": "Validation"})
