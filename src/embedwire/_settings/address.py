"""Where a server is, and who asks it: the URL, keys, headers, the proxy."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from embedwire._settings.checks import plain
from embedwire._settings.options import SSL
from embedwire._settings.secret import Secret, SecretLike
from embedwire.exceptions import InputError

Key: TypeAlias = "Secret | Callable[[], str | SecretLike] | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One server, as one kind of visitor sees it. Equal targets share a session, a queue and its limits."""

    base_url: str
    api_key: Key
    headers: tuple[tuple[str, Secret], ...]
    ssl: SSL
    proxy: Secret | None
    trust_env: bool


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
        if os.environ.get(name):
            return check_key(os.environ[name], f"the environment variable {name}")
    return None


def check_key(value: object, source: str = "api_key") -> Secret:
    """A key as it may stand in a header, in hiding.

    Raises:
        InputError: It is not a str, empty, or holds what no header can carry. The value is not shown.
    """
    if isinstance(value, SecretLike):
        value = value.get_secret_value()
    problem = _problem(value)
    if isinstance(value, str) and not problem:
        return Secret(plain(value))
    del value  # an error's traceback shows the locals of its frames
    raise InputError(f"{source} {problem}")


def _problem(value: object) -> str:
    """What is wrong with a key; "" where nothing is."""
    if not isinstance(value, str):
        return f"must be a str, a SecretStr or a function that returns one, not {type(value).__name__}"
    if not value:
        return "is empty; pass None for no key"
    if value != value.strip() or not _HEADER_VALUE.fullmatch(value):
        return (
            "has a line break, a space at an end, or a character that no HTTP header can carry; "
            "strip it (a key read from a file often ends in a line break)"
        )
    return ""


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


def base_url_of(url: object) -> str:
    """The URL up to and with its version, without a slash at the end: ``http://host:8080/v1``."""
    example = "pass for example 'http://localhost:8080'"
    if not isinstance(url, str):
        raise InputError(f"base_url must be a str, not {type(url).__name__}; {example}")
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


def api_key_of(key: object) -> Key:
    """`api_key` in hiding, or the function that gives it."""
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


def headers_of(headers: object) -> tuple[tuple[str, Secret], ...]:
    """`headers`, their values in hiding."""
    if headers is None:
        return ()
    if not isinstance(headers, Mapping):
        raise InputError(f"headers must be a mapping of str to str, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InputError("headers has a name that is no HTTP header name")
        if name.lower() in _OWN_HEADERS:
            raise InputError(f"headers must not set {name}: the client needs it for itself")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InputError(
                f"headers: the value of {name} must be a str of printable ASCII without line breaks"
            )
    # Names in one spelling, since those that differ in case are equal.
    return tuple(sorted((plain(name).title(), Secret(plain(value))) for name, value in headers.items()))


def proxy_of(proxy: object) -> Secret | None:
    """`proxy` in hiding: a password may stand in it."""
    if proxy is None:
        return None
    example = "pass for example 'http://proxy:3128'"
    if not isinstance(proxy, str):
        raise InputError(f"proxy must be a str, not {type(proxy).__name__}; {example}")
    _split(proxy, "proxy", example)
    return Secret(plain(proxy))
