"""When a request may be sent: the model's pause is over, its moment under a rate limit has come, a slot is free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from embedwire._servers.facts import ModelFacts
from embedwire._servers.limiter import RateLimiter, Sent
from embedwire._servers.slots import Slot
from embedwire._settings.options import Kind, RateLimit
from embedwire._settings.settings import Form

STEP = 0.001  # seconds by which who waits longer is ahead after a pause
LATE = 0.02  # seconds after its moment under a rate limit at which a request asks for another one


class Turns:
    """Lets the requests of one visitor wait off the wire, on one loop. Its state is who waits for the end of a pause.

    Where a server takes one request in a while, the first after a pause is taken: that is the one that waits longest.

    Args:
        limiter: What holds this visitor to a rate limit.
    """

    def __init__(self, limiter: Callable[[RateLimit], RateLimiter]) -> None:
        self._limiter = limiter
        self._lines: dict[ModelFacts, dict[object, float]] = {}

    def reserve(self, form: Form, texts: list[str]) -> Sent | None:
        """A moment at which a request may be sent; None where nothing limits the rate."""
        if form.rate is None or not texts:
            return None
        return self._limiter(form.rate).reserve(texts, asyncio.get_running_loop().time())

    def release(self, form: Form, sent: Sent | None) -> None:
        """A reserved moment is not used."""
        if sent is not None and form.rate is not None:
            self._limiter(form.rate).release(sent)

    def note(self, form: Form, texts: list[str]) -> None:
        """A request is sent now, whatever the limit says."""
        if form.rate is not None and texts:
            self._limiter(form.rate).note(texts, asyncio.get_running_loop().time())

    def held(self, form: Form, model: ModelFacts) -> float:
        """Seconds for which the server holds the model's requests off, as far as the user wants to wait for it."""
        left = model.throttle.until - asyncio.get_running_loop().time()
        return left if 0 < left <= form.retry.retry_after_cap else 0.0

    async def until_moment(self, form: Form, sent: Sent | None, slot: Slot | None) -> None:
        """Waits, off the wire, for a reserved moment."""
        if sent is None:
            return
        left = sent.moment - asyncio.get_running_loop().time()
        if left <= 0:
            return
        if slot is not None:
            slot.give_back()
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            self.release(form, sent)
            raise

    async def take(self, form: Form, texts: list[str], kind: Kind, slot: Slot | None) -> Sent | None:
        """Waits, off the wire, for a moment under the rate limit, then for a slot; that moment."""
        sent = self.reserve(form, texts)
        await self.until_moment(form, sent, slot)
        if slot is not None:
            await slot.take_again(kind)
        return sent

    async def wait(
        self, form: Form, texts: list[str], kind: Kind, slot: Slot | None, model: ModelFacts, since: float
    ) -> None:
        """Waits, off the wire, until a request may be sent, and takes its slot.

        Args:
            form: Its form.
            texts: The texts in it.
            kind: Queries go first.
            slot: Its slot; None where it needs none.
            model: Its model.
            since: When it was sent first, or might have been.
        """
        now = asyncio.get_running_loop().time
        while True:
            await self._outlast_pause(form, slot, model, since)
            sent = await self.take(form, texts, kind, slot)
            # While this waited for a slot, another may have been refused, or the moment may have passed.
            if not self.held(form, model) and (sent is None or now() <= sent.moment + LATE):
                return
            self.release(form, sent)

    async def _outlast_pause(self, form: Form, slot: Slot | None, model: ModelFacts, since: float) -> None:
        line, me = self._lines.setdefault(model, {}), object()
        line[me] = since
        try:
            while left := self.held(form, model):
                if slot is not None:
                    slot.give_back()
                await asyncio.sleep(max(left, STEP))
                await asyncio.sleep(STEP * sum(other < since for other in line.values()))
        finally:
            del line[me]


async def rested(slot: Slot | None, seconds: float) -> None:
    """Pauses, off the wire, for so long."""
    if slot is not None:
        slot.give_back()
    if seconds:
        await asyncio.sleep(seconds)
