"""Questions about a server: which model it serves, how many slots it has. None holds a text up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

from embedwire._events.audience import Tell
from embedwire._http.exchange import Exchange
from embedwire._http.failures import judge
from embedwire._http.listing import Listed, listed
from embedwire._http.messages import screened
from embedwire._http.place import Place
from embedwire._http.ready import seen
from embedwire._http.records import Action, Fault, History, Refused, never
from embedwire._http.reply import ContractBroken, parse
from embedwire._http.request import Request
from embedwire._http.steps import one_step
from embedwire._http.verdicts import Context
from embedwire._http.wire import Broken, Reply
from embedwire._servers.facts import ModelFacts, ServerFacts
from embedwire._servers.slots import Slot
from embedwire._settings.options import Kind
from embedwire._settings.settings import Form
from embedwire.events import Noticed
from embedwire.exceptions import ServerRefused, TextRefused

LEARN_FROM = 50  # texts that wait, or are done, before it pays to ask the server what it is
QUICK = 0.25  # seconds that a question may take of a request's slot, and so of its connection
QUESTIONS = 3  # that may fail before no more are asked
_PASSING = {Action.RETRY, Action.THROTTLE, Action.WAIT, Action.RESEND}
_NO_LIST = (400, 404, 405, 501)  # of a server that does not list its models


class Discovery:
    """Asks one server on behalf of one visitor. Its state is the open questions, and the names that were warned of.

    Args:
        place: Where the server's list of models may be.
        exchange: Sends what a text waits for.
        ask: Sends a GET that nothing waits for.
        server: What is known of the server; what it tells is written here.
        secrets: What no message may repeat.
        tell: Told of what is worth knowing.
    """

    def __init__(
        self,
        place: Place,
        exchange: Exchange,
        ask: Callable[[str], Awaitable[Reply | Broken]],
        server: ServerFacts,
        secrets: Callable[[], list[str]],
        tell: Tell,
    ) -> None:
        self._place = place
        self._name = place.endpoint.base_url
        self._exchange = exchange
        self._ask = ask
        self._server = server
        self._secrets = secrets
        self._tell_of = tell
        self._asking_model: dict[ModelFacts, asyncio.Task[str | None]] = {}
        self._elsewhere: dict[ModelFacts, list[Callable[[], bool]]] = {}  # of all who ask
        self._looking: asyncio.Task[None] | None = None
        self._warned: set[str] = set()

    async def served_model(
        self,
        form: Form,
        model: ModelFacts,
        slot: Slot | None = None,
        kind: Kind = "document",
        elsewhere: Callable[[], bool] = never,
    ) -> str | None:
        """The one model that the server serves; asked once. None where the server does not tell.

        Args:
            form: Whose timeouts and retries hold.
            model: Where the answer is kept.
            slot: Given back while the server is asked, as other texts may go meanwhile.
            kind: Of the texts that wait.
            elsewhere: Whether another server would take them.

        Raises:
            Refused: The server cannot be reached, refuses the key, or serves several models.
        """
        if model.asked_model:
            return model.served
        task = self._asking_model.get(model)
        if task is None or task.done():
            self._elsewhere[model] = []
            task = self._asking_model[model] = asyncio.ensure_future(self._ask_model(form, model))
            task.add_done_callback(seen)
            task.add_done_callback(lambda _: self._asking_model.pop(model, None))
        self._elsewhere[model].append(elsewhere)
        if slot is not None:
            slot.give_back()
        name = await asyncio.shield(task)
        if slot is not None:
            await slot.take_again(kind)
        return name

    def look_once(self, slot: Slot, model: str | None) -> None:
        """Asks the server what it is, in the background, where it may tell and was not asked.

        Args:
            slot: Of a request that has its reply; the question takes its place for a moment.
            model: The name in that request, where the user chose it.
        """
        if self._looking is not None and not self._looking.done():
            return
        kind, server = self._server.kind, self._server
        tells = kind is None or kind.tells is not None or self._may_warn(model)
        if server.asked or server.unanswered >= QUESTIONS or not tells:
            return
        place = slot.hand_over()
        self._looking = asyncio.ensure_future(self._look_in(place, model))
        self._looking.add_done_callback(seen)
        self._looking.add_done_callback(lambda _: place.give_back())

    async def look(self, model: str | None) -> None:
        """Asks the server what it is. Never fails: what it does not tell stays unknown.

        Args:
            model: The name that requests carry, where the user chose it.
        """
        server, endpoint = self._server, self._place.endpoint
        unlisted = server.kind is None or self._may_warn(model)
        if unlisted and not await self._answered(endpoint.models(self._place.bases()[0]), self._list):
            return
        kind = server.kind
        tells = None if kind is None or kind.tells is None else endpoint.question(kind.tells)
        if tells is not None and not await self._answered(tells, self._tell):
            return
        server.asked = True
        self._warn(model)

    async def models(self) -> tuple[str, ...]:
        """The names of the models that the server lists now; where it does not answer, those that it listed last."""
        for base in self._place.bases():
            if await self._answered(self._place.endpoint.models(base), self._list) and self._server.models:
                break
        return self._server.models

    def _may_warn(self, model: str | None) -> bool:
        """Whether the server embeds under any name, and so under a wrong one."""
        kind = self._server.kind
        return model is not None and kind is not None and kind.takes_any_name

    def _warn(self, model: str | None) -> None:
        names = self._server.models
        if model is not None and names and model not in names and model not in self._warned:
            self._warned.add(model)
            what = (
                "the server does not list a model of the name that was passed as model=, and embeds all the same; "
                f"it lists {len(names)}, see GET /models"
            )
            self._tell_of(Noticed(server=self._name, level="warning", what=what))

    def _tell(self, body: bytes) -> None:
        if self._server.kind is not None:
            self._server.told = self._server.kind.read(parse(body))

    def _list(self, body: bytes) -> None:
        self._note(listed(body))

    def _note(self, told: Listed) -> list[str]:
        self._server.lists(told.models, told.owners)
        return told.models

    async def _answered(self, url: str, read: Callable[[bytes], None]) -> bool:
        """Asks one thing; False where it may be answered later."""
        try:
            outcome = await self._ask(url)
        except Exception as error:  # from the user's own key function; the next request will raise it
            what = f"could not ask what the server is ({type(error).__name__})"
            self._tell_of(Noticed(server=self._name, level="debug", what=what))
            return False
        if isinstance(outcome, Reply) and outcome.status == 200:
            with contextlib.suppress(ContractBroken):
                read(outcome.body)
        elif judge(outcome, Context()).action in _PASSING:
            self._server.unanswered += 1
            if self._server.unanswered >= QUESTIONS and self._server.kind is None:
                self._server.lists((), ())  # it is not asked again
            return False
        elif self._server.kind is None:
            self._server.lists((), ())
        return True

    async def _look_in(self, slot: Slot, model: str | None) -> None:
        looking = asyncio.ensure_future(self.look(model))
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
        names: list[str] = []
        for base in self._place.bases():
            told = await self._listed(base, form, model)
            if told is not None:
                self._place.suppose(base)
                names = told
                break
        if len(names) > 1:
            some = screened(", ".join(repr(name[:60]) for name in names[:5]), self._secrets())
            what = f"the server has {len(names)} models, among them {some}"
            raise Refused(
                Action.GIVE_UP,
                Fault(error=ServerRefused, what=what, cure="Pass model=.", of_server=True),
                History(),
            )
        model.served, model.asked_model = (names[0] if names else None), True
        return model.served

    async def _listed(self, base: str, form: Form, model: ModelFacts) -> list[str] | None:
        """The models that the server lists; None where it has no list there."""
        askers = self._elsewhere[model]
        request = Request(
            method="GET",
            url=self._place.endpoint.models(base),
            encode=lambda last: None,
            read=lambda reply: one_step(listed, reply.body),
            form=form,
            texts=[],
            elsewhere=lambda: any(elsewhere() for elsewhere in askers),
        )
        try:
            told = (await self._exchange.run(request, model)).result
        except Refused as refused:
            if refused.fault.status in _NO_LIST:
                return None
            action = refused.action if refused.action is Action.ELSEWHERE else Action.GIVE_UP
            raise Refused(action, _of_the_list(refused.fault), refused.history) from None
        return self._note(told)


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
        of_server=True,
    )
