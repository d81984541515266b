"""One request, until it succeeded or is known to be in vain: send, read, classify, pause, send again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from embedwire import _wire
from embedwire._config import Form, RetryPolicy, Target, Timeouts
from embedwire._faults import WITHHELD, Failed, screened
from embedwire._limits import Learned
from embedwire._queue import Batch, Trail
from embedwire._retry import Action, Break, Broken, Context, Fault, Reply, Unusable, Verdict, classify, delay
from embedwire._transport import Transport
from embedwire._wire import ContractBroken, Matrix
from embedwire.exceptions import RequestTimeout, ServerRefused, ServerUnavailable

logger = logging.getLogger("embedwire")
T = TypeVar("T")
Until = Callable[[], "float | None"]  # the moment, in loop time, after which nobody wants the answer

POLL_LEAST, POLL_MOST = 0.1, 2.0  # seconds between two questions to a server that is not ready
_HOPELESS = {Break.NAME, Break.TLS, Break.NOT_HTTP}  # waiting does not help
_TELLS = {"llama.cpp": "/props", "text-embeddings-inference": "/info"}
QUESTION = Timeouts(total=5, connect=2)  # of a request that no caller waits for
LOADING_WAIT = 120.0  # seconds to wait for a loading model where the timeouts set no total


class Sender:
    """Speaks to one server, on one loop."""

    def __init__(
        self,
        target: Target,
        transport: Transport,
        learned: Learned,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._url = target.base_url
        self._root = target.base_url.rpartition("/")[0]
        self._transport = transport
        self._learned = learned
        self._rand = rand
        self._poller: asyncio.Task[None] | None = None
        self._waiters = 0
        self._last_poll: Reply | Broken | None = None
        self._asking: asyncio.Task[str | None] | None = None

    async def embed(self, batch: Batch) -> Matrix:
        """The vectors of a batch, in order.

        Raises:
            Failed: There are none; it says whether smaller batches may help.
        """
        form = batch.lane.form
        model = form.model or await self.served_model(form.timeouts, form.retry)
        encoding = self._encoding(form)
        try:
            matrix = await self._embed(batch, model, encoding)
        except Failed as failed:
            if not await self._was_outdated(failed, form, model, encoding):
                raise
            matrix = await self._embed(batch, form.model or self._learned.served_model, self._encoding(form))
        zeros = int((~matrix.any(axis=1)).sum())
        if zeros:
            logger.warning("%s gave %d of %d texts a vector of zeros only", self._url, zeros, len(matrix))
        return matrix

    async def _embed(self, batch: Batch, model: str | None, encoding: str) -> Matrix:
        form, lane, texts = batch.lane.form, batch.lane, batch.texts

        def read(reply: Reply) -> Matrix:
            try:
                matrix = _wire.decode(reply.body, len(texts), width=lane.width)
            except ContractBroken as broken:
                if broken.other_width:
                    lane.width = None  # these calls fail; later ones may use the new model
                raise
            fitted = _wire.fit(matrix, form.dimensions)
            lane.width = self._learned.widths[form.model, form.dimensions] = matrix.shape[1]
            self._learned.software = _software(reply)
            return fitted

        logger.debug("sending %d texts, %d requests in flight", len(texts), lane.in_flight)
        return await self._exchange(
            "POST",
            f"{self._url}/embeddings",
            _wire.encode(texts, model=model, encoding=encoding, dimensions=form.dimensions),
            read,
            timeouts=form.timeouts,
            retry=form.retry,
            trail=batch.trail,
            until=batch.until,
            texts=texts,
        )

    def _encoding(self, form: Form) -> str:
        if form.encoding != "auto":
            return form.encoding
        return "base64" if self._learned.base64.get((form.model, form.dimensions)) else "float"

    async def _was_outdated(self, failed: Failed, form: Form, model: str | None, encoding: str) -> bool:
        """Whether a refusal may be due to something learned that no longer holds; if so, it is forgotten."""
        status, learned = failed.fault.status, self._learned
        if status == 404 and form.model is None and model is not None:
            if learned.served_model == model:
                learned.asked_model = False
            return await self.served_model(form.timeouts, form.retry) != model
        if (
            status in (400, 422, 501)
            and not failed.fault.of_text
            and encoding == "base64"
            and form.encoding == "auto"
        ):
            learned.base64[form.model, form.dimensions] = False
            return True
        return False

    async def served_model(self, timeouts: Timeouts, retry: RetryPolicy) -> str | None:
        """The one model that the server serves; asked once. None where the server does not tell.

        Raises:
            Failed: The server cannot be reached, refuses the key, or serves several models.
        """
        if self._learned.asked_model:
            return self._learned.served_model
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask_model(timeouts, retry))
            self._asking.add_done_callback(_seen)
        return await asyncio.shield(self._asking)

    async def wait_ready(self) -> None:
        """Returns when the server answers ``/health`` with anything but 503; one question at a time for all."""
        if self._poller is None or self._poller.done():
            self._poller = asyncio.ensure_future(self._poll())
            self._poller.add_done_callback(_seen)
        self._waiters += 1
        try:
            await asyncio.shield(self._poller)
        finally:
            self._waiters -= 1

    def not_ready(self) -> Fault:
        """Why the server is not ready yet, for a message."""
        last = self._last_poll
        if last is None or (isinstance(last, Reply) and last.status != 503):
            what = (
                "no answer yet"
                if last is None
                else "the server is up, but it did not embed a word in that time"
            )
            return Fault(error=ServerUnavailable, what=what, cure="See the server's log.")
        return classify(last, Context()).fault

    async def learn(self, form: Form, text: str, vector: Matrix) -> None:
        """Asks the server, once, what it is, and whether vectors in base64 equal those in decimal. Never fails.

        Args:
            form: What requests look like.
            text: A text that was embedded.
            vector: Its vector.
        """
        variant = (form.model, form.dimensions)
        try:
            if not self._learned.asked:
                self._learned.asked = True
                await self._look()
            if form.encoding == "auto" and variant not in self._learned.base64:
                self._learned.base64[variant] = False
                self._learned.base64[variant] = await self._agrees(form, text, vector)
        except Exception as error:  # from the user's own key function; the next request will raise it
            logger.debug("%s: could not ask what the server is (%s)", self._url, type(error).__name__)

    async def _look(self) -> None:
        if path := _TELLS.get(self._learned.software or ""):
            outcome = await self._get(path)
            if isinstance(outcome, Reply) and outcome.status == 200:
                self._learned.take(_wire.told(outcome.body))

    async def _agrees(self, form: Form, text: str, vector: Matrix) -> bool:
        """Whether the server sends the same vector in base64; nearly the same, as batches differ a little."""
        body = _wire.encode(
            [text],
            model=form.model or self._learned.served_model,
            encoding="base64",
            dimensions=form.dimensions,
        )
        outcome = await self._transport.request("POST", f"{self._url}/embeddings", body, QUESTION)
        if isinstance(outcome, Broken) or outcome.status != 200:
            return False
        try:
            return _wire.agrees_in_base64(outcome.body, vector, form.dimensions)
        except ContractBroken:
            return False

    async def _get(self, path: str) -> Reply | Broken:
        return await self._transport.request("GET", self._root + path, None, QUESTION)

    async def close(self) -> None:
        """Ends the questions that are still open."""
        await asyncio.gather(*self.abandon(), return_exceptions=True)

    def abandon(self) -> list[asyncio.Task[Any]]:
        """Ends the questions that are still open, without waiting for their end."""
        tasks = [task for task in (self._poller, self._asking) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        return tasks

    async def _ask_model(self, timeouts: Timeouts, retry: RetryPolicy) -> str | None:
        try:
            names = await self._exchange(
                "GET", f"{self._url}/models", None, lambda reply: _wire.models(reply.body),
                timeouts=timeouts, retry=retry, trail=Trail(), until=lambda: None, texts=[],
            )  # fmt: skip
        except Failed as failed:
            if failed.fault.status not in (400, 404, 405, 501):
                raise
            names = []  # a server that does not list its models gets requests without one
        if len(names) > 1:
            what = f"the server has {len(names)} models, among them {', '.join(repr(name[:60]) for name in names[:5])}"
            raise Failed(Action.GIVE_UP, Fault(error=ServerRefused, what=what, cure="Pass model=."))
        self._learned.served_model, self._learned.asked_model = (names[0] if names else None), True
        return self._learned.served_model

    async def _poll(self) -> None:
        pause = POLL_LEAST
        while True:
            outcome = self._last_poll = await self._get("/health")
            if isinstance(outcome, Reply) and outcome.status != 503:
                return
            if isinstance(outcome, Broken) and outcome.how in _HOPELESS and not self._learned.alive:
                raise Failed(Action.GIVE_UP, classify(outcome, Context()).fault)
            await asyncio.sleep(pause)
            if not self._waiters:
                return
            pause = min(POLL_MOST, pause * 1.5)

    async def _exchange(
        self,
        method: str,
        url: str,
        body: bytes | None,
        read: Callable[[Reply], T],
        *,
        timeouts: Timeouts,
        retry: RetryPolicy,
        trail: Trail,
        until: Until,
        texts: list[str],
    ) -> T:
        """Sends one request as often as it makes sense; the only loop that does."""
        failures, resent, waits, waiting_since = 0, False, 0, 0.0
        now = asyncio.get_running_loop().time
        while True:
            trail.sent += 1
            outcome: Reply | Broken | Unusable = await self._transport.request(method, url, body, timeouts)
            if isinstance(outcome, Reply):
                self._learned.alive = True
                if 200 <= outcome.status < 300:
                    try:
                        return read(outcome)
                    except ContractBroken as broken:
                        outcome = Unusable(what=str(broken), position=broken.position, cut=broken.cut)
            verdict = self._judge(outcome, trail, resent, texts)
            action, fault = verdict.action, verdict.fault
            if action is Action.RESEND:
                resent = True
            elif action is Action.WAIT:
                waits += 1
                if waits == 1:
                    waiting_since = now()
                else:  # it said that it is ready, and was not
                    await asyncio.sleep(min(POLL_MOST, waits * POLL_LEAST))
                await self._until_ready(fault, waiting_since, timeouts, until, trail)
            else:
                failures += 1
                if action in (Action.GIVE_UP, Action.SPLIT) or failures >= retry.attempts:
                    # A failure that outlasted its repeats is no text's fault: nothing to split for.
                    raise self._failed(
                        action if action is Action.SPLIT else Action.GIVE_UP, fault, trail, texts
                    )
                pause = delay(retry, action, failures, fault.retry_after, self._rand)
                last = until()
                too_long = fault.retry_after is not None and fault.retry_after > retry.retry_after_cap
                if too_long or (last is not None and now() + pause >= last):
                    raise self._failed(Action.GIVE_UP, fault, trail, texts)
                logger.warning(
                    "%s: %s; sending again in %.2f s (attempt %d of %d)",
                    self._url, fault.what, pause, failures + 1, retry.attempts,
                )  # fmt: skip
                await asyncio.sleep(pause)

    def _judge(
        self, outcome: Reply | Broken | Unusable, trail: Trail, resent: bool, texts: list[str]
    ) -> Verdict:
        """What to do now; notes on the trail what the next judgement rests on."""
        last, trail.last_failure = trail.last_failure, _fingerprint(outcome)
        same = last is not None and last == trail.last_failure
        verdict = classify(
            outcome, Context(alive=self._learned.alive, resent=resent, timeouts=trail.timeouts, same=same)
        )
        fault, action = verdict.fault, verdict.action
        if fault.error is RequestTimeout:
            trail.timeouts += 1
        passing = fault.error is RequestTimeout or (fault.error is ServerUnavailable and not trail.bisecting)
        if action is Action.SPLIT and len(texts) <= 1 and passing:  # it cannot be smaller, but it may pass
            action = Action.RETRY
        return Verdict(action=action, fault=fault)

    def _failed(self, action: Action, fault: Fault, trail: Trail, texts: Sequence[str] = ()) -> Failed:
        """What goes up: without any word of the server that repeats a text or a key."""
        words = screened(fault.words, [*self._transport.secrets(), *texts]) if fault.words else ""
        # A number in words that repeat a text may be the text's.
        cap = None if words == WITHHELD else fault.max_texts
        return Failed(action, replace(fault, words=words, max_texts=cap), trail.sent)

    async def _until_ready(
        self, fault: Fault, since: float, timeouts: Timeouts, until: Until, trail: Trail
    ) -> None:
        now = asyncio.get_running_loop().time
        logger.info("%s: %s; waiting until it is ready", self._url, fault.what)
        while True:
            limit, last = since + _patience(fault, timeouts), until()
            try:
                await asyncio.wait_for(self.wait_ready(), max(0.0, min(limit, last or limit) - now()))
            except asyncio.TimeoutError:
                seen = self.not_ready()
                if fault.status is not None or seen.status != 503:
                    raise self._failed(Action.GIVE_UP, fault, trail) from None
                fault = seen  # it was gone, is back, and loads its model: that may take longer
            else:
                return


def _software(reply: Reply) -> str | None:
    return "text-embeddings-inference" if "x-compute-type" in reply.headers else reply.headers.get("server")


def _patience(fault: Fault, timeouts: Timeouts) -> float:
    """Seconds to wait for a server: as long as a request may take while it loads, as a connect while it is gone."""
    if fault.status is None:
        return timeouts.connect or LOADING_WAIT
    return timeouts.total or LOADING_WAIT


def _fingerprint(outcome: Reply | Broken | Unusable) -> int | None:
    return hash((outcome.status, outcome.body)) if isinstance(outcome, Reply) else None


def _seen(task: asyncio.Task[object]) -> None:
    """Takes note of a task's exception, so that asyncio does not report it when all who waited are gone."""
    if not task.cancelled():
        task.exception()
