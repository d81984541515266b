"""Who is told of what: the log of everything, the clients at a server of what happens to it."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeAlias

from embedwire._events.log import log
from embedwire.events import CallStarted, Event, RequestStarted

Tell: TypeAlias = Callable[[Event], None]


class Ear(Protocol):
    """What stands before a hook: it never raises, and never blocks."""

    def tell(self, event: Event) -> None:
        """Something happened."""
        ...

    def begin(self, event: CallStarted | RequestStarted) -> Mapping[str, str]:
        """Something begins; further headers for a request, by name."""
        ...


class Tracer(abc.ABC):
    """A hook that is told of what begins at once, where it begins, and of all else in its thread as any other."""

    @abc.abstractmethod
    def begins(self, event: CallStarted | RequestStarted) -> Mapping[str, str]:
        """Something begins, in the context of who began it; further headers for a request. It must not block."""

    @abc.abstractmethod
    def __call__(self, event: Event) -> None:
        """Something happened."""


def tell(event: Event, ears: Iterable[Ear]) -> None:
    """Tells the log, and some others."""
    log(event)
    for ear in ears:
        ear.tell(event)


class Audience:
    """Those who are told what happens to one server, or to several that are used together, on one loop.

    Its state is the ears of the clients that use it, and how many of them have each.
    """

    def __init__(self) -> None:
        self._ears: Counter[Ear] = Counter()

    def join(self, ears: Iterable[Ear]) -> None:
        """A client uses the server."""
        self._ears.update(ears)

    def leave(self, ears: Iterable[Ear]) -> None:
        """It does no more."""
        self._ears = Counter(self._ears - Counter(ears))

    def tell(self, event: Event) -> None:
        """Something happened."""
        tell(event, list(self._ears))
