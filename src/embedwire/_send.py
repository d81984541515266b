"""One request, until it succeeded or is known to be in vain: send, read, classify, pause, send again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from embedwire import _wire
from embedwire._config import Form, Target, Timeouts
from embedwire._faults import WITHHELD, Failed, screened
from embedwire._limits import REPLY_BASE, Learned, max_reply
from embedwire._pace import THROTTLED, TRANSIENT, Window
from embedwire._queue import Batch, Trail
from embedwire._retry import Action, Break, Broken, Context, Fault, Reply, Unusable, Verdict, classify, delay
from embedwire._transport import Transport
from embedwire._wire import ContractBroken, Matrix
from embedwire.exceptions import RequestTimeout, ServerRefused, ServerUnavailable

logger = logging.getLogger("embedwire")
T = TypeVar("T")

POLL_LEAST, POLL_MOST = 0.1, 2.0  # seconds between two questions to a server that is not ready
_HOPELESS = {Break.NAME, Break.TLS, Break.NOT_HTTP}  # waiting does not help
_TELLS = {"llama.cpp": "/props", "text-embeddings-inference": "/info"}
_PASSING = {Action.RETRY, Action.THROTTLE, Action.WAIT, Action.RESEND}
QUESTIONS = 3  # that may fail before no more are asked
QUESTION = Timeouts(total=5, connect=2)  # of a request that no caller waits for
_COST = {Action.RETRY: TRANSIENT, Action.THROTTLE: THROTTLED}  # of the budget of repeats
CROWD = 2  # requests on the wire; where one of more than these is reset, there may be too many
LOADING_WAIT = 120.0  # seconds to wait for a loading model where the timeouts set no total


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)  # no repr: it would show texts
class _Request(Generic[T]):
    """What is sent, how its reply is read, and who waits for it.

    Attributes:
        method: GET or POST.
        url: The whole URL.
        body: JSON, or None.
        read: From a success to what is wanted; raises `ContractBroken`.
        form: Whose timeouts, retries and limits hold.
        trail: What happened so far to its texts.
        until: The moment, in loop time, after which nobody wants the answer; None: somebody always does.
        texts: The texts in it.
    """

    method: str
    url: str
    body: bytes | None
    read: Callable[[Reply], T]
    form: Form
    trail: Trail = field(default_factory=Trail)
    until: Callable[[], float | None] = lambda: None
    texts: list[str] = field(default_factory=list)


class Sender:
    """Speaks to one server, on one loop."""

    def __init__(
        self,
        target: Target,
        transport: Transport,
        learned: Learned,
        window: Window,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._url = target.base_url
        self._root = target.base_url.rpartition("/")[0]
        self._transport = transport
        self._learned = learned
        self._window = window
        self._held: deque[asyncio.Future[None]] = deque()  # repeats that wait for room in the window
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
        model = form.model or await self.served_model(form)
        encoding = self._encoding(form)
        try:
            matrix = await self._embed(batch, model, encoding)
        except Failed as failed:
            if not await self._was_outdated(failed, form, model, encoding):
                raise
            await self._turn(form, batch.texts, 0.0)
            matrix = await self._embed(batch, form.model or self._learned.served_model, self._encoding(form))
        if not matrix[:, 0].all():  # so seldom that a look at the first numbers saves one at all
            zeros = len(matrix) - int(matrix.any(axis=1).sum())
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
            lane.width = self._learned.widths[form.variant] = matrix.shape[1]
            self._learned.software = _software(reply)
            return fitted

        logger.debug("sending %d texts, %d requests in flight", len(texts), lane.in_flight)
        request = _Request(
            method="POST",
            url=f"{self._url}/embeddings",
            body=_wire.encode(texts, model=model, encoding=encoding, dimensions=form.dimensions),
            read=read,
            form=form,
            trail=batch.trail,
            until=batch.until,
            texts=texts,
        )
        return await self._exchange(request)

    def _encoding(self, form: Form) -> str:
        if form.encoding != "auto":
            return form.encoding
        return "base64" if self._learned.base64.get(form.variant) else "float"

    async def _was_outdated(self, failed: Failed, form: Form, model: str | None, encoding: str) -> bool:
        """Whether a refusal may be due to something learned that no longer holds; if so, it is forgotten."""
        status, learned = failed.fault.status, self._learned
        if status == 404 and form.model is None and model is not None:
            if learned.served_model == model:
                learned.asked_model = False
            return await self.served_model(form) != model
        if (
            status in (400, 422, 501)
            and not failed.fault.of_text
            and encoding == "base64"
            and form.encoding == "auto"
        ):
            learned.base64[form.variant] = False
            return True
        return False

    async def served_model(self, form: Form) -> str | None:
        """The one model that the server serves; asked once. None where the server does not tell.

        Raises:
            Failed: The server cannot be reached, refuses the key, or serves several models.
        """
        if self._learned.asked_model:
            return self._learned.served_model
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask_model(form))
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
        fault = classify(last, Context()).fault
        return replace(fault, words=screened(fault.words, self._transport.secrets()))

    async def learn(self, form: Form, text: str, vector: Matrix) -> bool:
        """Asks the server, once, what it is, and whether vectors in base64 equal those in decimal. Never fails.

        Args:
            form: What requests look like.
            text: A text that was embedded.
            vector: Its vector.

        Returns:
            Whether nothing is left to ask.
        """
        learned, variant = self._learned, form.variant
        try:
            if not learned.asked and learned.unanswered < QUESTIONS:
                learned.asked, answered = True, False  # so that only one asks
                try:
                    answered = await self._look()
                finally:
                    learned.asked = answered
            # Under a rate limit the question would cost a text its turn.
            unknown = form.encoding == "auto" and variant not in learned.base64 and form.rate is None
            if unknown and learned.unanswered < QUESTIONS:
                learned.base64[variant], agrees = False, None
                try:
                    agrees = await self._agrees(form, text, vector)
                finally:
                    if agrees is None:
                        learned.base64.pop(variant, None)
                    else:
                        learned.base64[variant] = agrees
            known = learned.asked and (
                variant in learned.base64 or form.encoding != "auto" or form.rate is not None
            )
            return known or learned.unanswered >= QUESTIONS
        except Exception as error:  # from the user's own key function; the next request will raise it
            logger.debug("%s: could not ask what the server is (%s)", self._url, type(error).__name__)
            return False

    async def _look(self) -> bool:
        """Asks what the server is; False where it did not answer and may be asked again."""
        path = _TELLS.get(self._learned.software or "")
        if path is None:
            return True
        outcome = await self._get(path)
        if self._passing(outcome):
            return False
        if isinstance(outcome, Reply) and outcome.status == 200:
            self._learned.take(_wire.told(outcome.body))
        return True

    async def _agrees(self, form: Form, text: str, vector: Matrix) -> bool | None:
        """Whether the server sends the same vector in base64; nearly the same, as batches differ a little.

        None where it did not answer, and may be asked again.
        """
        body = _wire.encode(
            [text],
            model=form.model or self._learned.served_model,
            encoding="base64",
            dimensions=form.dimensions,
        )
        outcome = await self._transport.request(
            "POST", f"{self._url}/embeddings", body, QUESTION, max_reply(form, 1)
        )
        if self._passing(outcome):
            return None
        if isinstance(outcome, Broken) or outcome.status != 200:
            return False
        try:
            return _wire.agrees_in_base64(outcome.body, vector, form.dimensions)
        except ContractBroken:
            return False

    def _passing(self, outcome: Reply | Broken) -> bool:
        """Whether a question failed for a reason that may pass; such failures are counted."""
        passing = classify(outcome, Context()).action in _PASSING and not (
            isinstance(outcome, Reply) and outcome.status < 300
        )
        self._learned.unanswered += passing
        return passing

    async def _get(self, path: str) -> Reply | Broken:
        return await self._transport.request("GET", self._root + path, None, QUESTION, REPLY_BASE)

    async def close(self) -> None:
        """Ends the questions that are still open."""
        await asyncio.gather(*self.abandon(), return_exceptions=True)

    def abandon(self) -> list[asyncio.Task[Any]]:
        """Ends the questions that are still open, without waiting for their end."""
        tasks = [task for task in (self._poller, self._asking) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        return tasks

    async def _ask_model(self, form: Form) -> str | None:
        try:
            names = await self._exchange(
                _Request(
                    method="GET",
                    url=f"{self._url}/models",
                    body=None,
                    read=lambda reply: _wire.models(reply.body),
                    form=form,
                )
            )
        except Failed as failed:
            if failed.fault.status not in (400, 404, 405, 501):
                raise
            names = []  # a server that does not list its models gets requests without one
        if len(names) > 1:
            some = screened(", ".join(repr(name[:60]) for name in names[:5]), self._transport.secrets())
            what = f"the server has {len(names)} models, among them {some}"
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
            pause = min(POLL_MOST, pause * 2)

    async def _exchange(self, request: _Request[T]) -> T:
        """Sends one request as often as it makes sense; the only loop that does."""
        form, retry, repeats = request.form, request.form.retry, self._learned.repeats
        now = asyncio.get_running_loop().time
        failures, resent, paid, waiting_since = 0, False, 0, None
        while True:
            answer = await self._once(request, resent)
            if not isinstance(answer, Verdict):
                if not failures:
                    repeats.earn()
                return answer
            action, fault = answer.action, answer.fault
            if action is Action.RESEND:
                resent = True
                if form.rate is not None and request.texts:
                    self._learned.minute(form.rate).note(request.texts, now())
                continue
            if action is Action.WAIT:
                if waiting_since is None:
                    waiting_since = now()
                else:  # it said that it is ready, and was not
                    await asyncio.sleep(POLL_MOST)
                await self._until_ready(fault, waiting_since, request)
                await self._turn(form, request.texts, 0.0)
                continue
            waiting_since = None
            failures += 1
            over = failures >= retry.attempts
            if action is Action.SPLIT and not (over and fault.error is RequestTimeout):
                if fault.error is RequestTimeout:
                    self._pay(TRANSIENT, fault, request)
                else:  # what was repeated is permanent, which costs nobody else his repeats
                    repeats.earn(paid)
                raise self._failed(action, fault, request)
            # A failure that outlasted its repeats is no text's fault: nothing to split for.
            if over or action not in _COST:
                raise self._failed(Action.GIVE_UP, fault, request)
            pause = self._pause(answer, failures, request)
            paid = _COST[action]
            self._pay(paid, fault, request)
            logger.warning(
                "%s: %s; sending again in %.2f s (attempt %d of %d)",
                self._url, fault.what, pause, failures + 1, retry.attempts,
            )  # fmt: skip
            await self._turn(form, request.texts, pause)

    def _pause(self, answer: Verdict, failures: int, request: _Request[T]) -> float:
        """Seconds before a repeat.

        Raises:
            Failed: It would come too late: for the user's patience with the server, or for the deadline.
        """
        fault, retry, last = answer.fault, request.form.retry, request.until()
        pause = delay(retry, answer.action, failures, fault.retry_after, self._rand)
        reason = None
        if fault.retry_after is not None and fault.retry_after > retry.retry_after_cap:
            reason = f"more than retry_after_cap={retry.retry_after_cap:g}"
        elif last is not None and asyncio.get_running_loop().time() + pause >= last:
            reason = "and a repeat would come after the deadline"
        if reason is not None:
            asked = f", and asks to wait {fault.retry_after:g} s" if fault.retry_after else ""
            fault = replace(fault, what=f"{fault.what}{asked}, {reason}")
            raise self._failed(Action.GIVE_UP, fault, request)
        return pause

    async def _turn(self, form: Form, texts: list[str], pause: float) -> None:
        """Waits until a repeat may be sent: its pause, the rate limit, room in the window."""
        await asyncio.sleep(pause)
        if form.rate is not None and texts:
            now = asyncio.get_running_loop().time
            minute = self._learned.minute(form.rate)
            sent = minute.reserve(texts, now())
            try:
                await asyncio.sleep(sent.moment - now())
            except asyncio.CancelledError:
                minute.release(sent)
                raise
        while self._window.full:
            room = asyncio.get_running_loop().create_future()
            self._held.append(room)
            try:
                await room
            except asyncio.CancelledError:
                self._let_one_go()  # in its place
                raise

    def _let_one_go(self) -> None:
        """Wakes one of the repeats that wait for room in the window, if there is some."""
        while self._held and not self._window.full:
            room = self._held.popleft()
            if not room.done():
                room.set_result(None)
                return

    async def _once(self, request: _Request[T], resent: bool) -> T | Verdict:
        """Sends a request, and reads the reply or judges the failure."""
        form, good, overload = request.form, False, False
        request.trail.sent += 1
        begun = self._window.begin()
        try:
            outcome: Reply | Broken | Unusable = await self._transport.request(
                request.method, request.url, request.body, form.timeouts, max_reply(form, len(request.texts))
            )
            if isinstance(outcome, Reply):
                self._learned.alive = True
                if 200 <= outcome.status < 300:
                    try:
                        result = request.read(outcome)
                    except ContractBroken as broken:
                        outcome = Unusable(what=str(broken), position=broken.position, cut=broken.cut)
                    else:
                        good = True
                        return result
            verdict = self._judge(outcome, request, resent)
            overload = verdict.overload
            return verdict
        finally:
            self._window.end(begun, good=good, overload=overload)
            self._let_one_go()

    def _judge(self, outcome: Reply | Broken | Unusable, request: _Request[T], resent: bool) -> Verdict:
        """What to do now; notes on the trail what the next judgement rests on."""
        trail = request.trail
        last, trail.last_failure = trail.last_failure, _fingerprint(outcome)
        seen = Context(
            alive=self._learned.alive,
            resent=resent,
            timeouts=trail.timeouts,
            same=last is not None and last == trail.last_failure,
            crowd=self._window.in_flight > CROWD,
        )
        verdict = classify(outcome, seen)
        fault, action = verdict.fault, verdict.action
        if fault.error is RequestTimeout:
            trail.timeouts += 1
        passing = fault.error is RequestTimeout or (fault.error is ServerUnavailable and not trail.bisecting)
        if (
            action is Action.SPLIT and len(request.texts) <= 1 and passing
        ):  # it cannot be smaller, but it may pass
            action = Action.RETRY
        return replace(verdict, action=action)

    def _pay(self, cost: int, fault: Fault, request: _Request[T]) -> None:
        """Pays for a repeat from the server's budget.

        Raises:
            Failed: Too many requests to this server failed lately. A 500 may be one text's fault all the same.
        """
        if not self._learned.repeats.spend(cost):
            what = f"{fault.what}, and too many other requests failed for a repeat to be worth it"
            action = Action.SPLIT if fault.status == 500 else Action.GIVE_UP
            raise self._failed(action, replace(fault, what=what), request)

    def _failed(self, action: Action, fault: Fault, request: _Request[T]) -> Failed:
        """What goes up: without any word of the server that repeats a text or a key."""
        secrets = [*self._transport.secrets(), *request.texts]
        words = screened(fault.words, secrets) if fault.words else ""
        # A number in words that repeat a text may be the text's.
        cap = None if words == WITHHELD else fault.max_texts
        return Failed(action, replace(fault, words=words, max_texts=cap), request.trail.sent)

    async def _until_ready(self, fault: Fault, since: float, request: _Request[T]) -> None:
        now = asyncio.get_running_loop().time
        logger.info("%s: %s; waiting until it is ready", self._url, fault.what)
        while True:
            limit, last = since + _patience(fault, request.form.timeouts), request.until()
            try:
                await asyncio.wait_for(self.wait_ready(), max(0.0, min(limit, last or limit) - now()))
            except asyncio.TimeoutError:
                seen = self.not_ready()
                if fault.status is not None or seen.status != 503:
                    raise self._failed(Action.GIVE_UP, fault, request) from None
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
