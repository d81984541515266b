"""How much a gateway takes at once, and for how long it waits for its clients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from embedwire._web.requests import Refusal

BODIES = 4  # of the largest size, that may be held at once
RETRY_AFTER = 1  # seconds, where there is no room


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request, and all together, may ask for.

    Attributes:
        body: Most bytes in a body.
        texts: Most texts in a request.
        queued: Most texts under way, from their arrival until their vectors are taken; a request that meets an empty
            gateway may have more.
        stall: Seconds in which a body must have arrived, and in which a client must take a piece of its reply.
    """

    body: int = 64 * 2**20
    texts: int = 100_000
    queued: int = 200_000
    stall: float = 60.0


DEFAULT = Limits()


class Room:
    """What is under way: no client, and no number of them, makes a gateway pile up more than it may.

    Its state is the texts and the bytes that are held.

    Args:
        limits: The most of them.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.texts = 0
        self._bytes = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[Share]:
        """One request's share, given back at its end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.texts -= share.texts
            self._bytes -= share.size

    def take_bytes(self, share: Share, size: int) -> None:
        """A piece of a body has arrived.

        Raises:
            Refusal: Too many bodies are held.
        """
        if self._bytes + size > max(BODIES * self._limits.body, size):
            raise _full("The gateway holds as much as it may of other requests")
        self._bytes += size
        share.size += size

    def take_texts(self, share: Share, texts: int) -> None:
        """A request with so many texts has arrived.

        Raises:
            Refusal: There is no room for them.
        """
        if self.texts and self.texts + texts > self._limits.queued:
            raise _full(f"{self.texts} texts are under way, and {texts} more are over {self._limits.queued}")
        self.texts += texts
        share.texts += texts


class Share:
    """What one request holds. Written by `Room`."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.texts = 0
        self.size = 0

    def take_bytes(self, size: int) -> None:
        """See `Room.take_bytes`."""
        self._room.take_bytes(self, size)

    def take_texts(self, texts: int) -> None:
        """See `Room.take_texts`."""
        self._room.take_texts(self, texts)


def _full(what: str) -> Refusal:
    headers = {"Retry-After": str(RETRY_AFTER)}
    message = f"{what}: too many requests at once, try again in {RETRY_AFTER} s."
    return Refusal(message, status=429, type="rate_limit_error", code="queue_full", headers=headers)
