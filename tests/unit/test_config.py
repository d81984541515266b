"""Every argument, checked before anything is sent: what cannot work, URLs, whose key it is."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

import embedwire
from embedwire import ByKind, EmbeddingClient, InputError, SharedEmbeddingClient, Timeouts
from embedwire._settings.address import key_from_environment
from tests.unit.arguments import form, kept

BOTH = pytest.mark.parametrize("kind", [EmbeddingClient, SharedEmbeddingClient])
URL = "http://embedder.test:8080"
KEY = "sk-never-to-be-seen"
NAN, INF = float("nan"), float("inf")
URL_CURE = "pass for example 'http://localhost:8080'"
SECONDS_CURE = "must be a number of seconds above 0"


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
            ("base_url", None, "EMBEDWIRE_BASE_URL is not set"),
            ("base_url", 8080, URL_CURE),
            ("base_url", b"http://h", URL_CURE),
            ("base_url", {"http://h"}, URL_CURE),
            ("base_url", [], "is an empty list"),
            ("base_url", "", URL_CURE),
            ("base_url", "   ", URL_CURE),
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
            ("base_url", f"http://h/v1#{KEY}", "put keys into api_key="),
            ("base_url", f"unix://run/llama.sock?{KEY}", "three slashes"),
            ("base_url", "unix:///", "three slashes"),
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
            ("ssl", __file__, "cannot be read as CA certificates; pass a PEM file"),
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
            ("encoding", "int8", "'auto', 'float', 'base64', or None"),
            ("encoding", b"float", "'auto', 'float', 'base64', or None"),
            ("extra_body", [("user", "me")], "must be a mapping"),
            ("extra_body", KEY, "ByKind(query=…, document=…) or None, not a str"),
            ("extra_body", {5: "five"}, "must be a mapping of str to JSON values"),
            ("extra_body", {"user": {1, 2}}, "a value that JSON cannot carry"),
            ("extra_body", {"user": b"bytes"}, "a value that JSON cannot carry"),
            ("extra_body", {"top_p": NAN}, "a value that JSON cannot carry"),
            ("extra_body", {"user": "\ud800"}, "a value that JSON cannot carry"),
            ("extra_body", {"input": ["other"]}, "must not have the field 'input'"),
            ("extra_body", {"model": "m"}, "pass model="),
            ("extra_body", {"dimensions": 5}, "pass dimensions="),
            ("extra_body", {"encoding_format": "float"}, "pass encoding="),
            ("extra_body", {"query": {}, "document": {"input": []}}, "must not have the field 'input'"),
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
            ("rate_limit", 0, "None or RateLimit(per_second=…, per_minute=…)"),
            ("rate_limit", True, "an int of at least 1"),
            ("rate_limit", 1.5, "an int of at least 1"),
            ("rate_limit", "600", "an int of at least 1"),
            ("rate_limit", {"per_hour": 3}, "must be a RateLimit"),
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
    @pytest.mark.parametrize(
        "argument",
        [
            *("batch_size", "concurrency", "timeout", "deadline", "max_retries", "dimensions", "normalize"),
            *("trust_env", "max_queued", "rate_limit", "max_reply_bytes"),
        ],
    )
    def test_a_refused_value_is_shown_only_where_it_is_a_number(self, kind: Any, argument: str) -> None:
        """A number is shown as it is, all else, which may be a key in the wrong place, by its type."""
        for value, shown in ((-7, "not -7"), (-2.5, "not -2.5"), (KEY, "not a str"), ([KEY], "not a list")):
            with pytest.raises(InputError) as refused:
                kind(**{"base_url": URL, argument: value})
            assert str(refused.value).endswith(shown)

    @BOTH
    def test_unknown_arguments_are_refused(self, kind: Any) -> None:
        """A typo never becomes a request field, and nothing but the URL goes by position."""
        with pytest.raises(TypeError, match="batchsize"):
            kind(URL, batchsize=5)
        with pytest.raises(TypeError, match="on_full"):  # a full queue is always an error
            kind(URL, on_full="wait")
        with pytest.raises(TypeError, match="positional"):
            kind(URL, "model")


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
            ("http://h:8080/embeddings", "http://h:8080"),
            ("http://h:8080/v1 ", "http://h:8080/v1"),
            (" http://h:8080\n", "http://h:8080/v1"),
            ("http://h:8080//v1//", "http://h:8080/v1"),
            ("HTTP://Host.Example:8080/v1", "http://host.example:8080/v1"),
            ("https://api.openai.com", "https://api.openai.com/v1"),
            ("https://h/openai/v1", "https://h/openai/v1"),
            ("https://h/api", "https://h/api"),
            ("https://h/ml/v1.0", "https://h/ml/v1.0"),
            ("https://h/serving-endpoints/e5/invocations", "https://h/serving-endpoints/e5"),
            ("https://user:password@h/v1?key=4711", "https://h/v1"),
            ("unix:///run/llama.sock", "unix:///run/llama.sock/v1"),
            ("unix:///run/llama.sock/openai/v1", "unix:///run/llama.sock/openai/v1"),
            ("unix:///run/llama/socket", "unix:///run/llama/socket/v1"),
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
        """With or without version, slash, endpoint or port, the base URL is what stands before `/embeddings`."""
        assert kind(given).server_info().url == meant


class TestKey:
    """A key goes where it was meant to go, and is seen nowhere else."""

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


def test_every_argument_is_documented() -> None:
    """Both clients have the same arguments, and describe each of them."""
    for kind in (EmbeddingClient, SharedEmbeddingClient):
        described = re.findall(r"^    (\w+):", inspect.getdoc(kind.__init__) or "", re.MULTILINE)
        names = list(kind.__init__.__annotations__)
        assert described[: len(names) - 1] == [name for name in names if name != "return"]
    assert EmbeddingClient.__init__.__annotations__ == SharedEmbeddingClient.__init__.__annotations__
    assert inspect.signature(EmbeddingClient) == inspect.signature(SharedEmbeddingClient)
    assert embedwire.Timeouts() == Timeouts(total=120, connect=10, sock_read=60)


class TestTimeouts:
    """A number is for the whole request."""

    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            (300, Timeouts(total=300, connect=10, sock_read=300)),
            (2.5, Timeouts(total=2.5, connect=2.5, sock_read=2.5)),
            (None, Timeouts(total=None, connect=10, sock_read=None)),
            (Timeouts(total=5), Timeouts(total=5, connect=10, sock_read=60)),
            ({"total": 5}, Timeouts(total=5, connect=10, sock_read=60)),
        ],
    )
    def test_follow_the_number(self, given: Any, meant: Timeouts) -> None:
        """A silence may last as long as the request, a connect never longer; a record is taken as it is."""
        assert form(timeout=given).timeouts == meant


class TestByKind:
    """Fields that differ between queries and documents."""

    def test_is_a_value(self) -> None:
        """Equal ones are equal in any order, hash alike, go through a pickle, and do not follow their dicts."""
        fields = {"a": 1, "b": [2, None]}
        one, two = ByKind(query=fields), ByKind(query={"b": (2, None), "a": 1}, document={})
        fields["c"] = 3
        assert one == two == pickle.loads(pickle.dumps(one))
        assert hash(one) == hash(two)
        assert one != ByKind(document=fields)

    def test_checks_itself(self) -> None:
        """What cannot be sent is refused where it is written."""
        with pytest.raises(InputError, match=r"extra_body\.document must not have the field 'input'"):
            ByKind(document={"input": []})

    def test_a_dict_of_both_kinds_is_one(self) -> None:
        """What a dump made of it means the same; any other dict is for both kinds."""
        both = {"query": {"task": "q"}, "document": {"task": "d"}}
        assert kept(extra_body=both) == kept(extra_body=ByKind(**both))
        one = kept(extra_body={"query": "no kind"})
        assert one.form == one.query_form
        assert one.form.extra == '{"query": "no kind"}'
