"""Places on the wire: how many requests may be in flight at one server, and who gets the place that became free."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from embedwire._servers.pace import Window
from embedwire._settings.options import KINDS, Kind

DEFAULT_CONCURRENCY = 8


class Wish(NamedTuple):
    """The most requests in flight that somebody wants: with documents, and all together, so that queries have room."""

    documents: int
    all: int

    @classmethod
    def of(cls, most: int) -> Wish:
        """So many, whatever is in them."""
        return cls(most, most)


LONG = 0.25  # seconds that a request may take where it is not known how long such requests take
LINGER_MOST = 60.0  # seconds that a request which nobody waits for any more counts as in flight


class Slots:
    """The requests in flight at one server from one loop, whoever sends them.

    What waits is not in flight: a request gives its slot back while it pauses, and waits for one again before its
    repeat. Written by this file alone. Its state is the number of slots held, the wishes of all who have work here, the
    window after trouble, and the repeats that wait.

    Attributes:
        in_flight: Slots held now.
        documents: Those of them that are held for documents.
        window: What the server can take after trouble.
        on_free: Called when a slot became free.
        on_less: Called with the most in flight from now on, when the window shrank.
    """

    def __init__(self) -> None:
        self.in_flight = self.documents = 0
        self.window = Window()
        self.on_free: list[Callable[[], None]] = []
        self.on_less: list[Callable[[int], None]] = []
        self._wishes: dict[object, Callable[[], Wish]] = {}
        self._waiting: dict[Kind, deque[asyncio.Future[None]]] = {"query": deque(), "document": deque()}

    def free(self, kind: Kind) -> int:
        """How many more requests of a kind may be sent: by the smallest wish, or less where the server had trouble."""
        documents = most = sys.maxsize if self._wishes else DEFAULT_CONCURRENCY
        for wish in self._wishes.values():
            wanted = wish()
            documents, most = min(documents, wanted.documents), min(most, wanted.all)
        left = min(most, self.window.allowed or most) - self.in_flight
        return max(0, left if kind == "query" else min(left, documents - self.documents))

    def waits(self, kind: Kind) -> bool:
        """Whether a repeat waits for a slot."""
        return bool(self._waiting[kind])

    def enlist(self, who: object, wish: Callable[[], Wish]) -> None:
        """Somebody has work here, and wants at most so many requests in flight."""
        self._wishes.setdefault(who, wish)

    def dismiss(self, who: object) -> None:
        """Somebody has no more work here."""
        self._wishes.pop(who, None)

    def take(self, kind: Kind) -> Slot:
        """A slot, whether or not one is free: the caller has looked."""
        self._take(kind)
        return Slot(self, kind)

    async def get(self, kind: Kind) -> Slot:
        """A slot, as soon as one is free."""
        if self.free(kind):
            return self.take(kind)
        await self.wait(kind)
        return Slot(self, kind)

    def resume(self, kind: Kind) -> bool:
        """Gives a slot to the repeat that waits longest; False where none waits."""
        waiting = self._waiting[kind]
        while waiting:
            future = waiting.popleft()
            if not future.done():
                self._take(kind)
                future.set_result(None)
                return True
        return False

    async def wait(self, kind: Kind) -> None:
        """Waits for a slot, and takes it; where the window has grown meanwhile, after those who waited before."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[kind].append(future)
        for one in KINDS:
            while self.free(one) and self.resume(one):
                pass
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.leave(kind)
            raise

    def push_less(self, sent_at: int, most: int | None = None) -> None:
        """The server had too much to do when the window was of this age; see `Window.overload`."""
        age = self.window.age
        self.window.overload(sent_at, self.in_flight, most=most)
        if self.window.age != age:
            for tell in self.on_less:
                tell(self.window.allowed or 1)

    def leave(self, kind: Kind) -> None:
        """Somebody gave a slot back."""
        self.in_flight -= 1
        self.documents -= kind == "document"
        looks = self.on_free
        if len(looks) > 1:  # queues of several clients take turns
            self.on_free = [*looks[1:], looks[0]]
        for look in looks:
            look()

    def _take(self, kind: Kind) -> None:
        self.in_flight += 1
        self.documents += kind == "document"


class Slot:
    """One request's place on the wire, held while it is sent, given back while it pauses. Written by `_http`.

    Attributes:
        held: Whether it is held now.
        sent: Requests sent in it so far; counted by `_http`.
    """

    __slots__ = ("_age", "_kind", "_slots", "_spared", "held", "sent")

    def __init__(self, slots: Slots, kind: Kind) -> None:
        self._slots = slots
        self._kind: Kind = kind
        self.held = True
        self._spared = False
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
            self._slots.leave(self._kind)

    def hand_over(self) -> Slot:
        """This slot for something else, in the same moment."""
        other = self._slots.take(self._kind)
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
        self._slots.push_less(self._age)

    def brought_down(self) -> None:
        """The server broke off; where several requests were on the wire, any of them may be the reason."""
        if self._slots.in_flight > 1:
            self._slots.push_less(self._age, most=1)

    def spare(self) -> None:
        """That nobody waits for the request any more will say nothing of the server: another one was quicker."""
        self._spared = True

    def give_up(self, elapsed: float, usual: float | None) -> None:
        """Nobody waits for the request on the wire any more; the server may go on with it all the same.

        It counts as in flight for as long as such requests take. Where it took longer already, it counts for as long
        again, and the server has too much to do.

        Args:
            elapsed: Seconds since it was sent.
            usual: Seconds that such requests take; None where that is not known.
        """
        late = elapsed >= (LONG if usual is None else usual)
        if late and not self._spared:
            self.overloaded()
        seconds = min(LINGER_MOST, elapsed if usual is None or late else usual - elapsed)
        if self.held and seconds > 0:
            self.held = False
            asyncio.get_running_loop().call_later(seconds, self._slots.leave, self._kind)
