"""Which servers a client talks to: one, or several of one and the same model. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from embedwire._settings.address import (
    Key,
    Target,
    api_key_of,
    headers_of,
    key_from_environment,
    target_of,
    url_from_environment,
)
from embedwire._settings.checks import is_number, shown
from embedwire._settings.discreet import discreet
from embedwire._settings.endpoint import dumped, endpoint_of, login_of
from embedwire._settings.options import ApiKey
from embedwire._settings.secret import Secret
from embedwire.exceptions import InputError


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Server:
    """One of several servers, with what is its own.

    Attributes:
        url: As ``base_url=`` of a client with one server.
        api_key: As ``api_key=`` of a client; it goes to this server alone. None: the client's.
        headers: As ``headers=`` of a client. None: the client's.
        weight: How much it takes beside the others where several have a free place. Default 1.
    """

    url: str
    api_key: Key = field(repr=False)
    headers: tuple[tuple[str, Secret], ...] | None = field(repr=False)
    weight: float

    @discreet
    def __init__(
        self,
        url: str,
        *,
        api_key: ApiKey | None = None,
        headers: Mapping[str, str] | None = None,
        weight: float = 1.0,
    ) -> None:
        """Checks the arguments.

        Raises:
            InputError: One of them is wrong; the message names it and says the cure.
        """
        endpoint_of(url)
        if not is_number(weight) or not 0 < weight <= MOST_WEIGHT:
            raise InputError(
                f"weight must be a number above 0 and up to {MOST_WEIGHT:,}, not {shown(weight)}"
            )
        object.__setattr__(self, "url", url)
        object.__setattr__(self, "api_key", api_key_of(api_key))
        object.__setattr__(self, "headers", None if headers is None else headers_of(headers))
        object.__setattr__(self, "weight", float(weight))

    def __repr__(self) -> str:
        weight = "" if self.weight == 1 else f", weight={self.weight:g}"
        return f"Server({dumped(self.url)!r}{weight})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """When a query goes to a second server too: after so many seconds, or after those that so many queries take.

    Attributes:
        seconds: They; None: they are found.
        share: Of the queries that are answered sooner, where the seconds are found.
    """

    seconds: float | None = None
    share: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The servers of a client, one or several, and how they are used together.

    Attributes:
        targets: They, at least one.
        weights: How much each of them takes.
        same_model: How near the vectors of two servers must be, as a cosine; None: strict, and by name.
        hedge: When a query goes to a second server too; None: never.
    """

    targets: tuple[Target, ...]
    weights: tuple[float, ...] = (1.0,)
    same_model: float | None = None
    hedge: Hedge | None = None

    @property
    def names(self) -> str:
        """The base URLs, for messages."""
        return ", ".join(target.base_url for target in self.targets)

    def visited(self) -> Fleet:
        """The servers with the keys that hold now; of one server nothing else counts."""
        targets = tuple(
            one if one.api_key is not None else replace(one, api_key=key_from_environment(one.base_url))
            for one in self.targets
        )
        return replace(self, targets=targets) if len(targets) > 1 else Fleet(targets=targets)


MOST_WEIGHT = 1_000_000
_KEY_HEADER = "Authorization"
_PERCENTILE = re.compile(r"p([1-9][0-9]?(?:\.[0-9]{1,3})?)")
_PORTS = {"http": 80, "https": 443}
Servers: TypeAlias = str | Server | Sequence[str | Server]


def from_environment() -> str | tuple[str, ...]:
    """What to use where no ``base_url`` was passed; the environment's may be several, with commas between.

    Raises:
        InputError: There is none.
    """
    urls = tuple(filter(None, map(str.strip, url_from_environment().split(","))))
    return urls if len(urls) > 1 else "".join(urls)


def fleet_of(
    base_url: object,
    api_key: object,
    headers: object,
    ssl: object,
    proxy: object,
    trust_env: object,
    same_model: float | None,
    hedge: float | str | None,
) -> Fleet:
    """The servers that the arguments mean.

    Raises:
        InputError: One of them is wrong, or two say different things.
    """
    least, when = _same_model_of(same_model), _hedge_of(hedge)
    where = from_environment() if base_url is None else base_url
    if isinstance(where, (Server, Mapping)):
        where = [where]
    if isinstance(where, (str, bytes)) or not isinstance(where, Sequence):
        target = target_of(where, api_key, headers, ssl, proxy, trust_env)
        return Fleet(targets=(target,), same_model=least, hedge=when)
    servers = [_server_of(one) for one in where]
    if not servers:
        raise InputError("base_url is an empty list; pass at least one URL, such as 'http://localhost:8080'")
    alone = len(servers) == 1
    targets = tuple(
        target_of(one.url, *_keys_of(one, api_key, headers, alone=alone), ssl, proxy, trust_env)
        for one in servers
    )
    _check_different([target.base_url for target in targets])
    weights = tuple(one.weight for one in servers)
    return Fleet(targets=targets, weights=weights, same_model=least, hedge=when)


def loaded_servers(base_url: Any) -> Any:
    """``base_url`` as it was passed, or what a framework's dump made of it.

    Raises:
        InputError: A dump is wrong.
    """
    if isinstance(base_url, Mapping):
        return _server_of(base_url)
    return tuple(map(loaded_servers, base_url)) if isinstance(base_url, (list, tuple)) else base_url


def dumped_servers(base_url: Any) -> Any:
    """``base_url`` for dumps: without user, password and key, and of a query only what names a version."""
    if isinstance(base_url, Server):
        url = dumped(base_url.url)
        return url if base_url.weight == 1 else {"url": url, "weight": base_url.weight}
    if isinstance(base_url, str):
        return dumped(base_url)
    return [dumped_servers(one) for one in base_url] if isinstance(base_url, Sequence) else None


def _keys_of(server: Server, api_key: object, headers: object, *, alone: bool) -> tuple[object, object]:
    """The key and the headers that go to a server: its own, else the client's; of keys in any form only its own.

    Among others, a user and password in its URL are a key, too.
    """
    own = server.headers is not None and any(name == _KEY_HEADER for name, _ in server.headers)
    if server.api_key is None and not own and (alone or login_of(server.url) is None):
        return api_key, headers if server.headers is None else server.headers
    if server.headers is not None:
        return server.api_key, server.headers
    kept = headers
    if isinstance(headers, Mapping):
        kept = {name: value for name, value in headers.items() if str(name).title() != _KEY_HEADER}
    return server.api_key, kept


def _server_of(one: object) -> Server:
    """A server of a list; a mapping is what a framework's dump made of it."""
    if isinstance(one, Server):
        return one
    if isinstance(one, str):
        return Server(one)
    if isinstance(one, Mapping) and "url" in one and {*one} <= {"url", "weight"}:
        return Server(**one)
    raise InputError(
        f"base_url must be a str, a Server, or a list of these, and has {shown(one)} in it; "
        "pass for example ['http://one:8080', 'http://two:8080']"
    )


def _same_model_of(value: float | None) -> float | None:
    """`same_model`, a cosine; None: strict."""
    if value is None:
        return None
    if not is_number(value) or not 0 < value <= 1:
        raise InputError(
            "same_model must be a cosine above 0 and up to 1, such as 0.98, or None for one and the same model, "
            f"not {shown(value)}"
        )
    return float(value)


def _hedge_of(value: float | str | None) -> Hedge | None:
    """`hedge` as a record: seconds, or a percentile such as "p95"."""
    if value is None:
        return None
    if isinstance(value, str):
        found = _PERCENTILE.fullmatch(value)
        if found:
            return Hedge(share=float(found[1]) / 100)
    elif is_number(value) and value > 0:
        return Hedge(seconds=float(value))
    raise InputError(
        f"hedge must be 'p95' or the like, a number of seconds above 0, or None, not {shown(value)}"
    )


def _check_different(urls: list[str]) -> None:
    """Raises InputError where a server stands there twice: its slots would be counted twice."""
    seen: set[object] = set()
    for url in urls:
        parts = urlsplit(url)
        place = parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme), parts.path
        if place in seen:
            raise InputError(
                f"base_url has the server {url} twice; name each one once, with Server(…, weight=…) where "
                "one takes more than the others"
            )
        seen.add(place)
