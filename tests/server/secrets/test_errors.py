"""However a call fails, nothing of its exception shows a secret."""

from __future__ import annotations

import asyncio
import gzip
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trustme

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
    ServerRefused,
    ServerUnavailable,
    TextRefused,
    Timeouts,
    UsageError,
    exceptions,
)
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.server.secrets.marked import (
    ASYNC_DOORS,
    DOORS,
    KEY,
    NOBODY,
    RETRIES,
    SYNC_DOORS,
    TEXT,
    TEXTS,
    USER,
    Make,
    Script,
    call,
    everything,
    failing,
    knock,
    leaks,
    made,
    refusal,
)


def reply(make: Callable[[Request], object], **fields: Any) -> Script:
    """A server whose success repeats what it was sent."""
    return lambda request: Answer(body=make(request), **fields)


def not_http(request: Request) -> Answer:
    """A server that repeats all that it was sent, and speaks no HTTP."""
    return Answer(raw=everything(request).encode() + b"\r\n\r\n")


def several_models(request: Request) -> Answer | None:
    """A server that repeats the key in the names of its models."""
    names = [{"id": request.headers["authorization"]}, {"id": "another"}]
    return Answer(body={"data": names}) if request.place == "/v1/models" else None


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
        error=ServerRefused,
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
        client = make(door, max_queued=1)
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
