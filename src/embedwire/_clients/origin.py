"""The servers in use on one loop: slots for each, a session for each visitor, a queue for those that go together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from embedwire._clients import fork
from embedwire._events.audience import Audience, Ear
from embedwire._http.embed import Visitor
from embedwire._http.transport import AiohttpTransport
from embedwire._queue.dispatcher import Dispatcher
from embedwire._queue.pool import Pool, Route
from embedwire._servers.agreement import Terms
from embedwire._servers.known import agreed, sizing
from embedwire._servers.sizes import Choice
from embedwire._servers.slots import Slots
from embedwire._servers.tuner import Tuner
from embedwire._settings.address import Target
from embedwire._settings.servers import Fleet
from embedwire._settings.settings import Form, Settings
from embedwire.events import ConcurrencyReduced

MOST_ROUTES = 1024  # that are shared: a gateway may meet a new form with each of its users


@dataclass(eq=False)
class Origin:
    """One visitor's way to one server, on one loop. Written by `Origins`.

    Attributes:
        target: The server and who asks.
        slots: The server's, which all its visitors share.
        audience: Who is told what happens there.
        transport: Its connections.
        visitor: What sends its jobs.
        users: Groups that use it.
    """

    target: Target
    slots: Slots
    audience: Audience = field(default_factory=Audience)
    transport: AiohttpTransport = field(init=False)
    visitor: Visitor = field(init=False)
    users: int = 0
    _routes: dict[Form, Route] = field(default_factory=dict)
    _tuners: dict[Choice, Tuner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.transport = AiohttpTransport(self.target, self.audience.tell)
        self.visitor = Visitor(self.target, self.transport, self.audience.tell)
        self.slots.on_less.append(self.push_less)

    def push_less(self, allowed: int) -> None:
        """The server has too much to do: so many requests may be in flight from now on."""
        self.audience.tell(ConcurrencyReduced(server=self.target.base_url, allowed=allowed))

    def route(self, form: Form) -> Route:
        """The way of all texts of a form, shared by all clients of equal settings."""
        route = self._routes.get(form)
        if route is None:
            if len(self._routes) >= MOST_ROUTES:
                self._forget(next(iter(self._routes)))
            sizes = sizing(self.target, form.variant).of(form, self._tuners)
            model = self.visitor.model(form)
            route = self._routes[form] = Route(form, self.slots, self.visitor, model, sizes)
        return route

    def _forget(self, form: Form) -> None:
        """Shares a form's way no more; who uses it keeps it."""
        del self._routes[form]
        for choice in [choice for choice in self._tuners if form.variant in choice]:
            del self._tuners[choice]

    async def close(self) -> None:
        """Closes every connection."""
        try:
            await self.visitor.close()
        finally:
            self.transport.close_now()

    def close_now(self) -> None:
        """Closes every connection without waiting, on the loop or after its end."""
        with contextlib.suppress(RuntimeError):  # the loop is over, and its tasks with it
            for task in self.visitor.tasks():
                task.cancel()
        self.transport.close_now()


@dataclass(eq=False)
class Group:
    """The servers of one client, on one loop, shared by all clients of equal ones. Written by `Origins`.

    Attributes:
        fleet: Which they are.
        terms: What counts as the same model.
        origins: The way to each.
        dispatcher: Their queue, which other visitors of the same servers share.
        audience: Who is told what they are to each other.
        users: Clients that use it.
    """

    fleet: Fleet
    terms: Terms
    origins: list[Origin]
    dispatcher: Dispatcher
    audience: Audience = field(default_factory=Audience)
    users: int = 0
    _pools: dict[tuple[Form, Form], Pool] = field(default_factory=dict)

    def pool(self, form: Form, compared: Form) -> Pool:
        """Where all texts of a form go, of a client whose servers are compared in another one, or the same."""
        pool = self._pools.get((form, compared))
        if pool is None:
            if len(self._pools) >= MOST_ROUTES:
                self._forget_one()
            fleet, terms = self.fleet, self.terms
            routes = [(origin.route(form), origin.route(compared)) for origin in self.origins]
            known = agreed(fleet.targets, compared.variant, terms)
            pool = Pool(routes, fleet.weights, known, terms, fleet.hedge, self.audience.tell)
            self._pools[form, compared] = pool
        return pool

    def _forget_one(self) -> None:
        """Shares no more where the texts of one form go that has no work; who uses it keeps it."""
        idle = (forms for forms, pool in self._pools.items() if not self.dispatcher.has(pool))
        if (forms := next(idle, None)) is not None:
            self.dispatcher.leave([self._pools.pop(forms)])

    @property
    def audiences(self) -> list[Audience]:
        """Those of its servers, and its own."""
        return [self.audience, *(origin.audience for origin in self.origins)]

    @property
    def visitors(self) -> list[Visitor]:
        """Who sends its jobs, to each server."""
        return [origin.visitor for origin in self.origins]

    async def close(self) -> None:
        """Cancels what is under way."""
        await self.dispatcher.close(self._pools.values())

    def close_now(self) -> None:
        """Sees to its servers no more, without waiting."""
        self.dispatcher.leave(self._pools.values())


@dataclass(frozen=True, eq=False)
class Unused:
    """What nobody uses any more: to be closed by whoever left last."""

    group: Group | None = None
    origins: tuple[Origin, ...] = ()
    dispatcher: Dispatcher | None = None

    async def close(self) -> None:
        """Cancels requests on their way, then closes every connection."""
        if self.group is not None:
            await self.group.close()
        await asyncio.gather(*(origin.close() for origin in self.origins))

    def close_now(self) -> None:
        """The same without waiting, on the loop or after its end."""
        if self.group is not None:
            self.group.close_now()
        for origin in self.origins:
            origin.close_now()

    def stop(self) -> None:
        """The queue looks no more."""
        if self.dispatcher is not None:
            self.dispatcher.stop()


class Origins:
    """The servers in use on one loop, and who visits them; clients of equal targets share one origin.

    Its state is who uses what.
    """

    def __init__(self) -> None:
        self._slots: dict[str, Slots] = {}
        self._origins: dict[Target, Origin] = {}
        self._groups: dict[tuple[Fleet, Terms], Group] = {}
        self._dispatchers: dict[tuple[str, ...], Dispatcher] = {}

    def acquire(self, settings: Settings, ears: Iterable[Ear] = ()) -> Group:
        """The servers of a client, for one more client, whose hooks are told what happens to them."""
        fleet = settings.fleet.visited()
        several = len(fleet.targets) > 1
        terms = Terms(fleet.same_model, settings.normalize) if several else Terms()
        group = self._groups.get((fleet, terms))
        if group is None:
            origins = [self._origin(target) for target in fleet.targets]
            group = self._groups[fleet, terms] = Group(fleet, terms, origins, self._dispatcher(origins))
        group.users += 1
        for audience in group.audiences:
            audience.join(ears)
        return group

    def release(self, group: Group, ears: Iterable[Ear] = ()) -> Unused:
        """One client uses its servers no more; what nobody uses from now on."""
        group.users -= 1
        for audience in group.audiences:
            audience.leave(ears)
        if group.users:
            return Unused()
        self._groups.pop((group.fleet, group.terms), None)
        unused = [origin for origin in group.origins if self._is_unused(origin)]
        for origin in unused:
            origin.slots.on_less.remove(origin.push_less)
            self._origins.pop(origin.target, None)
        left = {origin.target.base_url for origin in self._origins.values()}
        self._slots = {url: slots for url, slots in self._slots.items() if url in left}
        still = any(other.dispatcher is group.dispatcher for other in self._groups.values())
        if not still:
            self._dispatchers.pop(_urls(group.origins), None)
        return Unused(group, tuple(unused), None if still else group.dispatcher)

    @property
    def empty(self) -> bool:
        """Whether nobody uses anything."""
        return not self._groups

    @property
    def dispatchers(self) -> Iterator[Dispatcher]:
        """All queues."""
        return iter(self._dispatchers.values())

    async def close(self) -> None:
        """Closes everything, whoever uses it, at the end of the process."""
        for dispatcher in self._dispatchers.values():
            dispatcher.close_now()
        for group in list(self._groups.values()):
            await group.close()
        for origin in list(self._origins.values()):
            await origin.close()

    def _origin(self, target: Target) -> Origin:
        origin = self._origins.get(target)
        if origin is None:
            slots = self._slots.setdefault(target.base_url, Slots())
            origin = self._origins[target] = Origin(target, slots)
        origin.users += 1
        return origin

    def _is_unused(self, origin: Origin) -> bool:
        origin.users -= 1
        return not origin.users

    def _dispatcher(self, origins: list[Origin]) -> Dispatcher:
        slots = (origin.slots for origin in origins)
        return self._dispatchers.get(_urls(origins)) or self._dispatchers.setdefault(
            _urls(origins), Dispatcher(*slots)
        )


def _urls(origins: list[Origin]) -> tuple[str, ...]:
    return tuple(origin.target.base_url for origin in origins)


_by_loop: dict[asyncio.AbstractEventLoop, Origins] = {}


def origins_of(loop: asyncio.AbstractEventLoop) -> Origins:
    """The servers in use on a loop."""
    return _by_loop.setdefault(loop, Origins())


def leave(loop: asyncio.AbstractEventLoop) -> None:
    """Forgets a loop on which nothing is in use."""
    if loop in _by_loop and _by_loop[loop].empty:
        del _by_loop[loop]


def _leave_to_parent() -> None:
    fork.leak(dict(_by_loop))
    _by_loop.clear()


fork.in_child(_leave_to_parent)
