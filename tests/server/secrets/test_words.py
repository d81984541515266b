"""What a server says, a wrong argument and the environment's key are shown only where no secret is in them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from embedwire import InputError, ServerRefused
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.server.secrets.marked import (
    DOORS,
    HEADER,
    KEY,
    KINDS,
    NOBODY,
    QUERY,
    RETRIES,
    USER,
    Make,
    failing,
    knock,
    leaks,
    made,
    said_by,
    shown_by_frames,
)


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
            lambda request: request.path,
        ],
        ids=["a text", "texts in JSON", "the key", "another header", "the query"],
    )
    async def test_of_a_server(
        self, words: Callable[[Request], str], status: int, make: Make, server: EmbeddingServer
    ) -> None:
        """An error's message does not have what the server repeats of a text, the key or a header."""
        server.script = lambda request: Answer.error(status, f"cannot do {words(request)}")
        door = "SharedEmbeddingClient.aembed"
        url = f"{server.url}/v1/embeddings?token={QUERY}"  # this path, whatever is not known
        error = await failing(make(door, base_url=url), door)
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
    "a password and a key": {"base_url": f"http://{USER}@127.0.0.1:9"},
    "a password in a URL without a port": {"base_url": f"http://{USER}@127.0.0.1:port"},
    "a key behind the URL": {"base_url": f"http://127.0.0.1:9/#key={KEY}"},
    "a key in a URL of another scheme": {"base_url": f"ftp://127.0.0.1:9/?key={KEY}"},
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
