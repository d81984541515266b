"""The application: routes, the checks of a request, answers and errors."""

from __future__ import annotations

import logging
import time

from aiohttp import web

from embedwire._web.guards import errors_as_json, json_reply, key_guard, named
from embedwire.serve.model import CountTokens, Encode, Worker
from embedwire.serve.protocol import answer, error_body, parse

MAX_BODY = 8 * 1024 * 1024
WORKER = web.AppKey("worker", Worker)

_logger = logging.getLogger(__package__)
_ROUTES = "POST /v1/embeddings, GET /v1/models and GET /health"


def create_app(
    encode: Encode,
    *,
    model: str,
    dimensions: int,
    api_key: str | None = None,
    count_tokens: CountTokens | None = None,
    threads: int = 1,
) -> web.Application:
    """Build the server around `encode`.

    The first call of `encode`, with one blank text, is made when the server starts and may take as long as
    loading a model takes: until it returns, every request is answered with 503.

    Args:
        encode: Texts to float32 vectors, shape (len(texts), dimensions). It runs off the event loop.
        model: The name that every reply carries, whatever name the request asked for.
        dimensions: The width of a vector.
        api_key: What `Authorization: Bearer` must carry on every path but /health. None: no key is asked for.
        count_tokens: The number of tokens in a text. With it, replies have a `usage` and a text of more than
            8192 tokens is refused.
        threads: How many calls of `encode` may run at the same time.
    """
    worker = Worker(encode, count_tokens, dimensions, threads)
    endpoints = _Endpoints(worker, model)
    guards = [errors_as_json(_ROUTES, MAX_BODY, error_body, _logger)]
    if api_key is not None:
        guards.append(key_guard([api_key]))
    app = web.Application(client_max_size=MAX_BODY, middlewares=guards)
    app.add_routes(
        [
            web.post("/v1/embeddings", endpoints.embeddings),
            web.get("/v1/models", endpoints.models),
            web.get("/health", endpoints.health),
        ]
    )
    app.cleanup_ctx.append(worker.lifespan)
    app.on_response_prepare.append(named("embedwire"))
    app[WORKER] = worker
    return app


class _Endpoints:
    def __init__(self, worker: Worker, model: str) -> None:
        self._worker = worker
        self._model = model
        self._created = int(time.time())

    async def health(self, _: web.Request) -> web.Response:
        self._worker.require_loaded()
        return json_reply({"status": "ok"})

    async def models(self, _: web.Request) -> web.Response:
        self._worker.require_loaded()
        card = {
            "id": self._model,
            "object": "model",
            "created": self._created,
            "owned_by": "embedwire",
            "meta": {"n_embd": self._worker.dimensions},
        }
        return json_reply({"object": "list", "data": [card]})

    async def embeddings(self, request: web.Request) -> web.Response:
        self._worker.require_loaded()
        asked = parse(await request.read(), self._worker.dimensions)
        vectors, tokens = await self._worker.embed(asked.texts)
        return json_reply(answer(self._model, vectors, as_base64=asked.as_base64, tokens=tokens))
