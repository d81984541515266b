"""The URL is the user's: paths, queries, logins, Unix sockets, by the client and both adapters."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import logging
import pickle
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from embedwire import (
    BadReply,
    EmbeddingClient,
    InputError,
    RequestError,
    ServerRefused,
    SharedEmbeddingClient,
)
from embedwire._servers import known
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, EmbeddingServer, Request, vector
from tests.frameworks.both import Door, every_door
from tests.helpers import needs_fork, numbered, pickled, right

PASSWORD = "p@ss:word/4711-long"
LOGIN = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()
TEXTS = numbered(3)


def reply(request: Request, model: str = "m") -> Answer:
    """The right reply, at whatever path."""
    texts = request.json["input"]
    data = [{"index": index, "embedding": vector(text, 8)} for index, text in enumerate(texts)]
    return Answer(body={"model": model, "data": data})


def at(*paths: str, models: str = "") -> Callable[[Request], Answer]:
    """A server that takes texts at these paths, lists a model at one, and knows no other path."""

    def script(request: Request) -> Answer:
        if request.path in paths:
            return reply(request)
        if request.path == models:
            return Answer(body={"data": [{"id": "the-model"}]})
        return Answer(status=404, body={"detail": "Not Found"})

    return script


def paths(server: EmbeddingServer) -> list[str]:
    """What it was asked for, in order."""
    return [request.path for request in server.requests]


class TestPaths:
    """Vectors come from where the server gives them."""

    @every_door
    @pytest.mark.parametrize(
        ("given", "there", "asked"),
        [
            # Infinity as it starts, and whoever writes /v1 by habit.
            ("", "/embeddings", ["/v1/embeddings", "/embeddings"]),
            ("/v1", "/embeddings", ["/v1/embeddings", "/embeddings"]),
            ("/embeddings", "/embeddings", ["/embeddings"]),
            # GitHub Models, Databricks, Azure, watsonx, Gemini
            ("/inference", "/inference/embeddings", ["/inference/embeddings"]),
            ("/inference/embeddings", "/inference/embeddings", ["/inference/embeddings"]),
            ("/serving-endpoints", "/serving-endpoints/embeddings", ["/serving-endpoints/embeddings"]),
            *((path, path, [path]) for path in ("/serving-endpoints/e5/invocations",)),
            *(("/openai/deployments/e5", path, [path]) for path in ("/openai/deployments/e5/embeddings",)),
            ("/ml/v1.0", "/ml/v1.0/embeddings", ["/ml/v1.0/embeddings"]),
            ("/v1beta/openai/", "/v1beta/openai/embeddings", ["/v1beta/openai/embeddings"]),
            # A prefix before the usual path, as 0.1 had it, and a slash at the end that somebody needs.
            ("/llama", "/llama/v1/embeddings", ["/llama/embeddings", "/llama/v1/embeddings"]),
            ("/v1/embeddings/", "/v1/embeddings/", ["/v1/embeddings/"]),
            ("/%7Euser/v1", "/~user/v1/embeddings", ["/~user/v1/embeddings"]),
        ],
    )
    async def test_of_the_world(self, given: str, there: str, asked: list[str], door: Door) -> None:
        """A path is kept, a whole URL is used as it stands, and a /v1 too much or too little is found out once."""
        async with EmbeddingServer(script=at(there)) as server:
            assert right(await door(server.url + given, TEXTS, model="m"), TEXTS)
            assert paths(server) == asked
            assert right(await door(server.url + given, TEXTS, model="m"), TEXTS)
            assert paths(server) == [*asked, there]

    @pytest.mark.parametrize("status", [404, 405])
    async def test_neither_is_there(self, status: int) -> None:
        """Where no path is known, the error names both, after one request to each; the cure helps."""
        nothing = Answer(status=status, body=b"<html>nginx</html>")
        async with EmbeddingServer(
            script=lambda request: None if request.path[:4] == "/api" else nothing
        ) as server:
            server.script = lambda request: reply(request) if request.path == "/api/embeddings" else nothing
            async with EmbeddingClient(server.url, model="m") as client:
                with pytest.raises(
                    ServerRefused, match=r"at /v1/embeddings and at /embeddings: .*base_url"
                ) as e:
                    await client.embed(TEXTS)
            assert (e.value.attempts, paths(server)) == (2, ["/v1/embeddings", "/embeddings"])
            async with EmbeddingClient(f"{server.url}/api", model="m") as client:
                assert right(await client.embed(TEXTS), TEXTS)

    async def test_an_unknown_model_is_no_unknown_path(self) -> None:
        """A 404 that speaks of the model is not sent elsewhere."""
        gone = Answer.error(404, "The model `m` does not exist.", error_type="NotFoundError")
        async with (
            EmbeddingServer(script=lambda request: gone) as server,
            EmbeddingClient(server.url, model="m") as client,
        ):
            with pytest.raises(ServerRefused):
                await client.embed(TEXTS)
            assert paths(server) == ["/v1/embeddings"]

    async def test_a_path_that_gave_vectors_is_believed(self) -> None:
        """Later failures of a server that gave vectors are not tried elsewhere."""
        async with EmbeddingServer() as server, EmbeddingClient(server.url, model="m") as client:
            await client.embed(TEXTS)
            server.answer(Answer(status=404, body=b""))
            with pytest.raises(ServerRefused):
                await client.embed(TEXTS)
            assert set(paths(server)) == {"/v1/embeddings"}

    async def test_what_the_other_path_refuses_is_told(self) -> None:
        """Where the other path is the right one, its own refusal is the error, and no third request is sent."""

        def script(request: Request) -> Answer:
            return Answer.error(401, "no key") if request.path == "/embeddings" else at()(request)

        async with EmbeddingServer(script=script) as server, EmbeddingClient(server.url, model="m") as client:
            with pytest.raises(RequestError) as refused:
                await client.embed(TEXTS)
            assert (refused.value.status, len(server.requests)) == (401, 2)
            with pytest.raises(RequestError):
                await client.embed(TEXTS)
            assert paths(server)[2:] == ["/embeddings"]

    async def test_the_model_is_asked_for_there(self) -> None:
        """Without a model's name the list is looked for at both paths, and the texts go where it stands."""
        async with (
            EmbeddingServer(script=at("/embeddings", models="/models")) as server,
            EmbeddingClient(server.url) as client,
        ):
            assert right(await client.embed(TEXTS), TEXTS)
            assert paths(server) == ["/v1/models", "/models", "/embeddings"]
            assert server.requests[-1].json["model"] == "the-model"
            info = client.server_info()
            assert (info.url, info.model) == (server.url, "the-model")

    @pytest.mark.parametrize("page", [b"<html>Open WebUI</html>", b'{"embeddings":[[1.0,2.0]]}'])
    async def test_a_page_or_another_form_before_the_version(self, page: bytes) -> None:
        """Behind a prefix a web page, or llama.cpp's own form of a reply, leads on to the path with /v1."""

        def script(request: Request) -> Answer:
            return reply(request) if request.path == "/llama/v1/embeddings" else Answer(body=page)

        async with (
            EmbeddingServer(script=script) as server,
            EmbeddingClient(f"{server.url}/llama", model="m") as client,
        ):
            assert right(await client.embed(TEXTS[:1]), TEXTS[:1])
            assert paths(server) == ["/llama/embeddings", "/llama/v1/embeddings"]

    async def test_a_broken_reply_stays_what_it_is(self) -> None:
        """A server behind a prefix whose reply is broken is told to be broken, whatever the other path says."""
        wrong = Answer(body={"data": []})
        async with (
            EmbeddingServer() as server,
            EmbeddingClient(f"{server.url}/llama", model="m") as client,
        ):
            server.script = lambda request: wrong if request.path == "/llama/embeddings" else None
            with pytest.raises(BadReply, match=r"with 0 .*after 2 requests") as broken:
                await client.embed(TEXTS)
            assert " at /llama" not in str(broken.value)

    async def test_other_software_takes_its_place(self) -> None:
        """After a restart as a server with other paths the embeddings are found again."""
        async with (
            EmbeddingServer(script=at("/embeddings")) as server,
            EmbeddingClient(server.url, model="m") as client,
        ):
            await client.embed(TEXTS)
            await server.arestart()
            server.script = at("/v1/embeddings")
            assert right(await client.embed(numbered(3, "new")), numbered(3, "new"))

    async def test_questions_stand_at_the_root(self) -> None:
        """`/health` and `/props` are asked for before the version, behind a prefix too."""
        async with EmbeddingServer() as server:
            server.script = lambda request: reply(request) if request.method == "POST" else None
            async with EmbeddingClient(f"{server.url}/llama/v1", model="m") as client:
                await client.wait_ready()
            assert {"/llama/health", "/llama/props"} <= set(paths(server))

    def test_spellings_are_equal(self) -> None:
        """A host alone and the same with /v1 are one server, and share everything."""
        assert SharedEmbeddingClient("http://h") == SharedEmbeddingClient("HTTP://H/v1/ ")
        assert SharedEmbeddingClient("http://h") != SharedEmbeddingClient("http://h/v1/embeddings")


class TestQueries:
    """A query string goes along, and is not shown."""

    @every_door
    @pytest.mark.parametrize("path", ["/openai/deployments/e5", "/openai/deployments/e5/embeddings"])
    async def test_azure(self, path: str, door: Door) -> None:
        """`?api-version=` stands on each request, with the `api-key` header."""
        query = "?api-version=2024-02-01"

        def script(request: Request) -> Answer:
            asked = f"/openai/deployments/e5/embeddings{query}"
            if request.path == asked and request.headers.get("api-key") == "azure-key-1":
                return reply(request)
            return Answer(status=404, body=b"")

        async with EmbeddingServer(script=script) as server:
            found = await door(
                server.url + path + query, TEXTS, model="m", headers={"api-key": "azure-key-1"}
            )
            assert right(found, TEXTS)
            assert len(server.requests) == 1

    async def test_on_questions_too(self) -> None:
        """The list of models and other questions carry it as well."""
        async with EmbeddingServer() as server, EmbeddingClient(f"{server.url}?key=4711") as client:
            with contextlib.suppress(RequestError):
                await client.wait_ready()
            assert {path.partition("?")[2] for path in paths(server)} == {"key=4711"}

    async def test_is_shown_nowhere(self, caplog: pytest.LogCaptureFixture) -> None:
        """No repr, log, info, error or dump has what stands in it, but for a version."""
        caplog.set_level(logging.DEBUG)
        secret = "sk-in-the-query"
        async with EmbeddingServer() as server:
            url = f"{server.url}/v1?api-version=2024-02-01&key={secret}"
            server.script = lambda request: Answer.error(400, f"not with the key {secret}")
            async with EmbeddingClient(url, model="m") as client:
                with pytest.raises(RequestError, match="withheld") as refused:
                    await client.embed(TEXTS)
                shown = [repr(client), str(refused.value), str(client.server_info()), caplog.text]
            for adapter in (EmbedwireEmbeddings(base_url=url), EmbedwireEmbedding(base_url=url)):
                shown += [repr(adapter), str(adapter), str(adapter.model_dump()), adapter.model_dump_json()]
                assert adapter.model_dump()["base_url"] == f"{server.url}/v1?api-version=2024-02-01"
                assert pickled(adapter)._client == adapter._client
            assert not [one for one in shown if secret in one]

    async def test_a_version_is_no_secret(self) -> None:
        """What the server says of the version is told."""
        async with EmbeddingServer() as server:
            server.answer(Answer.error(401, "the version 2024-02-15-preview is over"))
            async with EmbeddingClient(
                f"{server.url}/v1?api-version=2024-02-15-preview", model="m"
            ) as client:
                server.script = lambda request: Answer.error(401, "the version 2024-02-15-preview is over")
                with pytest.raises(RequestError, match="2024-02-15-preview is over"):
                    await client.embed(TEXTS)


class TestLogins:
    """`user:password@` is basic authorization."""

    @every_door
    async def test_is_sent(self, door: Door) -> None:
        """User and password, quoted in the URL, are sent as they are."""
        async with EmbeddingServer() as server:
            url = server.url.replace("http://", "http://user:p%40ss%3Aword%2F4711-long@")
            assert right(await door(url, TEXTS, model="m"), TEXTS)
            (request,) = server.requests
            assert request.headers["authorization"] == LOGIN
            assert request.headers["host"] == server.url[len("http://") :]

    async def test_is_shown_nowhere(self, caplog: pytest.LogCaptureFixture) -> None:
        """No repr, log, info, error or dump has the password, as it is, quoted or coded."""
        caplog.set_level(logging.DEBUG)
        async with EmbeddingServer() as server:
            url = server.url.replace("http://", "http://user:p%40ss%3Aword%2F4711-long@")
            shown = []
            for said in (PASSWORD, LOGIN):
                known.forget()
                server.script = lambda request, said=said: Answer.error(403, f"not {said}")  # type: ignore[misc]
                async with EmbeddingClient(url, model="m") as client:
                    with pytest.raises(RequestError, match="withheld") as refused:
                        await client.embed(TEXTS)
                    shown += [repr(client), str(refused.value), str(client.server_info()), caplog.text]
                    shown += [repr(client.__getstate__())]
            for adapter in (EmbedwireEmbeddings(base_url=url), EmbedwireEmbedding(base_url=url)):
                shown += [repr(adapter), str(adapter), str(adapter.model_dump()), adapter.model_dump_json()]
            secrets = (PASSWORD, LOGIN[6:], "p%40ss%3Aword")
            assert not [one for one in shown for secret in secrets if secret in one]

    @pytest.mark.parametrize("again", [pickled, copy.deepcopy])
    def test_goes_with_copies(self, again: Callable[[Any], Any]) -> None:
        """A copy and a pickle keep it, as they keep a key that was passed."""
        client = SharedEmbeddingClient("http://user:word@h")
        assert again(client) == client
        assert client != SharedEmbeddingClient("http://h")
        assert b"http://user:word" not in pickle.dumps(client)

    @pytest.mark.parametrize("other", [{"api_key": "key"}, {"headers": {"authorization": "Bearer key"}}])
    def test_leaves_no_room_for_a_key(self, other: dict[str, Any]) -> None:
        """Two values for one header are refused, since one of them would be ignored in silence."""
        with pytest.raises(InputError, match=r"base_url .*leave one out") as refused:
            EmbeddingClient("http://user:word@h", **other)
        assert "word@" not in str(refused.value)

    async def test_a_key_of_the_environment_comes_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key that waits in the environment does not take the place of what the URL says."""
        monkeypatch.setenv("EMBEDWIRE_API_KEY", "of-the-environment")
        async with EmbeddingServer() as server:
            url = server.url.replace("http://", "http://user:word@")
            async with EmbeddingClient(url, model="m") as client:
                await client.embed(TEXTS)
            assert server.requests[0].headers["authorization"].startswith("Basic ")

    async def test_a_host_of_ones_own(self) -> None:
        """`Host` can be set, for a server that is known by another name than the address."""
        async with EmbeddingServer() as server:
            async with EmbeddingClient(server.url, model="m", headers={"Host": "inside.example"}) as client:
                await client.embed(TEXTS)
            assert server.requests[0].headers["host"] == "inside.example"


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[tuple[Path, EmbeddingServer]]:
    """A Unix socket that leads to a server."""
    path = tmp_path / "llama.sock"
    async with EmbeddingServer() as server:

        async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65_536):
                    writer.write(data)
            with contextlib.suppress(OSError):
                writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer))

        listener = await asyncio.start_unix_server(serve, path)
        yield path, server
        listener.close()


@needs_fork
class TestUnixSockets:
    """`unix:///path.sock` is a server like any other."""

    @every_door
    @pytest.mark.parametrize("path", ["", "/v1", "/v1/embeddings"])
    async def test_is_reached(self, path: str, door: Door, socket: tuple[Path, EmbeddingServer]) -> None:
        """Vectors come over a socket's file, with or without a path behind it."""
        file, server = socket
        assert right(await door(f"unix://{file}{path}", TEXTS), TEXTS)
        assert [one for one in paths(server) if "embeddings" in one] == ["/v1/embeddings"]

    async def test_connections_are_kept_and_looked_at(self, socket: tuple[Path, EmbeddingServer]) -> None:
        """A second copy of a reply on a kept connection is not taken for the next answer."""
        file, server = socket
        async with EmbeddingClient(f"unix://{file}", model="m") as client:
            await client.embed(["a"])
            await client.embed(["b"])
            assert server.connections == 1
            body = b'{"data":[{"index":0,"embedding":[1,2,3,4,5,6,7,8]}]}'
            head = b"HTTP/1.1 200 OK\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n"
            server.answer(Answer(raw=(head + body) * 2, then="keep"))
            await client.embed(["c"])
            assert right(await client.embed(["d"]), ["d"])
            assert server.connections == 2

    async def test_nobody_listens(self, tmp_path: Path) -> None:
        """A file that is not there is an error that names it, after the usual attempts."""
        url = f"unix://{tmp_path}/no.sock"
        async with EmbeddingClient(url, model="m") as client:
            with pytest.raises(RequestError, match=r"No such file.*no\.sock/v1.* after 3 requests"):
                await client.embed(TEXTS)

    def test_has_no_proxy(self) -> None:
        """A proxy cannot lead there, and that is said."""
        with pytest.raises(InputError, match="proxy cannot lead to a Unix socket"):
            EmbeddingClient("unix:///run/llama.sock", proxy="http://proxy:3128")

    async def test_ignores_a_proxy_of_the_environment(
        self, socket: tuple[Path, EmbeddingServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A proxy of the environment is for the network."""
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        async with EmbeddingClient(f"unix://{socket[0]}", model="m", trust_env=True) as client:
            assert right(await client.embed(TEXTS), TEXTS)


def test_windows_has_no_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are none, that is said when the client is made."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InputError, match="Windows does not have"):
        EmbeddingClient("unix:///run/llama.sock")
