"""One server as one event loop sees it: session, queue and what is known; clients of equal settings share it."""

from __future__ import annotations

import contextlib

from embedwire._config import Target
from embedwire._dispatch import Dispatcher
from embedwire._limits import learned
from embedwire._pace import Window
from embedwire._send import Sender
from embedwire._transport import AiohttpTransport


class Origin:
    """A server's session, queue and limits, on one loop."""

    def __init__(self, target: Target) -> None:
        self.learned = learned(target.base_url)
        self.transport = AiohttpTransport(target)
        window = Window()
        self.sender = Sender(target, self.transport, self.learned, window)
        self.dispatcher = Dispatcher(
            target.base_url, self.sender.embed, self.sender.learn, self.learned, window
        )

    def abandon(self) -> None:
        """Closes every connection without waiting, on the loop or after its end."""
        with contextlib.suppress(RuntimeError):  # the loop is over, and its tasks with it
            self.sender.abandon()
            self.dispatcher.sleep()
        self.transport.abandon()

    async def close(self) -> None:
        """Closes every connection; requests on their way are cancelled first."""
        await self.sender.close()
        await self.dispatcher.settle()
        await self.transport.close()


class Origins:
    """The servers in use on one loop, each with the number of clients that use it."""

    def __init__(self) -> None:
        self._used: dict[Target, tuple[Origin, int]] = {}

    def acquire(self, target: Target) -> Origin:
        """The origin of a target, shared by all clients of equal targets."""
        origin, users = self._used.get(target) or (Origin(target), 0)
        self._used[target] = (origin, users + 1)
        return origin

    async def release(self, target: Target) -> None:
        """Ends one client's use; the last one's closes the connections."""
        origin, users = self._used[target]
        if users > 1:
            self._used[target] = (origin, users - 1)
        else:
            del self._used[target]
            await origin.close()

    def abandon(self, target: Target) -> None:
        """Ends one client's use without waiting: it was dropped, or the loop is over."""
        origin, users = self._used.pop(target)
        if users > 1:
            self._used[target] = (origin, users - 1)
        else:
            origin.abandon()

    async def close(self) -> None:
        """Closes everything, whoever uses it, at the end of the process."""
        for origin, _ in self._used.values():
            origin.dispatcher.vanish()
            await origin.close()
