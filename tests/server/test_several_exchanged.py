"""Several servers, one of them exchanged: no vector of another model comes out, however its requests were timed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from embedwire._servers.agreement import SENTENCE
from embedwire.testing import Answer, EmbeddingServer, Gate
from tests.helpers import numbered, right, simulated
from tests.server.fleet import OTHER, client_of, fleet, info_of, states


async def restart(server: EmbeddingServer, answer: Callable[[list[str]], Answer | None]) -> None:
    """Restarts a server; from then on it answers texts so."""
    await server.astop()
    server.script = lambda request: answer(request.texts) if request.embeds else None
    await server.astart()


def late(texts: list[str]) -> Answer:
    """Another model, whose vectors take long but for those of the sentence that is compared."""
    return Answer(body=OTHER.body, delay=0 if SENTENCE in texts else 0.3)


def other(name: str, **options: Any) -> Answer:
    """Another model, of another name."""

    def body(reply: dict[str, Any]) -> dict[str, Any]:
        changed = OTHER.body(reply) if callable(OTHER.body) else reply
        return {**changed, "model": name}

    return Answer(body=body, **options)


class TestInFlight:
    """What a server was asked for before it was found to have another model is not used."""

    @pytest.mark.parametrize("kind", ["query", "document"])
    async def test_found_out_before_the_reply(self, kind: Any) -> None:
        """A restarted server's first vectors come after the comparison has found another model, and are not used."""
        async with fleet(2) as servers, client_of(servers, batch_size=1, concurrency=4) as client:
            for text in numbered(6, "warm"):
                await client.embed_array([text], kind=kind)
            await restart(servers[0], late)
            texts = numbered(6, "q")
            calls = [client.embed_array([text], kind=kind) for text in texts]
            assert right([matrix[0] for matrix in await asyncio.gather(*calls)], texts)
            assert info_of(client, servers[0]).state == "left out"

    async def test_replies_that_name_it(self) -> None:
        """Of several requests in flight whose replies name another model none is used, not only the first."""
        gate, exchanged = Gate(), False

        def script(request: Any) -> Answer | None:
            if not (exchanged and request.embeds):
                return None
            return other("two") if SENTENCE in request.texts else other("two", gate=gate)

        async with (
            fleet(2, model="one") as servers,
            client_of(servers, model=None, batch_size=1, concurrency=4) as client,
        ):
            servers[0].script = script
            await client.embed(numbered(20))
            exchanged = True
            texts = numbered(12, "q")
            call = asyncio.ensure_future(client.embed_array(texts))
            await servers[0].wait_for(lambda: servers[0].in_flight > 1)
            gate.open()
            assert right(await call, texts)
            assert states(client) == ["left out", "in use"]
