"""How long a text may be for one model, as far as that was found out."""

from __future__ import annotations

MARGIN = 0.97  # of what the server's numbers allow: tokens are not spread evenly over a text


class Lengths:
    """What is known of the longest text that a model takes whole.

    Written by `_queue` (which texts travel alone), and by `_clients.fitting` through `found`. Its state is two lengths.

    Attributes:
        alone: From this length on, texts travel alone, so that a refusal costs no other text a request; None: none.
        edge: What was found to be about the longest text; None: not looked for.
    """

    __slots__ = ("alone", "edge")

    def __init__(self) -> None:
        self.alone: int | None = None
        self.edge: int | None = None

    def refused(self, length: int) -> None:
        """A text of so many characters was too long."""
        self.alone = length if self.alone is None else min(self.alone, length)

    def taken(self, length: int) -> None:
        """A text of so many characters was taken; characters have more tokens in some languages than in others."""
        if self.alone is not None and length >= self.alone:
            self.alone = length + 1

    def found(self, length: int) -> None:
        """Texts of about so many characters are the longest that are taken."""
        self.edge = length

    def guess(self, length: int, tokens: int | None, limit: int | None) -> int:
        """The length to try next, below that of a text which was too long.

        Args:
            length: Of that text.
            tokens: In it, where the server told.
            limit: The most that the server takes, where it told.
        """
        if tokens is not None and limit is not None and tokens > limit:
            return int(length * limit / tokens * MARGIN)
        if self.edge is not None and self.edge < length:
            return self.edge
        return length // 2
