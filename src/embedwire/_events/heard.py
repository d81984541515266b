"""One call, as the hooks of its client are told of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Literal

from embedwire._events.audience import Ear
from embedwire.events import CallFinished, CallStarted

_numbers = itertools.count(1)


class Heard:
    """One call whose client has hooks; the calls that it is made of share it. Written by `_events`.

    Its state is when its first text was sent, what came of its texts so far, and whether it is over.

    Args:
        ears: Of its client, at least one.
        begun: When the caller called, by `time.monotonic`.
        server: Base URL, or several.
        model: Named in its requests, as far as is known.
        kind: Of its texts.
        texts: They; none is kept.
        dimensions: Asked for.
        parts: It may be made of several calls, whose ends are not its own.

    Attributes:
        ears: Who is told.
        number: Of the call, in this process.
    """

    def __init__(
        self,
        ears: tuple[Ear, ...],
        *,
        begun: float,
        server: str,
        model: str | None,
        kind: Literal["document", "query"],
        texts: Sequence[str],
        dimensions: int | None,
        parts: bool = False,
    ) -> None:
        ago = time.monotonic() - begun
        self.ears = ears
        self.number = next(_numbers)
        self._parts = parts
        self._now = asyncio.get_running_loop().time
        self._begun = self._now() - ago
        self._sent: float | None = None
        self._over = False
        self._embedded = self._requests = 0
        self._tokens: float | None = None
        self._model = model
        self._reply_model: str | None = None
        self._started = CallStarted(
            at=time.time() - ago,
            call=self.number,
            server=server,
            model=model,
            kind=kind,
            texts=len(texts),
            characters=sum(map(len, texts)),
            dimensions=dimensions,
        )
        for ear in ears:
            ear.begin(self._started)

    def sent(self, moment: float, model: str | None) -> None:
        """A request with some of its texts went out at a moment, in loop time."""
        if self._sent is None:
            self._sent = max(moment, self._begun)
        self._requests += 1
        self._model = model or self._model

    def embedded(self, texts: int, tokens: float | None, model: str | None) -> None:
        """So many of its texts got a vector; its share of the tokens, and the model that the reply names."""
        self._embedded += texts
        if tokens is not None:
            self._tokens = (self._tokens or 0.0) + tokens
        self._reply_model = model or self._reply_model

    def ended(self, error: BaseException | None, *, cancelled: bool = False) -> None:
        """One call that it is made of is over."""
        if not self._parts:
            self.finish(error, cancelled=cancelled)

    def finish(self, error: BaseException | None, *, cancelled: bool = False) -> None:
        """It is over, well where there is no error."""
        if self._over:
            return
        self._over = True
        now, started = self._now(), self._started
        well = error is None and not cancelled
        event = CallFinished(
            call=self.number,
            server=started.server,
            model=self._model,
            reply_model=self._reply_model,
            kind=started.kind,
            texts=started.texts,
            characters=started.characters,
            embedded=started.texts if well else min(self._embedded, started.texts),
            requests=self._requests,
            tokens=None if self._tokens is None else round(self._tokens),
            seconds=now - self._begun,
            waited=(now if self._sent is None else self._sent) - self._begun,
            outcome="cancelled" if cancelled else "done" if well else "failed",
            error=None if error is None else type(error).__name__,
        )
        for ear in self.ears:
            ear.tell(event)


def ears_of(watches: Iterable[Heard]) -> list[Ear]:
    """Who is told of what several calls share, each once."""
    return list(dict.fromkeys(ear for heard in watches for ear in heard.ears))
