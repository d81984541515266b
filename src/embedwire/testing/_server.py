"""The server: what it saw, and what it was told to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from embedwire.testing._answer import Answer
from embedwire.testing._api import Api
from embedwire.testing._connection import Connection, Manners
from embedwire.testing._gate import Gate
from embedwire.testing._host import BACKLOG, HOST, Host
from embedwire.testing._http import Request

if TYPE_CHECKING:
    import ssl as tls

__all__ = ["EmbeddingServer"]


class EmbeddingServer(Host[Connection]):
    """An OpenAI-compatible embedding server for tests: it answers like llama.cpp's until told otherwise.

    `async with` runs it on the current event loop, `with` on a thread that has a loop of its own. It listens
    on a free port of 127.0.0.1, and on the same when it is started again; its records go on. It may be used
    from any thread. What `script` raises is raised again where the server is stopped.

    The first of these that has an answer gives it: `script`; "Loading model", while `loading` is set; for
    embeddings, the queue filled by `answer`; the right reply. Only right replies take slots and time.

    Args:
        dimensions: How many numbers a vector has.
        model: The name in `/v1/models`, and in replies to requests that name none.
        n_ctx: The context that `/props` tells.
        slots: Requests computed at once; others wait in order of arrival. None: all at once.
        latency: Seconds that it takes to compute a request, beside those for its texts.
        latency_per_text: Seconds for each of its texts.
        max_batch: Texts in a request; more are refused with 422, in the words of TEI.
        honours_dimensions: Give as many numbers as a request asks for; otherwise that is ignored.
        api_key: The key without which all but `/health` is refused with 401.
        loading: Whether to answer everything with 503 "Loading model"; can be set later.
        script: Called with each request; returns an Answer, or None for the usual. Can be set later.
        close_after: Requests served on one connection before it is closed; llama.cpp: 100.
        silent_close: Whether such a connection is closed without a `Connection: close` in its last reply.
        idle_timeout: Seconds after which an idle connection is closed; llama.cpp: 5.
        errors_close: Whether the connection is closed after any error, as llama.cpp does.
        server_header: The `Server` header of each reply; None: no such header.
        headers: More headers for each reply.
        ssl: Speak TLS with these certificates.

    Attributes:
        requests: Every request received, in order of arrival.
        aborted: Requests whose client left before all of the answer was sent; their work was dropped.
        connections: Connections ever accepted.
        peak_in_flight: The most that `in_flight` ever was.
    """

    def __init__(
        self,
        *,
        dimensions: int = 8,
        model: str = "test-model",
        n_ctx: int = 512,
        slots: int | None = None,
        latency: float = 0.0,
        latency_per_text: float = 0.0,
        max_batch: int | None = None,
        honours_dimensions: bool = False,
        api_key: str | None = None,
        loading: bool = False,
        script: Callable[[Request], Answer | None] | None = None,
        close_after: int | None = None,
        silent_close: bool = False,
        idle_timeout: float | None = None,
        errors_close: bool = True,
        server_header: str | None = "llama.cpp",
        headers: Mapping[str, str] | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        super().__init__()
        self.loading = loading
        self.script = script
        self.requests: list[Request] = []
        self.aborted: list[Request] = []
        self.peak_in_flight = 0
        self._api = Api(
            dimensions=dimensions,
            model=model,
            total_slots=slots or 1,
            n_ctx=n_ctx,
            max_batch=max_batch,
            api_key=api_key,
            honours_dimensions=honours_dimensions,
        )
        self._manners = Manners(
            headers={**({} if server_header is None else {"Server": server_header}), **(headers or {})},
            close_after=close_after,
            silent_close=silent_close,
            idle_timeout=idle_timeout,
            errors_close=errors_close,
        )
        self._slots = slots
        self._latency = latency
        self._latency_per_text = latency_per_text
        self._ssl = ssl
        self._answers: deque[Answer] = deque()
        self._gate: Gate | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight: set[Request] = set()
        self._failure: BaseException | None = None

    # What it saw

    @property
    def url(self) -> str:
        """Where it listens, such as `"http://127.0.0.1:50123"`; known once it was started."""
        return f"{'https' if self._ssl else 'http'}://{HOST}:{self._port}"

    @property
    def in_flight(self) -> int:
        """Embedding requests received and not answered, those waiting for a slot or a gate included."""
        return len(self._in_flight)

    @property
    def batches(self) -> list[list[str]]:
        """The texts of each embedding request, in order of arrival, refused ones included."""
        return [request.texts for request in list(self.requests) if request.embeds]

    # What it is told

    def answer(self, *answers: Answer) -> None:
        """Queue answers for the next embedding requests, one each in order of arrival."""
        self._answers.extend(answers)

    def hold(self) -> Gate:
        """Hold the embedding requests that arrive until the gate is opened: `with server.hold(): ...`."""
        self._gate = Gate()
        return self._gate

    # Its life

    async def _listen(self) -> asyncio.Server:
        self._slot = contextlib.nullcontext() if self._slots is None else asyncio.Semaphore(self._slots)
        return await self._loop.create_server(
            self._connection, HOST, self._port, ssl=self._ssl, backlog=BACKLOG
        )

    async def astop(self) -> None:
        """Stop listening, drop all work, cut all connections; does nothing when it does not run.

        Raises:
            Exception: What `script`, or a function in an `Answer`, raised first.
        """
        await super().astop()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # each was cancelled with its connection
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    # Its work

    def _connection(self) -> Connection:
        return Connection(self._manners, opened=self._opened, serve=self._serve, lost=self._lost)

    def _serve(self, connection: Connection, request: Request) -> asyncio.Task[None]:
        self.requests.append(request)
        if request.embeds:
            self._in_flight.add(request)
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        task = self._loop.create_task(self._respond(connection, request))
        self._tasks.add(task)
        task.add_done_callback(partial(self._finished, connection, request))
        self._watch.look()
        return task

    def _finished(self, connection: Connection, request: Request, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._in_flight.discard(request)
        if task.cancelled():
            if self._listener:
                self.aborted.append(request)
        elif error := task.exception():
            self._failure = self._failure or error
            connection.drop()
        self._watch.look()

    async def _respond(self, connection: Connection, request: Request) -> None:
        answer = self._choose(request)
        for gate in (self._gate if request.embeds else None, answer.gate):
            if gate:
                await gate.wait()
        await asyncio.sleep(answer.delay)
        if answer.raw is None and callable(answer.body):
            answer = await self._make_from_right(answer.body, answer, request)
        await connection.send(request, answer, answered=lambda: self._in_flight.discard(request))

    def _choose(self, request: Request) -> Answer:
        if self.script and (scripted := self.script(request)):
            return scripted
        if self.loading:
            return Answer.loading()
        return self._answers.popleft() if request.embeds and self._answers else Answer()

    async def _make_from_right(self, make: Callable[..., object], answer: Answer, request: Request) -> Answer:
        right = self._api.reply(request)
        if right.status is not None:
            return replace(answer, status=right.status, body=right.body)
        if request.embeds:
            async with self._slot:
                await asyncio.sleep(self._latency + self._latency_per_text * len(request.texts))
        return replace(answer, body=make(right.body))

    def _record(self) -> str:
        return f"{len(self.requests)} requests ({self.in_flight} in flight, {len(self.aborted)} aborted)"
