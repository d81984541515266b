"""Waiting until a server is ready: one question to ``/health`` at a time, for all who wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from embedwire._events.audience import Tell
from embedwire._http.failures import judge
from embedwire._http.gateways import GATEWAY
from embedwire._http.messages import screened
from embedwire._http.records import Action, Fault, History, Refused
from embedwire._http.verdicts import Context
from embedwire._http.wire import Break, Broken, Reply
from embedwire._servers.facts import ServerFacts
from embedwire._settings.options import Timeouts
from embedwire.events import Noticed
from embedwire.exceptions import ServerUnavailable

POLL_LEAST, POLL_MOST = 0.1, 2.0  # seconds between two questions to a server that is not ready
LOADING_WAIT = 120.0  # seconds to wait for a loading model where the timeouts set no total
TICK = 0.001  # seconds: a clock may tell no less, and a wait for less would go round for ever
_HOPELESS = {Break.NAME, Break.TLS, Break.PLAIN, Break.NOT_HTTP}  # waiting does not help


@dataclass(frozen=True, slots=True)
class Ended:
    """How a wait for a server ended.

    Attributes:
        why_not: Why it is not ready; None where it is.
        was_gone: It was seen not to be, in between.
        is_sure: It is: it has ``/health``, and that says so.
    """

    why_not: Fault | None
    was_gone: bool = False
    is_sure: bool = False


class Ready:
    """Polls ``/health`` while somebody waits. Its state is the task that polls, who waits for it, and what it heard.

    Args:
        url: Of the server, for messages.
        ask: Sends ``GET /health``.
        server: What is known of the server.
        secrets: What no message may repeat.
        tell: Told that somebody waits.
    """

    def __init__(
        self,
        url: str,
        ask: Callable[[], Awaitable[Reply | Broken]],
        server: ServerFacts,
        secrets: Callable[[], list[str]],
        tell: Tell,
    ) -> None:
        self._url = url
        self._tell = tell
        self._ask = ask
        self._server = server
        self._secrets = secrets
        self._poller: asyncio.Task[None] | None = None
        self._waiters = 0
        self._awaiting = 0
        self._nobody = asyncio.Event()
        self._last: Reply | Broken | None = None
        self._not_ready = 0

    async def wait(self) -> None:
        """Returns when the server itself answers ``/health``, and not with a 503.

        Raises:
            Refused: Waiting is in vain.
        """
        if self._poller is None or self._poller.done():
            self._poller = asyncio.ensure_future(self._poll())
            self._poller.add_done_callback(seen)
        self._waiters += 1
        try:
            await asyncio.shield(self._poller)
        finally:
            self._waiters -= 1

    async def look(self) -> bool:
        """Whether the server is ready now; asks it once."""
        self._last = await self._ask()
        return _is_ready(self._last)

    @property
    def is_awaited(self) -> bool:
        """Whether a request waits for the server, which was not ready when that was sent."""
        return self._awaiting > 0

    async def others(self, until: Callable[[], float | None]) -> None:
        """Returns when those who wait for the server are through with it, or nobody wants to wait longer."""
        last = until()
        left = None if last is None else max(0.0, last - asyncio.get_running_loop().time())
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._nobody.wait(), left)

    async def outlast(
        self, fault: Fault, timeouts: Timeouts, until: Callable[[], float | None], since: float
    ) -> Ended:
        """Waits for a server that is not ready, as long as it is worth it.

        Args:
            fault: How it showed.
            timeouts: A model may load for as long as a request may take; a server that answered before may be gone
                for `restart`, any other for as long as a connect.
            until: The moment, in loop time, after which nobody waits; it may move while this waits.
            since: When the wait began, in loop time.
        """
        what = f"{fault.what}; waiting until it is ready"
        self._tell(Noticed(server=self._url, level="info", what=what))
        self._awaiting += 1
        self._nobody.clear()
        try:
            return await self._outlasted(fault, timeouts, until, since)
        finally:
            self._awaiting -= 1
            if not self._awaiting:
                self._nobody.set()

    async def _outlasted(
        self, fault: Fault, timeouts: Timeouts, until: Callable[[], float | None], since: float
    ) -> Ended:
        now, polls = asyncio.get_running_loop().time, self._not_ready
        while True:
            patience, knob = self._patience(fault, timeouts)
            limit, last = since + patience, until()
            end = limit if last is None else min(limit, last)
            if end - now() < TICK:
                if fault.patience == "gone" and self._loads() and end == limit:
                    fault = self.why_not()  # it was gone, is back, and loads its model: that may take longer
                    continue
                waited = f", and was waited for {patience:g} s ({knob})" if end == limit else ""
                return Ended(replace(fault, what=fault.what + waited))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wait(), end - now())
                last_said = self._last.status if isinstance(self._last, Reply) else 0
                return Ended(None, self._not_ready > polls, is_sure=200 <= last_said < 300)

    def why_not(self) -> Fault:
        """Why the server is not ready yet, for a message."""
        last = self._last
        if last is None or _is_ready(last):
            up = "the server is up, but it did not embed a word in that time"
            what = "no answer yet" if last is None else up
            return Fault(error=ServerUnavailable, what=what, cure="See the server's log.")
        fault = judge(last, Context()).fault
        return replace(fault, words=screened(fault.words, self._secrets()))

    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return [self._poller] if self._poller is not None and not self._poller.done() else []

    def _loads(self) -> bool:
        """Whether it said last that it loads its model."""
        return self._last is not None and not _is_ready(self._last) and self.why_not().patience == "loading"

    def _patience(self, fault: Fault, timeouts: Timeouts) -> tuple[float, str]:
        """Seconds to wait for a server, and the knob that sets them."""
        if fault.patience == "loading":
            return timeouts.total or LOADING_WAIT, "timeout=Timeouts(total=…)"
        if self._server.alive and fault.patience == "gone":
            return timeouts.restart, "timeout=Timeouts(restart=…)"
        return timeouts.connect or timeouts.restart, "timeout=Timeouts(connect=…)"

    async def _poll(self) -> None:
        pause = POLL_LEAST
        while True:
            outcome = self._last = await self._ask()
            if _is_ready(outcome):
                return
            self._not_ready += 1
            if isinstance(outcome, Broken) and outcome.how in _HOPELESS and not self._server.alive:
                raise Refused(Action.GIVE_UP, judge(outcome, Context()).fault, History())
            await asyncio.sleep(pause)
            if not self._waiters:
                return
            pause = min(POLL_MOST, pause * 2)


def _is_ready(outcome: Reply | Broken) -> bool:
    """Whether somebody answers at all; a server without ``/health`` says 404."""
    return isinstance(outcome, Reply) and outcome.status not in GATEWAY


def seen(task: asyncio.Task[object]) -> None:
    """Takes note of a task's exception, so that asyncio does not report it when all who waited are gone."""
    if not task.cancelled():
        task.exception()
