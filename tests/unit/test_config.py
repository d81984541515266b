"""Every argument, checked before anything is sent; URLs, keys and the records that users make."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import pickle
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import embedwire
from embedwire import (
    BatchLimits,
    EmbeddingClient,
    InputError,
    Prompts,
    RateLimit,
    RetryPolicy,
    ServerUnavailable,
    SharedEmbeddingClient,
    Timeouts,
)
from embedwire._config import PRESETS, Secret, key_from_environment
from embedwire.testing import Answer, EmbeddingServer, is_vector_of

BOTH = pytest.mark.parametrize("kind", [EmbeddingClient, SharedEmbeddingClient])
URL = "http://embedder.test:8080"
KEY = "sk-never-to-be-seen"
NAN, INF = float("nan"), float("inf")

URL_CURE = "pass for example 'http://localhost:8080'"
SECONDS_CURE = "must be a number of seconds above 0"


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


class Unhashable:
    """A function that cannot be a key of a dict."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> str:
        """Return the key."""
        return KEY


class TestBadArguments:
    """What cannot work is said at once, by name, with the cure."""

    @BOTH
    @pytest.mark.parametrize(
        ("argument", "value", "cure"),
        [
            # base_url
            ("base_url", None, URL_CURE),
            ("base_url", 8080, URL_CURE),
            ("base_url", b"http://h", URL_CURE),
            ("base_url", ["http://h"], URL_CURE),
            ("base_url", "", URL_CURE),
            ("base_url", "   ", URL_CURE),
            ("base_url", "http://h\n", URL_CURE),
            ("base_url", " http://h", URL_CURE),
            ("base_url", "http://h/a b", URL_CURE),
            ("base_url", "http://h/\x00", URL_CURE),
            ("base_url", "http://h/\x7f", URL_CURE),
            ("base_url", "localhost:8080", "must start with http:// or https://"),
            ("base_url", "localhost", "must start with http:// or https://"),
            ("base_url", "//localhost:8080", "must start with http:// or https://"),
            ("base_url", "ftp://h", "must start with http:// or https://"),
            ("base_url", "http://", "name a host"),
            ("base_url", "http://:8080", "name a host"),
            ("base_url", "http:///v1", "name a host"),
            ("base_url", "http://h:0", URL_CURE),
            ("base_url", "http://h:99999", URL_CURE),
            ("base_url", "http://h:-1", URL_CURE),
            ("base_url", "http://h:port", URL_CURE),
            ("base_url", "http://[::1", URL_CURE),
            ("base_url", "http://[not-an-address]:8080", URL_CURE),
            ("base_url", f"http://h/v1?key={KEY}", "put keys into api_key="),
            ("base_url", f"http://h/v1#{KEY}", "put keys into api_key="),
            ("base_url", f"http://user:{KEY}@h", "put keys into api_key="),
            ("base_url", f"http://{KEY}@h", "put keys into api_key="),
            # key, headers, ways to the server
            ("api_key", 5, "must be a str"),
            ("api_key", b"bytes", "must be a str"),
            ("api_key", "", "pass None for no key"),
            ("api_key", KEY + "\n", "line break"),
            ("api_key", KEY + "\r\nX-Evil: 1", "line break"),
            ("api_key", " " + KEY, "strip it"),
            ("api_key", KEY + "\0", "no HTTP header can carry"),
            ("api_key", KEY + "é", "no HTTP header can carry"),
            ("api_key", Unhashable(), "cannot be hashed; pass a function or a method"),
            ("headers", [("X-A", "b")], "must be a mapping"),
            ("headers", "X-A: b", "must be a mapping"),
            ("headers", {"X A": "b"}, "no HTTP header name"),
            ("headers", {"X-A:": "b"}, "no HTTP header name"),
            ("headers", {"": "b"}, "no HTTP header name"),
            ("headers", {"X-A\r\nX-Evil": "b"}, "no HTTP header name"),
            ("headers", {"X-É": "b"}, "no HTTP header name"),
            ("headers", {5: "b"}, "no HTTP header name"),
            ("header", {"X-A": f"{KEY}\r\nX-Evil: 1"}, "without line breaks"),
            ("header", {"X-A": f"{KEY}\n"}, "without line breaks"),
            ("header", {"X-A": f"{KEY}\0"}, "without line breaks"),
            ("header", {"X-A": f"{KEY}é"}, "must be a str of printable ASCII"),
            ("header", {"X-A": 5}, "must be a str"),
            ("header", {"X-A": None}, "must be a str"),
            ("headers", {"Host": "other"}, "the client needs it for itself"),
            ("headers", {"content-LENGTH": "3"}, "the client needs it for itself"),
            ("headers", {"Transfer-Encoding": "chunked"}, "the client needs it for itself"),
            ("headers", {"Content-Type": "text/plain"}, "the client needs it for itself"),
            ("headers", {"Accept-Encoding": "gzip"}, "the client needs it for itself"),
            ("headers", {"Connection": "close"}, "the client needs it for itself"),
            ("proxy", 5, "pass for example 'http://proxy:3128'"),
            ("proxy", "", "pass for example 'http://proxy:3128'"),
            ("proxy", "proxy:3128", "pass for example 'http://proxy:3128'"),
            ("proxy", "socks5://proxy:1080", "pass for example 'http://proxy:3128'"),
            ("proxy", f"http://me:{KEY}@proxy:port", "pass for example 'http://proxy:3128'"),
            ("ssl", 5, "ssl.SSLContext, the path of a CA file"),
            ("ssl", Path("ca.pem"), "ssl.SSLContext, the path of a CA file"),
            ("ssl", "no-such-file.pem", "does not exist"),
            ("trust_env", 1, "True or False"),
            ("trust_env", "yes", "True or False"),
            # what is asked
            ("model", "", "None for the model that the server serves"),
            ("model", 5, "None for the model that the server serves"),
            ("model", "\ud800", "None for the model that the server serves"),
            ("dimensions", 0, "an int of at least 1"),
            ("dimensions", -1, "an int of at least 1"),
            ("dimensions", 8.0, "an int of at least 1"),
            ("dimensions", "8", "an int of at least 1"),
            ("dimensions", True, "an int of at least 1"),
            ("normalize", 1, "True or False"),
            ("normalize", None, "True or False"),
            ("encoding", "int8", "'auto', 'float' or 'base64'"),
            ("encoding", None, "'auto', 'float' or 'base64'"),
            ("prompts", "e6", "one of 'e5'"),
            ("prompts", "", "Prompts(query=…, document=…)"),
            ("prompts", ("query: ", "passage: "), "Prompts(query=…, document=…)"),
            ("prompts", {"question": "q"}, "must be a Prompts"),
            ("prompts", {"query": 5}, "must be a str"),
            ("prompts", {"document": "\udfff"}, "must be a str of valid Unicode"),
            # how it is sent
            ("batch_size", 0, "an int of at least 1, 'auto' or BatchLimits("),
            ("batch_size", -5, "an int of at least 1, 'auto' or BatchLimits("),
            ("batch_size", 2.5, "an int of at least 1, 'auto' or BatchLimits("),
            ("batch_size", True, "an int of at least 1, 'auto' or BatchLimits("),
            ("batch_size", None, "an int of at least 1, 'auto' or BatchLimits("),
            ("batch_size", "Auto", "an int of at least 1, 'auto' or BatchLimits("),
            ("batch_size", {"texts": 0}, "an int of at least 1"),
            ("batch_size", {"text": 5}, "must be a BatchLimits"),
            ("concurrency", 0, "an int of at least 1, 'auto'"),
            ("concurrency", 1.5, "an int of at least 1, 'auto'"),
            ("concurrency", False, "an int of at least 1, 'auto'"),
            ("concurrency", None, "an int of at least 1, 'auto'"),
            ("concurrency", "many", "an int of at least 1, 'auto'"),
            ("timeout", 0, SECONDS_CURE),
            ("timeout", -1, SECONDS_CURE),
            ("timeout", NAN, SECONDS_CURE),
            ("timeout", INF, "None for no limit"),
            ("timeout", True, SECONDS_CURE),
            ("timeout", "60", "or Timeouts(total=…, connect=…, sock_read=…)"),
            ("timeout", (10, 60), "or Timeouts(total=…, connect=…, sock_read=…)"),
            ("timeout", {"read": 5}, "must be a Timeouts"),
            ("timeout", {"connect": 0}, SECONDS_CURE),
            ("deadline", 0, SECONDS_CURE),
            ("deadline", -0.5, SECONDS_CURE),
            ("deadline", NAN, SECONDS_CURE),
            ("deadline", INF, "None for no limit"),
            ("deadline", True, SECONDS_CURE),
            ("deadline", "60", SECONDS_CURE),
            ("max_retries", -1, "an int of at least 0, RetryPolicy(attempts=…)"),
            ("max_retries", 1.0, "an int of at least 0, RetryPolicy(attempts=…)"),
            ("max_retries", True, "an int of at least 0, RetryPolicy(attempts=…)"),
            ("max_retries", None, "an int of at least 0, RetryPolicy(attempts=…)"),
            ("max_retries", "3", "an int of at least 0, RetryPolicy(attempts=…)"),
            ("max_retries", {"retries": 3}, "must be a RetryPolicy"),
            ("max_retries", {"attempts": 0}, "an int of at least 1"),
            ("max_queued", 0, "an int of at least 1"),
            ("max_queued", None, "an int of at least 1"),
            ("max_queued", True, "an int of at least 1"),
            ("max_queued", 1e6, "an int of at least 1"),
            ("on_full", "drop", "'wait' or 'raise'"),
            ("on_full", None, "'wait' or 'raise'"),
            ("rate_limit", 0, "None or RateLimit(requests=…, texts=…, chars=…)"),
            ("rate_limit", True, "an int of at least 1"),
            ("rate_limit", 1.5, "an int of at least 1"),
            ("rate_limit", "600", "an int of at least 1"),
            ("rate_limit", {"per_second": 3}, "must be a RateLimit"),
            ("max_reply_bytes", 0, "an int of at least 1, 'auto'"),
            ("max_reply_bytes", None, "an int of at least 1, 'auto'"),
            ("max_reply_bytes", 1e6, "an int of at least 1, 'auto'"),
        ],
    )
    def test_is_refused_by_name_with_the_cure(self, kind: Any, argument: str, value: Any, cure: str) -> None:
        """A bad argument is an InputError that names it, says the cure, and shows no key."""
        keyword = "headers" if argument == "header" else argument
        with pytest.raises(InputError) as refused:
            kind(**{"base_url": URL, keyword: value})
        message = str(refused.value)
        assert argument in message
        assert cure in message
        assert KEY not in message
        assert refused.value.__cause__ is None
        assert isinstance(refused.value, ValueError)

    @BOTH
    def test_unknown_arguments_are_refused(self, kind: Any) -> None:
        """A typo never becomes a request field, and nothing but the URL goes by position."""
        with pytest.raises(TypeError, match="batchsize"):
            kind(URL, batchsize=5)
        with pytest.raises(TypeError, match="positional"):
            kind(URL, "model")
        with pytest.raises(TypeError, match="base_url"):
            kind()

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
            with pytest.raises(InputError, match="kind must be 'document' or 'query', not 'passage'"):
                door([], wrong)
        for stream in (shared.stream, shared.astream, own.stream):
            with pytest.raises(InputError, match="on_error must be 'raise' or 'skip', not 'passage'"):
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

    @BOTH
    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            ("http://h", "http://h/v1"),
            ("http://h/", "http://h/v1"),
            ("http://h:8080", "http://h:8080/v1"),
            ("http://h:8080/v1", "http://h:8080/v1"),
            ("http://h:8080/v1/", "http://h:8080/v1"),
            ("http://h:8080/v1/embeddings", "http://h:8080/v1"),
            ("http://h:8080/v1/embeddings/", "http://h:8080/v1"),
            ("http://h:8080/embeddings", "http://h:8080/v1"),
            ("http://h:8080//v1//", "http://h:8080/v1"),
            ("HTTP://Host.Example:8080/v1", "http://host.example:8080/v1"),
            ("https://api.openai.com", "https://api.openai.com/v1"),
            ("https://h/openai/v1", "https://h/openai/v1"),
            ("https://h/api", "https://h/api/v1"),
            ("https://h/v1beta/openai", "https://h/v1beta/openai"),
            ("https://h/v1beta/openai/", "https://h/v1beta/openai"),
            ("https://h/v2", "https://h/v2"),
            ("http://[::1]", "http://[::1]/v1"),
            ("http://[::1]:8080/", "http://[::1]:8080/v1"),
            ("http://[FE80::1]:8080/v1", "http://[fe80::1]:8080/v1"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ],
    )
    def test_forms(self, kind: Any, given: str, meant: str) -> None:
        """With or without version, slash, endpoint or port, the base URL ends with its version."""
        assert kind(given).server_info().url == meant

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

    @pytest.mark.parametrize(
        ("url", "environment", "key"),
        [
            ("https://api.openai.com/v1", {"OPENAI_API_KEY": "o"}, "o"),
            ("https://api.openai.com:443/v1", {"OPENAI_API_KEY": "o"}, "o"),
            ("https://api.openai.com/v1", {"OPENAI_API_KEY": "o", "EMBEDWIRE_API_KEY": "e"}, "e"),
            ("https://api.openai.com/v1", {"OPENAI_API_KEY": "o", "EMBEDWIRE_API_KEY": ""}, "o"),
            ("http://api.openai.com/v1", {"OPENAI_API_KEY": "o"}, None),
            ("https://api.openai.com.evil.test/v1", {"OPENAI_API_KEY": "o"}, None),
            ("https://evil.test/api.openai.com/v1", {"OPENAI_API_KEY": "o"}, None),
            ("https://xapi.openai.com/v1", {"OPENAI_API_KEY": "o"}, None),
            ("http://localhost:8080/v1", {"OPENAI_API_KEY": "o"}, None),
            ("http://localhost:8080/v1", {"EMBEDWIRE_API_KEY": "e"}, "e"),
            ("http://localhost:8080/v1", {"EMBEDWIRE_API_KEY": ""}, None),
            ("http://localhost:8080/v1", {}, None),
        ],
    )
    def test_rules_of_the_environment(
        self, url: str, environment: dict[str, str], key: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """OPENAI_API_KEY goes to https://api.openai.com alone, and comes second there."""
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        found = key_from_environment(url)
        assert (found and found.reveal()) == key

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


class TestSecret:
    """A secret shows itself only when asked to."""

    def test_is_not_shown(self) -> None:
        """No repr, str or format has the value."""
        secret = Secret(KEY)
        shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", "%s %r" % (secret, secret)]  # noqa: UP031 - the promise
        shown += [f"{secret:}", str([secret]), str({"key": secret}), ascii(secret)]
        assert not any(KEY in text for text in shown)
        assert not hasattr(secret, "__dict__")

    def test_is_equal_by_value_and_survives_a_pickle(self) -> None:
        """Equal secrets are equal keys of a dict, before and after a pickle."""
        again = pickle.loads(pickle.dumps(Secret(KEY)))
        assert again == Secret(KEY)
        assert again.reveal() == KEY
        assert {again: 1}[Secret(KEY)] == 1
        assert Secret("other") != again
        assert again != KEY

    def test_settings_show_no_secret(self) -> None:
        """Key, header values and the proxy's password are in no repr of a client or of its settings."""
        client = EmbeddingClient(
            URL, api_key=KEY, headers={"X-Token": KEY}, proxy=f"http://me:{KEY}@proxy:3128"
        )
        assert KEY not in repr(client) + repr(client._settings) + repr(client._settings.target())


RECORDS = [
    Timeouts(total=1, connect=2, sock_read=3),
    RetryPolicy(attempts=4, base=1, jitter=False),
    BatchLimits(texts=7, chars=1000),
    Prompts(query="q: ", document="d: "),
    RateLimit(requests=3, texts=5, chars=7),
]


class TestRecords:
    """What users configure with are values."""

    @pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
    def test_are_frozen_values(self, record: Any) -> None:
        """A record cannot be changed, is equal to one of the same values, and goes through a pickle."""
        names = [field.name for field in dataclasses.fields(record)]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, names[0], None)
        same = type(record)(**{name: getattr(record, name) for name in names})
        assert same == record
        assert hash(same) == hash(record)
        assert type(record)() != record
        assert pickle.loads(pickle.dumps(record)) == record
        assert not hasattr(record, "__dict__")

    @pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
    def test_are_keyword_only(self, record: Any) -> None:
        """No value of a record goes by position."""
        with pytest.raises(TypeError, match="positional"):
            type(record)(1)

    @pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
    def test_say_what_each_value_is(self, record: Any) -> None:
        """Each field of a record is described in its docstring."""
        described = re.findall(r"^    (\w+):", inspect.getdoc(type(record)) or "", re.MULTILINE)
        assert described == [field.name for field in dataclasses.fields(record)]

    @pytest.mark.parametrize(
        ("record", "field", "values", "name"),
        [
            (Timeouts, "total", [0, -1, NAN, INF, True, "5", [5]], "timeout.total"),
            (Timeouts, "connect", [0, -0.1, False], "timeout.connect"),
            (Timeouts, "sock_read", [0, "1"], "timeout.sock_read"),
            (RetryPolicy, "attempts", [0, -1, True, 2.0, None, "3"], "max_retries.attempts"),
            (RetryPolicy, "base", [-1, NAN, INF, None, True, "1"], "max_retries.base"),
            (RetryPolicy, "throttled_base", [-1, None], "max_retries.throttled_base"),
            (
                RetryPolicy,
                "multiplier",
                [0, 0.5, -2, 101, NAN, INF, True, None, "2"],
                "max_retries.multiplier",
            ),
            (RetryPolicy, "cap", [-1, None, INF], "max_retries.cap"),
            (RetryPolicy, "retry_after_cap", [-1, None, NAN], "max_retries.retry_after_cap"),
            (RetryPolicy, "jitter", [0, None, "no"], "max_retries.jitter"),
            (BatchLimits, "texts", [0, -1, True, 5.0, "5"], "batch_size.texts"),
            (BatchLimits, "chars", [0, False, 1e3], "batch_size.chars"),
            (RateLimit, "requests", [0, -1, True, 5.0, "5"], "rate_limit.requests"),
            (RateLimit, "texts", [0, False], "rate_limit.texts"),
            (RateLimit, "chars", [0, 1e3], "rate_limit.chars"),
            (Prompts, "query", [None, 5, b"q"], "prompts.query"),
            (Prompts, "document", [None, ["d"]], "prompts.document"),
        ],
    )
    def test_check_themselves(self, record: Any, field: str, values: list[Any], name: str) -> None:
        """A bad value is an InputError that names the argument it stands in."""
        for value in values:
            with pytest.raises(InputError, match=re.escape(name)):
                record(**{field: value})

    def test_zero_and_none_mean_what_they_say(self) -> None:
        """No pause is 0; no limit is None."""
        assert Timeouts(total=None, connect=None, sock_read=None).total is None
        assert RetryPolicy(base=0, throttled_base=0, cap=0, retry_after_cap=0).base == 0
        assert BatchLimits(texts=None, chars=None).texts is None

    @pytest.mark.parametrize(
        ("argument", "simple", "record"),
        [
            ("timeout", 7, Timeouts(total=7)),
            ("timeout", None, Timeouts(total=None)),
            (
                "timeout",
                {"total": 7, "connect": 1, "sock_read": 2},
                Timeouts(total=7, connect=1, sock_read=2),
            ),
            ("max_retries", 0, RetryPolicy(attempts=1)),
            ("max_retries", 2, RetryPolicy()),
            ("max_retries", {"attempts": 5}, RetryPolicy(attempts=5)),
            ("batch_size", 7, BatchLimits(texts=7)),
            ("batch_size", {"texts": None, "chars": 9}, BatchLimits(texts=None, chars=9)),
            ("rate_limit", 600, RateLimit(requests=600)),
            ("rate_limit", {"texts": 9}, RateLimit(texts=9)),
            ("prompts", None, Prompts()),
            ("prompts", "e5", Prompts(query="query: ", document="passage: ")),
            ("prompts", {"query": "q: "}, Prompts(query="q: ")),
            ("ssl", True, None),
        ],
    )
    def test_a_simple_value_means_its_record(self, argument: str, simple: Any, record: Any) -> None:
        """Each knob takes the simple value, its policy object, or the dict that a dump made of it."""
        simple, record = (
            SharedEmbeddingClient(URL, **{argument: value})._hold.settings for value in (simple, record)
        )
        assert simple == record
        assert simple.target() == record.target()

    def test_an_ssl_context_is_taken(self, tmp_path: Path) -> None:
        """An SSLContext, a path, True and False are all ways to say what to trust."""
        authority = tmp_path / "ca.pem"
        authority.touch()
        for value in (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), str(authority), False, True, None):
            assert EmbeddingClient(URL, ssl=value)._settings.ssl is (None if value is True else value)

    def test_settings_survive_a_pickle(self) -> None:
        """Settings, an explicit key among them, come out of a pickle as they went in."""
        settings = SharedEmbeddingClient(URL, api_key=KEY, headers={"X-A": "b"}, timeout=5)._hold.settings
        assert pickle.loads(pickle.dumps(settings)) == settings

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


def test_every_argument_is_documented() -> None:
    """Both clients have the same arguments, and describe each of them."""
    for kind in (EmbeddingClient, SharedEmbeddingClient):
        described = re.findall(r"^    (\w+):", inspect.getdoc(kind) or "", re.MULTILINE)
        names = list(kind.__init__.__annotations__)
        assert described[: len(names) - 1] == [name for name in names if name != "return"]
    assert EmbeddingClient.__init__.__annotations__ == SharedEmbeddingClient.__init__.__annotations__
    assert EmbeddingClient.__init__.__kwdefaults__ == SharedEmbeddingClient.__init__.__kwdefaults__
    assert embedwire.Timeouts() == Timeouts(total=120, connect=10, sock_read=60)
