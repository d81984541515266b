"""The public records: each checks itself, and says the cure."""

from __future__ import annotations

import json
import os
import ssl as ssl_module
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from embedwire._settings.checks import (
    check_bool,
    check_int,
    check_seconds,
    is_number,
    is_unicode,
    json_of,
    shown,
)
from embedwire._settings.secret import SecretLike
from embedwire.exceptions import InputError

Kind: TypeAlias = Literal["document", "query"]
KINDS: tuple[Kind, ...] = ("query", "document")
Encoding: TypeAlias = Literal["auto", "float", "base64"]
Family: TypeAlias = Literal["e5", "nomic", "bge", "mxbai", "arctic", "arctic2", "embeddinggemma", "qwen3"]
TooLong: TypeAlias = Literal["raise", "truncate", "average"]
ApiKey: TypeAlias = str | SecretLike | Callable[[], str | SecretLike]
SSL: TypeAlias = ssl_module.SSLContext | bool | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits of one request, in seconds; ``None`` means no limit.

    Attributes:
        total: From sending to the last byte of the reply. Default 120.
        connect: For name look-up, TCP and TLS; a server that was never seen is waited for as long. Default 10.
        sock_read: Longest silence between two reads. Default 60.
        restart: How long a server that answered before is waited for where it is gone: it refuses connections, or
            what stands in front of it answers 502, 503 or 504. A number always. Default 60, as servers that open
            their port last (Infinity, vLLM) take 20 to 70 s.
    """

    total: float | None = 120.0
    connect: float | None = 10.0
    sock_read: float | None = 60.0
    restart: float = 60.0

    def __post_init__(self) -> None:
        for name in ("total", "connect", "sock_read"):
            check_seconds(f"timeout.{name}", getattr(self, name))
        check_seconds("timeout.restart", self.restart, zero=True, none=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and after which pauses, a request that failed for a passing reason is sent again.

    The pause before repeat ``k`` (from 1) is ``min(cap, base * multiplier ** (k - 1))`` seconds, times a
    random number in 0..1 with jitter ("full jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). A ``Retry-After`` replaces it.

    Where the server has too much to do (429, an overloaded 503), that is no attempt: the request is sent again, after
    ``throttled_base``, then twice that and so on (or as long as the server says), with jitter up to half as much again,
    for as long as a request may take (`Timeouts.total`, from the first refusal on; a deadline ends it earlier). With
    ``attempts=1``, nothing is sent again.

    Attributes:
        attempts: Requests in all for one batch, of those that failed. Default 3.
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
        check_int("max_retries.attempts", self.attempts, least=1)
        check_bool("max_retries.jitter", self.jitter)
        for name in ("base", "throttled_base", "cap", "retry_after_cap"):
            check_seconds(f"max_retries.{name}", getattr(self, name), zero=True, none=False)
        if not is_number(self.multiplier) or not 1 <= self.multiplier <= 100:
            raise InputError(
                f"max_retries.multiplier must be a number from 1 to 100, not {shown(self.multiplier)}"
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
                check_int(f"batch_size.{name}", value, least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """The most that is sent to one server in any second or minute; ``None`` means no limit of that kind.

    Requests are spread evenly: 60 per minute are one each second, and one that comes after a rest leaves at once. They
    stay apart a little longer than that (a twentieth, at most 0.1 s), since the server measures when they arrive.

    Repeats count, questions about the server (``/health``, ``/v1/models``, …) do not. Several clients of equal
    settings share one limit on the loop thread. Where several limits are set, each holds.

    Attributes:
        requests: The same as ``per_minute``.
        texts: Texts per minute. No request carries more.
        chars: Characters per minute, prompts included. A single longer text travels alone, after a free minute.
        per_second: Requests per second.
        per_minute: Requests per minute.
    """

    requests: int | None = None
    texts: int | None = None
    chars: int | None = None
    per_second: int | None = None
    per_minute: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests", "texts", "chars", "per_second", "per_minute"):
            value = getattr(self, name)
            if value is not None:
                check_int(f"rate_limit.{name}", value, least=1)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ByKind:
    """Further fields of a request that a model wants to differ between queries and documents.

    Attributes:
        query: Fields of requests for queries, such as ``{"input_type": "query"}``. Default: none.
        document: Fields of requests for documents. Default: none.
    """

    query: Mapping[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # In one shape, so that equal ones have one hash, and a later change of the dicts changes nothing.
        for name in ("query", "document"):
            object.__setattr__(self, name, json.loads(json_of(f"extra_body.{name}", getattr(self, name))))

    def __hash__(self) -> int:
        return hash((json_of("query", self.query), json_of("document", self.document)))


@dataclass(frozen=True, slots=True)
class VectorCache:
    """A file that keeps vectors, so that a text that was embedded before costs no request; for ``cache=``.

    Attributes:
        path: The file, an SQLite database of its own; made at first use, in a folder that exists.
        max_bytes: Most bytes of it, at least 65,536. Where it is full, what was not used for longest goes.
            Default: 4 GiB, a million vectors of a thousand numbers.
    """

    path: str | os.PathLike[str]
    max_bytes: int = field(default=2**32, kw_only=True)

    def __post_init__(self) -> None:
        check_int("cache.max_bytes", self.max_bytes, least=LEAST_CACHE)
        path = self.path
        if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
            raise InputError(f"cache.path must be the path of a file, not {shown(path)}")
        path = os.path.abspath(os.path.expanduser(path))
        object.__setattr__(self, "path", path)
        _check_file(self.path)


LEAST_CACHE = 2**16


def _check_file(path: str | os.PathLike[str]) -> None:
    """Raises InputError where a path can be no file's."""
    folder, name = os.path.split(path)
    if not is_unicode(os.fspath(path)) or "\0" in os.fspath(path) or name == ":memory:":
        raise InputError("cache must be the path of a file, and no file may have this name")
    if os.path.isdir(path):
        raise InputError(f"cache must be a file, and {path} is a folder; pass a file in it")
    if not os.path.isdir(folder):
        raise InputError(f"cache cannot be made at {path}, as there is no folder {folder}; make it first")


PRESETS: Mapping[str, Prompts] = {
    # Each from the model card of the family on huggingface.co.
    "e5": Prompts(query="query: ", document="passage: "),
    "nomic": Prompts(query="search_query: ", document="search_document: "),
    "bge": Prompts(query="Represent this sentence for searching relevant passages: "),
    "mxbai": Prompts(query="Represent this sentence for searching relevant passages: "),
    "arctic": Prompts(query="Represent this sentence for searching relevant passages: "),  # 1.0 and 1.5
    "arctic2": Prompts(query="query: "),
    "embeddinggemma": Prompts(query="task: search result | query: ", document="title: none | text: "),
    "qwen3": Prompts(
        query="Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    ),
}
