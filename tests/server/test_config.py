"""Arguments at a server: nothing is sent where one is wrong, and each does what it says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from embedwire import EmbeddingClient, InputError, RetryPolicy, ServerUnavailable, SharedEmbeddingClient
from embedwire._settings.options import PRESETS
from embedwire._settings.secret import Secret
from embedwire.testing import Answer, EmbeddingServer, is_vector_of

BOTH = pytest.mark.parametrize("kind", [EmbeddingClient, SharedEmbeddingClient])
URL = "http://embedder.test:8080"
KEY = "sk-never-to-be-seen"


class TestBadArguments:
    """What cannot work is said at once, by name, with the cure."""

    @BOTH
    def test_making_a_client_connects_to_nothing(self, kind: Any, server: EmbeddingServer) -> None:
        """Neither a good nor a bad construction, nor asking what is known, touches the network."""
        client = kind(server.url, api_key=KEY)
        assert client.server_info().dimensions is None
        with pytest.raises(InputError):
            kind(server.url, concurrency=0)
        assert KEY not in repr(client)
        assert server.connections == 0

    @pytest.mark.parametrize(
        ("texts", "words"),
        [
            ("one text", r"pass \[text\]"),
            (b"bytes", r"not bytes; pass list\(texts\)"),
            (None, "must be a list of str, not NoneType"),
            (5, "not int"),
            ({"a"}, r"not set; pass list\(texts\)"),
            ({"a": 1}, r"not dict; pass list\(texts\)"),
            ((text for text in "ab"), r"not generator; pass list\(texts\)"),
            (["a", None], r"texts\[1\] must be a str, not NoneType"),
            (["a", "b", 3], r"texts\[2\] must be a str, not int"),
            ([["a"]], r"texts\[0\] must be a str, not list"),
            (["a", b"b"], r"texts\[1\] must be a str, not bytes"),
            (["a", "b\ud800"], r"texts\[1\] holds a lone surrogate.*encode\('utf-8', 'replace'\)"),
        ],
    )
    def test_texts_are_checked_before_anything_is_sent(
        self, texts: Any, words: str, server: EmbeddingServer
    ) -> None:
        """What is no list of str is an InputError with the text's index and the cure, at every door."""
        shared, own = SharedEmbeddingClient(server.url), EmbeddingClient(server.url)
        for door in (shared.embed, shared.embed_array):
            with pytest.raises(InputError, match=words):
                door(texts)

        async def doors() -> None:
            for door in (shared.aembed, shared.aembed_array, own.embed, own.embed_array):
                with pytest.raises(InputError, match=words):
                    await door(texts)

        asyncio.run(doors())
        assert server.connections == 0

    @pytest.mark.parametrize("text", [None, 5, b"a", ["a"], "\ud800"])
    def test_a_query_is_checked_too(self, text: Any, server: EmbeddingServer) -> None:
        """A query that is no str, or no Unicode, is an InputError at every door; nothing was sent."""
        shared, own = SharedEmbeddingClient(server.url), EmbeddingClient(server.url)
        with pytest.raises(InputError, match="the text to embed"):
            shared.embed_query(text)

        async def doors() -> None:
            for door in (shared.aembed_query, own.embed_query):
                with pytest.raises(InputError, match="the text to embed"):
                    await door(text)

        asyncio.run(doors())
        assert server.connections == 0

    def test_the_other_arguments_of_a_call_are_checked(self, server: EmbeddingServer) -> None:
        """An unknown kind, on_error or a bad timeout is an InputError that names it; nothing was sent."""
        shared, own = SharedEmbeddingClient(server.url), EmbeddingClient(server.url)
        wrong: Any = "passage"
        for door in (shared.embed, shared.embed_array, shared.stream, shared.astream, own.stream):
            with pytest.raises(InputError, match="kind must be 'document' or 'query', not a str"):
                door([], wrong)
        for stream in (shared.stream, shared.astream, own.stream):
            with pytest.raises(InputError, match="on_error must be 'raise' or 'skip', not a str"):
                stream([], on_error=wrong)
            with pytest.raises(InputError, match=r"texts must be an iterable of str.* not str"):
                stream("text")
            with pytest.raises(InputError, match=r"texts must be an iterable of str.* not int"):
                stream(5)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="timeout must be a number of seconds above 0"):
            shared.wait_ready(0)

        async def doors() -> None:
            for door in (shared.aembed, shared.aembed_array, own.embed, own.embed_array):
                with pytest.raises(InputError, match="kind must be"):
                    await door([], wrong)
            for ready in (shared.await_ready, own.wait_ready):
                with pytest.raises(InputError, match="timeout must be a number of seconds above 0"):
                    await ready(-1)

        asyncio.run(doors())
        assert server.connections == 0


class TestUrl:
    """Any usual way to write the server's address means the same server."""

    @pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/embeddings"])
    def test_each_form_reaches_the_server(self, path: str, server: EmbeddingServer) -> None:
        """All forms of one server's URL lead to its /v1/embeddings."""
        with SharedEmbeddingClient(server.url + path, model="m") as client:
            assert is_vector_of(client.embed_query("a"), "a")
        assert [request.path for request in server.requests][:1] == ["/v1/embeddings"]


class TestKey:
    """A key goes where it was meant to go, and is seen nowhere else."""

    def key_sent(self, server: EmbeddingServer, **arguments: Any) -> str | None:
        """The Authorization header of a request."""
        with SharedEmbeddingClient(server.url, model="m", **arguments) as client:
            client.embed_query("a")
        return server.requests[-1].headers.get("authorization")

    def test_is_sent_as_a_bearer(self, server: EmbeddingServer) -> None:
        """A str, a SecretStr and a function that returns either are sent as `Authorization: Bearer`."""

        class SecretStr:
            def get_secret_value(self) -> str:
                return KEY

        for key in (KEY, SecretStr(), lambda: KEY, lambda: SecretStr(), Secret(KEY).reveal):
            assert self.key_sent(server, api_key=key) == f"Bearer {KEY}"
        assert self.key_sent(server) is None

    def test_a_function_is_called_for_each_request(self, server: EmbeddingServer) -> None:
        """A key that changes is sent as it is at that moment."""
        keys = iter(["one", "two", "three"])
        with SharedEmbeddingClient(server.url, model="m", api_key=lambda: next(keys)) as client:
            client.embed_query("a")
            client.embed_query("b")
        assert [request.headers["authorization"] for request in server.requests] == [
            "Bearer one",
            "Bearer two",
        ]

    @pytest.mark.parametrize("bad", ["", KEY + "\r\nX-Evil: 1", None, 5])
    def test_a_function_that_returns_no_key_is_an_input_error(
        self, bad: Any, server: EmbeddingServer
    ) -> None:
        """What a key function returns is checked as a key is, and nothing is sent; the client goes on."""
        keys = iter([bad, KEY])
        with SharedEmbeddingClient(server.url, model="m", api_key=lambda: next(keys)) as client:
            with pytest.raises(InputError, match="api_key") as refused:
                client.embed_query("a")
            assert KEY not in str(refused.value)
            assert server.requests == []
            assert is_vector_of(client.embed_query("a"), "a")

    def test_a_function_that_raises_is_the_callers_error(self, server: EmbeddingServer) -> None:
        """What a key function raises reaches the caller as it is; the client goes on."""
        keys = iter([KEY])

        def key() -> str:
            try:
                return next(keys)
            except StopIteration:
                raise LookupError("the vault is sealed") from None

        with SharedEmbeddingClient(server.url, model="m", api_key=key) as client:
            client.embed_query("a")
            with pytest.raises(LookupError, match="the vault is sealed"):
                client.embed_query("b")

    def test_comes_from_the_environment_when_none_is_passed(
        self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """EMBEDWIRE_API_KEY is read at the first call, not at import or construction; an argument wins."""
        client = SharedEmbeddingClient(server.url, model="m")
        monkeypatch.setenv("EMBEDWIRE_API_KEY", "from-environment")
        client.embed_query("a")
        client.close()
        assert server.requests[-1].headers["authorization"] == "Bearer from-environment"
        assert self.key_sent(server, api_key="explicit") == "Bearer explicit"

    def test_openai_key_does_not_go_to_other_servers(
        self, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """OPENAI_API_KEY is never sent to a server of one's own."""
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert self.key_sent(server) is None

    def test_a_bad_key_in_the_environment_names_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A line break in the variable is an InputError that names it and does not show the key."""
        monkeypatch.setenv("EMBEDWIRE_API_KEY", KEY + "\n")
        with pytest.raises(InputError, match="the environment variable EMBEDWIRE_API_KEY") as refused:
            SharedEmbeddingClient(URL, model="m").embed_query("a")
        assert KEY not in str(refused.value)

    def test_headers_are_sent(self, server: EmbeddingServer) -> None:
        """Further headers go with each request, in whatever case."""
        self.key_sent(server, headers={"X-Tenant": "blue", "x-Trace": "a b"})
        headers = server.requests[-1].headers
        assert (headers["x-tenant"], headers["x-trace"]) == ("blue", "a b")


class TestRecords:
    """What users configure with goes to the server."""

    def test_presets_reach_the_server(self, server: EmbeddingServer) -> None:
        """A preset puts its model's prompts before queries and documents, and nothing else changes."""
        for name, prompts in PRESETS.items():
            with SharedEmbeddingClient(server.url, model="m", prompts=name, concurrency=1) as client:
                client.embed_query("x")
                client.embed(["x"])
            sent = [request.texts for request in server.requests if request.embeds][-2:]
            assert prompts.query or prompts.document
            assert sent == [[prompts.query + "x"], [prompts.document + "x"]]


class TestRetries:
    """The number of attempts is the user's."""

    @BOTH
    @pytest.mark.parametrize(
        ("max_retries", "requests"),
        [(0, 1), (1, 2), (RetryPolicy(attempts=1), 1), (RetryPolicy(attempts=4, base=0), 4)],
    )
    def test_max_retries_counts_repeats(
        self, kind: Any, max_retries: Any, requests: int, server: EmbeddingServer
    ) -> None:
        """`max_retries=0` is one attempt; `RetryPolicy(attempts=n)` is n."""
        server.script = lambda request: Answer.error(502, "no") if request.embeds else None
        client = kind(server.url, model="m", max_retries=max_retries)
        with pytest.raises(ServerUnavailable) as failed:
            asyncio.run((client.aembed if kind is SharedEmbeddingClient else client.embed)(["a"]))
        assert len(server.batches) == requests
        assert failed.value.attempts == requests
