"""Which texts a run embedded lately, so that equal ones travel once; as many as a fixed amount of memory holds."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedwire.bulk.records import Row, Vector

MEMORY = 2**26  # bytes, about
OVERHEAD = 400  # of one text
GUESS = 4096  # bytes of a vector that has not come yet


class Ticket:
    """A text that travels, and what came of it. Written by `bulk/embedding.py`."""

    __slots__ = ("problem", "row", "vector", "weight")

    def __init__(self, row: Row, problem: str | None = None) -> None:
        self.row = row  # the first one with this text
        self.vector: Vector | None = None
        self.problem = problem
        self.weight = 0

    @property
    def done(self) -> bool:
        """Whether there is a vector, or there will be none."""
        return self.vector is not None or self.problem is not None


class Seen:
    """Its state is the tickets, the one that was wanted longest ago first."""

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._tickets: OrderedDict[str, Ticket] = OrderedDict()
        self._weight = 0

    def find(self, text: str) -> Ticket | None:
        """The ticket of an equal text."""
        ticket = self._tickets.get(text)
        if ticket is not None:
            self._tickets.move_to_end(text)
            if ticket.vector is not None and ticket.vector.base is not None:
                ticket.vector = ticket.vector.copy()  # else it would keep the vectors that came with it
        return ticket

    def add(self, text: str, ticket: Ticket, width: int) -> None:
        """Remembers a text whose vector will have ``width`` numbers (0: not known), and forgets old ones."""
        ticket.weight = sys.getsizeof(text) + (4 * width or GUESS) + OVERHEAD
        self._tickets[text] = ticket
        self._weight += ticket.weight
        while self._weight > self._memory:
            _, old = self._tickets.popitem(last=False)
            self._weight -= old.weight
