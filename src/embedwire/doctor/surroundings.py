"""Checks of what stands around the vectors: software, path, health, key and TLS, kept connections."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import replace
from urllib.parse import urlsplit

from embedwire._http.wire import Broken
from embedwire._settings.address import Target
from embedwire._settings.endpoint import Endpoint, dumped, endpoint_of
from embedwire.doctor.asking import Asker, printable
from embedwire.doctor.contact import TEXT, Met
from embedwire.doctor.findings import Finding, note, ok

IDLE = 3.0  # seconds: the client itself gives up a connection after four


def server(met: Met) -> Finding:
    """What it is."""
    told = met.told
    parts = [
        met.kind.name
        if met.software.lower().startswith(met.kind.name)
        else f"{met.kind.name} ({met.software})",
        f"model {printable(met.model)!r}" if met.model else "no model's name",
        f"{met.width} numbers a vector",
        f"{told.slots} slot{'s' * (told.slots != 1)}" if told.slots else "",
        f"context {told.context} tokens" if told.context else "",
        f"{told.max_texts} texts a request" if told.max_texts else "",
    ]
    what = ", ".join(filter(None, parts))
    if met.model is None:
        return note("server", what, "Pass model=: without a name an exchange of the model goes unnoticed.")
    any_name = "; it takes any name for it, so a wrong one goes unnoticed" if met.kind.takes_any_name else ""
    return ok("server", what + any_name)


def path(endpoint: Endpoint, met: Met, url: str) -> Finding:
    """Whether it embeds where the URL says, with ``/v1`` or without."""
    first = endpoint.bases[0]
    if met.base == first:
        return ok("path", f"it embeds at {first}{endpoint.tail}")
    what = f"it embeds at {met.base}{endpoint.tail}, not at {first}{endpoint.tail}"
    missing = met.base == "" and first.endswith("/v1")
    how = "without /v1" if missing else "with /v1" if met.base.endswith("/v1") else "elsewhere"
    return note(
        "path",
        f"{what}: {how}",
        f"embedwire tries both. To spare it that, and for other clients: {pasted_url(endpoint, met.base, url)}",
    )


def pasted_url(endpoint: Endpoint, base: str, url: str) -> str:
    """A ``base_url`` that leads straight there; without a password, and of a query only the version."""
    if base == endpoint.bases[0]:
        return dumped(url)
    wanted = endpoint.embeddings(base)
    for one in (endpoint.shown(base), wanted):
        meant = endpoint_of(one)
        if meant.embeddings(meant.bases[0]) == wanted:
            return one
    return endpoint.shown(base)


async def health(ask: Asker) -> Finding:
    """Whether it says that it is ready."""
    outcome = await ask.get(ask.target.endpoint.question("/health"))
    if isinstance(outcome, Broken):
        return note(
            "health",
            f"GET /health: {outcome.how.value}",
            "wait_ready() embeds a word instead; look at the log.",
        )
    if outcome.status < 300:
        return ok("health", f"GET /health says {outcome.status}")
    return note(
        "health",
        f"there is no GET /health ({outcome.status})",
        "wait_ready() embeds a word instead. Probe /v1/models where something else watches the server.",
    )


async def access(ask: Asker, lock: Asker | None) -> Finding:
    """Whether the key is asked for, and who can read what goes over the network.

    Args:
        ask: Asks with the key, if there is one.
        lock: Asks without it; None where there is none.
    """
    target = ask.target
    origin = urlsplit(target.endpoint.origin)
    tls, here = origin.scheme == "https", target.endpoint.socket is not None or _is_here(origin.hostname)
    way = "TLS" if tls else "this machine alone" if here else "no TLS"
    if tls and target.ssl is False:
        return note(
            "access", "TLS, certificate not verified", "Pass ssl='path of the CA file' instead of False."
        )
    if lock is None:
        return ok("access", f"{way}; no key")
    if not tls and not here:
        return note("access", "the key goes over the network as it is", "Put TLS in front, and use https://.")
    heard = await lock.embed([TEXT])
    if heard.fault is None:
        return note(
            "access",
            f"{way}; it embeds without the key, too",
            "Start it with a key (llama-server: --api-key), or leave the key out here.",
        )
    return ok("access", f"{way}; without the key it answers {heard.fault.status or 'nothing'}")


def keyless(target: Target) -> Target | None:
    """The same server without a key; None where there is none to leave out."""
    headers = tuple(header for header in target.headers if header[0].lower() not in _KEYS)
    if target.api_key is None and headers == target.headers:
        return None
    return replace(target, api_key=None, headers=headers)


_KEYS = ("authorization", "api-key", "x-api-key")


async def keep_alive(ask: Asker, idle: float) -> Finding:
    """Whether a connection stays for some seconds without a request."""
    first = await ask.embed([TEXT])
    if first.fault is None:
        first = await ask.embed([TEXT])
    told = printable(first.headers.get("keep-alive", ""))
    says = f"; it says Keep-Alive: {told}" if told else ""
    cure = "Have the server, or the proxy in front of it, keep connections for 5 s at least."
    if first.fault is not None:
        return note("keep-alive", first.why, "Ask again: it embedded the same text before.")
    if not first.reused:
        return note("keep-alive", f"each request needs a new connection{says}", cure)
    await asyncio.sleep(idle)
    later = await ask.embed([TEXT])
    if later.reused and later.fault is None:
        return ok("keep-alive", f"a connection stays for {idle:g} s and more{says}")
    return note("keep-alive", f"a connection is closed within {idle:g} s{says}", cure)


def _is_here(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"
