"""Places on the wire: how many requests may be in flight at one server, and who gets the place that became free."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable

from embedwire._servers.pace import Window
from embedwire._settings.options import Kind

DEFAULT_CONCURRENCY = 8
LONG = 0.25  # seconds that a request may take where it is not known how long such requests take
LINGER_MOST = 60.0  # seconds that a request which nobody waits for any more counts as in flight


class Slots:
    """The requests in flight at one server from one loop, whoever sends them.

    What waits is not in flight: a request gives its slot back while it pauses, and waits for one again before its
    repeat. Written by this file alone. Its state is the number of slots held, the wishes of all who have work here, the
    window after trouble, and the repeats that wait.

    Attributes:
        in_flight: Slots held now.
        window: What the server can take after trouble.
        on_free: Called when a slot became free.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.window = Window()
        self.on_free: list[Callable[[], None]] = []
        self._wishes: dict[object, Callable[[], int]] = {}
        self._waiting: dict[Kind, deque[asyncio.Future[None]]] = {"query": deque(), "document": deque()}

    @property
    def free(self) -> bool:
        """Whether one more request may be sent: the smallest wish counts, or less where the server had trouble."""
        wish = min((wish() for wish in self._wishes.values()), default=DEFAULT_CONCURRENCY)
        return self.in_flight < min(wish, self.window.allowed or sys.maxsize)

    def enlist(self, who: object, wish: Callable[[], int]) -> None:
        """Somebody has work here, and wants at most so many requests in flight."""
        self._wishes.setdefault(who, wish)

    def dismiss(self, who: object) -> None:
        """Somebody has no more work here."""
        self._wishes.pop(who, None)

    def take(self) -> Slot:
        """A slot, whether or not one is free: the caller has looked."""
        self.in_flight += 1
        return Slot(self)

    def resume(self, kind: Kind) -> bool:
        """Gives a slot to the repeat that waits longest; False where none waits."""
        waiting = self._waiting[kind]
        while waiting:
            future = waiting.popleft()
            if not future.done():
                self.in_flight += 1
                future.set_result(None)
                return True
        return False

    async def wait(self, kind: Kind) -> None:
        """Waits for a slot, and takes it; where the window has grown meanwhile, after those who waited before."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[kind].append(future)
        while self.free and (self.resume("query") or self.resume("document")):
            pass
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Somebody gave a slot back."""
        self.in_flight -= 1
        for look in self.on_free:
            look()


class Slot:
    """One request's place on the wire, held while it is sent, given back while it pauses. Written by `_http`.

    Attributes:
        held: Whether it is held now.
        sent: Requests sent in it so far; counted by `_http`.
    """

    __slots__ = ("_age", "_slots", "held", "sent")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.held = True
        self.sent = 0
        self._age = slots.window.age

    @property
    def crowd(self) -> int:
        """Requests in flight now."""
        return self._slots.in_flight

    def give_back(self) -> None:
        """The request is over, or pauses."""
        if self.held:
            self.held = False
            self._slots.leave()

    def hand_over(self) -> Slot:
        """This slot for something else, in the same moment."""
        other = self._slots.take()
        self.give_back()
        return other

    async def take_again(self, kind: Kind) -> None:
        """Waits for a slot before a repeat."""
        if not self.held:
            await self._slots.wait(kind)
            self.held = True
        self._age = self._slots.window.age

    def succeeded(self) -> None:
        """The server answered well."""
        self._slots.window.success(self._age)

    def overloaded(self) -> None:
        """The server has too much to do."""
        self._slots.window.overload(self._age, self._slots.in_flight)

    def brought_down(self) -> None:
        """The server broke off; where several requests were on the wire, any of them may be the reason."""
        if self._slots.in_flight > 1:
            self._slots.window.overload(self._age, self._slots.in_flight, most=1)

    def give_up(self, elapsed: float, usual: float | None) -> None:
        """Nobody waits for the request on the wire any more; the server may go on with it all the same.

        It counts as in flight for as long as such requests take. Where it took longer already, it counts for as long
        again, and the server has too much to do.

        Args:
            elapsed: Seconds since it was sent.
            usual: Seconds that such requests take; None where that is not known.
        """
        late = elapsed >= (LONG if usual is None else usual)
        if late:
            self.overloaded()
        seconds = min(LINGER_MOST, elapsed if usual is None or late else usual - elapsed)
        if self.held and seconds > 0:
            self.held = False
            asyncio.get_running_loop().call_later(seconds, self._slots.leave)
