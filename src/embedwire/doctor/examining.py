"""One server, looked at: the checks in their order, each within what time is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from embedwire._clients.own import EmbeddingClient
from embedwire._settings.address import Target, key_from_environment, ssl_of, target_of
from embedwire._settings.options import SSL
from embedwire.doctor import fidelity, limits, scripts, speed, surroundings
from embedwire.doctor.asking import Asker, EnoughAsked
from embedwire.doctor.contact import CouldNotAsk, Met, meet
from embedwire.doctor.findings import Examined, Finding, note, problem
from embedwire.doctor.pasting import settings
from embedwire.doctor.prompts import prompts

Say: TypeAlias = Callable[[Finding], object]
Check: TypeAlias = Callable[[], Awaitable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one may tell the doctor.

    Attributes:
        model: The model to ask for; None for the one that the server lists.
        api_key: None: the environment's.
        ssl: As for the clients.
        timeout: Seconds for one request.
        seconds: Seconds for one server in all.
        idle: Seconds for which a connection is left alone, to see whether it stays.
    """

    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    ssl: SSL = None
    timeout: float = 10.0
    seconds: float = 90.0
    idle: float = surroundings.IDLE


async def examine(url: str, options: Options, say: Say) -> Examined:
    """Looks at one server, and says each finding as soon as it is made.

    Raises:
        InputError: The URL is none, or an option is wrong; nothing was sent.
    """
    target = target_at(url, options)
    client = EmbeddingClient(
        url,
        model=options.model,
        api_key=options.api_key,
        ssl=options.ssl,
        timeout=options.timeout,
        deadline=2 * speed.FOR_LOAD,
        max_retries=0,
    )
    ask = Asker(target, timeout=options.timeout, seconds=options.seconds)
    without = surroundings.keyless(target)
    lock = None if without is None else Asker(without, timeout=options.timeout, seconds=options.seconds)
    begun = asyncio.get_running_loop().time()
    try:
        examined = await _looked_at(url, options, ask, lock, client, say)
    finally:
        await client.close()
        for asker in filter(None, (ask, lock)):
            await asker.close()
    requests = ask.requests + (lock.requests if lock else 0) + round(client.usage().requests)
    seconds = asyncio.get_running_loop().time() - begun
    return replace(examined, requests=requests, seconds=seconds)


async def _looked_at(
    url: str, options: Options, ask: Asker, lock: Asker | None, client: EmbeddingClient, say: Say
) -> Examined:
    endpoint = ask.target.endpoint
    try:
        met = await meet(ask, options.model)
    except (CouldNotAsk, EnoughAsked) as error:
        finding = problem("contact", str(error), "")
        say(finding)
        return Examined(url=ask.target.base_url, findings=(finding,), asked=False)
    findings: list[Finding] = []
    for name, check in _checks(url, options, ask, lock, client, met):
        try:
            finding = await check()
        except EnoughAsked as enough:
            finding = note(name, f"not looked at: {enough}", "Give it longer: --timeout, --seconds.")
        findings.append(finding)
        say(finding)
    straight = surroundings.pasted_url(endpoint, met.base, url)
    return Examined(
        url=ask.target.base_url,
        findings=tuple(findings),
        model=met.model,
        vector=met.vector,
        settings=settings(straight, met, findings, key=lock is not None),
    )


def _checks(
    url: str, options: Options, ask: Asker, lock: Asker | None, client: EmbeddingClient, met: Met
) -> list[tuple[str, Check]]:
    """What is looked at, in this order: what tells most for least comes first."""

    async def at_once(finding: Finding) -> Finding:
        return finding

    return [
        ("server", lambda: at_once(surroundings.server(met))),
        ("path", lambda: at_once(surroundings.path(ask.target.endpoint, met, url))),
        ("prompts", lambda: at_once(prompts(met.model))),
        ("health", lambda: surroundings.health(ask)),
        ("access", lambda: surroundings.access(ask, lock)),
        ("unit length", lambda: fidelity.unit_length(ask, met)),
        ("batch and alone", lambda: fidelity.drift(ask, met)),
        ("base64", lambda: fidelity.base64(ask, met)),
        ("dimensions", lambda: fidelity.dimensions(ask, met)),
        ("fields", lambda: fidelity.fields(ask)),
        ("Korean, emoji", lambda: scripts.scripts(ask)),
        ("NUL", lambda: scripts.nul(ask)),
        ("batch size", lambda: limits.batch_size(ask, met)),
        ("long texts", lambda: limits.long_texts(ask, met)),
        ("latency", lambda: speed.latency(ask)),
        ("load", lambda: speed.load(ask, client, met)),
        ("keep-alive", lambda: surroundings.keep_alive(ask, options.idle)),
    ]


def target_at(url: str, options: Options) -> Target:
    """The server, and who asks.

    Raises:
        InputError: The URL is none, or an option is wrong.
    """
    target = target_of(url, options.api_key, None, ssl_of(options.ssl), None, False)
    if target.api_key is not None:
        return target
    return replace(target, api_key=key_from_environment(target.base_url))
