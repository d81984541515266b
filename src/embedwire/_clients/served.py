"""Which model a client's servers serve now: what must be known before a cached vector is believed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

import numpy as np

from embedwire._http.messages import to_error
from embedwire._http.records import Refused
from embedwire._queue.pool import Member, Pool
from embedwire._queue.several import HOLDS
from embedwire._servers.agreement import bare
from embedwire._settings.options import Kind
from embedwire._settings.settings import Settings
from embedwire.exceptions import Completed

logger = logging.getLogger("embedwire")

SOON = 5.0  # seconds for which one of several servers is asked
SILENT = 30.0  # seconds for which one that did not answer so soon is not asked again


class Served:
    """The models of one client's servers. Its state is what they told last, and when, and who did not answer.

    Args:
        settings: Of the client.
        pools: Its servers.
    """

    def __init__(self, settings: Settings, pools: Mapping[Kind, Pool]) -> None:
        self._settings = settings
        self._pools = pools
        self._told: dict[Kind, tuple[float, object, str | None]] = {}
        self._silent: dict[Member, float] = {}  # until when it is not asked again
        self._warned = False

    def left(self, begun: float) -> float | None:
        """Seconds before the deadline of a call that began then; None where it has none."""
        deadline = self._settings.deadline
        return None if deadline is None else max(0.0, deadline - (time.monotonic() - begun))

    def named(self, kind: Kind) -> str | None:
        """The name that replies gave last, in this process; None where nothing is known."""
        pool = self._pools[kind]
        if not pool.several:
            return pool.members[0].route.model.named
        names = {bare(member.route.model.named) for member in pool.in_use} - {None}
        return names.pop() if len(names) == 1 and pool.terms.least is None else None

    async def model(self, kind: Kind, begun: float, *, pieces: bool) -> str | None:
        """The name of the model; None where nothing tells, or the deadline passed meanwhile.

        The user's is believed; else the servers are asked, whatever they told before.

        Args:
            kind: Queries or documents.
            begun: When the caller called.
            pieces: Whether it is for a stream's piece: these share an answer while no server can be restarted.

        Raises:
            RequestError: The server does not answer.
        """
        named, now = self._settings.form.model, asyncio.get_running_loop().time()
        if named is not None:
            return named
        at, seen, name = self._told.get(kind, (now - HOLDS, None, None))
        if pieces and now - at < HOLDS and seen == _seen(self._pools[kind]):
            return name
        left = self.left(begun)
        try:
            name = await asyncio.wait_for(self.asked(kind, left), left)
        except asyncio.TimeoutError:
            return None
        self._told[kind] = asyncio.get_running_loop().time(), _seen(self._pools[kind]), name
        if name is None and not self._warned:
            self._warned = True
            message = "%s: no one name of a model is told, so the cache is not used; pass model="
            logger.warning(message, self._pools[kind].servers)
        return name

    async def asked(self, kind: Kind, left: float | None) -> str | None:
        """The one model that all servers tell now; None where there is none.

        Args:
            kind: Queries or documents.
            left: Seconds before the caller's deadline, of which several servers get half.

        Raises:
            RequestError: The only server does not answer.
        """
        pool = self._pools[kind]
        if not pool.several:
            try:
                return await pool.members[0].route.visitor.serves(pool.form, lambda: False)
            except Refused as refused:
                sent = refused.history.sent
                error = to_error(refused.fault, attempts=sent, server=pool.servers, index=None, count=None)
                error.set_outcome(lambda: Completed([], np.empty((0, 0), dtype=np.float32)), dict)
                raise error from None
        soon, now = SOON if left is None else min(SOON, left / 2), asyncio.get_running_loop().time()
        those = [member for member in pool.members if member.state != "left out"]
        those = [member for member in those if self._silent.get(member, now) <= now] or those
        told = await asyncio.gather(*(self._told_by(member, soon) for member in those))
        names = {bare(name) for name in told if name}
        return names.pop() if len(names) == 1 else None

    async def _told_by(self, member: Member, soon: float) -> str | None:
        """What one of several servers tells, where it does so soon."""
        try:
            return await asyncio.wait_for(member.route.visitor.serves(member.route.form, lambda: True), soon)
        except asyncio.TimeoutError:
            self._silent[member] = asyncio.get_running_loop().time() + SILENT
            return None
        except Exception:  # it is away, or a function of the user's raised: the call itself will show that
            return None


def _seen(pool: Pool) -> list[object]:
    """What changes where a server may have been restarted."""
    return [(one.route.visitor.seen(), one.route.visitor.restarts) for one in pool.members]
