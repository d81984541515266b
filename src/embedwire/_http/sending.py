"""One job → its vectors: sent, and asked for otherwise where it was refused for what it asked for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from embedwire._events.audience import Tell
from embedwire._events.log import tells_of_requests
from embedwire._http.attempt import Attempt
from embedwire._http.dimensions import fit
from embedwire._http.fields import REFUSALS
from embedwire._http.place import Place
from embedwire._http.records import NEW, Action, Fault, Job, Refused, Vectors, never, nobody
from embedwire._http.request import Request
from embedwire._http.serving import Serving
from embedwire._http.transport import Transport
from embedwire._http.turns import Turns
from embedwire._http.vectors import near
from embedwire._http.watching import Watching
from embedwire._servers.facts import ModelFacts, ServerFacts
from embedwire._servers.slots import Slot
from embedwire.events import Noticed
from embedwire.exceptions import BadReply

MOST_LESSONS = 3  # from refusals, for one job
_NEVER_THE_SAME = Fault(
    error=BadReply,
    what="the server serves another model each time that it is asked",
    cure="Pass model=.",
    exchanged=True,
)


class Sending:
    """Sends the jobs of one visitor to one server. Its state is the models for which base64 is being compared.

    Args:
        place: Sends a request to where the server takes it.
        turns: Lets requests wait until they may be sent.
        transport: The network, whose secrets no message may repeat.
        server: What is known of the server.
        serving: Knows which model to name.
        tell: Told of what is worth knowing.
    """

    def __init__(
        self,
        place: Place,
        turns: Turns,
        transport: Transport,
        server: ServerFacts,
        serving: Serving,
        tell: Tell,
    ) -> None:
        self._place = place
        self._turns = turns
        self._url = place.endpoint.base_url
        self._transport = transport
        self._server = server
        self._serving = serving
        self._tell = tell
        self._confirming: dict[ModelFacts, asyncio.Lock] = {}

    async def send(self, job: Job, slot: Slot, trials: set[ModelFacts] | None) -> Vectors:
        """The vectors of a job.

        Args:
            job: What to embed.
            slot: Taken for it.
            trials: The models for which some request tries base64 now; None where it does not pay yet.

        Raises:
            Refused: There are none.
        """
        name = await self._serving.name(job.form, job.model, slot, job.kind, job.elsewhere)
        attempt, lessons = self._attempt(job, name, trials), MOST_LESSONS
        while True:
            try:
                vectors = await self._run(job, slot, attempt)
            except Refused as refused:
                if not lessons or not await self._helps(refused, job, slot, attempt):
                    raise
                job = replace(job, history=replace(refused.history, failures=job.history.failures))
                # Nobody reckoned with this request.
                await self._turns.take(job.form, job.texts, job.kind, slot)
            else:
                if await self._holds(job, slot, attempt, vectors):
                    return vectors
                job = replace(job, history=replace(job.history, sent=vectors.sent))
                if not lessons:
                    raise Refused(Action.GIVE_UP, _NEVER_THE_SAME, job.history)
            lessons -= 1
            attempt.again(job, job.form.model or job.model.served)

    async def _helps(self, refused: Refused, job: Job, slot: Slot, attempt: Attempt) -> bool:
        """Whether the job should be sent once more: it asks otherwise now, or names another model."""
        if attempt.stale or attempt.outdated(refused.fault):
            return True
        return await self._serving.is_another(refused, job.form, job.model, attempt.name, slot, job.kind)

    async def _holds(self, job: Job, slot: Slot, attempt: Attempt, vectors: Vectors) -> bool:
        """Whether vectors are what they seem: of the model that was meant, and read right."""
        # The name that a reply gives may be the one that was asked for, whatever the server serves by now.
        if not await self._serving.still(attempt.name, job.form, job.model, slot, job.kind):
            return False
        return not attempt.unconfirmed or await self._confirmed(job, slot, attempt, vectors)

    async def _confirmed(self, job: Job, slot: Slot, attempt: Attempt, vectors: Vectors) -> bool:
        """Whether base64 carries what decimal does, where the user wants it from the first request on.

        Once for a model, one text is asked for in decimal too. A server that gives none is believed, as its vectors
        look like vectors.
        """
        facts = job.model
        confirming = self._confirming.setdefault(facts, asyncio.Lock())
        if facts.agrees is None:
            slot.give_back()  # who confirms may be without one
        async with confirming:
            told = vectors.matrix.any(axis=1)
            if facts.agrees or (facts.agrees is None and not told.any()):
                return True
            await slot.take_again(job.kind)
            if facts.agrees is False:
                return False
            position = min(np.flatnonzero(told).tolist(), key=lambda place: len(job.texts[place]))
            form = replace(job.form, encoding="float")
            one = replace(job, form=form, texts=[job.texts[position]], spare=never, history=NEW)
            await self._turns.take(one.form, one.texts, one.kind, slot)
            try:
                decimal = await self._run(one, slot, self._attempt(one, attempt.name, None))
            except Refused as refused:
                fault = refused.fault
                if fault.exchanged or not (fault.error is BadReply or fault.status in REFUSALS):
                    raise
                facts.agrees = True
            else:
                facts.base64 = facts.agrees = near(decimal.matrix[0], vectors.matrix[position])
            if not facts.agrees:
                self._notice("it gives other vectors in base64 than in decimal; decimal is asked for")
            return facts.agrees

    def _attempt(self, job: Job, name: str | None, trials: set[ModelFacts] | None) -> Attempt:
        return Attempt(job, name, trials, self._server, self._serving.life, self._transport.secrets)

    async def _run(self, job: Job, slot: Slot, attempt: Attempt) -> Vectors:
        watched = job.callers is not nobody or tells_of_requests()
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
            elsewhere=job.elsewhere,
            history=job.history,
            watching=Watching(job, self._url, attempt.name) if watched else None,
        )
        try:
            done = await self._place.run(request, attempt.facts)
        except Refused as refused:
            if not attempt.exchanged:
                raise
            raise Refused(Action.GIVE_UP, replace(refused.fault, exchanged=True), refused.history) from None
        finally:
            attempt.end_trial()
        matrix = done.result.matrix
        self._warn_of_cut(job, matrix.shape[1])
        matrix = fit(matrix, job.form.dimensions)
        if done.result.zeros:
            self._notice(f"it gave {done.result.zeros} of {len(matrix)} texts a vector of zeros only")
        return Vectors(
            matrix=matrix,
            seconds=done.seconds,
            tokens=done.result.tokens,
            model=done.result.model,
            asked=attempt.name,
            sent=done.sent,
        )

    def _warn_of_cut(self, job: Job, width: int) -> None:
        facts, dimensions = job.model, job.form.dimensions
        if dimensions is None or width <= dimensions or facts.cut:
            return
        facts.cut = True
        self._notice(
            f"it does not heed dimensions={dimensions}: its vectors of {width} numbers are cut here, and brought back "
            "to unit length; only models trained for it (Matryoshka) bear that"
        )

    def _notice(self, what: str) -> None:
        self._tell(Noticed(server=self._url, level="warning", what=what))
