"""Waiting until a client's servers embed, and asking them what they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any

from embedwire._clients.origin import Group
from embedwire._http.messages import to_error
from embedwire._http.records import Fault, Refused
from embedwire._queue.pool import Pool
from embedwire._settings.options import KINDS, Kind
from embedwire._settings.settings import Settings
from embedwire.exceptions import RequestError


async def until_ready(
    settings: Settings,
    group: Group,
    documents: Pool,
    timeout: float,
    embed: Callable[[Kind], Awaitable[object]] | None,
) -> None:
    """Waits until a server answers, and asks what it is; where there are several, until they were compared.

    Args:
        settings: Of the client.
        group: Its servers.
        documents: Where its documents go.
        timeout: Seconds, at most.
        embed: Embeds a word of a kind; None: nothing is embedded, and it is only asked for the model.

    Raises:
        RequestError: It was not ready within ``timeout`` seconds, or will never be.
    """
    try:
        await asyncio.wait_for(_meet(settings, group, documents, embed), timeout)
    except Refused as refused:
        raise _error(settings, refused.fault) from None
    except RequestError:
        raise
    except asyncio.TimeoutError:
        faults = [visitor.ready.why_not() for visitor in group.visitors]
        what = "; ".join(dict.fromkeys(fault.what for fault in faults))
        raise _error(settings, replace(faults[0], what=f"not ready within {timeout:g} s: {what}")) from None


async def _meet(
    settings: Settings, group: Group, documents: Pool, embed: Callable[[Kind], Awaitable[object]] | None
) -> None:
    await first_of(visitor.meet(settings.query_form) for visitor in group.visitors)
    if embed is None:
        return
    # Of each kind, where their requests differ.
    kinds = KINDS if settings.form != settings.query_form else KINDS[:1]
    # Only a vector shows that it embeds, and how wide; a second one, whether base64 carries the same.
    for kind in kinds:
        await embed(kind)
    for member in documents.in_use:
        member.route.visitor.learn()
        await member.route.visitor.look(settings.form)
    for kind in kinds if settings.form.encoding == "auto" else ():
        await embed(kind)


def _error(settings: Settings, fault: Fault) -> RequestError:
    return to_error(fault, attempts=0, server=settings.fleet.names, index=None, count=None)


async def first_of(waits: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Returns when one of some waits is over; raises what the last one did where all are in vain."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    pending = {*tasks}
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if not pending or any(task.exception() is None for task in done):
                return min(done, key=lambda task: task.exception() is not None).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
