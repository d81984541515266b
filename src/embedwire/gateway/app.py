"""The application: routes, and one request's way from its body to its last byte."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.typedefs import Handler, Middleware

from embedwire._web.guards import errors_as_json, json_reply, key_guard, named, too_large
from embedwire._web.requests import Refusal
from embedwire.exceptions import EmbedwireError
from embedwire.gateway.asked import Asked, parse
from embedwire.gateway.failures import not_ready, refusal
from embedwire.gateway.limits import DEFAULT, Limits, Room, Share
from embedwire.gateway.metrics import CONTENT_TYPE, Metrics
from embedwire.gateway.replies import error_body, pieces
from embedwire.gateway.servers import Servers
from embedwire.gateway.upstream import Embedded, To, Upstream

SERVER = "embedwire-gateway"
LIVELY = 5.0  # seconds for which a success shows that a server is ready
LEFT = 499  # the status, in the metrics, of a request whose client left before it was answered

_ROUTES = "POST /v1/embeddings, GET /v1/models, GET /health and GET /metrics"
_EMBEDDINGS = ("/v1/embeddings", "/embeddings")
_logger = logging.getLogger(__package__)

# Around a request: its route and headers → what is told the status of its reply.
Around: TypeAlias = Callable[[str, Mapping[str, str]], AbstractContextManager[Callable[[int], None]]]


class Gateway:
    """Answers requests for vectors.

    Its state is whether it is stopping, whether nothing is under way, and when a server last answered well.

    Args:
        to: Where texts go.
        limits: What it takes.

    Raises:
        InputError: A URL or a number is wrong.
    """

    def __init__(self, to: To, limits: Limits) -> None:
        self._upstream = Upstream(to)
        self.servers = Servers(self._upstream.settings)
        self.metrics = Metrics()
        self.stopping = False
        self._limits = limits
        self._room = Room(limits)
        self.idle = asyncio.Event()
        self.idle.set()
        self._lively = 0.0
        self._created = int(time.time())

    async def lifespan(self, _: web.Application) -> AsyncIterator[None]:
        """Joins the servers' users, and leaves them at the end."""
        self.servers.open()
        yield
        await self._upstream.close()
        await self.servers.close()

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """Vectors for the texts of a request. A client that hangs up cancels this, and so drops its texts."""
        begun = time.monotonic()
        with self._counted() as status, self._room.held() as share:
            asked = parse(await self._body(request, share), self._limits.texts)
            share.take_texts(len(asked.texts))
            done = await self._embedded(asked)
            self._lively = time.monotonic()
            self.metrics.embedded(asked.kind, len(asked.texts), done.tokens, time.monotonic() - begun)
            body = pieces(done.vectors, model=done.model, tokens=done.tokens, as_base64=asked.as_base64)
            reply, status[0] = await self._reply(request, body)
            return reply

    async def models(self, _: web.Request) -> web.Response:
        """The models that the servers list."""
        names = await self.servers.models()
        if not names and not await self._is_ready():
            raise not_ready("No server is ready to tell its models.")
        card = {"object": "model", "created": self._created, "owned_by": SERVER}
        return json_reply({"object": "list", "data": [{"id": name, **card} for name in names]})

    async def health(self, _: web.Request) -> web.Response:
        """Whether texts may come: a server is ready, and the gateway does not stop."""
        if self.stopping:
            raise not_ready("The gateway is stopping.")
        if not await self._is_ready():
            raise not_ready("No server is ready.")
        return json_reply({"status": "ok"})

    async def tell_metrics(self, _: web.Request) -> web.Response:
        """The counts, for Prometheus."""
        told = self.metrics.text(self.servers.told(await self.servers.ready()))
        return web.Response(body=told.encode(), headers={"Content-Type": CONTENT_TYPE})

    @contextmanager
    def _counted(self) -> Iterator[list[int]]:
        """Counts a request, by the status that is put into the list, or by why it failed."""
        status = [LEFT]
        self.metrics.in_flight += 1
        self.idle.clear()
        try:
            yield status
        except (web.RequestPayloadError, ContentEncodingError):
            status[0] = self._count_failure(400, "invalid_request")
            raise
        except Refusal as refused:
            status[0] = self._count_failure(refused.status, refused.code or "invalid_request")
            raise
        except Exception:
            status[0] = self._count_failure(500, "internal")
            raise
        finally:
            if status[0] == LEFT:
                self._count_failure(LEFT, "client_left")
            self.metrics.answered(status[0])
            self.metrics.in_flight -= 1
            if not self.metrics.in_flight:
                self.idle.set()

    def _count_failure(self, status: int, kind: str) -> int:
        self.metrics.failed(kind)
        return status

    async def _embedded(self, asked: Asked) -> Embedded:
        """The vectors of a request.

        Raises:
            Refusal: There are none; says why.
        """
        self.metrics.queued += len(asked.texts)
        try:
            return await self._upstream.embed(asked)
        except EmbedwireError as error:
            raise await self._refusal(error) from None
        finally:
            self.metrics.queued -= len(asked.texts)

    async def _is_ready(self) -> bool:
        recently = time.monotonic() - self._lively < LIVELY
        return recently or any((await self.servers.ready()).values())

    async def _refusal(self, error: EmbedwireError) -> Refusal:
        """The reply to a request that failed."""
        refused, server = refusal(error, ready=True), getattr(error, "server", "")
        if refused.status >= 500:
            self._lively = 0.0
            refused = refusal(error, ready=await self._is_ready())
        if server:
            self.metrics.failed_at(server, refused.code or "")
        level = logging.WARNING if refused.status >= 500 else logging.INFO
        _logger.log(level, "%d %s %s", refused.status, refused.code, server)
        return refused

    async def _body(self, request: web.Request, share: Share) -> bytes:
        """The body, which must have arrived in time.

        Raises:
            Refusal: It is too large, or there is no room for it.
        """
        if (request.content_length or 0) > self._limits.body:
            raise too_large(self._limits.body)
        with self._in_time(request, "a body did not arrive"):
            chunks: list[bytes] = []
            while chunk := await request.content.readany():
                share.take_bytes(len(chunk))
                chunks.append(chunk)
                if share.size > self._limits.body:
                    raise too_large(self._limits.body)
        return b"".join(chunks)

    async def _reply(self, request: web.Request, body: Iterator[bytes]) -> tuple[web.StreamResponse, int]:
        """Sends a reply, a piece when the last one was taken: in one where it is short; and how that ended."""
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=0)  # a write is over when the network has it all
        piece, more = next(body), next(body, None)
        headers = {"Content-Type": "application/json"}
        response = web.StreamResponse(headers=headers) if more else web.Response(body=piece, headers=headers)
        try:
            with self._in_time(request, "a reply was not taken"):
                await response.prepare(request)
            while more:
                with self._in_time(request, "a reply was not taken"):
                    await response.write(piece)
                piece, more = more, next(body, None)
            with self._in_time(request, "a reply was not taken"):
                await (
                    response.write_eof() if isinstance(response, web.Response) else response.write_eof(piece)
                )
        except ConnectionError:  # its client left
            return response, LEFT
        return response, 200

    @contextmanager
    def _in_time(self, request: web.Request, what: str) -> Iterator[None]:
        """Cuts the connection of a client that keeps the gateway waiting, which cancels its request."""
        stall, transport = self._limits.stall, request.transport

        def cut() -> None:
            _logger.warning("%s within %g s: its connection was cut", what, stall)
            if transport is not None:
                transport.abort()

        timer = asyncio.get_running_loop().call_later(stall, cut)
        try:
            yield
        finally:
            timer.cancel()


GATEWAY = web.AppKey("gateway", Gateway)


def create_app(
    to: To, *, api_keys: Sequence[str] = (), limits: Limits = DEFAULT, around: Around | None = None
) -> web.Application:
    """Build the gateway.

    Args:
        to: Where texts go.
        api_keys: What `Authorization: Bearer` must carry one of, on every path but /health. Empty: no key is asked
            for.
        limits: What it takes.
        around: What traces each request for vectors; None: nothing does.

    Raises:
        InputError: A URL or a number is wrong.
    """
    gateway = Gateway(to, limits)
    guards = [] if around is None else [_traced(around)]
    guards.append(errors_as_json(_ROUTES, limits.body, error_body, _logger))
    if api_keys:
        guards.append(key_guard(api_keys))
    guards.append(_stop_guard(gateway))
    app = web.Application(client_max_size=limits.body, middlewares=guards)
    app.add_routes(
        [
            *(web.post(path, gateway.embeddings) for path in _EMBEDDINGS),
            web.get("/v1/models", gateway.models),
            web.get("/models", gateway.models),
            web.get("/health", gateway.health),
            web.get("/metrics", gateway.tell_metrics),
        ]
    )
    app.cleanup_ctx.append(gateway.lifespan)
    app.on_response_prepare.append(named(SERVER))
    app[GATEWAY] = gateway
    return app


def _traced(around: Around) -> Middleware:
    """Puts each request for vectors into something that traces it."""

    @web.middleware
    async def trace(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in _EMBEDDINGS:
            return await handler(request)
        with around(request.path, request.headers) as answered:
            response = await handler(request)
            answered(response.status)
            return response

    return trace


def _stop_guard(gateway: Gateway) -> Middleware:
    """Refuses new requests for vectors while the gateway stops; what is under way goes on."""

    @web.middleware
    async def refuse_when_stopping(request: web.Request, handler: Handler) -> web.StreamResponse:
        if gateway.stopping and request.path in _EMBEDDINGS:
            raise not_ready("The gateway is stopping.")
        return await handler(request)

    return refuse_when_stopping
