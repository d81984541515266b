"""Waiting until a server is ready: one question to ``/health`` at a time, for all who wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from embedwire._http.failures import Context, judge
from embedwire._http.messages import screened
from embedwire._http.records import Action, Fault, History, Refused
from embedwire._http.wire import Break, Broken, Reply
from embedwire._servers.facts import ServerFacts
from embedwire._settings.options import Timeouts
from embedwire.exceptions import ServerUnavailable

logger = logging.getLogger("embedwire")

POLL_LEAST, POLL_MOST = 0.1, 2.0  # seconds between two questions to a server that is not ready
LOADING_WAIT = 120.0  # seconds to wait for a loading model where the timeouts set no total
_HOPELESS = {Break.NAME, Break.TLS, Break.NOT_HTTP}  # waiting does not help


class Ready:
    """Polls ``/health`` while somebody waits. Its state is the task that polls, and who waits for it.

    Args:
        url: Of the server, for messages.
        ask: Sends ``GET /health``.
        server: What is known of the server.
        secrets: What no message may repeat.
    """

    def __init__(
        self,
        url: str,
        ask: Callable[[], Awaitable[Reply | Broken]],
        server: ServerFacts,
        secrets: Callable[[], list[str]],
    ) -> None:
        self._url = url
        self._ask = ask
        self._server = server
        self._secrets = secrets
        self._poller: asyncio.Task[None] | None = None
        self._waiters = 0
        self._last: Reply | Broken | None = None

    async def wait(self) -> None:
        """Returns when the server answers ``/health`` with anything but 503.

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

    async def outlast(
        self, fault: Fault, timeouts: Timeouts, until: Callable[[], float | None], since: float
    ) -> Fault | None:
        """Waits for a server that is not ready, as long as it is worth it.

        Args:
            fault: How it showed.
            timeouts: A model may load for as long as a request may take, a server be gone as long as a connect.
            until: The moment, in loop time, after which nobody waits; it may move while this waits.
            since: When the wait began, in loop time.

        Returns:
            None where it is ready; else why it is not.
        """
        now = asyncio.get_running_loop().time
        logger.info("%s: %s; waiting until it is ready", self._url, fault.what)
        while True:
            limit, last = since + _patience(fault, timeouts), until()
            end = limit if last is None else min(limit, last)
            if end <= now():
                seen = self.why_not()
                if fault.status is not None or seen.status != 503 or end != limit:
                    return fault
                fault = seen  # it was gone, is back, and loads its model: that may take longer
                continue
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wait(), end - now())
                return None

    def why_not(self) -> Fault:
        """Why the server is not ready yet, for a message."""
        last = self._last
        if last is None or (isinstance(last, Reply) and last.status != 503):
            up = "the server is up, but it did not embed a word in that time"
            what = "no answer yet" if last is None else up
            return Fault(error=ServerUnavailable, what=what, cure="See the server's log.")
        fault = judge(last, Context()).fault
        return replace(fault, words=screened(fault.words, self._secrets()))

    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return [self._poller] if self._poller is not None and not self._poller.done() else []

    async def _poll(self) -> None:
        pause = POLL_LEAST
        while True:
            outcome = self._last = await self._ask()
            if isinstance(outcome, Reply) and outcome.status != 503:
                return
            if isinstance(outcome, Broken) and outcome.how in _HOPELESS and not self._server.alive:
                raise Refused(Action.GIVE_UP, judge(outcome, Context()).fault, History())
            await asyncio.sleep(pause)
            if not self._waiters:
                return
            pause = min(POLL_MOST, pause * 2)


def seen(task: asyncio.Task[object]) -> None:
    """Takes note of a task's exception, so that asyncio does not report it when all who waited are gone."""
    if not task.cancelled():
        task.exception()


def _patience(fault: Fault, timeouts: Timeouts) -> float:
    """Seconds to wait for a server: as long as a request may take while it loads, as a connect while it is gone."""
    if fault.status is None:
        return timeouts.connect or LOADING_WAIT
    return timeouts.total or LOADING_WAIT
