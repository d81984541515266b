"""A key, a header's value, a proxy's password and a text go in by every door; however it ends, nothing shows them."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import gc
import gzip
import json
import logging
import pickle
import re
import signal
import ssl
import sys
import threading
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from types import CoroutineType
from typing import Any

import pytest
import trustme
from langchain_core.load import dumps
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index_instrumentation import get_dispatcher
from pydantic import Field

from embedwire import (
    AuthenticationFailed,
    BadReply,
    ConnectionFailed,
    DeadlineExceeded,
    EmbeddingClient,
    InputError,
    Overloaded,
    RequestError,
    RequestTimeout,
    RetryPolicy,
    ServerRefused,
    ServerUnavailable,
    SharedEmbeddingClient,
    TextRefused,
    Timeouts,
    UsageError,
    exceptions,
)
from embedwire._loop import loop_thread
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, EmbeddingServer, Request

KEY = "sk-marked-0123456789abcdef"
HEADER = "marked-header-fedcba9876543210"
PASSWORD = "marked-password-5566778899"
TEXT = "The patient is called Kim, born 1971"
USER = f"user:{PASSWORD}"
NOBODY = "http://127.0.0.1:9"
SECRETS = {
    "key": KEY,
    "header": HEADER,
    "password": PASSWORD,
    "password in base64": base64.b64encode(USER.encode()).decode(),
}
TEXTS = [f"{TEXT}, file {number}" for number in range(3)]
KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (EmbeddingClient, SharedEmbeddingClient, EmbedwireEmbeddings, EmbedwireEmbedding)
}
DOORS = [
    *(f"EmbeddingClient.{name}" for name in ("embed", "embed_array", "embed_query", "stream")),
    *(f"SharedEmbeddingClient.{name}" for name in ("embed", "embed_array", "embed_query", "stream")),
    *(f"SharedEmbeddingClient.a{name}" for name in ("embed", "embed_array", "embed_query", "stream")),
    *(f"EmbedwireEmbeddings.{a}embed_{name}" for a in ("", "a") for name in ("documents", "query")),
    *(
        f"EmbedwireEmbedding.{a}get_{name}"
        for a in ("", "a")
        for name in ("text_embedding", "query_embedding", "text_embedding_batch")
    ),
]
FOR_ONE_TEXT = ("embed_query", "get_text_embedding", "get_query_embedding")
SYNC_DOORS = [door for door in DOORS if not re.search(r"^EmbeddingClient|\.a", door)]
ASYNC_DOORS = [door for door in DOORS if door not in SYNC_DOORS]


async def knock(client: Any, door: str, texts: list[str] = TEXTS) -> object:
    """Pass texts, or the last of them, in by a door, and wait for what comes out."""
    answer = call(client, door, texts)
    if hasattr(answer, "__aiter__"):
        return [piece async for piece in answer]
    return await answer if hasattr(answer, "__await__") else list(answer)


def call(client: Any, door: str, texts: list[str] = TEXTS) -> Any:
    """What a door returns: vectors, a coroutine or a stream."""
    method = door.split(".")[1]
    return getattr(client, method)(texts[-1] if method.endswith(FOR_ONE_TEXT) else texts)


async def failing(client: Any, door: str, texts: list[str] = TEXTS) -> BaseException:
    """What a door raises."""
    try:
        await knock(client, door, texts)
    except Exception as error:
        return error
    pytest.fail("nothing was raised")


# What was shown


def secrets_in(shown: str, *, texts: bool = True) -> list[str]:
    """The names of the secrets of which at least 12 characters in a row are shown."""
    hidden = SECRETS | {"text": TEXT} if texts else SECRETS
    return [
        name
        for name, secret in hidden.items()
        if any(secret[at : at + 12] in shown for at in range(len(secret) - 11))
    ]


def family(error: BaseException, known: list[BaseException] | None = None) -> list[BaseException]:
    """An exception and all that hang on it: causes, contexts suppressed or not, members, attributes."""
    known = [] if known is None else known
    if not any(error is one for one in known):
        known.append(error)
        held = [error.__cause__, error.__context__, *error.args, *vars(error).values()]
        held += [one for value in vars(error).values() if isinstance(value, dict) for one in value.values()]
        for other in held:
            if isinstance(other, BaseException):
                family(other, known)
    return known


def said_by(error: BaseException) -> list[str]:
    """Where an exception or one of its family says a secret."""
    said = {"a pickle": pickle.dumps(error).decode("latin-1")}
    said["the traceback"] = "".join(traceback.format_exception(error))
    for one in family(error):
        said[f"str of {type(one).__name__}"] = str(one)
        said[f"repr of {type(one).__name__}"] = repr(one) + repr(one.args)
        said[f"notes of {type(one).__name__}"] = repr(getattr(one, "__notes__", ""))
        said[f"attributes of {type(one).__name__}"] = repr(vars(one))
        if hasattr(one, "errors"):  # pydantic's
            said[f"errors of {type(one).__name__}"] = repr(one.errors())
    return [f"{where}: {secret}" for where, shown in said.items() for secret in secrets_in(shown)]


def shown_by_frames(error: BaseException) -> list[str]:
    """The locals, in the tracebacks of an exception's family, that show a secret.

    A framework's frames that lead to embedwire hold their caller's texts; a key is in none, and from embedwire on
    a text is in none either.
    """
    shown = set()
    for one in family(error):
        inside = False
        frames = [frame for frame, _ in traceback.walk_tb(one.__traceback__)]
        summaries = traceback.StackSummary.extract(traceback.walk_tb(one.__traceback__), capture_locals=True)
        for frame, summary in zip(frames, summaries, strict=True):
            module = frame.f_globals["__name__"]
            inside = inside or module.startswith("embedwire")
            if module != __name__:
                shown |= {
                    f"{module}.{frame.f_code.co_name}: {name} ({secret})"
                    for name, value in (summary.locals or {}).items()
                    for secret in secrets_in(value, texts=inside)
                }
    return sorted(shown)


def leaks(error: BaseException) -> list[str]:
    """Everything about an exception that shows a secret."""
    return [*said_by(error), *shown_by_frames(error)]


@pytest.fixture(autouse=True)
def nothing_is_shown_meanwhile(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """With all loggers at DEBUG, those of frameworks too, neither logs nor output nor warnings have a secret."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
    logged = {record.name: secrets_in(_all_of(record)) for record in caplog.get_records("call")}
    assert {name: secrets for name, secrets in logged.items() if secrets} == {}
    assert secrets_in("".join(capfd.readouterr())) == []
    assert [str(warning.message) for warning in warned] == []


def _all_of(record: logging.LogRecord) -> str:
    return logging.Formatter().format(record) + repr(record.args)


@pytest.fixture
async def all_steps_are_logged() -> AsyncIterator[None]:
    """In debug mode both loops log each step, and the arguments of its function."""
    shared = loop_thread().loop
    for loop in (shared, asyncio.get_running_loop()):
        loop.set_debug(True)
        loop.slow_callback_duration = 0
    yield
    shared.slow_callback_duration = 0.1
    shared.set_debug(False)


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


Make = Callable[..., Any]


def made(door: str, server: EmbeddingServer, **arguments: Any) -> Any:
    """The client of a door, with every secret."""
    arguments = {
        "base_url": server.url,
        "model": "m",
        "api_key": KEY,
        "headers": {"X-Marked": HEADER},
        "encoding": "float",
        "max_retries": 0,
        **arguments,
    }
    kind = door.split(".")[0]
    if kind == "EmbedwireEmbedding":
        arguments["model_name"] = arguments.pop("model") or "unknown"
    return KINDS[kind](**arguments)


@pytest.fixture
async def make(server: EmbeddingServer) -> AsyncIterator[Make]:
    """Makes the clients of doors, and closes them in the end."""
    clients = []

    def make(door: str, **arguments: Any) -> Any:
        clients.append(made(door, server, **arguments))
        return clients[-1]

    yield make
    for client in clients:
        await (client.close() if isinstance(client, EmbeddingClient) else client.aclose())


# Ways to fail


Script = Callable[[Request], "Answer | None"]


def everything(request: Request) -> str:
    """All that a server knows of a request, as it may stand in a message."""
    return f"cannot do {request.texts} for {dict(request.headers)}"


def refusal(status: int, words: str = "", **fields: Any) -> Script:
    """A server that repeats all that it was sent in an error."""
    return lambda request: Answer.error(status, f"{words} {everything(request)}", **fields)


def reply(make: Callable[[Request], object], **fields: Any) -> Script:
    """A server whose success repeats what it was sent."""
    return lambda request: Answer(body=make(request), **fields)


def not_http(request: Request) -> Answer:
    """A server that repeats all that it was sent, and speaks no HTTP."""
    return Answer(raw=everything(request).encode() + b"\r\n\r\n")


def several_models(request: Request) -> Answer | None:
    """A server that repeats the key in the names of its models."""
    names = [{"id": request.headers["authorization"]}, {"id": "another"}]
    return Answer(body={"data": names}) if request.path == "/v1/models" else None


def no_key() -> str:
    """A function for keys that fails."""
    raise LookupError("no key today")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A way to fail: what the server does, how the client is made, what is passed in."""

    error: type[BaseException]
    script: Script | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    texts: list[str] = field(default_factory=lambda: TEXTS)


RETRIES = {"max_retries": RetryPolicy(attempts=3, base=0, throttled_base=0)}
CUT = reply(lambda request: everything(request).encode(), cut=200, then="reset")
FAILURES = {
    "a lone surrogate": Failure(error=InputError, texts=[*TEXTS, TEXT + "\ud800"]),
    "a deadline": Failure(
        error=DeadlineExceeded, script=lambda _: Answer.hang(), arguments={"deadline": 0.02}
    ),
    "hung up": Failure(error=ConnectionFailed, script=lambda _: Answer.hang_up()),
    "broken off": Failure(error=ConnectionFailed, script=CUT),
    "broken off again and again": Failure(error=ConnectionFailed, script=CUT, arguments=RETRIES),
    "nobody there": Failure(error=ConnectionFailed, arguments={"base_url": NOBODY}),
    "no such name": Failure(error=ConnectionFailed, arguments={"base_url": "http://a..b"}),
    "silence": Failure(
        error=RequestTimeout,
        script=lambda _: Answer.hang(),
        arguments={"timeout": Timeouts(sock_read=0.02)},
    ),
    "401": Failure(error=AuthenticationFailed, script=refusal(401)),
    "404": Failure(error=ServerRefused, script=refusal(404)),
    "a redirect": Failure(
        error=ServerRefused, script=lambda request: Answer.redirect(f"{NOBODY}/?{everything(request)}")
    ),
    "several models": Failure(error=ServerRefused, script=several_models, arguments={"model": None}),
    "400": Failure(error=RequestError, script=refusal(400, "batch size 9, at most 1")),
    "a text too long": Failure(
        error=TextRefused, script=refusal(400, "input is too long", n_prompt_tokens=600, n_ctx=512)
    ),
    "429": Failure(error=ServerUnavailable, script=refusal(429), arguments=RETRIES),
    "429 for long": Failure(error=ServerUnavailable, script=refusal(429, headers={"Retry-After": "999"})),
    "502": Failure(error=ServerUnavailable, script=refusal(502), arguments=RETRIES),
    "the same 500 twice": Failure(error=RequestError, script=refusal(500), arguments=RETRIES),
    "no HTTP": Failure(error=BadReply, script=not_http),
    "no JSON": Failure(error=BadReply, script=reply(lambda request: everything(request).encode())),
    "JSON of another kind": Failure(error=BadReply, script=reply(lambda request: [everything(request)])),
    "an error with 200": Failure(
        error=BadReply, script=reply(lambda request: {"error": everything(request)})
    ),
    "no data": Failure(error=BadReply, script=reply(lambda request: {"data": everything(request)})),
    "texts instead of vectors": Failure(
        error=BadReply, script=lambda request: Answer.vectors(lambda rows: [request.texts for _ in rows])
    ),
    "compressed": Failure(
        error=BadReply,
        script=reply(
            lambda request: gzip.compress(everything(request).encode()), headers={"Content-Encoding": "gzip"}
        ),
    ),
    "a key function that fails": Failure(error=LookupError, arguments={"api_key": no_key}),
    "a key with a line break": Failure(error=InputError, arguments={"api_key": lambda: f"{KEY}\n"}),
    "a proxy that refuses": Failure(
        error=ServerRefused,
        script=refusal(407),
        arguments={"base_url": "http://elsewhere.test", "proxy": f"http://{USER}@127.0.0.1:{{port}}"},
    ),
    "a proxy that opens no tunnel": Failure(
        error=BadReply,
        script=refusal(407),
        arguments={"base_url": "https://elsewhere.test", "proxy": f"http://{USER}@127.0.0.1:{{port}}"},
    ),
    "a proxy that is not there": Failure(
        error=ConnectionFailed, arguments={"proxy": f"http://{USER}@127.0.0.1:9"}
    ),
}


class TestErrors:
    """No exception says a secret, and no frame of its traceback shows one to who prints locals."""

    def test_of_every_class_are_tried(self) -> None:
        """Each class of exception that a user can see is raised by a test of this file."""
        tried = {failure.error for failure in FAILURES.values()} | {UsageError, Overloaded}
        seen = {getattr(exceptions, name) for name in exceptions.__all__} - {exceptions.Completed}
        assert {one for one in seen if not one.__subclasses__()} <= tried

    @pytest.mark.usefixtures("all_steps_are_logged")
    @pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
    async def test_show_no_secret(self, failure: Failure, make: Make, server: EmbeddingServer) -> None:
        """However a call fails, neither its exception, nor what hangs on it, nor a frame of it shows a secret."""
        server.script = failure.script
        arguments = {
            name: value.format(port=server.port) if name in ("base_url", "proxy") else value
            for name, value in failure.arguments.items()
        }
        found = {}
        for door in DOORS:
            error = await failing(make(door, **arguments), door, failure.texts)
            assert isinstance(error, failure.error)
            found[door] = leaks(error)
        assert {door: leaks for door, leaks in found.items() if leaks} == {}

    async def test_show_no_secret_without_trust(self, make: Make) -> None:
        """A server of an unknown authority gets no key, and the error shows none."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        found = {}
        with EmbeddingServer(ssl=context) as server:
            for door in DOORS:
                error = await failing(make(door, base_url=server.url), door)
                assert isinstance(error, ConnectionFailed)
                found[door] = leaks(error)
        assert {door: leaks for door, leaks in found.items() if leaks} == {}
        assert server.requests == []

    async def test_show_no_secret_after_close(self, make: Make) -> None:
        """The error of a closed client shows nothing of what it was used with."""
        found = {}
        for door in DOORS:
            client = make(door)
            await (client.close() if isinstance(client, EmbeddingClient) else client.aclose())
            error = await failing(client, door)
            assert isinstance(error, UsageError)
            found[door] = leaks(error)
        assert {door: leaks for door, leaks in found.items() if leaks} == {}

    @pytest.mark.parametrize("door", DOORS)
    async def test_show_no_secret_when_full(self, door: str, make: Make, server: EmbeddingServer) -> None:
        """The error of a call for which there is no room shows none of the texts, neither its own nor others'."""
        client = make(door, max_queued=1, on_full="raise")
        with server.hold():
            if door in ASYNC_DOORS:
                first = asyncio.ensure_future(knock(client, door))
            else:
                first = asyncio.ensure_future(asyncio.to_thread(lambda: list(call(client, door))))
            await server.wait_for(lambda: server.in_flight == 1)
            error = await failing(client, door, [text + "!" for text in TEXTS])
        await first
        assert isinstance(error, Overloaded)
        assert leaks(error) == []

    @pytest.mark.parametrize("door", ASYNC_DOORS)
    async def test_show_no_secret_when_cancelled(
        self, door: str, make: Make, server: EmbeddingServer
    ) -> None:
        """A call that was cancelled leaves no frame that shows its texts."""
        with server.hold():
            under_way = asyncio.ensure_future(knock(make(door), door))
            await server.wait_for(lambda: server.in_flight == 1)
            under_way.cancel()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await under_way
        assert leaks(cancelled.value) == []

    @pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="threads get no signals here")
    @pytest.mark.parametrize("door", SYNC_DOORS)
    def test_show_no_secret_when_interrupted(self, door: str, server: EmbeddingServer) -> None:
        """A call that Ctrl-C ended leaves no frame that shows its texts."""
        caller = threading.get_ident()

        def interrupt(_: Request) -> Answer:
            while sys._current_frames()[caller].f_code.co_name != "wait":
                pass  # it is about to
            signal.pthread_kill(caller, signal.SIGINT)
            return Answer.hang()

        server.script = interrupt
        client = made(door, server)
        with pytest.raises(KeyboardInterrupt) as interrupted:
            list(call(client, door))
        client.close()
        assert leaks(interrupted.value) == []

    @pytest.mark.parametrize("status", [401, 404, 503])
    @pytest.mark.parametrize(
        "door",
        [
            "EmbeddingClient.wait_ready",
            "SharedEmbeddingClient.wait_ready",
            "SharedEmbeddingClient.await_ready",
        ],
    )
    async def test_show_no_key_when_not_ready(
        self, door: str, status: int, make: Make, server: EmbeddingServer
    ) -> None:
        """A server that is not ready, and repeats the key, does not make `wait_ready` show it."""
        server.script = refusal(status, "Loading model" if status == 503 else "")
        client = make(door, model=None)

        async def wait() -> None:
            waiting = getattr(client, door.split(".")[1])(0.05)
            if hasattr(waiting, "__await__"):
                await waiting

        with pytest.raises(RequestError) as failed:
            await wait()
        assert leaks(failed.value) == []

    @pytest.mark.parametrize("door", [door for door in DOORS if door.endswith("stream")])
    async def test_show_no_text_when_the_source_fails(self, door: str, make: Make) -> None:
        """What a source of texts raises reaches the caller without the texts that were read before."""

        def source() -> Iterator[str]:
            yield from TEXTS
            raise LookupError("the disk is gone")

        error = await failing(make(door), door, source())  # type: ignore[arg-type]
        assert isinstance(error, LookupError)
        assert leaks(error) == []


def of_header(name: str) -> Callable[[Request], str]:
    """What a request has in a header."""
    return lambda request: request.headers[name]


class TestWords:
    """A server's words are withheld when they repeat any one secret, and nothing else."""

    @pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 502, 503])
    @pytest.mark.parametrize(
        "words",
        [
            lambda request: request.texts[0],
            lambda request: json.dumps(request.texts),
            of_header("authorization"),
            of_header("x-marked"),
        ],
        ids=["a text", "texts in JSON", "the key", "another header"],
    )
    async def test_of_a_server(
        self, words: Callable[[Request], str], status: int, make: Make, server: EmbeddingServer
    ) -> None:
        """An error's message does not have what the server repeats of a text, the key or a header."""
        server.script = lambda request: Answer.error(status, f"cannot do {words(request)}")
        door = "SharedEmbeddingClient.aembed"
        error = await failing(make(door), door)
        assert leaks(error) == []
        assert "withheld" in str(error)

    @pytest.mark.parametrize("from_environment", [False, True])
    @pytest.mark.parametrize(
        "words",
        [
            of_header("proxy-authorization"),
            lambda request: base64.b64decode(request.headers["proxy-authorization"].split()[1]).decode(),
        ],
        ids=["as sent", "decoded"],
    )
    async def test_of_a_proxy(
        self,
        words: Callable[[Request], str],
        from_environment: bool,
        make: Make,
        server: EmbeddingServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """An error's message does not have what a proxy repeats of its password, wherever that came from."""
        server.script = lambda request: Answer.error(407, f"I do not know {words(request)}")
        proxy = f"http://{USER}@127.0.0.1:{server.port}"
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy if from_environment else NOBODY)
        arguments: dict[str, Any] = {"trust_env": True} if from_environment else {"proxy": proxy}
        door = "SharedEmbeddingClient.aembed"
        error = await failing(make(door, base_url="http://elsewhere.test", **arguments), door)
        assert isinstance(error, ServerRefused)
        assert leaks(error) == []

    @pytest.mark.parametrize("name", ["Set-Cookie", "Server", "Retry-After", "Location", "X-Else"])
    @pytest.mark.parametrize("status", [200, 503])
    async def test_in_headers_are_not_logged(
        self, name: str, status: int, make: Make, server: EmbeddingServer
    ) -> None:
        """A reply whose headers repeat the key has nobody log it."""
        door = "SharedEmbeddingClient.aembed"
        server.script = lambda request: Answer(
            status=None if status == 200 else status, headers={name: f"{KEY}@({KEY})={KEY}; a b"}
        )
        client = make(door, **RETRIES)
        if status == 200:
            await knock(client, door)
        else:
            assert leaks(await failing(client, door)) == []


WRONG: dict[str, dict[str, Any]] = {
    "a number": {"batch_size": 0},
    "a name": {"prompts": "no such family"},
    "a key with a line break": {"api_key": f"{KEY}\n"},
    "a key in a list": {"api_key": [KEY]},
    "a header with a line break": {"headers": {"X-Marked": f"{HEADER}\n"}},
    "headers in a list": {"headers": [HEADER]},
    "a proxy of another scheme": {"proxy": f"socks5://{USER}@proxy:1080"},
    "a proxy without a port": {"proxy": f"http://{USER}@proxy:port"},
    "a password in the URL": {"base_url": f"http://{USER}@127.0.0.1:9"},
    "a key in the URL": {"base_url": f"http://127.0.0.1:9/?key={KEY}"},
}


def error_of(make: Callable[[], object]) -> BaseException:
    """What a constructor raises: our own error, or pydantic's."""
    with pytest.raises(ValueError) as failed:  # noqa: PT011
        make()
    return failed.value


@pytest.mark.parametrize("kind", KINDS)
class TestArguments:
    """What is wrong with one argument does not show the others, nor itself where it may be secret."""

    def errors(self, kind: str, server: EmbeddingServer) -> Iterator[tuple[str, BaseException]]:
        """What is raised for each wrong argument beside a key, a header and a proxy."""
        secret = {"proxy": f"http://{USER}@127.0.0.1:9"}
        for name, wrong in WRONG.items():
            yield name, error_of(lambda wrong=wrong: made(kind, server, **{**secret, **wrong}))
        if hasattr(KINDS[kind], "model_copy"):
            client = made(kind, server, **secret)
            yield "a copy", error_of(lambda: client.model_copy(update={"batch_size": 0}))
            client.close()

    def test_errors_say_no_secret(self, kind: str, server: EmbeddingServer) -> None:
        """The error of a wrong argument, and what it came from, say neither key nor header nor password."""
        said = {name: said_by(error) for name, error in self.errors(kind, server)}
        assert {name: places for name, places in said.items() if places} == {}

    def test_frames_show_no_secret(self, kind: str, server: EmbeddingServer) -> None:
        """No frame of such an error shows key, header or password to who prints locals."""
        shown = {name: shown_by_frames(error) for name, error in self.errors(kind, server)}
        assert {name: places for name, places in shown.items() if places} == {}


class TestEnvironment:
    """A key of the environment is as secret as one that was passed."""

    @pytest.mark.parametrize("door", DOORS)
    async def test_show_no_key_of_the_environment(
        self, door: str, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A key in the environment that cannot be sent is told to be wrong, not shown."""
        monkeypatch.setenv("EMBEDWIRE_API_KEY", f"{KEY}\n")
        error = await failing(make(door, api_key=None), door)
        assert isinstance(error, InputError)
        assert leaks(error) == []


def _module(thing: object) -> str:
    return str(type(thing).__module__)


def shown_by_objects() -> set[str]:
    """The classes of embedwire's, asyncio's and Python's own objects that show a secret now."""
    kinds = (asyncio.Future, asyncio.Handle, concurrent.futures.Future, CoroutineType)
    return {
        type(thing).__qualname__
        for thing in gc.get_objects()
        if isinstance(thing, kinds)
        or (_module(thing).startswith("embedwire") and not _module(thing).startswith("embedwire.testing"))
        if secrets_in(repr(thing))
    }


class Recorder(BaseEventHandler):
    """Keeps the events of LlamaIndex's instrumentation."""

    events: list[BaseEvent] = Field(default_factory=list)

    def handle(self, event: BaseEvent, **_: Any) -> None:
        """Keep it."""
        self.events.append(event)


class TestObjects:
    """Nothing that a debugger, a tracer or a dump looks at shows a secret."""

    @pytest.mark.usefixtures("all_steps_are_logged")
    async def test_show_nothing_under_way(self, make: Make, server: EmbeddingServer) -> None:
        """While calls wait at every door, no repr of a client, a record of the queue, a task or a future tells."""
        with server.hold():
            calls = [knock(make(door), door) for door in ASYNC_DOORS]
            calls += [asyncio.to_thread(lambda d=door: list(call(make(d), d))) for door in SYNC_DOORS]  # type: ignore[misc]
            under_way = asyncio.gather(*calls)
            await server.wait_for(lambda: server.in_flight >= 4)
            assert shown_by_objects() == set()
        await under_way
        assert shown_by_objects() == set()

    async def test_show_nothing_in_a_pause(self, make: Make, server: EmbeddingServer) -> None:
        """Between two attempts, after a reply that repeats all, nothing that waits shows it."""
        paused, logger = asyncio.Event(), logging.getLogger("embedwire")
        server.script = refusal(503, headers={"Retry-After": "30"})
        door = "EmbeddingClient.embed"

        def notice(record: logging.LogRecord) -> bool:
            if "sending again" in record.msg:
                paused.set()
            return True

        logger.addFilter(notice)
        under_way = asyncio.ensure_future(knock(make(door, max_retries=2), door))
        await paused.wait()
        logger.removeFilter(notice)
        assert shown_by_objects() == set()
        under_way.cancel()
        await asyncio.gather(under_way, return_exceptions=True)

    @pytest.mark.parametrize("kind", ["EmbedwireEmbeddings", "EmbedwireEmbedding"])
    async def test_show_nothing_in_dumps(self, kind: str, make: Make) -> None:
        """No dump that a framework makes of an adapter, used before, has a secret."""
        door = next(door for door in DOORS if door.startswith(f"{kind}."))
        client = make(door, proxy=None)
        await knock(client, door)
        shown = [repr(client), str(client), f"{client}", dumps(client), dumps({"embeddings": [client]})]
        shown += [repr(client.model_dump(mode=mode)) for mode in ("python", "json")]
        shown += [client.model_dump_json(), repr(list(client.__repr_args__()))]
        shown += [repr(client.model_dump(include={"api_key", "headers", "proxy"}))]
        for name in ("to_dict", "to_json", "to_payload"):
            if hasattr(client, name):
                shown.append(repr(getattr(client, name)()))
        assert secrets_in("".join(shown)) == []

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "EmbeddingClient"])
    async def test_take_no_key_of_the_environment_along(
        self, kind: str, make: Make, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A pickle of a client that was used with the environment's key is without it."""
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY)
        door = next(door for door in DOORS if door.startswith(f"{kind}."))
        client = make(door, api_key=None, headers=None)
        await knock(client, door)
        assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"
        assert secrets_in(pickle.dumps(client).decode("latin-1")) == []

    @pytest.mark.parametrize("door", [door for door in DOORS if door.startswith("EmbedwireEmbedding.")])
    @pytest.mark.parametrize("status", [None, 401])
    async def test_show_no_key_to_a_tracer(
        self, status: int | None, door: str, make: Make, server: EmbeddingServer
    ) -> None:
        """LlamaIndex's events, spans and callbacks have its texts, as always, and neither key nor header."""
        server.script = None if status is None else refusal(status)
        recorder, spans, dispatcher = Recorder(), SimpleSpanHandler(), get_dispatcher()
        before = list(dispatcher.event_handlers), list(dispatcher.span_handlers)
        dispatcher.add_event_handler(recorder)
        dispatcher.add_span_handler(spans)
        debug = LlamaDebugHandler(print_trace_on_end=False)
        client = make(door, callback_manager=CallbackManager([debug]))
        if status is None:
            await knock(client, door)
        else:
            assert leaks(await failing(client, door)) == []
        dispatcher.event_handlers, dispatcher.span_handlers = before
        shown = [repr(event) + str(event) + repr(event.model_dump()) for event in recorder.events]
        shown += [repr(span) for span in (*spans.completed_spans, *spans.dropped_spans)]
        shown += [repr(event.payload) for event in debug.get_events()]
        assert len(shown) > 3
        assert secrets_in("".join(shown), texts=False) == []
        assert secrets_in("".join(str(getattr(event, "err_str", "")) for event in recorder.events)) == []
