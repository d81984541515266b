"""One visitor of one server: the door through which jobs go to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from embedwire._events.audience import Tell
from embedwire._http.asking import is_open
from embedwire._http.discovery import LEARN_FROM, Discovery
from embedwire._http.exchange import Exchange
from embedwire._http.messages import screened
from embedwire._http.place import Place
from embedwire._http.ready import Ready
from embedwire._http.records import Job, Vectors
from embedwire._http.sending import Sending
from embedwire._http.serving import Serving
from embedwire._http.transport import Transport
from embedwire._http.turns import Turns
from embedwire._http.wire import Broken, Reply
from embedwire._servers.facts import ModelFacts, ServerFacts
from embedwire._servers.known import model_facts, rate_limiter, server_facts
from embedwire._servers.limiter import RateLimiter, Sent
from embedwire._servers.sizes import REPLY_BASE
from embedwire._servers.slots import Slot
from embedwire._settings.address import Target
from embedwire._settings.options import RateLimit, Timeouts
from embedwire._settings.settings import Form

QUESTION = Timeouts(total=5, connect=2)  # of a request that no caller waits for


class Visitor:
    """One visitor (its key, its headers) of one server, on one loop: what sends its jobs.

    Its state is the number of texts that it had embedded, whether it is to find out what the server can, and the
    models for which base64 is being tried.

    Args:
        target: The server and who asks.
        transport: The network.
        tell: Told what happens to the server.
    """

    def __init__(self, target: Target, transport: Transport, tell: Tell) -> None:
        self.target = target
        self._url = target.base_url
        self._transport = transport
        self._server: ServerFacts = server_facts(target.base_url)
        health = target.endpoint.question("/health")
        self.ready = Ready(self._url, lambda: self._ask(health), self._server, transport.secrets, tell)
        self._turns = Turns(self.limiter)
        self._exchange = Exchange(target, transport, self._server, self.ready, self._turns)
        place = Place(target.endpoint, self._server, self._exchange, self.wake, tell)
        self._discovery = Discovery(place, self._exchange, self._ask, self._server, transport.secrets, tell)
        self._serving = Serving(self._url, transport, self._server, self._discovery, tell)
        self._sending = Sending(place, self._turns, transport, self._server, self._serving, tell)
        self._embedded = 0
        self._learns = False
        self._trials: set[ModelFacts] = set()

    def limiter(self, rate: RateLimit) -> RateLimiter:
        """What holds this visitor to a rate limit, over every loop of the process."""
        return rate_limiter(self.target, rate, asyncio.get_running_loop().time())

    def model(self, form: Form) -> ModelFacts:
        """What this visitor knows of the model of a form."""
        return model_facts(self.target, form.variant)

    def wants_room(self, form: Form, model: ModelFacts) -> bool:
        """Whether the next request should have room for one text more, which would show what base64 carries."""
        return model not in self._trials and is_open(form, model)

    def wake(self) -> None:
        """There is work again where there was none: a server whose connections are all gone is asked anew."""
        self._serving.wake()

    def reserve(self, job: Job) -> Sent | None:
        """A job's moment under a rate limit, reserved before the next job is formed."""
        return self._turns.reserve(job.form, job.texts)

    def release(self, form: Form, reserved: Sent | None, *, sent: int) -> None:
        """A job is over; its moment is free again where nothing was sent."""
        if not sent:
            self._turns.release(form, reserved)

    async def send(self, job: Job, slot: Slot, sent: Sent | None) -> Vectors:
        """The vectors of a job.

        Args:
            job: What to embed.
            slot: A slot that was taken for it. It is given back while nothing is on the wire; who took it gives it
                back at the end.
            sent: Its moment under a rate limit.

        Raises:
            Refused: There are none; it says whether smaller requests may help.
        """
        if sent is not None:
            await self._turns.until_moment(job.form, sent, slot)
            await slot.take_again(job.kind)
        # A query is not made to carry another text while documents wait that can.
        waiting = job.waiting if job.kind == "document" else 0
        trials = self._trials if self._pays(waiting) else None
        vectors = await self._sending.send(job, slot, trials)
        self._embedded += len(job.texts)
        if self._pays(job.waiting):
            self._discovery.look_once(slot, job.form.model)
        return vectors

    @property
    def embedded(self) -> int:
        """Texts that this visitor had embedded."""
        return self._embedded

    async def models(self) -> tuple[str, ...]:
        """The names of the models that the server lists now; where it does not answer, those that it listed last."""
        return await self._discovery.models()

    async def serves(self, form: Form, elsewhere: Callable[[], bool]) -> str | None:
        """The model that requests of a form name, asked now where the user named none; None where it has no name.

        Raises:
            Refused: The server did not answer, or has several.
        """
        return await self._serving.name_now(form, self.model(form), elsewhere)

    async def meet(self, form: Form) -> None:
        """Waits until the server is ready, and asks for its model, where none is named.

        Raises:
            Refused: It never will be.
        """
        await self.ready.wait()
        await self._serving.name(form, self.model(form))

    def seen(self) -> tuple[int, int]:
        """What of the server changes where it may be another one by now: its connections' life, its software."""
        return self._transport.life, self._server.changes

    @property
    def restarts(self) -> int:
        """How often the server may have been restarted unseen: no connection was left when a new one was made."""
        return self._transport.restarts

    def screened(self, name: str | None) -> str | None:
        """A model's name as messages may show it."""
        return name and screened(name[:60], self._transport.secrets())

    def learn(self) -> None:
        """From now on it pays to find out what the server can."""
        self._learns = True

    def _pays(self, waiting: int) -> bool:
        """Whether it pays to find out what the server can, with so many texts that wait."""
        return self._learns or max(self._embedded, waiting) >= LEARN_FROM

    async def look(self, form: Form) -> None:
        """Asks the server what it is, where it was not asked."""
        if not self._server.asked:
            await self._discovery.look(form.model)

    def tasks(self) -> list[asyncio.Task[Any]]:
        """The questions that are still open."""
        return [*self.ready.tasks(), *self._discovery.tasks()]

    async def close(self) -> None:
        """Ends the questions, and closes the connections."""
        tasks = self.tasks()
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await self._transport.close()

    async def _ask(self, url: str) -> Reply | Broken:
        return await self._transport.request("GET", url, None, QUESTION, REPLY_BASE)
