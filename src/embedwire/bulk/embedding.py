"""Rows → their vectors in the output: read ahead, embedded as a stream, written in their order, in bounded memory."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from embedwire._clients.own import EmbeddingClient
from embedwire._http.threads import in_thread
from embedwire.bulk.output import Output, digested
from embedwire.bulk.records import Chunk, Done, Row
from embedwire.bulk.seen import Seen, Ticket
from embedwire.exceptions import InputError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedwire.bulk.records import Vector

BACKLOG = 2**24  # bytes of vectors that wait to be written, at most
GROUP = 2**21  # bytes of vectors that are written at once, about
REPEATS = 4096  # rows that wait for the vector of an equal one, at most


class Embedding:
    """One run. Its state is the rows that are under way, and what is counted.

    Args:
        client: Not used before.
        output: Begun.
        chunks: The whole input, from the output's first row on.
        rejects: Whether rows without a vector are passed on, instead of ending the run.
    """

    def __init__(
        self, client: EmbeddingClient, output: Output, chunks: Iterator[Chunk], *, rejects: bool
    ) -> None:
        self._client, self._output, self._chunks, self._rejects = client, output, chunks, rejects
        self._rows: deque[tuple[Row, Ticket]] = deque()  # read, not ready
        self._sent: deque[Ticket] = deque()  # on their way, in order
        self._first = 0  # index of the first of them in the stream
        self._ready: deque[Done] = deque()  # not written
        self._writing: asyncio.Task[None] | None = None
        self._growing: asyncio.Task[None] | None = None
        self._seen = Seen()
        self._width = 0
        self._open_repeats = 0  # rows that wait for an equal one
        self._moved = asyncio.Event()
        self.skipping = output.position.next > output.first
        self.repeats = 0
        self.read = 0.0  # by how much of the input is written

    async def run(self) -> None:
        """Embeds all that the output does not have.

        Raises:
            InputError: The input is wrong; the message names file and line.
            RequestError: A text was not embedded, or the server is gone; likewise.
            UsageError: The output cannot be written.
        """
        stream = self._client.stream(self._texts(), on_error="skip" if self._rejects else "raise")
        try:
            async for start, vectors in stream:
                self._arrived(start, vectors, stream.failures)
                await self._write()
            self._skip_to(self._first + len(self._sent), stream.failures)
        except RequestError as error:
            self._keep(error)
            raise self._named(error) from None
        finally:
            await stream.aclose()
            await self._write_all()

    # Reading

    async def _texts(self) -> AsyncIterator[str]:
        """What is to be embedded, each text once while it is remembered."""
        number, digest = self._output.first, 0
        before = self._output.position
        while (chunk := await in_thread(next, self._chunks, None)) is not None:
            for index, text in enumerate(chunk.texts):
                row, number = Row(number, chunk, index), number + 1
                if number <= before.next:
                    digest = digested(digest, text)
                    if number == before.next and digest != before.digest:
                        raise changed(number)
                elif self._is_new(row) and text is not None:
                    yield text
            self.skipping = number < before.next
            self._collect()
            await self._write()
            while self._open_repeats > REPEATS:
                self._moved.clear()
                await self._moved.wait()
        if number < before.next:
            raise changed(number)

    def _is_new(self, row: Row) -> bool:
        """Takes a row in; whether its text must travel."""
        text = row.text
        if text is None:
            problem = row.chunk.problems[row.at]
            if not self._rejects:
                raise InputError(
                    f"{row.place}: {problem}. Correct it, or have such rows left out: --rejects FILE, rejects="
                )
            self._rows.append((row, Ticket(row, problem)))
            return False
        ticket = self._seen.find(text)
        if ticket is not None:
            self.repeats += 1
            self._open_repeats += 1
            self._rows.append((row, ticket))
            return False
        ticket = Ticket(row)
        self._seen.add(text, ticket, self._width)
        self._sent.append(ticket)
        self._rows.append((row, ticket))
        return True

    # Vectors

    def _arrived(self, start: int, vectors: Vector, failures: dict[int, RequestError]) -> None:
        self._skip_to(start, failures)
        self._width = vectors.shape[1]
        for vector in vectors:
            self._sent.popleft().vector = vector
        self._first += len(vectors)
        self._collect()

    def _skip_to(self, start: int, failures: dict[int, RequestError]) -> None:
        """The texts before ``start`` that got no vector failed."""
        while self._first < start:
            self._sent.popleft().problem = without_index(failures.pop(self._first))
            self._first += 1
        self._collect()

    def _collect(self) -> None:
        """Rows that got what they wait for are ready, in their order."""
        while self._rows and self._rows[0][1].done:
            row, ticket = self._rows.popleft()
            self._open_repeats -= ticket.row is not row
            self._ready.append(Done(row, ticket.vector, ticket.problem))
        self._moved.set()

    def _keep(self, error: RequestError) -> None:
        """Whatever a call that failed has done is not lost."""
        if error.completed is not None:
            for index, vector in zip(error.completed.indexes, error.completed.vectors, strict=True):
                self._sent[index - self._first].vector = vector
            self._collect()

    def _named(self, error: RequestError) -> RequestError:
        """The error with its text's file and line in the place of its index in the stream."""
        at = -1 if error.index is None else error.index - self._first
        message = without_index(error)
        if 0 <= at < len(self._sent):
            row = self._sent[at].row
            if error.index in error.failures:
                message = f"{row.place}: {message} Or have such rows left out: --rejects FILE, rejects="
            else:
                message = (
                    f"{message} The run stopped at {row.place}; what was done is kept, and --resume goes on."
                )
        return told_anew(error, message)

    # Writing

    async def _write(self) -> None:
        """Has written what is ready, and waits where too much is."""
        if self._writing is not None and self._writing.done():
            self._writing.result()
            self._writing = None
        if self._ready and self._writing is None:
            self._writing = asyncio.create_task(self._drain())
        while self._writing is not None and len(self._ready) * max(self._width, 64) * 4 > BACKLOG:
            await asyncio.wait({self._writing}, timeout=0.05)
            if self._writing.done():
                self._writing.result()
                return

    async def _drain(self) -> None:
        while self._ready:
            rows = GROUP // (4 * max(self._width, 64))
            some = [self._ready.popleft() for _ in range(min(max(1, rows), len(self._ready)))]
            await asyncio.to_thread(self._output.append, some)
            self.read = some[-1].row.read
            self._grow()

    def _grow(self) -> None:
        """Has the file made of what was written: beside the writing, as what is not written yet a kill would cost."""
        if self._growing is not None and self._growing.done():
            self._growing.result()
            self._growing = None
        if self._growing is None:
            self._growing = asyncio.create_task(asyncio.to_thread(self._output.grow))

    async def _write_all(self) -> None:
        """Waits until what is ready was written; raises what writing raised."""
        try:
            if self._writing is not None:
                await asyncio.wait({self._writing})
                self._writing.result()
            await self._drain()
        finally:
            if self._growing is not None:
                await asyncio.wait({self._growing})
                self._growing.result()


def changed(rows: int) -> InputError:
    """The error of an input that begins otherwise than the one that the output was made of."""
    return InputError(
        f"the first {rows:,} rows are not those that the output was made of: the input was changed since. Give what "
        "was given then, or start again (--overwrite, overwrite=True)"
    )


def without_index(error: RequestError) -> str:
    """What an error says, without the index in the stream, which tells a user nothing."""
    return re.sub(r", texts\[\d+\](?: of \d+)?", "", str(error))


def told_anew(error: RequestError, message: str) -> RequestError:
    """The same error with another message; of the texts that it knows by index in the stream it says nothing."""
    new = type(error)(message)
    facts: Mapping[str, object] = {
        name: value for name, value in vars(error).items() if not name.startswith("_")
    }
    vars(new).update(facts, index=None)
    return new
