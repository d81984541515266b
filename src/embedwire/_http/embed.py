"""One job → its vectors: which model and encoding to ask for, and what is learnt from the reply."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

from embedwire._http.discovery import LEARN_FROM, Discovery
from embedwire._http.exchange import Exchange, Request
from embedwire._http.place import Place
from embedwire._http.ready import Ready
from embedwire._http.records import Fault, Job, Matrix, Refused, Vectors
from embedwire._http.reply import ContractBroken, Decoded, decode, fit, near
from embedwire._http.transport import Transport
from embedwire._http.turns import Turns
from embedwire._http.verdicts import Verdict
from embedwire._http.wire import Broken, Reply, encode
from embedwire._servers.facts import ModelFacts, ServerFacts
from embedwire._servers.known import model_facts, rate_limiter, server_facts
from embedwire._servers.limiter import RateLimiter, Sent
from embedwire._servers.sizes import REPLY_BASE
from embedwire._servers.slots import Slot
from embedwire._settings.address import Target
from embedwire._settings.options import RateLimit, Timeouts
from embedwire._settings.settings import Form
from embedwire.exceptions import BadReply

logger = logging.getLogger("embedwire")
QUESTION = Timeouts(total=5, connect=2)  # of a request that no caller waits for
# Statuses of a refusal that may be due to the encoding asked for.
_OF_ENCODING = (400, 406, 413, 415, 422, 500, 501)
LONGEST_SAMPLE = 2000  # characters
_PASSING = (500,)  # of these, what passes where base64 was seen to work


class Visitor:
    """One visitor (its key, its headers) of one server, on one loop: what sends its jobs.

    Its state is the number of texts that it had embedded, the models for which base64 is being tried, and the life of
    the connections in which each model was seen.

    Args:
        target: The server and who asks.
        transport: The network.
    """

    def __init__(self, target: Target, transport: Transport) -> None:
        self.target = target
        self._url = target.base_url
        self._transport = transport
        self._server: ServerFacts = server_facts(target.base_url)
        health = target.endpoint.question("/health")
        self.ready = Ready(self._url, lambda: self._ask(health), self._server, transport.secrets)
        self._turns = Turns(self.limiter)
        self._exchange = Exchange(target, transport, self._server, self.ready, self._turns)
        self._place = Place(target.endpoint, self._server, self._exchange, self.wake)
        self._discovery = Discovery(self._place, self._exchange, self._ask, self._server, transport.secrets)
        self._embedded = 0
        self._trials: set[ModelFacts] = set()
        self._life = transport.life
        self._lives: dict[ModelFacts, int] = {}

    def limiter(self, rate: RateLimit) -> RateLimiter:
        """What holds this visitor to a rate limit, over every loop of the process."""
        return rate_limiter(self.target, rate, asyncio.get_running_loop().time())

    def model(self, form: Form) -> ModelFacts:
        """What this visitor knows of the model of a form."""
        return model_facts(self.target, form.variant)

    def wake(self) -> None:
        """There is work again where there was none: a server whose connections are all gone is asked anew."""
        if (life := self._transport.life) != self._life:
            self._life = life
            self._server.forget()

    def life(self, facts: ModelFacts) -> int:
        """The present life of the connections; what was known of a model in another one is seen anew."""
        self.wake()
        if self._lives.setdefault(facts, self._life) != self._life:
            self._lives[facts] = self._life
            facts.distrust()
        return self._life

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
        facts = job.model
        name = job.form.model or await self._discovery.served_model(job.form, facts, slot, job.kind)
        # A query is not made to carry another text while documents wait that can.
        waiting = job.waiting if job.kind == "document" else 0
        trials = self._trials if max(self._embedded, waiting) >= LEARN_FROM else None
        believed, attempt = facts.base64, _Attempt(job, self, name, trials, self._server)
        try:
            vectors = await self._run(job, slot, attempt)
        except Refused as refused:
            if not attempt.outdated(refused.fault) and not await self._other_model(
                refused, job, slot, facts, name
            ):
                raise
            vectors = await self._once_more(job, slot, facts, refused, believed)
        self._embedded += len(job.texts)
        if max(self._embedded, job.waiting) >= LEARN_FROM:
            self._discovery.look_once(slot, job.form.model)
        return vectors

    async def _once_more(
        self, job: Job, slot: Slot, facts: ModelFacts, refused: Refused, believed: bool | None
    ) -> Vectors:
        """The vectors of a job that may have been refused for what was learnt, without that."""
        history = replace(refused.history, failures=job.history.failures)
        again = replace(job, history=history)
        name = job.form.model or facts.served
        try:
            return await self._run(again, slot, _Attempt(again, self, name, None, self._server))
        except Refused as same:
            if same.fault.status == refused.fault.status:
                facts.base64 = believed  # that was not the reason
            raise

    async def meet(self, form: Form) -> None:
        """Waits until the server is ready, and asks for its model, where none is named.

        Raises:
            Refused: It never will be.
        """
        await self.ready.wait()
        if form.model is None:
            await self._discovery.served_model(form, self.model(form))

    def learn(self) -> None:
        """From now on it pays to find out what the server can."""
        self._embedded = max(self._embedded, LEARN_FROM)

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

    async def _run(self, job: Job, slot: Slot, attempt: _Attempt) -> Vectors:
        request = Request(
            method="POST",
            url=self._place.url(),
            encode=attempt.encode,
            read=attempt.read,
            form=job.form,
            kind=job.kind,
            slot=slot,
            texts=job.texts,
            until=job.until,
            suspicious=job.suspicious,
            history=job.history,
        )
        logger.debug("sending %d texts, %d requests in flight", len(job.texts), slot.crowd)
        try:
            done = await self._place.run(request, attempt.facts)
        finally:
            attempt.end_trial()
        matrix = fit(done.result.matrix, job.form.dimensions)
        _warn_of_zeros(self._url, matrix)
        return Vectors(
            matrix=matrix,
            seconds=done.seconds,
            tokens=done.result.tokens,
            model=done.result.model,
            sent=done.sent,
        )

    async def _other_model(
        self, refused: Refused, job: Job, slot: Slot, facts: ModelFacts, name: str | None
    ) -> bool:
        """Whether the server serves another model by now than the one that it told."""
        if refused.fault.status != 404 or job.form.model is not None or name is None:
            return False
        if facts.served == name:
            facts.asked_model = False
        return await self._discovery.served_model(job.form, facts, slot, job.kind) != name

    async def _ask(self, url: str) -> Reply | Broken:
        return await self._transport.request("GET", url, None, QUESTION, REPLY_BASE)


class _Attempt:
    """One job's body and reply, over its repeats. Its state is the encoding that was asked for last.

    The first request asks for decimal. When its vectors have come, one other asks for base64 and takes a text along
    whose vector is known: only where that comes back the same is base64 believed. A refusal settles it for good, and
    the texts are asked for in decimal at once.

    Args:
        job: What to embed.
        visitor: Whose job it is.
        name: The model to name.
        trials: The models for which some request tries base64 now; None where it does not pay yet.
        server: What is known of the server; written here: its software.
    """

    def __init__(
        self,
        job: Job,
        visitor: Visitor,
        name: str | None,
        trials: set[ModelFacts] | None,
        server: ServerFacts,
    ) -> None:
        self.facts = job.model  # written here
        self._job = job
        self._visitor = visitor
        self._life = 0
        self._name = name
        self._trials = trials
        self._server = server
        self._encoding: str | None = "float"
        self._sample: tuple[str, Matrix] | None = None  # that goes along
        self._tried = False

    def encode(self, last: Verdict | None) -> bytes:
        """The body of the next sending."""
        if last is not None:
            self.outdated(last.fault)
            self.end_trial()
        self._life = self._visitor.life(self.facts)
        self._encoding = self._choose()
        texts = self._job.texts if self._sample is None else [*self._job.texts, self._sample[0]]
        name, width, extra = self._name, self._job.form.dimensions, self._job.form.extra
        return encode(texts, extra, model=name, encoding=self._encoding, dimensions=width)

    def read(self, reply: Reply) -> Decoded:
        """The vectors of a success; what it shows is noted."""
        facts, form = self.facts, self._job.form
        self._check_server(reply)
        decoded = self._decoded(reply)
        if self._sample is not None:
            decoded = self._believed(decoded, self._sample[1])
        if form.dimensions is not None and decoded.matrix.shape[1] < form.dimensions:
            fit(decoded.matrix, form.dimensions)  # raises
        facts.width = decoded.matrix.shape[1]
        if facts.sample is None and not decoded.base64:
            text = self._job.texts[0]
            if len(text) <= LONGEST_SAMPLE and decoded.matrix[0].any():
                facts.sample = text, decoded.matrix[0].copy()
        self._server.met(reply.headers)
        return decoded

    def _check_server(self, reply: Reply) -> None:
        """Base64 that was believed is not, where the server may be another one by now."""
        if reply.life <= self._life and not self._server.is_changed(reply.headers):
            return
        self._visitor.life(self.facts)
        self.facts.distrust()
        self._server.met(reply.headers)
        if self._sample is None and self._encoding == "base64" and self._job.form.encoding == "auto":
            raise ContractBroken(
                "base64 on a new connection, after others were lost, so that it may be another server's"
            )

    def _decoded(self, reply: Reply) -> Decoded:
        facts, count = self.facts, len(self._job.texts)
        try:
            return decode(reply.body, count + (self._sample is not None), width=facts.width)
        except ContractBroken as broken:
            if broken.position == count:  # the text that went along
                raise ContractBroken(str(broken)) from None
            if broken.other_width and self._sample is None:
                facts.width = facts.sample = None  # these calls fail; later ones may use the new model
            raise

    def _believed(self, decoded: Decoded, known: Matrix) -> Decoded:
        """The vectors without that of the text that went along, where it came back the same."""
        count = len(self._job.texts)
        if decoded.base64 and not near(decoded.matrix[count], known):
            raise ContractBroken("other vectors in base64 than in decimal")
        self.facts.base64 = decoded.base64
        self.end_trial()
        return replace(decoded, matrix=decoded.matrix[:count])

    def outdated(self, fault: Fault) -> bool:
        """Whether what went wrong may be due to the encoding; then it is not asked for again."""
        mine = self._encoding == "base64" and self._job.form.encoding == "auto"
        if not mine or fault.of_text or not (fault.error is BadReply or fault.status in _OF_ENCODING):
            return False
        if self.facts.base64 and fault.status in _PASSING:
            return False
        if self.facts.base64 is None and not self._tried:
            return True  # it may be another server by now, and is tried anew
        self.facts.base64 = False
        return True

    def end_trial(self) -> None:
        """This request tries base64 no more."""
        if self._sample is not None:
            self._sample = None
            assert self._trials is not None  # noqa: S101 - it was among them
            self._trials.discard(self.facts)

    def _choose(self) -> str | None:
        facts, form = self.facts, self._job.form
        if form.encoding != "auto":
            return form.encoding
        trials = self._trials
        untried = facts.base64 is None and not self._tried and trials is not None and facts not in trials
        # Under a rate limit the text that goes along would cost another its turn.
        if untried and facts.sample is not None and self._job.spare and form.rate is None:
            assert trials is not None  # noqa: S101 - as was just seen
            trials.add(facts)
            self._sample, self._tried = facts.sample, True
            return "base64"
        return "base64" if facts.base64 else "float"


def _warn_of_zeros(url: str, matrix: Matrix) -> None:
    if matrix[:, 0].all():  # so seldom not that a look at the first numbers saves one at all
        return
    if zeros := len(matrix) - int(matrix.any(axis=1).sum()):
        logger.warning("%s gave %d of %d texts a vector of zeros only", url, zeros, len(matrix))
