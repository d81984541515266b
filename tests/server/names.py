"""DNS of a test: every name leads to this machine, while it is known."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult


class Resolver(AbstractResolver):
    """Knows this machine by every name while `known` says so, and notes what it is asked."""

    def __init__(self, asked: list[str], known: Callable[[], bool]) -> None:
        self._asked = asked
        self._known = known

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """Answer as DNS would."""
        self._asked.append(host)
        if not self._known():
            raise OSError(None, "Name or service not known")
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        """Have nothing to close."""


class Names:
    """DNS: whether names are known now, and what was asked."""

    def __init__(self) -> None:
        self.known = True
        self.asked: list[str] = []

    def resolver(self, **_: Any) -> Resolver:
        """What aiohttp asks."""
        return Resolver(self.asked, lambda: self.known)
