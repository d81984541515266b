"""What one client had embedded so far, and what that took."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

EXACT = 6  # digits of a share


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a client had embedded so far, and what that took.

    Where callers of several clients shared a request, each one's share of its tokens, requests and seconds is by
    characters: the shares of all add up to the whole. Questions about the server (``/health``, ``/v1/models``, …) do
    not count; the word that ``wait_ready`` embeds does.

    Attributes:
        texts: Texts that got a vector; equal ones travel once and count each, and so do the parts of a long one.
        characters: Characters in them, prompts included.
        tokens: Tokens that the server counted; None where it never told.
        requests: Requests sent, failed and cancelled ones included, and those that compare several servers; a fraction
            where some were shared.
        repeats: Those of them that sent texts again, or parts of long ones.
        seconds: What the requests that went well took, added up; several at once take more than the clock shows.
        truncated: Texts that were cut, see ``too_long=``.
        averaged: Texts that were embedded in parts, see ``too_long=``.
        cached: Texts whose vector came from the client's ``cache=``; they count nowhere else here.
        since: When the client was made.
    """

    texts: int
    characters: int
    tokens: int | None
    requests: float
    repeats: float
    seconds: float
    truncated: int
    averaged: int
    cached: int
    since: datetime.datetime


def summed(several: Iterable[Usage]) -> Usage:
    """What several clients had embedded, together; ``since`` is the first one's."""
    them = list(several)
    tokens = [one.tokens for one in them if one.tokens is not None]
    return Usage(
        texts=sum(one.texts for one in them),
        characters=sum(one.characters for one in them),
        tokens=sum(tokens) if tokens else None,
        requests=round(sum(one.requests for one in them), EXACT),
        repeats=round(sum(one.repeats for one in them), EXACT),
        seconds=sum(one.seconds for one in them),
        truncated=sum(one.truncated for one in them),
        averaged=sum(one.averaged for one in them),
        cached=sum(one.cached for one in them),
        since=min((one.since for one in them), default=datetime.datetime.now(datetime.timezone.utc)),
    )


class Ledger:
    """Adds up what a client had embedded. Written by `_queue` on the client's loop, and by `_clients`.

    Its state is the sums; they are floats, as shares of requests are.
    """

    def __init__(self) -> None:
        self._since = datetime.datetime.now(datetime.timezone.utc)
        self._texts = self._characters = 0
        self._tokens: float | None = None
        self._requests = self._repeats = self._seconds = 0.0
        self.truncated = self.averaged = self.cached = 0
        self.model: str | None = None  # that the last reply named

    def sent(self, requests: int, share: float, *, again: bool) -> None:
        """So many requests were sent for the same texts, of which this client has a share.

        Args:
            requests: They; 0 where there were none after all.
            share: This client's.
            again: The first one of them is a repeat, too.
        """
        self._requests += requests * share
        self._repeats += max(0, requests - (not again)) * share

    def compared(self, requests: float) -> None:
        """So many requests were sent to compare servers, this client's share of them."""
        self._requests += requests

    def embedded(self, texts: int, characters: int, tokens: int | None, seconds: float, share: float) -> None:
        """A request went well.

        Args:
            texts: Of this client, that got a vector.
            characters: In them.
            tokens: In the request, where the server tells.
            seconds: That it took.
            share: This client's, of the request.
        """
        self._texts += texts
        self._characters += characters
        self._seconds += seconds * share
        if tokens is not None:
            self._tokens = (self._tokens or 0.0) + tokens * share

    def usage(self) -> Usage:
        """The sums so far."""
        return Usage(
            texts=self._texts,
            characters=self._characters,
            tokens=None if self._tokens is None else round(self._tokens),
            requests=round(self._requests, EXACT),
            repeats=round(self._repeats, EXACT),
            seconds=self._seconds,
            truncated=self.truncated,
            averaged=self.averaged,
            cached=self.cached,
            since=self._since,
        )
