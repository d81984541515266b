"""Questions about a server: which model it serves, how many slots it has. None holds a text up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from embedwire._http.exchange import Exchange, Request
from embedwire._http.failures import Context, judge
from embedwire._http.messages import screened
from embedwire._http.ready import seen
from embedwire._http.records import Action, Fault, History, Refused
from embedwire._http.reply import ContractBroken, models, parse
from embedwire._http.wire import Broken, Reply
from embedwire._servers.facts import ModelFacts, ServerFacts
from embedwire._servers.slots import Slot
from embedwire._settings.options import Kind
from embedwire._settings.settings import Form
from embedwire.exceptions import ServerRefused, TextRefused

logger = logging.getLogger("embedwire")

LEARN_FROM = 50  # texts that wait, or are done, before it pays to ask the server what it is
QUICK = 0.25  # seconds that a question may take of a request's slot, and so of its connection
QUESTIONS = 3  # that may fail before no more are asked
_PASSING = {Action.RETRY, Action.THROTTLE, Action.WAIT, Action.RESEND}
_NO_LIST = (400, 404, 405, 501)  # of a server that does not list its models


class Discovery:
    """Asks one server on behalf of one visitor. Its state is the questions under way.

    Args:
        url: Of the server, version included.
        exchange: Sends what a text waits for.
        ask: Sends a GET that nothing waits for.
        server: What is known of the server; what it tells is written here.
        secrets: What no message may repeat.
    """

    def __init__(
        self,
        url: str,
        exchange: Exchange,
        ask: Callable[[str], Awaitable[Reply | Broken]],
        server: ServerFacts,
        secrets: Callable[[], list[str]],
    ) -> None:
        self._url = url
        self._exchange = exchange
        self._ask = ask
        self._server = server
        self._secrets = secrets
        self._asking_model: dict[ModelFacts, asyncio.Task[str | None]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def served_model(
        self, form: Form, model: ModelFacts, slot: Slot | None = None, kind: Kind = "document"
    ) -> str | None:
        """The one model that the server serves; asked once. None where the server does not tell.

        Args:
            form: Whose timeouts and retries hold.
            model: Where the answer is kept.
            slot: Given back while the server is asked, as other texts may go meanwhile.
            kind: Of the texts that wait.

        Raises:
            Refused: The server cannot be reached, refuses the key, or serves several models.
        """
        if model.asked_model:
            return model.served
        task = self._asking_model.get(model)
        if task is None or task.done():
            task = self._asking_model[model] = asyncio.ensure_future(self._ask_model(form, model))
            task.add_done_callback(seen)
            task.add_done_callback(lambda _: self._asking_model.pop(model, None))
        if slot is not None:
            slot.give_back()
        name = await asyncio.shield(task)
        if slot is not None:
            await slot.take_again(kind)
        return name

    def look_once(self, slot: Slot) -> None:
        """Asks the server what it is, in the background, where it tells and was not asked.

        Args:
            slot: Of a request that has its reply; the question takes its place for a moment.
        """
        if self._looking is not None and not self._looking.done():
            return
        kind, server = self._server.kind, self._server
        if kind is None or kind.tells is None or server.asked or server.unanswered >= QUESTIONS:
            return
        place = slot.hand_over()
        self._looking = asyncio.ensure_future(self._look_in(place))
        self._looking.add_done_callback(seen)
        self._looking.add_done_callback(lambda _: place.give_back())

    async def look(self) -> None:
        """Asks the server what it is. Never fails: what it does not tell stays unknown."""
        kind, server = self._server.kind, self._server
        if kind is None or kind.tells is None:
            return
        try:
            outcome = await self._ask(kind.tells)
        except Exception as error:  # from the user's own key function; the next request will raise it
            logger.debug("%s: could not ask what the server is (%s)", self._url, type(error).__name__)
            return
        if isinstance(outcome, Reply) and outcome.status == 200:
            with contextlib.suppress(ContractBroken):
                server.told = kind.read(parse(outcome.body))
            server.asked = True
        elif judge(outcome, Context()).action in _PASSING:
            server.unanswered += 1
        else:
            server.asked = True

    async def _look_in(self, slot: Slot) -> None:
        looking = asyncio.ensure_future(self.look())
        try:
            await asyncio.wait({looking}, timeout=QUICK)
            slot.give_back()
            await looking
        finally:
            looking.cancel()

    def tasks(self) -> list[asyncio.Task[str | None] | asyncio.Task[None]]:
        """The questions that are still open."""
        tasks = [*self._asking_model.values(), *([self._looking] if self._looking else [])]
        return [task for task in tasks if not task.done()]

    async def _ask_model(self, form: Form, model: ModelFacts) -> str | None:
        try:
            done = await self._exchange.run(
                Request(
                    method="GET",
                    url=f"{self._url}/models",
                    encode=lambda last: None,
                    read=lambda reply: models(reply.body),
                    form=form,
                    texts=[],
                ),
                model,
            )
            names = done.result
        except Refused as refused:
            if refused.fault.status not in _NO_LIST:
                raise Refused(Action.GIVE_UP, _of_the_list(refused.fault), refused.history) from None
            names = []
        if len(names) > 1:
            some = screened(", ".join(repr(name[:60]) for name in names[:5]), self._secrets())
            what = f"the server has {len(names)} models, among them {some}"
            raise Refused(
                Action.GIVE_UP, Fault(error=ServerRefused, what=what, cure="Pass model=."), History()
            )
        model.served, model.asked_model = (names[0] if names else None), True
        return model.served


def _of_the_list(fault: Fault) -> Fault:
    """What went wrong with ``GET /models``, which is no text's fault."""
    return replace(
        fault,
        error=ServerRefused if fault.error is TextRefused else fault.error,
        what=f"GET /models: {fault.what}",
        cure=f"{fault.cure} Or pass model=, so that the server need not be asked.",
        position=None,
        of_text=False,
        of_size=None,
        max_texts=None,
    )
