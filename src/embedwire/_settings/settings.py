"""All arguments of a client, checked and in one shape."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from embedwire._settings.checks import check_int, check_seconds, is_unicode, json_of, plain, shown
from embedwire._settings.options import (
    PRESETS,
    BatchLimits,
    ByKind,
    Encoding,
    Kind,
    Prompts,
    RateLimit,
    RetryPolicy,
    Timeouts,
    TooLong,
    VectorCache,
)
from embedwire._settings.servers import Fleet
from embedwire.exceptions import InputError

Variant: TypeAlias = "tuple[str | None, int | None, str]"
T = TypeVar("T")

MAX_QUEUED = 1_000_000  # texts that wait at one server, by default
CLOSED = "this client was closed; make a new one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What one request looks like and how it is treated. Only texts of equal forms share a request.

    Attributes:
        model: As requested; None: the one that the server serves.
        dimensions: As requested; None: as many as the model has.
        encoding: As requested; None: the field is left out.
        extra: Further fields of the body, as a JSON object; "{}" for none.
        batch: Most in one request; None: "auto".
        concurrency: Most requests in flight at the server; None: "auto".
        timeouts: Of one request.
        retry: How often it is repeated, and when.
        rate: Most in a minute; None: no limit.
        max_reply: Most bytes of one reply; None: "auto".
    """

    model: str | None
    dimensions: int | None
    encoding: Encoding | None
    extra: str
    batch: BatchLimits | None
    concurrency: int | None
    timeouts: Timeouts
    retry: RetryPolicy
    rate: RateLimit | None
    max_reply: int | None

    @property
    def variant(self) -> Variant:
        """Model, dimensions and further fields, as requested: behind one URL there may be several kinds."""
        return self.model, self.dimensions, self.extra


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All arguments of a client, normalised. Pickles without a key that came from the environment.

    Attributes:
        fleet: The servers.
    """

    fleet: Fleet
    form: Form  # of documents
    query_form: Form  # equal, unless further fields differ
    deadline: float | None
    normalize: bool
    prompts: Prompts
    too_long: TooLong
    max_queued: int
    cache: VectorCache | None

    def form_of(self, kind: Kind) -> Form:
        """What requests for queries, or for documents, look like."""
        return self.query_form if kind == "query" else self.form


def cache_name(settings: Settings, kind: Kind) -> str:
    """What decides the vectors of a kind, as a name that a file may have: something to read, and a hash of it all.

    Raises:
        InputError: The model has no name.
    """
    form, prompts = settings.form, settings.prompts
    if form.model is None:
        raise InputError(
            "a cache needs a model with a name, as the server may serve another one tomorrow; pass model="
        )
    extra = [settings.form.extra, settings.query_form.extra]
    decisive = [settings.normalize, prompts.query, prompts.document, settings.too_long]
    parts = [form.model, form.dimensions, *decisive, *extra, kind]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", form.model)[-40:].strip("-").lower()
    return "-".join(filter(None, [readable, str(form.dimensions or ""), kind, digest]))


def model_of(value: object) -> str | None:
    """`model`, where it is a name."""
    if value is None:
        return None
    if isinstance(value, str) and value and is_unicode(plain(value)):
        return plain(value)
    raise InputError("model must be a non-empty str, or None for the model that the server serves")


def dimensions_of(value: object) -> int | None:
    """`dimensions`, where it is a number of at least 1."""
    if value is not None:
        check_int("dimensions", value, least=1)
    return value  # type: ignore[return-value]  # an int, or None


def encoding_of(value: object) -> Encoding | None:
    """`encoding`, where it is one of the words, or None."""
    if value is None:
        return None
    if isinstance(value, str) and value in ("auto", "float", "base64"):
        return value  # type: ignore[return-value]  # one of the three
    raise InputError("encoding must be 'auto', 'float', 'base64', or None to leave the field out")


def by_kind(value: object) -> ByKind:
    """`extra_body` by kind of text; a mapping of these two kinds, as in dumps, is one too.

    Raises:
        InputError: It is no mapping that JSON can carry, or has a field with an option of its own.
    """
    if value is None:
        return ByKind()
    if isinstance(value, ByKind):
        return value
    if isinstance(value, Mapping):
        if set(value) == {"query", "document"} and all(isinstance(one, Mapping) for one in value.values()):
            return ByKind(**value)
        json_of("extra_body", value)  # before it is named after a kind
        return ByKind(query=value, document=value)
    raise InputError(f"extra_body must be a mapping, ByKind(query=…, document=…) or None, not {shown(value)}")


def too_long_of(value: object) -> TooLong:
    """`too_long`, where it is one of the words."""
    if isinstance(value, str) and value in ("raise", "truncate", "average"):
        return value  # type: ignore[return-value]  # one of the three
    raise InputError("too_long must be 'raise', 'truncate' or 'average'")


def deadline_of(value: float | None) -> float | None:
    """`deadline`, in seconds."""
    check_seconds("deadline", value)
    return None if value is None else float(value)


def max_queued_of(value: int) -> int:
    """`max_queued`, where it is a number of at least 1."""
    check_int("max_queued", value, least=1)
    return value


def cache_of(value: object) -> VectorCache | None:
    """`cache` as a record; None: there is none.

    Raises:
        InputError: It can be no file's path.
    """
    if value is None or isinstance(value, VectorCache):
        return value
    if isinstance(value, Mapping):
        return _from_dump(VectorCache, "cache", value)
    if not value or not isinstance(value, (str, os.PathLike)):
        raise InputError(
            "cache must be the path of a file, VectorCache(path, max_bytes=…) or None, not "
            f"{'an empty one' if value == '' else shown(value)}"
        )
    return VectorCache(value)


def batch_of(value: int | BatchLimits | Mapping[str, Any] | Literal["auto"]) -> BatchLimits | None:
    """`batch_size` as a record; None for "auto"."""
    if isinstance(value, BatchLimits):
        return value
    if isinstance(value, Mapping):
        return _from_dump(BatchLimits, "batch_size", value)
    if isinstance(value, str) and value == "auto":
        return None
    check_int("batch_size", value, least=1, also="'auto' or BatchLimits(texts=…, chars=…)")
    return BatchLimits(texts=value)


def concurrency_of(value: int | Literal["auto"]) -> int | None:
    """`concurrency`; None for "auto"."""
    if isinstance(value, str) and value == "auto":
        return None
    check_int("concurrency", value, least=1, also="'auto'")
    return value


def timeouts_of(value: float | Timeouts | Mapping[str, Any] | None) -> Timeouts:
    """`timeout` as a record; a number, or None, is for the whole request, its silences too."""
    if isinstance(value, Timeouts):
        return value
    if isinstance(value, Mapping):
        return _from_dump(Timeouts, "timeout", value)
    if value is None:
        return Timeouts(total=None, sock_read=None)
    check_seconds("timeout", value, also="Timeouts(total=…, connect=…, sock_read=…)")
    seconds = float(value)
    return Timeouts(total=seconds, connect=min(seconds, Timeouts().connect or seconds), sock_read=seconds)


def retry_of(value: int | RetryPolicy | Mapping[str, Any]) -> RetryPolicy:
    """`max_retries` as a record."""
    if isinstance(value, RetryPolicy):
        return value
    if isinstance(value, Mapping):
        return _from_dump(RetryPolicy, "max_retries", value)
    check_int("max_retries", value, least=0, also="RetryPolicy(attempts=…)")
    return RetryPolicy(attempts=value + 1)


def rate_of(value: int | RateLimit | Mapping[str, Any] | None) -> RateLimit | None:
    """`rate_limit` as a record."""
    if value is None or isinstance(value, RateLimit):
        return value
    if isinstance(value, Mapping):
        return _from_dump(RateLimit, "rate_limit", value)
    check_int("rate_limit", value, least=1, also="None or RateLimit(per_second=…, per_minute=…)")
    return RateLimit(requests=value)


def max_reply_of(value: int | Literal["auto"]) -> int | None:
    """`max_reply_bytes`; None for "auto"."""
    if isinstance(value, str) and value == "auto":
        return None
    check_int("max_reply_bytes", value, least=1, also="'auto'")
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
