"""The seam is closed: nothing of aiohttp's comes out of it, and nothing secret does, by whatever way."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import socket
import ssl
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from pydantic import SecretStr

from embedwire import (
    BatchLimits,
    ConnectionFailed,
    EmbeddingClient,
    EmbedwireError,
    InputError,
    Prompts,
    RateLimit,
    RequestError,
    RetryPolicy,
    SharedEmbeddingClient,
    Timeouts,
)
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import finish, needs, right
from tests.server.doors import Open, own, shared
from tests.server.names import Names
from tests.server.scripts import Script

KEY = "sk-never-to-be-seen-anywhere"
TEXT = "a private text that nobody else may read"


def everything(error: BaseException) -> Iterator[str]:
    """All that a report of an error may show: words, and the locals of all frames but the tests' own."""
    seen: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        one = errors.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        errors += [one.__cause__, one.__context__]
        yield f"{one} {one!r} {one.args!r}"
        trace = one.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if "/tests/" not in frame.f_code.co_filename:
                for name, value in list(frame.f_locals.items()):
                    yield f"{name} in {frame.f_code.co_filename} {frame.f_code.co_name}: {value!r}"
            trace = trace.tb_next


def shown(error: BaseException, *secrets: str) -> list[str]:
    """Where an error shows a secret. Frames that only pass a caller's texts on may hold those, and no key."""
    return [
        where[:200]
        for where in everything(error)
        if any(
            secret in where
            for secret in secrets
            if secret != TEXT or " in /" not in where or "/aiohttp/" in where or "/_http/" in where
        )
    ]


class Foreign(Exception):
    """Some library's own, with everything in it."""


FOREIGN: list[Callable[[], BaseException]] = [
    lambda: RuntimeError(f"Session is closed {KEY} {TEXT}"),
    lambda: TypeError(f"{KEY} {TEXT}"),
    lambda: KeyError(KEY, TEXT),
    lambda: AttributeError(TEXT),
    lambda: ssl.SSLError(1, f"[SSL] {KEY}"),
    lambda: ResourceWarning(f"Sending a large body {TEXT}"),
    lambda: MemoryError(TEXT),
    lambda: RecursionError(TEXT),
    lambda: StopIteration(TEXT),
    lambda: StopAsyncIteration(TEXT),
    lambda: UnicodeEncodeError("ascii", TEXT, 0, 1, KEY),
    lambda: OSError(24, f"Too many open files {KEY}"),
    lambda: aiohttp.ClientError(f"{KEY} {TEXT}"),
    lambda: aiohttp.TooManyRedirects(None, (), message=KEY),  # type: ignore[arg-type]
    lambda: aiohttp.ClientPayloadError(TEXT),
    lambda: aiohttp.ServerDisconnectedError(TEXT),
    lambda: aiohttp.ServerFingerprintMismatch(KEY.encode(), b"", TEXT, 1),
    lambda: Foreign(KEY, TEXT),
]
foreign = pytest.mark.parametrize("make", FOREIGN, ids=lambda make: type(make()).__name__)


class TestForeignErrors:
    """Errors that aiohttp raises, or lets through."""

    @foreign
    async def test_of_a_request(
        self, make: Callable[[], BaseException], open_doors: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever aiohttp raises for a request, callers get an error of ours, with no text and no key in any frame."""

        async def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
            raise make()

        doors = open_doors(api_key=KEY, max_retries=0)
        with monkeypatch.context() as patch:
            patch.setattr(aiohttp.ClientSession, "_request", fail)
            with pytest.raises(RequestError) as caught:
                await doors.embed([TEXT])
        assert shown(caught.value, KEY, TEXT) == []
        assert right(await doors.embed([TEXT]), [TEXT])  # and the client goes on

    @foreign
    async def test_of_a_reply(
        self, make: Callable[[], BaseException], server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever aiohttp raises while a body is read, callers get an error of ours, with no text and no key."""

        async def fail(self: Any) -> Any:
            raise make()

        async with own(server, api_key=KEY, max_retries=0) as client:
            with monkeypatch.context() as patch:
                patch.setattr(aiohttp.streams.AsyncStreamIterator, "__anext__", fail)
                # StopAsyncIteration is how a body ends: an empty one here.
                with pytest.raises(RequestError) as caught:
                    await client.embed([TEXT])
            assert shown(caught.value, KEY, TEXT) == []
            assert right(await client.embed([TEXT]), [TEXT])

    @foreign
    async def test_of_a_connection(
        self, make: Callable[[], BaseException], server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever comes out of a connect, also of the user's own ``ssl``, is an error of ours without texts or key."""

        async def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
            raise make()

        async with own(server, api_key=KEY, max_retries=0) as client:
            with monkeypatch.context() as patch:
                patch.setattr(aiohttp.TCPConnector, "_create_connection", fail)
                with pytest.raises(RequestError) as caught:
                    await client.embed([TEXT])
            assert shown(caught.value, KEY, TEXT) == []
            assert right(await client.embed([TEXT]), [TEXT])

    @pytest.mark.parametrize("size", [2**20 - 100, 2**20, 1_500_000, 5_000_000])
    async def test_a_large_body_is_no_warning(self, size: int, open_doors: Open) -> None:
        """A text of megabytes is embedded where warnings are errors: aiohttp's about large bodies is never met."""
        text = "x" * size
        assert right(await open_doors().embed([text]), [text])

    @pytest.mark.parametrize("content", ["", "no certificates", None])
    async def test_a_ca_file_that_changed(
        self, content: str | None, authority: trustme.CA, tmp_path: Path, server: EmbeddingServer
    ) -> None:
        """A CA file that is spoiled or deleted after the client was made is an error of ours, and shows nothing."""
        file = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(file))
        url = server.url.replace("http:", "https:")
        async with EmbeddingClient(url, model="m", api_key=KEY, ssl=str(file), max_retries=0) as client:
            file.unlink() if content is None else file.write_text(content)
            with pytest.raises(ConnectionFailed) as caught:
                await client.embed([TEXT])
        assert shown(caught.value, KEY, TEXT) == []

    @pytest.mark.parametrize("kind", ["own", "shared"])
    async def test_a_cancellation_that_nobody_asked_for_hangs_nobody(
        self, kind: str, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A CancelledError out of aiohttp ends the call, and the next one goes through."""

        async def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
            raise asyncio.CancelledError(TEXT)

        client = own(server) if kind == "own" else shared(server)
        embed = client.embed if isinstance(client, EmbeddingClient) else client.aembed
        await embed(["warm"])
        with monkeypatch.context() as patch:
            patch.setattr(aiohttp.ClientSession, "_request", fail)
            ends = await asyncio.gather(embed([TEXT]), embed(["other"]), return_exceptions=True)
            assert all(isinstance(end, (asyncio.CancelledError, EmbedwireError)) for end in ends)
        assert right(await embed([TEXT]), [TEXT])
        await (client.close() if isinstance(client, EmbeddingClient) else client.aclose())


class TestEnvironment:
    """What lies around on the machine."""

    @pytest.mark.parametrize("trust", [True, False])
    @pytest.mark.parametrize("by", ["HOME", "NETRC"])
    def test_netrc_is_never_read(
        self, by: str, trust: bool, tmp_path: Path, script: Script, server: EmbeddingServer
    ) -> None:
        """A password of ``~/.netrc`` is never sent, with ``trust_env`` or without, by any client."""
        (tmp_path / ".netrc").write_text(
            "machine 127.0.0.1 login me password secret\ndefault login a password b\n"
        )
        (tmp_path / ".netrc").chmod(0o600)
        code = f"""
            os.environ[{by!r}] = os.getcwd() + {"/.netrc" if by == "NETRC" else ""!r}
            make(trust_env={trust}).embed(texts("a"))

            async def main():
                async with make(EmbeddingClient, trust_env={trust}) as client:
                    await client.embed(texts("b"))
                    await client.wait_ready()

            asyncio.run(main())
            """
        finish(script(code))
        assert server.batches
        assert not [request for request in server.requests if "authorization" in request.headers]

    @pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
    @pytest.mark.parametrize("trust", [True, False])
    async def test_a_proxy_is_used_only_where_it_is_trusted(
        self, trust: bool, name: str, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The environment's proxy is used with ``trust_env`` alone, and its password is never shown."""
        proxied: list[Request] = []

        def refuse(request: Request) -> Answer:
            proxied.append(request)
            sent = request.headers.get("proxy-authorization", "").removeprefix("Basic ")
            return Answer.error(401, f"bad user, password-of-proxy, {sent}")

        for other in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
            monkeypatch.delenv(other, raising=False)
        with EmbeddingServer(script=refuse) as proxy:
            monkeypatch.setenv(name, f"http://user:password-of-proxy@127.0.0.1:{proxy.port}")
            async with own(server, trust_env=trust, max_retries=0) as client:
                if not trust:
                    assert right(await client.embed([TEXT]), [TEXT])
                    assert not proxied
                    return
                with pytest.raises(RequestError) as caught:
                    await client.embed([TEXT])
            assert proxied[0].path == f"{server.url}/v1/embeddings"
            sent = proxied[0].headers["proxy-authorization"].removeprefix("Basic ")
            assert "withheld" in str(caught.value)
            assert shown(caught.value, "password-of-proxy", sent, TEXT) == []
            assert not server.requests

    @pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
    def test_no_proxy(self, name: str, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A host that the environment excepts is reached without the proxy."""
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv(name, "127.0.0.1")
        with shared(server, trust_env=True) as client:
            assert right(client.embed(["a"]), ["a"])


class TestRotation:
    """Keys that change."""

    @pytest.mark.parametrize("keys", [2, 3, 20])
    @pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
    async def test_no_key_that_was_ever_sent_is_quoted(
        self, status: int, keys: int, server: EmbeddingServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """After a rotation, a server that quotes an earlier key has its words withheld, in errors and in the log."""
        sent = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(keys)]
        turn = 0
        async with own(server, api_key=lambda: sent[turn], max_retries=0) as client:
            for turn in range(keys):
                assert right([await client.embed_query(f"q {turn}")], [f"q {turn}"])
            for early in sent:
                server.answer(Answer.error(status, f"the key {early} has expired"))
                with pytest.raises(RequestError) as caught:
                    await client.embed([TEXT])
                assert "withheld" in str(caught.value)
                assert shown(caught.value, *sent, TEXT) == []
        assert not [key for key in sent if key in caplog.text]


class TestNames:
    """Names that are looked up."""

    async def test_a_server_that_moved_is_found(
        self, server: EmbeddingServer, names: Names, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a connect that timed out, and each other break, the name is looked up again."""
        url = server.url.replace("127.0.0.1", "embeddings.test")
        create, broken = aiohttp.TCPConnector._create_connection, 0

        async def moved(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal broken
            if broken:
                broken -= 1
                raise aiohttp.ConnectionTimeoutError("no answer")
            return await create(self, *args, **kwargs)

        monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", moved)
        server.script = lambda request: Answer(headers={"Connection": "close"}, then="close")
        async with EmbeddingClient(
            url, model="m", encoding="float", max_retries=RetryPolicy(base=0.001)
        ) as client:
            assert right(await client.embed(["a"]), ["a"])
            assert len(names.asked) == 1
            broken = 1
            assert right(await client.embed(["b"]), ["b"])
            assert len(names.asked) == 2

    def test_a_dead_zone_holds_no_other_name_up(
        self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While forty look-ups of a dead zone hang, clients of other names, and of addresses, go on."""
        look_up, over = socket.getaddrinfo, threading.Event()

        def slow(host: Any, *args: Any, **kwargs: Any) -> Any:
            if str(host).endswith(".dead.test"):
                over.wait(30)
                raise socket.gaierror(socket.EAI_NONAME, "unknown")
            return look_up(host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", slow)
        dead = [SharedEmbeddingClient(f"http://h{number}.dead.test:1", model="m") for number in range(40)]
        try:
            calls = [client._bridge.submit(["x"], "query", begun=0.0) for client in dead]
            for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
                with SharedEmbeddingClient(url, model="m", encoding="float", deadline=10) as client:
                    assert right(client.embed(["a"]), ["a"])
            assert not any(call.done() for call in calls)
        finally:
            over.set()
            for client in dead:
                client.close()


FIRST_USE = """
    import importlib.abc

    loading, go_on = threading.Event(), threading.Event()

    class Slow(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name == "embedwire._clients.engine":  # with which aiohttp and numpy come
                loading.set()
                go_on.wait(30)
            return None

    from embedwire import DeadlineExceeded
    sys.meta_path.insert(0, Slow())
"""


class TestFirstUse:
    """The first use of the process, in which aiohttp is loaded."""

    @pytest.mark.parametrize("door", ["sync", "async", "own"])
    def test_is_under_the_deadline(self, door: str, script: Script, server: EmbeddingServer) -> None:
        """A deadline holds while aiohttp and numpy are still being loaded; later calls go through."""
        code = f"""
            async def main(door):
                try:
                    if door == "async":
                        await make(deadline=0.3).aembed(["x"])
                    else:
                        await make(EmbeddingClient, deadline=0.3).embed(["x"])
                except DeadlineExceeded as error:
                    assert error.index == 0 and error.completed.indexes == []
                    return "told"

            door = {door!r}
            if door == "sync":
                try:
                    make(deadline=0.3).embed(["x"])
                except DeadlineExceeded as error:
                    assert error.index == 0 and error.completed.indexes == []
                    told = "told"
            else:
                told = asyncio.run(main(door))
            assert loading.is_set() and not go_on.is_set()
            go_on.set()
            print(told, right(make().embed(texts("a")), texts("a")))
            """
        assert finish(script(textwrap.dedent(FIRST_USE) + textwrap.dedent(code))) == "told True\n"


PRIVATE = "my private text, or a key"
MISPLACED: list[Any] = [
    PRIVATE,
    [PRIVATE],
    (PRIVATE,),
    {"key": PRIVATE},
    {PRIVATE: 1},
    PRIVATE.encode(),
    SecretStr(PRIVATE),
    lambda: PRIVATE,
    Prompts(query=PRIVATE),
]
OPTIONS = sorted(inspect.signature(EmbeddingClient).parameters)
misplaced = pytest.mark.parametrize("value", MISPLACED, ids=lambda value: type(value).__name__)


def made(kind: Any, fields: dict[str, Any]) -> Any:
    """A client, or the error in its place."""
    try:
        return kind(**fields)
    except (ValueError, TypeError) as error:
        return error


class TestMisplacedArguments:
    """A text, or a key, where something else belongs."""

    @misplaced
    async def test_of_calls(self, value: Any, server: EmbeddingServer) -> None:
        """At every door a misplaced argument is refused, by its name and type, and shown nowhere."""
        async with own(server) as one:
            client = shared(server)
            for call in (
                lambda: client.embed(["a"], value),
                lambda: client.embed_array(["a"], value),
                lambda: client.stream(["a"], value),
                lambda: client.stream(["a"], on_error=value),
                lambda: client.astream(["a"], value),
                lambda: client.astream(["a"], on_error=value),
                lambda: client.wait_ready(value),
                lambda: one.stream(["a"], value),
                lambda: one.stream(["a"], on_error=value),
            ):
                with pytest.raises(InputError) as caught:
                    call()
                assert PRIVATE not in str(caught.value)
            for begin in (
                lambda: client.aembed(["a"], value),
                lambda: client.aembed_array(["a"], value),
                lambda: client.await_ready(value),
                lambda: one.embed(["a"], value),
                lambda: one.embed_array(["a"], value),
                lambda: one.wait_ready(value),
            ):
                with pytest.raises(InputError) as caught:
                    await begin()
                assert PRIVATE not in str(caught.value)
            client.close()
            assert not server.requests

    @pytest.mark.parametrize("option", OPTIONS)
    @pytest.mark.parametrize("kind", [EmbeddingClient, SharedEmbeddingClient])
    def test_of_constructors(self, kind: Any, option: str) -> None:
        """No option's value is shown, in a message, a repr or a frame, whatever else was meant by it."""
        for value in MISPLACED:
            got = made(kind, {"base_url": "http://localhost:1", option: value})
            if isinstance(got, Exception):
                assert shown(got, PRIVATE) == []
            else:
                assert option == "model" or PRIVATE not in repr(got)

    @pytest.mark.parametrize(
        ("record", "fields"),
        [
            (Timeouts, ("total", "connect", "sock_read")),
            (
                RetryPolicy,
                ("attempts", "base", "throttled_base", "multiplier", "cap", "jitter", "retry_after_cap"),
            ),
            (BatchLimits, ("texts", "chars")),
            (RateLimit, ("requests", "texts", "chars", "per_second", "per_minute")),
            (Prompts, ("query", "document")),
        ],
    )
    def test_of_records(self, record: Any, fields: tuple[str, ...]) -> None:
        """No field of a record is shown by the error that refuses it."""
        for field in fields:
            for value in MISPLACED[1:]:
                with pytest.raises(InputError) as caught:
                    record(**{field: value})
                assert PRIVATE not in str(caught.value)

    @needs("langchain_core")
    @needs("llama_index.core")
    @pytest.mark.parametrize("option", OPTIONS)
    def test_of_adapters(self, option: str) -> None:
        """Neither framework shows what was put into a wrong field, not in the words, reprs or data of its errors."""
        from embedwire.langchain import EmbedwireEmbeddings
        from embedwire.llama_index import EmbedwireEmbedding

        for kind, name in ((EmbedwireEmbeddings, "model"), (EmbedwireEmbedding, "model_name")):
            for value in MISPLACED:
                fields = {"base_url": "http://localhost:1", name: "m"}
                fields[name if option == "model" else option] = value
                got = made(kind, fields)
                assert not isinstance(got, Exception) or shown(got, PRIVATE) == []
