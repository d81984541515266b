"""The requests of one job, as the hooks of those whose texts are in it are told of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

from embedwire._events.audience import Ear
from embedwire._events.heard import Heard, ears_of
from embedwire._events.log import log
from embedwire._http.records import Fault, Job
from embedwire.events import RequestFinished, RequestStarted

_numbers = itertools.count(1)


class Watching:
    """Tells of one job's requests. Its state is the one under way, and the calls whose texts are in it.

    Args:
        job: It.
        server: Base URL.
        model: That its requests name.
    """

    def __init__(self, job: Job, server: str, model: str | None) -> None:
        self._job = job
        self._server = server
        self._model = model
        self._characters = sum(map(len, job.texts))
        self._attempt = self._number = 0
        self._begun = 0.0
        self._watches: dict[Heard, None] = {}

    def begin(self, in_flight: int) -> Mapping[str, str]:
        """A request goes out, one of so many; further headers for it."""
        self._attempt += 1
        self._number = next(_numbers)
        self._begun = asyncio.get_running_loop().time()
        self._watches = {}
        self._join()
        event = RequestStarted(
            request=self._number,
            calls=self._calls(),
            server=self._server,
            model=self._model,
            kind=self._job.kind,
            texts=len(self._job.texts),
            characters=self._characters,
            attempt=self._attempt,
            in_flight=in_flight,
        )
        log(event)
        headers: dict[str, str] = {}
        for ear in ears_of(self._watches):
            headers.update(ear.begin(event))
        return headers

    def done(self, result: Any, status: int) -> None:
        """It went well: what was read of its reply."""
        self._end(status=status, tokens=result.tokens, reply_model=result.model)

    def failed(self, fault: Fault) -> None:
        """It did not, as far as its reply shows."""
        self._end(status=fault.status, error=fault.error.__name__)

    def broke(self, error: BaseException) -> None:
        """It came to no end of its own: nobody wants its vectors any more, or a function of the user's raised."""
        cancelled = isinstance(error, asyncio.CancelledError)
        self._end(status=None, error="Cancelled" if cancelled else type(error).__name__)

    def ears(self) -> list[Ear]:
        """Who is told."""
        self._join()
        return ears_of(self._watches)

    def _join(self) -> None:
        """Calls may join while a request is under way; those that have left are told of its end all the same."""
        for heard in self._job.callers():
            if heard not in self._watches:
                self._watches[heard] = None
                heard.sent(self._begun, self._model)

    def _calls(self) -> tuple[int, ...]:
        return tuple(heard.number for heard in self._watches)

    def _end(
        self,
        *,
        status: int | None,
        tokens: int | None = None,
        reply_model: str | None = None,
        error: str | None = None,
    ) -> None:
        ears = self.ears()
        event = RequestFinished(
            request=self._number,
            calls=self._calls(),
            server=self._server,
            model=self._model,
            reply_model=reply_model,
            kind=self._job.kind,
            texts=len(self._job.texts),
            characters=self._characters,
            attempt=self._attempt,
            seconds=asyncio.get_running_loop().time() - self._begun,
            tokens=tokens,
            status=status,
            error=error,
        )
        for ear in ears:
            ear.tell(event)
