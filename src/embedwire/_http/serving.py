"""Which model a server serves, where the user named none: asked at first, and when it may be another one by now."""

from __future__ import annotations

from collections.abc import Callable

from embedwire._events.audience import Tell
from embedwire._http.discovery import Discovery
from embedwire._http.messages import screened
from embedwire._http.records import Refused, never
from embedwire._http.transport import Transport
from embedwire._servers.facts import ModelFacts, ServerFacts
from embedwire._servers.slots import Slot
from embedwire._settings.options import Kind
from embedwire._settings.settings import Form
from embedwire.events import Noticed


class Serving:
    """The models that one visitor meets at one server. Its state is the life of the connections in which each was seen.

    Args:
        url: Of the server.
        transport: Its connections.
        server: What is known of the server; forgotten here when its connections are gone.
        discovery: Asks it.
        tell: Told where it serves another one than before.
    """

    def __init__(
        self, url: str, transport: Transport, server: ServerFacts, discovery: Discovery, tell: Tell
    ) -> None:
        self._url = url
        self._transport = transport
        self._server = server
        self._discovery = discovery
        self._tell = tell
        self._life = transport.life
        self._lives: dict[ModelFacts, int] = {}

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
            facts.reborn()
        return self._life

    async def name(
        self,
        form: Form,
        facts: ModelFacts,
        slot: Slot | None = None,
        kind: Kind = "document",
        elsewhere: Callable[[], bool] = never,
    ) -> str | None:
        """The model to name: the user's, or the one that the server serves since its connections were made.

        Raises:
            Refused: The server was asked, and did not answer or has several.
        """
        if form.model is not None:
            return form.model
        self.life(facts)
        name = await self._discovery.served_model(form, facts, slot, kind, elsewhere)
        before = facts.of
        if facts.serves(name):
            now, then = (screened(str(one)[:60], self._transport.secrets()) for one in (name, before))
            again = "what was embedded before must be embedded again"
            what = f"it serves {now!r} by now, and served {then!r} before: {again}"
            self._tell(Noticed(server=self._url, level="warning", what=what))
        return name

    async def name_now(self, form: Form, facts: ModelFacts, elsewhere: Callable[[], bool]) -> str | None:
        """As `name`, and the server is asked, whatever it told before.

        Raises:
            Refused: It did not answer, or has several.
        """
        self.life(facts)
        facts.asked_model = False
        return await self.name(form, facts, elsewhere=elsewhere)

    async def still(self, name: str | None, form: Form, facts: ModelFacts, slot: Slot, kind: Kind) -> bool:
        """Whether a name that was asked for is right after the reply, too: connections were lost in between."""
        if form.model is not None or (facts.asked_model and facts.served == name):
            return True
        return await self.name(form, facts, slot, kind) == name

    async def is_another(
        self, refused: Refused, form: Form, facts: ModelFacts, name: str | None, slot: Slot, kind: Kind
    ) -> bool:
        """Whether the server serves another model by now than the one that it told."""
        if refused.fault.status != 404 or form.model is not None or name is None:
            return False
        if facts.served == name:
            facts.asked_model = False
        return await self.name(form, facts, slot, kind) != name
