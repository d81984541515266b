"""The server: what it saw, what it was told to do, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from embedwire.testing._answer import Answer
from embedwire.testing._api import Api
from embedwire.testing._connection import Connection, Manners
from embedwire.testing._gate import Condition, Gate, Watch
from embedwire.testing._http import Request

if TYPE_CHECKING:
    import ssl as tls

    from typing_extensions import Self

__all__ = ["EmbeddingServer"]


class EmbeddingServer:
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
        self.loading = loading
        self.script = script
        self.requests: list[Request] = []
        self.aborted: list[Request] = []
        self.connections = 0
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
        self._watch = Watch()
        self._port = 0
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight: set[Request] = set()
        self._failure: BaseException | None = None
        self._listener: asyncio.Server | None = None
        self._thread: threading.Thread | None = None

    # What it saw

    @property
    def url(self) -> str:
        """Where it listens, such as `"http://127.0.0.1:50123"`; known once it was started."""
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the first start."""
        return self._port

    @property
    def open_connections(self) -> int:
        """Connections open now."""
        return len(self._open)

    @property
    def in_flight(self) -> int:
        """Embedding requests received and not answered, those waiting for a slot or a gate included."""
        return len(self._in_flight)

    @property
    def batches(self) -> list[list[str]]:
        """The texts of each embedding request, in order of arrival, refused ones included."""
        return [request.texts for request in list(self.requests) if request.embeds]

    async def wait_for(self, condition: Condition, timeout: float = 10.0) -> None:
        """Wait until `condition()` holds.

        It is called whenever the server's state changes, on the server's thread.

        Raises:
            TimeoutError: It did not hold within `timeout` seconds of the running loop's clock.
        """
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._watch.until(condition)), timeout)
        except (TimeoutError, asyncio.TimeoutError):
            raise self._late(timeout) from None

    def wait(self, condition: Condition, timeout: float = 10.0) -> None:
        """Do the same as `wait_for`, for a server on a thread of its own."""
        future = self._watch.until(condition)
        try:
            future.result(timeout)
        except (TimeoutError, FutureTimeoutError):
            future.cancel()
            raise self._late(timeout) from None

    # What it is told

    def answer(self, *answers: Answer) -> None:
        """Queue answers for the next embedding requests, one each in order of arrival."""
        self._answers.extend(answers)

    def hold(self) -> Gate:
        """Hold the embedding requests that arrive until the gate is opened: `with server.hold(): ...`."""
        self._gate = Gate()
        return self._gate

    # Its life

    async def __aenter__(self) -> Self:
        await self.astart()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.astop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def astart(self) -> None:
        """Listen, on the current event loop."""
        self._loop = asyncio.get_running_loop()
        self._slot = contextlib.nullcontext() if self._slots is None else asyncio.Semaphore(self._slots)
        self._listener = await self._loop.create_server(
            self._connection, "127.0.0.1", self._port, ssl=self._ssl, backlog=1024
        )
        self._port = self._listener.sockets[0].getsockname()[1]

    async def astop(self) -> None:
        """Stop listening, drop all work, cut all connections; does nothing when it does not run.

        Raises:
            Exception: What `script`, or a function in an `Answer`, raised first.
        """
        listener, self._listener = self._listener, None
        if listener is None:
            return
        await self._stop_listening(listener)
        for task in self._tasks:
            task.cancel()
        for connection in self._open:
            connection.drop()
        await asyncio.gather(
            *self._tasks, *(connection.gone for connection in self._open), return_exceptions=True
        )
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    async def arestart(self) -> None:
        """Stop, and start on the same port."""
        await self.astop()
        await self.astart()

    def start(self) -> None:
        """Listen, on a new thread."""
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(started)), name="EmbeddingServer", daemon=True
        )
        self._thread.start()
        started.result()

    def stop(self) -> None:
        """Do the same as `astop`, and join the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(self.astop(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._leave.set)
            thread.join()

    def restart(self) -> None:
        """Stop, and start on the same port."""
        self.stop()
        self.start()

    async def _stop_listening(self, listener: asyncio.Server) -> None:
        # Closed at once, asyncio would leak a socket that was accepted in this turn of the loop; so first stop
        # accepting (only selector loops have this gap, and readers), then let it become a connection.
        with contextlib.suppress(NotImplementedError):
            self._loop.remove_reader(listener.sockets[0].fileno())
        await asyncio.sleep(0)
        listener.close()
        await asyncio.sleep(0)

    async def _live(self, started: Future[None]) -> None:
        self._leave = asyncio.Event()
        try:
            await self.astart()
        except OSError as error:
            started.set_exception(error)
        else:
            started.set_result(None)
            await self._leave.wait()

    # Its work

    def _connection(self) -> Connection:
        return Connection(self._manners, opened=self._opened, serve=self._serve, lost=self._lost)

    def _opened(self, connection: Connection) -> int:
        self.connections += 1
        self._open.add(connection)
        if self._listener is None:  # accepted while the server was being stopped
            connection.drop()
        self._watch.look()
        return self.connections

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._watch.look()

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

    def _late(self, timeout: float) -> TimeoutError:
        return TimeoutError(
            f"the condition did not hold within {timeout:g} s; the server saw {len(self.requests)} requests "
            f"({self.in_flight} in flight, {len(self.aborted)} aborted) on {self.connections} connections "
            f"({self.open_connections} open)"
        )
