"""The servers behind a gateway: whether each is ready, which models they have, what each has under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from embedwire._clients.origin import Origin, leave, origins_of
from embedwire._http.records import Refused
from embedwire._settings.address import Target, key_from_environment, target_of
from embedwire.exceptions import InputError

FRESH = 1.0  # seconds for which it holds that a server is ready, or is not


class Servers:
    """Asks the servers about themselves, over the connections that texts take.

    Its state is what they said last, and when.

    Args:
        urls: Of the servers.
        key: What they want to see; None: the environment's ``EMBEDWIRE_API_KEY``.

    Raises:
        InputError: A URL, or the key, is wrong.
    """

    def __init__(self, urls: Sequence[str], key: str | None) -> None:
        self.targets = [_target(url, key) for url in urls]
        names = [target.base_url for target in self.targets]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{twice[0]} is named twice; name each server once")
        self._origins: list[Origin] = []
        self._asking: asyncio.Task[dict[str, bool]] | None = None
        self._since = 0.0

    def open(self) -> None:
        """Joins those who use the servers on the running loop."""
        origins = origins_of(asyncio.get_running_loop())
        self._origins = [origins.acquire(target) for target in self.targets]

    async def close(self) -> None:
        """Leaves the servers."""
        loop = asyncio.get_running_loop()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        origins, self._origins = self._origins, []
        for origin in origins:
            if origins_of(loop).release(origin):
                await origin.close()
                origin.server.dispatcher.stop()
        leave(loop)

    async def ready(self) -> Mapping[str, bool]:
        """Whether each server answers that it is ready, by its URL; asked at most once a second."""
        now = asyncio.get_running_loop().time()
        if self._asking is None or (self._asking.done() and now - self._since >= FRESH):
            self._asking, self._since = asyncio.ensure_future(self._ask()), now
        return await asyncio.shield(self._asking)

    async def models(self) -> list[str]:
        """The names of the models that the servers list, each once."""
        listed = await asyncio.gather(*(origin.visitor.models() for origin in self._origins))
        return list(dict.fromkeys(name for names in listed for name in names))

    def told(self, ready: Mapping[str, bool]) -> dict[str, dict[str, float]]:
        """What there is to tell of each server, for `Metrics.text`."""
        return {
            origin.target.base_url: {
                "ready": int(ready[origin.target.base_url]),
                "in_flight": origin.server.slots.in_flight,
                "texts": origin.visitor.embedded,
            }
            for origin in self._origins
        }

    async def follow(self, say: Callable[[str], object]) -> None:
        """Says of each server whether it is ready, and of one that is not when it is."""
        ready = await self.ready()
        await asyncio.gather(*(_follow(one, ready[one.target.base_url], say) for one in self._origins))

    async def _ask(self) -> dict[str, bool]:
        answers = await asyncio.gather(*(origin.visitor.ready.look() for origin in self._origins))
        return {origin.target.base_url: answer for origin, answer in zip(self._origins, answers, strict=True)}


async def _follow(origin: Origin, ready: bool, say: Callable[[str], object]) -> None:
    url = origin.target.base_url
    if not ready:
        say(f"{url} is not ready yet: {origin.visitor.ready.why_not().what}.")
        try:
            await origin.visitor.ready.wait()
        except Refused:
            return  # it never will be, under that name; who asks for vectors is told
    say(f"{url} is ready.")


def _target(url: str, key: str | None) -> Target:
    """The server as the clients see it, so that they share its connections."""
    target = target_of(url, key, None, None, None, False)
    return replace(target, api_key=target.api_key or key_from_environment(target.base_url))
