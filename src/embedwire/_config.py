"""What a user can set, checked once: each record validates itself, and says the cure."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import ssl as ssl_module
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable
from urllib.parse import SplitResult, urlsplit

from embedwire.exceptions import InputError

Kind: TypeAlias = Literal["document", "query"]
Encoding: TypeAlias = Literal["auto", "float", "base64"]
OnFull: TypeAlias = Literal["wait", "raise"]


@runtime_checkable
class SecretLike(Protocol):
    """Pydantic's SecretStr, and whatever else keeps a string out of its repr."""

    def get_secret_value(self) -> str:
        """The string itself."""
        ...


ApiKey: TypeAlias = str | SecretLike | Callable[[], str | SecretLike]
SSL: TypeAlias = ssl_module.SSLContext | bool | str | None

Variant: TypeAlias = "tuple[str | None, int | None]"

T = TypeVar("T")

MAX_QUEUED = 1_000_000  # texts that wait at one server, by default
CLOSED = "this client was closed; make a new one"


class Secret:
    """A string that no repr, str or format shows. Equal to a secret of the same value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('**********')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can carry a text: it has no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits of one request, in seconds; ``None`` means no limit.

    Attributes:
        total: From sending to the last byte of the reply. Default 120.
        connect: For name look-up, TCP and TLS; also how long a server that answered before and now refuses
            connections (a restart) is waited for. Default 10.
        sock_read: Longest silence between two reads. Default 60.
    """

    total: float | None = 120.0
    connect: float | None = 10.0
    sock_read: float | None = 60.0

    def __post_init__(self) -> None:
        for name in ("total", "connect", "sock_read"):
            check_seconds(f"timeout.{name}", getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and after which pauses, a request that failed for a passing reason is sent again.

    The pause before repeat ``k`` (from 1) is ``min(cap, base * multiplier ** (k - 1))`` seconds, times a
    random number in 0..1 with jitter ("full jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). A ``Retry-After`` replaces it.

    Attributes:
        attempts: Requests in all for one batch. Default 3.
        base: First pause after a passing failure (connection, 5xx), in seconds. Default 0.05.
        throttled_base: First pause after 429 or an overloaded 503, in seconds. Default 1.
        multiplier: Growth of the pause. Default 2.
        cap: Longest pause, in seconds. Default 20.
        jitter: False waits exactly the computed pause: ``RetryPolicy(base=1, jitter=False)`` waits 1, 2, 4 s.
        retry_after_cap: A ``Retry-After`` above this many seconds is not waited for: the call fails and
            ``retry_after`` on the error tells. Default 60.
    """

    attempts: int = 3
    base: float = 0.05
    throttled_base: float = 1.0
    multiplier: float = 2.0
    cap: float = 20.0
    jitter: bool = True
    retry_after_cap: float = 60.0

    def __post_init__(self) -> None:
        _check_int("max_retries.attempts", self.attempts, least=1)
        if not isinstance(self.jitter, bool):
            raise InputError(f"max_retries.jitter must be True or False, not {self.jitter!r}")
        for name in ("base", "throttled_base", "cap", "retry_after_cap"):
            check_seconds(f"max_retries.{name}", getattr(self, name), zero=True, none=False)
        if not _is_number(self.multiplier) or not 1 <= self.multiplier <= 100:
            raise InputError(
                f"max_retries.multiplier must be a number from 1 to 100, not {self.multiplier!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The most that one request carries; ``None`` means no limit of that kind.

    Attributes:
        texts: Texts in one request. Default 5, the number that kept the first llama.cpp server alive.
        chars: Characters in one request, prompts included. A single longer text travels alone.
    """

    texts: int | None = 5
    chars: int | None = None

    def __post_init__(self) -> None:
        for name in ("texts", "chars"):
            value = getattr(self, name)
            if value is not None:
                _check_int(f"batch_size.{name}", value, least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """The most that is sent to one server in any 60 seconds; ``None`` means no limit of that kind.

    Repeats count, questions about the server (``/health``, ``/v1/models``, …) do not. Several clients of equal
    settings share one limit on the loop thread.

    Attributes:
        requests: Requests per minute.
        texts: Texts per minute. No request carries more.
        chars: Characters per minute, prompts included. A single longer text travels alone, after a free minute.
    """

    requests: int | None = None
    texts: int | None = None
    chars: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests", "texts", "chars"):
            value = getattr(self, name)
            if value is not None:
                _check_int(f"rate_limit.{name}", value, least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What a model wants in front of a query and of a document; joined to the text as it is, space included.

    Attributes:
        query: Put before each query. Default: nothing.
        document: Put before each document. Default: nothing.
    """

    query: str = ""
    document: str = ""

    def __post_init__(self) -> None:
        for name in ("query", "document"):
            if not isinstance(getattr(self, name), str) or not is_unicode(getattr(self, name)):
                raise InputError(f"prompts.{name} must be a str of valid Unicode; use '' for none")


PRESETS: Mapping[str, Prompts] = {
    # Each from the model card of the family on huggingface.co.
    "e5": Prompts(query="query: ", document="passage: "),
    "nomic": Prompts(query="search_query: ", document="search_document: "),
    "bge": Prompts(query="Represent this sentence for searching relevant passages: "),
    "mxbai": Prompts(query="Represent this sentence for searching relevant passages: "),
    "arctic": Prompts(query="Represent this sentence for searching relevant passages: "),
    "embeddinggemma": Prompts(query="task: search result | query: ", document="title: none | text: "),
    "qwen3": Prompts(
        query="Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One server, as one kind of visitor sees it. Equal targets share a session, a queue and its limits."""

    base_url: str
    api_key: Secret | Callable[[], str | SecretLike] | None
    headers: tuple[tuple[str, Secret], ...]
    ssl: SSL
    proxy: Secret | None
    trust_env: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What one request looks like and how it is treated. Only texts of equal forms share a request."""

    model: str | None
    dimensions: int | None
    encoding: Encoding
    batch: BatchLimits | None  # None: "auto"
    concurrency: int | None  # None: "auto"
    timeouts: Timeouts
    retry: RetryPolicy
    rate: RateLimit | None
    max_reply: int | None  # None: "auto"

    @property
    def variant(self) -> Variant:
        """Model and dimensions, as requested: behind one URL there may be several kinds."""
        return self.model, self.dimensions


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All arguments of a client, normalised. Pickles without a key that came from the environment."""

    base_url: str
    api_key: Secret | Callable[[], str | SecretLike] | None
    headers: tuple[tuple[str, Secret], ...]
    ssl: SSL
    proxy: Secret | None
    trust_env: bool
    form: Form
    deadline: float | None
    normalize: bool
    prompts: Prompts
    max_queued: int
    on_full: OnFull

    def target(self) -> Target:
        """The server to talk to, with the key that holds now."""
        return Target(
            base_url=self.base_url,
            api_key=self.api_key or key_from_environment(self.base_url),
            headers=self.headers,
            ssl=self.ssl,
            proxy=self.proxy,
            trust_env=self.trust_env,
        )


def settings(
    base_url: str,
    *,
    model: str | None,
    api_key: ApiKey | None,
    batch_size: int | BatchLimits | Literal["auto"],
    concurrency: int | Literal["auto"],
    timeout: float | Timeouts | None,
    deadline: float | None,
    max_retries: int | RetryPolicy,
    dimensions: int | None,
    normalize: bool,
    prompts: Prompts | str | None,
    encoding: Encoding,
    headers: Mapping[str, str] | None,
    ssl: SSL,
    proxy: str | None,
    trust_env: bool,
    max_queued: int,
    on_full: OnFull,
    rate_limit: int | RateLimit | None,
    max_reply_bytes: int | Literal["auto"],
) -> Settings:
    """Checks every argument of a client.

    Raises:
        InputError: An argument is wrong; the message names it and says the cure.
    """
    if dimensions is not None:
        _check_int("dimensions", dimensions, least=1)
    if model is not None and (not isinstance(model, str) or not model or not is_unicode(model)):
        raise InputError("model must be a non-empty str, or None for the model that the server serves")
    if encoding not in ("auto", "float", "base64"):
        raise InputError(f"encoding must be 'auto', 'float' or 'base64', not {encoding!r}")
    if on_full not in ("wait", "raise"):
        raise InputError(f"on_full must be 'wait' or 'raise', not {on_full!r}")
    for name, flag in (("normalize", normalize), ("trust_env", trust_env)):
        if not isinstance(flag, bool):
            raise InputError(f"{name} must be True or False, not {flag!r}")
    if ssl is not None and not isinstance(ssl, (bool, str, ssl_module.SSLContext)):
        raise InputError(
            "ssl must be an ssl.SSLContext, the path of a CA file, True, or False to verify nothing"
        )
    if isinstance(ssl, str) and not os.path.isfile(ssl):
        raise InputError("ssl names a CA file that does not exist; pass the path of a PEM file, or None")
    check_seconds("deadline", deadline)
    _check_int("max_queued", max_queued, least=1)
    return Settings(
        base_url=_base_url(base_url),
        api_key=_api_key(api_key),
        headers=_headers(headers),
        ssl=None if ssl is True else ssl,
        proxy=_proxy(proxy),
        trust_env=trust_env,
        form=Form(
            model=model,
            dimensions=dimensions,
            encoding=encoding,
            batch=_batch(batch_size),
            concurrency=_concurrency(concurrency),
            timeouts=_timeouts(timeout),
            retry=_retry(max_retries),
            rate=_rate(rate_limit),
            max_reply=_max_reply(max_reply_bytes),
        ),
        deadline=None if deadline is None else float(deadline),
        normalize=normalize,
        prompts=check_prompts(prompts),
        max_queued=max_queued,
        on_full=on_full,
    )


def key_from_environment(base_url: str) -> Secret | None:
    """The key to use where none was passed: the only place that reads the environment.

    ``EMBEDWIRE_API_KEY`` goes to the server the user named. ``OPENAI_API_KEY`` goes to api.openai.com over
    TLS alone: a key never goes to a host it was not meant for.

    Raises:
        InputError: The variable holds something that cannot be sent as a key.
    """
    url = urlsplit(base_url)
    names = ["EMBEDWIRE_API_KEY"]
    if url.scheme == "https" and url.hostname == "api.openai.com":
        names.append("OPENAI_API_KEY")
    for name in names:
        if value := os.environ.get(name):
            return check_key(value, f"the environment variable {name}")
    return None


def check_key(value: object, source: str = "api_key") -> Secret:
    """A key as it may stand in a header, in hiding.

    Raises:
        InputError: It is not a str, empty, or holds what no header can carry. The value is not shown.
    """
    if isinstance(value, SecretLike):
        value = value.get_secret_value()
    if not isinstance(value, str):
        raise InputError(
            f"{source} must be a str, a SecretStr or a function that returns one, not {_type(value)}"
        )
    if not value:
        raise InputError(f"{source} is empty; pass None for no key")
    if value != value.strip() or not _HEADER_VALUE.fullmatch(value):
        raise InputError(
            f"{source} has a line break, a space at an end, or a character that no HTTP header can carry; "
            "strip it (a key read from a file often ends in a line break)"
        )
    return Secret(value)


_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VERSION = re.compile(r"v\d+\w*")
_OWN_HEADERS = {
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "accept-encoding",
    "connection",
}


def _base_url(url: object) -> str:
    """The URL up to and with its version, without a slash at the end: ``http://host:8080/v1``."""
    example = "pass for example 'http://localhost:8080'"
    if not isinstance(url, str):
        raise InputError(f"base_url must be a str, not {_type(url)}; {example}")
    parts = _split(url, "base_url", example)
    if parts.query or parts.fragment:
        raise InputError("base_url must not have a '?' or '#' part; put keys into api_key= or headers=")
    segments = [segment for segment in parts.path.split("/") if segment]
    if segments[-1:] == ["embeddings"]:
        segments.pop()
    if not any(_VERSION.fullmatch(segment) for segment in segments):
        segments.append("v1")
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}/{'/'.join(segments)}"


def _split(url: str, name: str, example: str) -> SplitResult:
    if not url or url != url.strip() or any(char <= " " or char == "\x7f" for char in url):
        raise InputError(f"{name} is empty or has white space in it; {example}")
    try:
        parts = urlsplit(url)
        port = parts.port
        if "[" in parts.netloc:
            ipaddress.IPv6Address((parts.hostname or "").partition("%")[0])  # Python 3.10 does not look
    except ValueError:
        raise InputError(f"{name} is no URL: its host or port cannot be read; {example}") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or port == 0:
        raise InputError(f"{name} must start with http:// or https:// and name a host; {example}")
    if "@" in parts.netloc and name == "base_url":
        raise InputError("base_url must not carry a user or password; put keys into api_key= or headers=")
    return parts


def _api_key(key: object) -> Secret | Callable[[], str | SecretLike] | None:
    if key is None:
        return None
    if callable(key) and not isinstance(key, (str, SecretLike)):
        try:
            hash(key)
        except TypeError:
            raise InputError(
                "api_key is a callable that cannot be hashed; pass a function or a method"
            ) from None
        return key
    return check_key(key)


def _headers(headers: object) -> tuple[tuple[str, Secret], ...]:
    if headers is None:
        return ()
    if not isinstance(headers, Mapping):
        raise InputError(f"headers must be a mapping of str to str, not {_type(headers)}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InputError("headers has a name that is no HTTP header name")
        if name.lower() in _OWN_HEADERS:
            raise InputError(f"headers must not set {name}: the client needs it for itself")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InputError(
                f"headers: the value of {name} must be a str of printable ASCII without line breaks"
            )
    return tuple(sorted((name, Secret(value)) for name, value in headers.items()))


def _proxy(proxy: object) -> Secret | None:
    if proxy is None:
        return None
    example = "pass for example 'http://proxy:3128'"
    if not isinstance(proxy, str):
        raise InputError(f"proxy must be a str, not {_type(proxy)}; {example}")
    _split(proxy, "proxy", example)
    return Secret(proxy)


def _batch(value: int | BatchLimits | Mapping[str, Any] | Literal["auto"]) -> BatchLimits | None:
    if isinstance(value, BatchLimits):
        return value
    if isinstance(value, Mapping):
        return _from_dump(BatchLimits, "batch_size", value)
    if value == "auto":
        return None
    _check_int("batch_size", value, least=1, also="'auto' or BatchLimits(texts=…, chars=…)")
    return BatchLimits(texts=value)


def _concurrency(value: int | Literal["auto"]) -> int | None:
    if value == "auto":
        return None
    _check_int("concurrency", value, least=1, also="'auto'")
    return value


def _timeouts(value: float | Timeouts | Mapping[str, Any] | None) -> Timeouts:
    if isinstance(value, Timeouts):
        return value
    if isinstance(value, Mapping):
        return _from_dump(Timeouts, "timeout", value)
    if value is None:
        return Timeouts(total=None)
    check_seconds("timeout", value, also="Timeouts(total=…, connect=…, sock_read=…)")
    return Timeouts(total=float(value))


def _retry(value: int | RetryPolicy | Mapping[str, Any]) -> RetryPolicy:
    if isinstance(value, RetryPolicy):
        return value
    if isinstance(value, Mapping):
        return _from_dump(RetryPolicy, "max_retries", value)
    _check_int("max_retries", value, least=0, also="RetryPolicy(attempts=…)")
    return RetryPolicy(attempts=value + 1)


def _rate(value: int | RateLimit | Mapping[str, Any] | None) -> RateLimit | None:
    if value is None or isinstance(value, RateLimit):
        return value
    if isinstance(value, Mapping):
        return _from_dump(RateLimit, "rate_limit", value)
    _check_int("rate_limit", value, least=1, also="None or RateLimit(requests=…, texts=…, chars=…)")
    return RateLimit(requests=value)


def _max_reply(value: int | Literal["auto"]) -> int | None:
    if value == "auto":
        return None
    _check_int("max_reply_bytes", value, least=1, also="'auto'")
    return value


def check_prompts(value: object) -> Prompts:
    """The prompts of an argument: `Prompts`, the name of a preset, a mapping as in dumps, or None.

    Raises:
        InputError: It is none of these.
    """
    if value is None:
        return Prompts()
    if isinstance(value, Prompts):
        return value
    if isinstance(value, str) and value in PRESETS:
        return PRESETS[value]
    if isinstance(value, Mapping):
        return _from_dump(Prompts, "prompts", value)
    raise InputError(
        f"prompts must be Prompts(query=…, document=…), None, or one of {', '.join(map(repr, PRESETS))}"
    )


def _from_dump(kind: type[T], name: str, fields: Mapping[str, Any]) -> T:
    """A record out of the dict that a framework's dump made of it."""
    try:
        return kind(**fields)
    except TypeError:
        raise InputError(
            f"{name} must be a {kind.__name__}; the dict in its place has other fields"
        ) from None


def _check_int(name: str, value: Any, *, least: int, also: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be an int of at least {least}{also and ', ' + also}, not {value!r}")


def check_seconds(name: str, value: object, *, zero: bool = False, none: bool = True, also: str = "") -> None:
    """Raises InputError where ``value`` is no number of seconds."""
    if value is None and none:
        return
    if not _is_number(value) or value < 0 or (value == 0 and not zero):  # type: ignore[operator]
        raise InputError(
            f"{name} must be a number of seconds above 0{' or 0' if zero else ''}"
            f"{', None for no limit' if none else ''}{also and ', or ' + also}, not {value!r}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _type(value: object) -> str:
    return type(value).__name__
