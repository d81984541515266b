"""What a server, and a client that believes it, need of an authority."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import trustme


def certified(authority: trustme.CA, name: str = "127.0.0.1", **validity: Any) -> ssl.SSLContext:
    """What a server of that name needs."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name, **validity).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a client of an authority needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and knows no other authority
    authority.configure_trust(context)
    return context


def as_file(authority: trustme.CA, folder: Path) -> str:
    """The path of the authority's certificate."""
    authority.cert_pem.write_to_path(folder / "authority.pem")
    return str(folder / "authority.pem")
