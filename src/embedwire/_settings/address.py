"""Who asks a server, and what the environment says of it: keys, headers, the proxy."""

from __future__ import annotations

import os
import re
import ssl as ssl_module
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from embedwire._settings.checks import check_bool, plain
from embedwire._settings.endpoint import Endpoint, endpoint_of, login_of, split
from embedwire._settings.options import SSL
from embedwire._settings.secret import Secret, SecretLike
from embedwire.exceptions import InputError

Key: TypeAlias = "Secret | Callable[[], str | SecretLike] | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One server, as one kind of visitor sees it. Equal targets share a session, a queue and its limits."""

    endpoint: Endpoint
    api_key: Key
    headers: tuple[tuple[str, Secret], ...]
    ssl: SSL
    proxy: Secret | None
    trust_env: bool

    @property
    def base_url(self) -> str:
        """The server's name, in messages too."""
        return self.endpoint.base_url


def url_from_environment() -> str:
    """The URL to use where none was passed: ``EMBEDWIRE_BASE_URL``; several have commas between.

    Raises:
        InputError: There is none.
    """
    url = os.environ.get("EMBEDWIRE_BASE_URL")
    if not url:
        raise InputError(
            "base_url was not passed, and EMBEDWIRE_BASE_URL is not set; pass for example 'http://localhost:8080'"
        )
    return url


def key_from_environment(base_url: str) -> Secret | None:
    """The key to use where none was passed.

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
_OWN_HEADERS = {
    "content-length",
    "content-type",
    "transfer-encoding",
    "accept-encoding",
    "connection",
}


def target_of(
    base_url: object, api_key: object, headers: object, ssl: object, proxy: object, trust_env: object
) -> Target:
    """The server that the arguments mean, and who asks.

    Raises:
        InputError: One of them is wrong, or two say different things.
    """
    url = url_from_environment() if base_url is None else base_url
    endpoint, key, named = endpoint_of(url), api_key_of(api_key), headers_of(headers)
    login = login_of(url)
    if login is not None:
        if key is not None or any(name == "Authorization" for name, _ in named):
            raise InputError(
                "base_url has a user and a password, which are sent as the Authorization header, and so is what "
                "api_key= or headers= says; leave one out"
            )
        named = tuple(sorted([*named, ("Authorization", login)], key=lambda header: header[0]))
    if proxy is not None and endpoint.socket is not None:
        raise InputError("proxy cannot lead to a Unix socket; leave it out")
    return Target(
        endpoint=endpoint,
        api_key=key,
        headers=named,
        ssl=ssl_of(ssl),
        proxy=_proxy_of(proxy),
        trust_env=check_bool("trust_env", trust_env),
    )


def ssl_of(value: object) -> SSL:
    """`ssl`; a file is read, so that a wrong one is found out before anything is sent."""
    if value is None or value is True:
        return None
    if value is False or isinstance(value, ssl_module.SSLContext):
        return value
    if not isinstance(value, str):
        raise InputError(
            "ssl must be an ssl.SSLContext, the path of a CA file, True, or False to verify nothing"
        )
    if not os.path.isfile(value):
        raise InputError("ssl names a CA file that does not exist; pass the path of a PEM file, or None")
    try:
        ssl_module.SSLContext(ssl_module.PROTOCOL_TLS_CLIENT).load_verify_locations(value)
    except (ssl_module.SSLError, OSError):
        raise InputError("ssl names a file that cannot be read as CA certificates; pass a PEM file") from None
    return value


def api_key_of(key: object) -> Key:
    """`api_key` in hiding, or the function that gives it."""
    if key is None or isinstance(key, Secret):
        return key
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
    """`headers`, their values in hiding; those of a `Server` are."""
    if headers is None:
        return ()
    if isinstance(headers, Hidden):
        return headers
    if not isinstance(headers, Mapping):
        raise InputError(f"headers must be a mapping of str to str, not {type(headers).__name__}")
    for name, value in headers.items():
        _check_header(name, value)
    # Names in one spelling, since those that differ in case are equal.
    named = [(plain(name).title(), Secret(plain(value))) for name, value in headers.items()]
    return Hidden(sorted(named, key=lambda header: header[0]))


class Hidden(tuple[tuple[str, Secret], ...]):
    """Headers that were checked, their values in hiding."""

    __slots__ = ()


def _check_header(name: object, value: object) -> None:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise InputError("headers has a name that is no HTTP header name")
    if name.lower() in _OWN_HEADERS:
        raise InputError(f"headers must not set {name}: the client needs it for itself")
    if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
        raise InputError(f"headers: the value of {name} must be a str of printable ASCII without line breaks")


def _proxy_of(proxy: object) -> Secret | None:
    """`proxy` in hiding: a password may stand in it."""
    if proxy is None:
        return None
    example = "pass for example 'http://proxy:3128'"
    if not isinstance(proxy, str):
        raise InputError(f"proxy must be a str, not {type(proxy).__name__}; {example}")
    split(proxy, "proxy", example)
    return Secret(plain(proxy).strip())
