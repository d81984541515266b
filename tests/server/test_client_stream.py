"""Both clients' streams: texts of unknown number, in order, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from embedwire import BatchLimits, InputError, TextRefused
from embedwire.testing import Answer, EmbeddingServer, Gate, is_vector_of
from tests.helpers import numbered, right
from tests.server.doors import Open, own, shared

TEXTS = numbered(23)


class TestStream:
    """Texts of unknown number, in order, in bounded memory."""

    def stitched(self, pieces: Iterable[tuple[int, Any]]) -> dict[int, Any]:
        """Rows by index; fails where a piece is out of order."""
        rows: dict[int, Any] = {}
        for start, vectors in pieces:
            assert vectors.dtype == np.float32
            assert not rows or start > max(rows)
            rows.update(enumerate(vectors, start))
        return rows

    async def test_gives_all_in_order(self, open_doors: Open) -> None:
        """Pieces come in order, each from its `start` on, and have every text's own vector."""
        rows = self.stitched(await open_doors(batch_size=4).pieces(iter(TEXTS)))
        assert list(rows) == list(range(23))
        assert right(list(rows.values()), TEXTS)

    async def test_a_slow_batch_does_not_change_the_order(
        self, open_doors: Open, server: EmbeddingServer
    ) -> None:
        """The first piece comes first, though others were done before it."""
        gate = Gate()
        server.script = lambda request: Answer.hold(gate) if "text 0" in request.texts else None
        call = asyncio.ensure_future(open_doors(batch_size=4, concurrency=3).pieces(TEXTS))
        await server.wait_for(lambda: len(server.requests) >= 3 and server.in_flight == 1)
        gate.open()
        rows = self.stitched(await call)
        assert right(list(rows.values()), TEXTS)

    async def test_skips_what_fails(self, open_doors: Open, server: EmbeddingServer) -> None:
        """With `on_error="skip"` a text that fails is left out, and the others keep their index."""
        server.script = lambda request: Answer.too_large(600, 512) if "text 7" in request.texts else None
        doors = open_doors(batch_size=4)
        rows = self.stitched(await doors.pieces(TEXTS, on_error="skip"))
        assert list(rows) == [index for index in range(23) if index != 7]
        assert all(is_vector_of(row, TEXTS[index]) for index, row in rows.items())
        with pytest.raises(TextRefused) as failed:
            await doors.pieces(TEXTS)
        assert failed.value.index == 7

    async def test_reads_no_further_than_it_must(self, server: EmbeddingServer) -> None:
        """While vectors are not taken, no more texts are read than four times as many as may travel, and a batch."""
        read = 0

        async def source() -> AsyncIterator[str]:
            nonlocal read
            for text in TEXTS * 10:
                read += 1
                yield f"{text} {read}"

        client = shared(server, batch_size=2, concurrency=3)
        stream = client.astream(source())
        start, vectors = await anext(stream)
        assert (start, len(vectors)) == (0, 2)
        await server.wait_for(lambda: len(server.batches) >= 3 and server.in_flight == 0)
        assert read <= 2 * (4 * 3 + 2)
        await stream.aclose()
        assert len(server.batches) <= 4 * 3 + 1
        await client.aclose()

    @pytest.mark.parametrize("kind", ["async", "sync"])
    async def test_gives_up_when_left(self, kind: str, server: EmbeddingServer) -> None:
        """Leaving a stream cancels what is on its way, and sends nothing more."""
        never = Gate()
        server.script = lambda request: (
            None if request.texts in ([], ["text 0"], ["last"]) else Answer.hold(never)
        )
        client = shared(server, batch_size=1, concurrency=3)
        if kind == "async":
            stream = client.astream(TEXTS)
            assert (await anext(stream))[0] == 0
            await server.wait_for(lambda: server.in_flight == 3)
            await stream.aclose()
        else:
            pieces = client.stream(TEXTS)
            assert (await asyncio.to_thread(next, pieces))[0] == 0
            await server.wait_for(lambda: server.in_flight == 3)
            pieces.close()
        await server.wait_for(lambda: len(server.aborted) == 3)
        await client.aembed_query("last")
        assert sorted(server.batches) == [["last"], *([text] for text in TEXTS[:4])]
        await client.aclose()

    @pytest.mark.parametrize("bad", [5, None, "\ud800"])
    async def test_a_bad_text_is_named_by_its_index(self, bad: Any, open_doors: Open) -> None:
        """A text that is no str is an InputError with its index in the whole stream."""
        texts: list[Any] = [*TEXTS[:10], bad]
        with pytest.raises(InputError, match=r"texts\[10\] "):
            await open_doors(batch_size=3).pieces(texts)

    async def test_the_sources_own_error_comes_through(self, open_doors: Open) -> None:
        """What the source of texts raises reaches the reader, after the pieces before it."""

        def source() -> Iterator[str]:
            yield from TEXTS[:5]
            raise LookupError("the disk is gone")

        with pytest.raises(LookupError, match="the disk is gone"):
            await open_doors(batch_size=2).pieces(source())

    async def test_takes_async_iterables(self, here: EmbeddingServer) -> None:
        """An async source is read too."""

        async def source() -> AsyncIterator[str]:
            for text in TEXTS:
                yield text

        async with own(here, batch_size=4) as client:
            rows = self.stitched([piece async for piece in client.stream(source())])
        assert right(list(rows.values()), TEXTS)


async def test_a_begun_piece_is_sent_to_its_end(server: EmbeddingServer) -> None:
    """A piece that one request does not carry goes on with the next one, before pieces behind it: they end in order."""
    client = own(server, batch_size=BatchLimits(texts=5, chars=4 * len("text 10")), concurrency=1, model="m")
    async for _ in client.stream(numbered(60)):
        pass
    assert [text for batch in server.batches for text in batch] == numbered(60)
    await client.close()
