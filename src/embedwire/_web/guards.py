"""What stands before every handler: the key, and errors as JSON."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import orjson
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.typedefs import Handler, Middleware

from embedwire._web.logs import log_without_texts
from embedwire._web.requests import Refusal

Shape: TypeAlias = Callable[[Refusal], Mapping[str, Any]]


def errors_as_json(routes: str, max_body: int, shape: Shape, logger: logging.Logger) -> Middleware:
    """Answers each error as JSON; one that nobody foresaw is logged without its words.

    Args:
        routes: What the server has, in words.
        max_body: The most bytes that a body may have.
        shape: Of an error's body.
        logger: Where a failure of the server's own goes.
    """

    @web.middleware
    async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            error = refusal
        except web.HTTPNotFound:
            error = Refusal(f"Unknown path: this server has {routes}.", status=404, type="not_found_error")
        except web.HTTPMethodNotAllowed as refused:
            allowed = {"Allow": refused.headers["Allow"]}
            error = Refusal(f"Wrong method: this server has {routes}.", status=405, headers=allowed)
        except web.HTTPRequestEntityTooLarge:
            error = too_large(max_body)
        except (web.RequestPayloadError, ContentEncodingError):
            error = Refusal("The body does not match its Content-Encoding or Transfer-Encoding header.")
        except Exception as failure:
            log_without_texts(logger, "A request failed", failure)
            error = Refusal("The server failed; its log says where.", status=500, type="server_error")
        return json_reply(shape(error), status=error.status, headers=error.headers)

    return answer_errors


def too_large(max_body: int) -> Refusal:
    """The refusal of a body that has more bytes than it may have."""
    return Refusal(
        f"The body is larger than {max_body // 2**20} MiB: send fewer texts at a time.", status=413
    )


def key_guard(keys: Sequence[str], *, open_paths: Sequence[str] = ("/health",)) -> Middleware:
    """Refuses whoever has none of the keys. How long that takes tells nothing about them.

    Args:
        keys: At least one.
        open_paths: What is answered without a key.
    """
    expected = [b"Bearer " + key.encode() for key in keys]

    @web.middleware
    async def require_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        known = [hmac.compare_digest(given, one) for one in expected]  # each one, whichever it is
        if request.path not in open_paths and not any(known):
            raise Refusal(
                "Invalid API key: send it as Authorization: Bearer <key>.",
                status=401,
                type="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return await handler(request)

    return require_key


def named(server: str) -> Callable[[web.Request, web.StreamResponse], Any]:
    """What puts a server's name into each reply."""

    async def name_the_server(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = server

    return name_the_server


def json_reply(
    content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A reply in JSON; numpy's arrays are lists of numbers there."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")
