"""The servers behind a gateway: whether each is ready, which models they have, what each has under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from embedwire._clients.origin import Group, Origin, leave, origins_of
from embedwire._http.records import Refused
from embedwire._settings.settings import Settings

FRESH = 1.0  # seconds for which it holds that a server is ready, or is not


class Servers:
    """Asks the servers about themselves, over the connections that texts take.

    Its state is its share of them, what they said last, and when.

    Args:
        settings: Of the clients that use them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._group: Group | None = None
        self._asking: asyncio.Task[dict[str, bool]] | None = None
        self._since = 0.0

    def open(self) -> None:
        """Joins those who use the servers on the running loop."""
        self._group = origins_of(asyncio.get_running_loop()).acquire(self._settings)

    async def close(self) -> None:
        """Leaves the servers."""
        loop = asyncio.get_running_loop()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        group, self._group = self._group, None
        if group is not None:
            unused = origins_of(loop).release(group)
            await unused.close()
            unused.stop()
        leave(loop)

    @property
    def urls(self) -> list[str]:
        """Of all of them, as messages show them."""
        return [target.base_url for target in self._settings.fleet.targets]

    @property
    def _origins(self) -> list[Origin]:
        return [] if self._group is None else self._group.origins

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
                "in_flight": origin.slots.in_flight,
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
