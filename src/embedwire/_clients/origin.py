"""The servers in use on one loop: slots and queue for each server, a session for each visitor of it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from embedwire._clients import fork
from embedwire._http.embed import Visitor
from embedwire._http.transport import AiohttpTransport
from embedwire._queue.dispatcher import Dispatcher
from embedwire._queue.records import Route
from embedwire._servers.known import sizing
from embedwire._servers.sizes import Choice
from embedwire._servers.slots import Slots
from embedwire._servers.tuner import Tuner
from embedwire._settings.address import Target
from embedwire._settings.settings import Form

MOST_ROUTES = 1024  # that are shared: a gateway may meet a new form with each of its users


class Server:
    """One server on one loop: its slots and its queue, shared by all visitors. Its state is who visits it."""

    def __init__(self) -> None:
        self.slots = Slots()
        self.dispatcher = Dispatcher(self.slots)
        self.visitors: set[Target] = set()


@dataclass(eq=False)
class Origin:
    """One visitor's way to one server, on one loop. Written by `Origins`.

    Attributes:
        target: The server and who asks.
        server: Its slots and its queue.
        transport: Its connections.
        visitor: What sends its jobs.
        users: Clients that use it.
    """

    target: Target
    server: Server
    transport: AiohttpTransport
    visitor: Visitor = field(init=False)
    users: int = 0
    _routes: dict[Form, Route] = field(default_factory=dict)
    _tuners: dict[Choice, Tuner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.visitor = Visitor(self.target, self.transport)

    def route(self, form: Form) -> Route:
        """The way of all texts of a form, shared by all clients of equal settings."""
        route = self._routes.get(form)
        if route is None:
            if len(self._routes) >= MOST_ROUTES:
                self._forget(next(iter(self._routes)))
            sizes = sizing(self.target, form.variant).of(form, self._tuners)
            model = self.visitor.model(form)
            route = self._routes[form] = Route(form, self.server.slots, self.visitor, model, sizes)
        return route

    def _forget(self, form: Form) -> None:
        """Shares a form's way no more; who uses it keeps it."""
        del self._routes[form]
        for choice in [choice for choice in self._tuners if form.variant in choice]:
            del self._tuners[choice]

    async def close(self) -> None:
        """Closes every connection; requests on their way are cancelled first."""
        try:
            await self.server.dispatcher.close(self.visitor)
            await self.visitor.close()
        finally:
            self.transport.close_now()

    def close_now(self) -> None:
        """Closes every connection without waiting, on the loop or after its end."""
        with contextlib.suppress(RuntimeError):  # the loop is over, and its tasks with it
            for task in self.visitor.tasks():
                task.cancel()
        self.transport.close_now()


class Origins:
    """The servers in use on one loop, and who visits them; clients of equal targets share one origin."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self._origins: dict[Target, Origin] = {}

    def acquire(self, target: Target) -> Origin:
        """The origin of a target, for one more client."""
        origin = self._origins.get(target)
        if origin is None:
            server = self._servers.setdefault(target.base_url, Server())
            server.visitors.add(target)
            origin = self._origins[target] = Origin(target, server, AiohttpTransport(target))
        origin.users += 1
        return origin

    def release(self, origin: Origin) -> bool:
        """One client uses it no more; whether it was the last one, who closes it."""
        origin.users -= 1
        if origin.users:
            return False
        self._origins.pop(origin.target, None)
        server = origin.server
        server.visitors.discard(origin.target)
        if not server.visitors:
            self._servers.pop(origin.target.base_url, None)
        return True

    @property
    def empty(self) -> bool:
        """Whether nobody uses anything."""
        return not self._origins

    async def close(self) -> None:
        """Closes everything, whoever uses it, at the end of the process."""
        for server in self._servers.values():
            server.dispatcher.close_now()
        for origin in list(self._origins.values()):
            await origin.close()


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
