"""The port, and what is said to whoever starts a server."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys


class ServeError(Exception):
    """The server cannot start; the message is one sentence for the person who started it."""


def listen(host: str, port: int) -> socket.socket:
    """The socket on which a server listens.

    Raises:
        ServeError: The port cannot be had.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ServeError(f"Port {port} is in use: choose another one with --port.") from None
        reason, _, _ = str(getattr(error, "strerror", error)).partition(" (")  # the rest repeats the address
        raise ServeError(f"Cannot listen on {host}, port {port}: {reason}.") from None


def as_seen_by_clients(host: str) -> tuple[str, bool]:
    """The host's name in a URL, and whether this machine alone can reach it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host, host == "localhost"
    if address.is_unspecified:
        return ("127.0.0.1" if address.version == 4 else "[::1]"), False
    return (host if address.version == 4 else f"[{host}]"), address.is_loopback


def to_stderr(line: str) -> None:
    """Says something to a person."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
