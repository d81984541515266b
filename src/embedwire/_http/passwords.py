"""The passwords in a proxy's URL and in a header, which no message may repeat. Pure."""

from __future__ import annotations

import base64
import contextlib
from urllib.parse import unquote, urlsplit


def secrets_of(proxy: str | None) -> list[str]:
    """What a proxy's URL hides, as it stands there and as it is sent."""
    parts = urlsplit(proxy or "")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if proxy is None or not user + password:
        return []
    sent = {
        base64.b64encode(f"{user}:{password}".encode(code, "replace")).decode()
        for code in ("utf-8", "latin1")
    }
    return [proxy, password or user, *sent]


def password_of(header: str) -> list[str]:
    """The password in a header of basic authorization."""
    scheme, _, coded = header.partition(" ")
    if scheme.lower() != "basic":
        return []
    with contextlib.suppress(ValueError):
        user, _, password = base64.b64decode(coded).decode("utf-8", "replace").partition(":")
        return [password or user]
    return []
