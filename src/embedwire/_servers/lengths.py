"""How long a text may be for one model, as far as that was found out."""

from __future__ import annotations

MARGIN = 0.97  # of what the server's numbers allow: tokens are not spread evenly over a text
GROWTH = 1.25  # by which a longer text is tried now and then
REST_LEAST, REST_MOST = 8, 1024  # texts that are taken at an edge before a longer one is tried
SAMPLE = 1000  # characters by which a text's script is known


class Edge:
    """About the longest text of one script that is taken. Written by `Lengths`.

    Texts differ in how many tokens their characters have, so one dense text must not shorten all others for good:
    after some that were taken, one tries a greater length; in vain, it takes twice as many until the next.
    """

    __slots__ = ("_good", "_rest", "_trial", "length")

    def __init__(self, length: int) -> None:
        self.length = length
        self._good = 0
        self._rest = REST_LEAST
        self._trial: int | None = None

    def next(self, below: int) -> int:
        """The length to try next, for a text that has to be shorter than ``below``."""
        trial = int(self.length * GROWTH) + 1
        if self._good < self._rest or trial >= below:
            return self.length
        self._good, self._trial = 0, trial
        return trial

    def fits(self, length: int) -> None:
        """So much was taken."""
        self._good += 1
        if length > self.length:
            self.length, self._good, self._rest = length, 0, max(REST_LEAST, self._rest // 2)

    def too_long(self, length: int) -> None:
        """So much was refused."""
        if length <= self.length:
            self.length, self._good, self._rest, self._trial = max(1, length // 2), 0, REST_LEAST, None
        elif self._trial is not None and length <= self._trial:
            self._rest, self._trial = min(REST_MOST, self._rest * 2), None


class Lengths:
    """What is known of the longest text that a model takes whole.

    Written by `_queue` (which texts travel alone), and by `_clients.shortening` through its methods. Its state is the
    length from which on texts travel alone, an edge for each script, and what was warned of.

    Attributes:
        alone: From this length on, texts travel alone, so that a refusal costs no other text a request; None: none.
        longest: The longest text that was taken; 0: none.
        told: What was done to texts and is not warned of again.
    """

    __slots__ = ("_edges", "alone", "longest", "told")

    def __init__(self) -> None:
        self.alone: int | None = None
        self.longest = 0
        self.told: set[str] = set()
        self._edges: dict[int, Edge] = {}

    def refused(self, length: int) -> None:
        """A text of so many characters was too long."""
        self.alone = length if self.alone is None else min(self.alone, length)

    def taken(self, length: int) -> None:
        """So many characters has the longest of some texts that were taken.

        The same number of characters has more tokens in some languages than in others.
        """
        self.longest = max(self.longest, length)
        if self.alone is not None and length >= self.alone:
            self.alone = length + 1

    def knows(self, text: str, length: int) -> bool:
        """Whether an edge is known that is shorter than ``length`` characters, for texts like this one."""
        edge = self._edges.get(script(text))
        return edge is not None and edge.length < length

    def found(self, text: str, length: int) -> None:
        """It was searched for: about so many characters of texts like this one are taken."""
        edge = self._edges.get(script(text))
        if edge is None:
            self._edges[script(text)] = Edge(length)
        else:
            edge.length = length

    def fits(self, text: str, length: int) -> None:
        """So many characters of a text were taken where the edge is known, or told by the server."""
        if (edge := self._edges.get(script(text))) is not None:
            edge.fits(length)

    def too_long(self, text: str, length: int) -> None:
        """So many characters of a text were refused."""
        if (edge := self._edges.get(script(text))) is not None:
            edge.too_long(length)

    def guess(self, text: str, length: int, tokens: int | None, limit: int | None) -> int:
        """The length to try next, below that of a text which was too long.

        Args:
            text: It, or one like it.
            length: Its length.
            tokens: In it, where the server told.
            limit: The most that the server takes, where it told.
        """
        if tokens is not None and limit is not None and tokens > limit:
            return int(length * limit / tokens * MARGIN)
        edge = self._edges.get(script(text))
        if edge is not None and edge.length < length:
            return edge.next(below=length)
        return length // 2


def script(text: str) -> int:
    """Bytes of UTF-8 in a character, which tell apart Latin, Cyrillic and Korean: they differ in tokens, too."""
    sample = text[:SAMPLE]
    return round(len(sample.encode("utf-8", "surrogatepass")) / max(1, len(sample)))
