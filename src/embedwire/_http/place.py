"""Where a server takes texts: at which of the paths that its URL may mean. Learnt from the first that answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from embedwire._events.audience import Tell
from embedwire._http.exchange import Exchange
from embedwire._http.records import Fault, Refused
from embedwire._http.request import Done, Request
from embedwire._servers.facts import ModelFacts, ServerFacts
from embedwire._settings.endpoint import Endpoint
from embedwire.events import Noticed
from embedwire.exceptions import BadReply, ServerUnavailable

T = TypeVar("T")

_NO_SUCH_PATH = (404, 405)


class Place:
    """Sends embedding requests to where the server takes them. It has no state of its own.

    Args:
        endpoint: What the URL may mean.
        server: What is known of the server; written here: its base.
        exchange: Sends them.
        wake: Takes note of what happened to the connections.
        tell: Told where it is, where that is not where it was first looked for.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        server: ServerFacts,
        exchange: Exchange,
        wake: Callable[[], None],
        tell: Tell,
    ) -> None:
        self.endpoint = endpoint
        self._server = server
        self._exchange = exchange
        self._wake = wake
        self._tell = tell

    def bases(self) -> list[str]:
        """The paths to try, in this order; one where vectors came from there."""
        bases, known = self.endpoint.bases, self._server.base
        if known not in bases:
            return list(bases)
        return [known, *([] if self._server.settled else [base for base in bases if base != known])]

    def url(self) -> str:
        """Where the next embedding request goes."""
        return self.endpoint.embeddings(self.bases()[0])

    def suppose(self, base: str) -> None:
        """Something of the server stands there, and so its embeddings may."""
        if not self._server.settled:
            self._server.base = base

    async def run(self, request: Request[T], model: ModelFacts) -> Done[T]:
        """Sends a request where the server takes it; once elsewhere, where a stranger does not know the path.

        Raises:
            Refused: As `Exchange.run`.
        """
        first = self.bases()[0]
        try:
            done = await self._exchange.run(request, model)
        except Refused as refused:
            self._wake()  # it may be a stranger by now
            other = next((base for base in self.bases() if base != first), None)
            if other is None or not is_elsewhere(refused.fault, first, other):
                raise
            return await self._run_at(other, first, request, model, refused)
        self._settle(first)
        return done

    async def _run_at(
        self, base: str, first: str, request: Request[T], model: ModelFacts, refused: Refused
    ) -> Done[T]:
        history = replace(refused.history, failures=request.history.failures)
        request = replace(request, url=self.endpoint.embeddings(base), history=history)
        try:
            done = await self._exchange.run(request, model)
        except Refused as again:
            if not is_elsewhere(again.fault, first, base):
                self.suppose(base)
                raise
            fault, tail = refused.fault, self.endpoint.tail
            if fault.status in _NO_SUCH_PATH:
                fault = replace(fault, what=f"{fault.what} at {first}{tail} and at {base}{tail}")
            raise Refused(refused.action, fault, again.history) from None
        what = f"it takes embeddings at {self.endpoint.shown(base)}"
        self._tell(Noticed(server=self.endpoint.base_url, level="info", what=what))
        self._settle(base)
        return done

    def _settle(self, base: str) -> None:
        self._server.base, self._server.settled = base, True


def is_elsewhere(fault: Fault, base: str, other: str) -> bool:
    """Whether a failure is of the path and not of the model: then the embeddings may stand at the other one.

    Without ``/v1`` some servers answer in a form of their own (llama.cpp), or with a web page.
    """
    if fault.status in _NO_SUCH_PATH:
        waited = fault.error is ServerUnavailable  # in vain
        return not waited and "model" not in fault.words.lower()
    of_all = fault.error is BadReply and fault.status == 200 and not fault.of_text
    return of_all and other == f"{base}/v1"
