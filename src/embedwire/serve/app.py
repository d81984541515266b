"""The application: routes, the checks of a request, answers and errors."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping

import orjson
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.typedefs import Handler, Middleware

from embedwire.serve.logs import log_without_texts
from embedwire.serve.model import CountTokens, Encode, Worker
from embedwire.serve.protocol import Refusal, answer, parse

MAX_BODY = 8 * 1024 * 1024
WORKER = web.AppKey("worker", Worker)

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
    guards = [_errors_as_json] if api_key is None else [_errors_as_json, _key_guard(api_key)]
    app = web.Application(client_max_size=MAX_BODY, middlewares=guards)
    app.add_routes(
        [
            web.post("/v1/embeddings", endpoints.embeddings),
            web.get("/v1/models", endpoints.models),
            web.get("/health", endpoints.health),
        ]
    )
    app.cleanup_ctx.append(worker.lifespan)
    app.on_response_prepare.append(_name_the_server)
    app[WORKER] = worker
    return app


class _Endpoints:
    def __init__(self, worker: Worker, model: str) -> None:
        self._worker = worker
        self._model = model
        self._created = int(time.time())

    async def health(self, _: web.Request) -> web.Response:
        self._worker.require_loaded()
        return _json({"status": "ok"})

    async def models(self, _: web.Request) -> web.Response:
        self._worker.require_loaded()
        card = {
            "id": self._model,
            "object": "model",
            "created": self._created,
            "owned_by": "embedwire",
            "meta": {"n_embd": self._worker.dimensions},
        }
        return _json({"object": "list", "data": [card]})

    async def embeddings(self, request: web.Request) -> web.Response:
        self._worker.require_loaded()
        asked = parse(await request.read(), self._worker.dimensions)
        vectors, tokens = await self._worker.embed(asked.texts)
        return _json(answer(self._model, vectors, as_base64=asked.as_base64, tokens=tokens))


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        error = refusal
    except web.HTTPNotFound:
        error = Refusal(f"Unknown path: this server has {_ROUTES}.", status=404, type="not_found_error")
    except web.HTTPMethodNotAllowed as refused:
        allowed = {"Allow": refused.headers["Allow"]}
        error = Refusal(f"Wrong method: this server has {_ROUTES}.", status=405, headers=allowed)
    except web.HTTPRequestEntityTooLarge:
        limit = MAX_BODY // 2**20
        error = Refusal(f"The body is larger than {limit} MiB: send fewer texts at a time.", status=413)
    except (web.RequestPayloadError, ContentEncodingError):
        error = Refusal("The body does not match its Content-Encoding or Transfer-Encoding header.")
    except Exception as failure:
        log_without_texts("A request failed", failure)
        error = Refusal("The server failed; its log says where.", status=500, type="server_error")
    return _json(error.body, status=error.status, headers=error.headers)


def _key_guard(api_key: str) -> Middleware:
    expected = b"Bearer " + api_key.encode()

    @web.middleware
    async def require_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if request.path != "/health" and not hmac.compare_digest(given, expected):
            raise Refusal(
                "Invalid API key: send it as Authorization: Bearer <key>.",
                status=401,
                type="authentication_error",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return await handler(request)

    return require_key


async def _name_the_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "embedwire"


def _json(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")
