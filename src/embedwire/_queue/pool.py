"""The servers to which the texts of one form may go, what each is to the others, and which one is next."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from embedwire._events.audience import Tell
from embedwire._events.log import log
from embedwire._http.embed import Visitor
from embedwire._http.records import Fault, Vectors
from embedwire._servers.agreement import Agreed, Terms, bare
from embedwire._servers.facts import ModelFacts
from embedwire._servers.health import Health, is_outlier, is_slow
from embedwire._servers.sizes import FormSizes
from embedwire._servers.slots import Slots
from embedwire._settings.options import Kind
from embedwire._settings.servers import Hedge
from embedwire._settings.settings import Form
from embedwire.events import ServerSetAside
from embedwire.exceptions import BadReply

CALM = 60.0  # seconds after which a server that came back is well
PAUSE_LEAST, PAUSE_MOST = 0.1, 60.0  # seconds before one that failed sooner is asked again

State: TypeAlias = Literal["not met", "in use", "left out", "set aside"]


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """The way of all texts of one form to one server: its slots, who sends, what is known of the model, and sizes."""

    form: Form
    slots: Slots
    visitor: Visitor
    model: ModelFacts
    sizes: FormSizes

    @property
    def server(self) -> str:
        """Base URL, for messages."""
        return self.visitor.target.base_url


class Member:
    """One server of a pool. Written by `_queue`.

    Its state is whether it is in use, and why not; how it has done; and what it has under way.

    Attributes:
        route: The way there.
        compared: The way of the sentence that shows its model: that of the client's documents.
        weight: How much it takes.
        state: "not met" until it was compared with the others; "left out" where it has another model.
        reason: Why it is not in use.
        health: How it has done of late.
        on_trial: It is back, and gets one batch at a time until one went well.
        under_way: Batches that it has, by kind; those that pause, too.
        seen: What its connections were when it was compared.
        asked: When it was asked last whether it may be in use again, in loop time.
        back: When it was taken in.
        pause: Seconds before it is asked again, at least; grows where it fails again soon.
        restarts: How often the server may have been restarted unseen when it was compared, and when that was.
        number: Of the model that it was found to have, among those that all had.
        away: Since when it is not in use, in loop time, where its model was asked for.
        doubts: How often it was found that it may have another model than before.
    """

    __slots__ = (
        "asked",
        "away",
        "back",
        "compared",
        "doubts",
        "health",
        "number",
        "on_trial",
        "pause",
        "reason",
        "restarts",
        "route",
        "seen",
        "state",
        "under_way",
        "weight",
    )

    def __init__(self, route: Route, compared: Route, weight: float, state: State) -> None:
        self.route = route
        self.compared = compared
        self.weight = weight
        self.state: State = state
        self.reason = ""
        self.health = Health()
        self.on_trial = False
        self.under_way: dict[Kind, int] = {"query": 0, "document": 0}
        self.seen = 0, 0
        self.asked = self.pause = 0.0
        self.back = float("-inf")
        self.restarts = 0, 0.0
        self.doubts = self.number = 0
        self.away: float | None = None

    def relapsed(self, now: float) -> None:
        """It is not in use any more: the pause doubles where it has not been well for long."""
        self.pause = 0.0 if now - self.back > CALM else min(PAUSE_MOST, self.pause * 2 or PAUSE_LEAST)
        self.asked = now

    @property
    def in_use(self) -> bool:
        """Whether texts go there."""
        return self.state == "in use"

    @property
    def ready(self) -> bool:
        """Whether a batch may go there now."""
        return self.in_use and not (self.on_trial and any(self.under_way.values()))

    def awake(self, now: float) -> bool:
        """Whether it did not ask for a pause."""
        return self.route.model.throttle.until <= now

    @property
    def context(self) -> float:
        """Tokens that a text may have there; without end where that is not known."""
        return self.route.sizes.sizing.server.told.context or float("inf")


class Pool:
    """The servers of one client, or of several with equal ones, for one form. One server is a pool too.

    Its state is its members', and how many requests with the sentence no caller has paid for yet. Written by `_queue`.

    Args:
        routes: The way to each, and that of the sentence that shows its model.
        weights: How much each takes.
        agreed: What is known of their model in this process; written here.
        terms: What counts as the same model.
        hedge: When a query goes to a second server.
        tell: Told what happens to them.
    """

    def __init__(
        self,
        routes: Sequence[tuple[Route, Route]],
        weights: Sequence[float],
        agreed: Agreed,
        terms: Terms,
        hedge: Hedge | None = None,
        tell: Tell = log,
    ) -> None:
        self.tell = tell
        self.several = len(routes) > 1
        state: State = "not met" if self.several else "in use"
        self.members = tuple(
            Member(*ways, weight, state) for ways, weight in zip(routes, weights, strict=True)
        )
        self.form = routes[0][0].form
        self.unpaid = 0
        self.agreed = agreed
        self.terms = terms
        self.hedge = hedge if self.several else None

    @property
    def servers(self) -> str:
        """Base URLs, for messages."""
        return ", ".join(member.route.server for member in self.members)

    @property
    def accepted(self) -> bool:
        """Whether a server ever embedded a text of this form."""
        return any(member.route.model.seconds is not None for member in self.members)

    @property
    def in_use(self) -> list[Member]:
        """The members that texts go to."""
        return [member for member in self.members if member.in_use]

    @property
    def pauses(self) -> list[float]:
        """The moments at which servers in use want work again."""
        return [member.route.model.throttle.until for member in self.in_use]

    def is_slow(self, member: Member) -> bool:
        """Whether it takes much longer for a query than another one."""
        return is_slow(member.health, (one.health for one in self.in_use))

    def wake(self) -> None:
        """There is work again, where there was none."""
        for member in self.members:
            if not member.route.slots.in_flight:
                member.route.visitor.wake()

    def enlist(self, who: object) -> None:
        """Somebody has work for these servers."""
        for member in self.members:
            member.route.slots.enlist(who, member.route.sizes.wish)

    def dismiss(self, who: object) -> None:
        """Somebody has no more work for them."""
        for member in self.members:
            member.route.slots.dismiss(who)

    def other(self, *, than: Container[Member | None]) -> bool:
        """Whether texts may go to another server than these."""
        return self.several and any(one.in_use and one not in than for one in self.members)

    def may(self, member: Member, avoid: Container[Member]) -> bool:
        """Whether texts that failed elsewhere go to a server: not where they failed, if there is another one."""
        return member not in avoid or not self.other(than=avoid)

    def larger(self, member: Member | None, avoid: Container[Member]) -> bool:
        """Whether another server than these takes longer texts, as far as is known."""
        limit = member.context if member is not None else 0.0
        return any(
            one.in_use
            and one is not member
            and one not in avoid
            and (one.context > limit or limit == float("inf"))
            for one in self.members
        )

    def next(self, kind: Kind, free: Mapping[Slots, int], now: float) -> Sequence[Member]:
        """The servers with a free place that may take a batch now, the best first."""
        if not self.several:
            return self.members if self.members[0].route.slots in free else ()
        ready = [one for one in self.members if one.ready and one.route.slots in free]
        # A server that asked for a pause gets nothing until it is over, unless all did.
        if any(one.awake(now) for one in self.in_use):
            ready = [one for one in ready if one.awake(now)]
        if kind == "document":
            return sorted(ready, key=_by_room)
        return sorted(ready, key=lambda one: _by_time(one, now, slow=self.is_slow(one)))

    def turn(self, member: Member, state: State, reason: str = "") -> None:
        """A member is, or is not, in use from now on."""
        member.state, member.reason = state, reason
        member.doubts += state in ("not met", "left out")
        if member.in_use:
            member.away, member.number = None, self.agreed.number
        elif member.away is None:
            member.away = asyncio.get_running_loop().time()
        self.agreed.states[member.route.visitor.target, self.form.variant] = state, reason

    def tell_aside(self, member: Member, why: str) -> None:
        """Tells that a member is not in use."""
        if member.state in ("set aside", "left out"):
            self.tell(ServerSetAside(server=member.route.server, state=member.state, why=why))

    def identity(self, vectors: Vectors) -> tuple[str | None, str | None]:
        """Of which model vectors are: what their replies say, and of several servers what all were compared with."""
        if self.several:
            name = bare(vectors.model) if self.terms.least is None else None
            return name, f"number {self.agreed.number}"
        return vectors.model, vectors.asked

    def epochs(self) -> dict[Member, tuple[int, int]]:
        """Of each server what changes where it may have another model; what it was sent before does not count then."""
        return {member: (member.doubts, self.agreed.number) for member in self.members}

    def went_well(self, member: Member, kind: Kind, seconds: float, now: float) -> None:
        """A server answered a batch."""
        if self.several:
            member.on_trial = False
            member.health.ended(well=True)
            if kind == "query":
                member.health.answered(seconds, now)

    def failed(self, member: Member, fault: Fault, *, held_off: bool) -> None:
        """A server failed a batch: it may be set aside, or left out where it will not be better by itself.

        Args:
            member: It.
            fault: How.
            held_off: It only had too much to do.
        """
        if not self.several or not member.in_use or fault.of_text or held_off:
            return
        member.health.ended(well=False)
        others = [one.health for one in self.in_use if one is not member]
        if fault.exchanged:
            self.turn(member, "not met", fault.what)
        elif others:
            self._put_out(member, fault, others)

    def _put_out(self, member: Member, fault: Fault, others: list[Health]) -> None:
        if _will_not_be_better(fault):
            self.turn(member, "left out", fault.what)
        elif fault.absent or fault.timed_out or member.on_trial:
            self.turn(member, "set aside", fault.what)
        elif is_outlier(member.health, others):
            self.turn(member, "set aside", f"it fails most of the time; last, {fault.what}")


def _will_not_be_better(fault: Fault) -> bool:
    """Whether a server has to be looked after: it does not accept the key, or has no such model."""
    return fault.of_one_server and not fault.absent and fault.error is not BadReply


def _by_room(member: Member) -> tuple[float, ...]:
    route = member.route
    load = (route.slots.in_flight + 1) / (member.weight * max(1, route.sizes.wish().documents))
    return load * (route.model.seconds or 0.0), load  # of few texts the slower server gets the fewer


def _by_time(member: Member, now: float, *, slow: bool) -> tuple[float, ...]:
    in_flight = member.route.slots.in_flight
    seconds = member.health.expected(now, asked=slow or member.under_way["query"] > 0)
    return (in_flight + 1) * seconds / member.weight, in_flight / member.weight
