"""`on_event=`: hooks are told what happens, in order, each thing once, and never harm a call."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from embedwire import (
    DeadlineExceeded,
    EmbeddingClient,
    InputError,
    Overloaded,
    RetryPolicy,
    SharedEmbeddingClient,
    TextRefused,
    Timeouts,
    UsageError,
    events,
)
from embedwire._clients import mailbox
from embedwire.events import (
    BatchSplit,
    CallFinished,
    CallStarted,
    ConcurrencyReduced,
    Event,
    EventsLost,
    LimitLearnt,
    Noticed,
    RequestFinished,
    RequestRepeated,
    RequestStarted,
    ServerSetAside,
    ServerTakenBack,
    SessionOpened,
)
from embedwire.testing import Answer, EmbeddingServer, Gate, Request
from tests.helpers import copies, finish, needs_fork, numbered, pickled, right
from tests.server.doors import Open, own, shared
from tests.server.fleet import client_of, fleet
from tests.server.scripts import Script

E = TypeVar("E", bound=Event)
seen: list[Event] = []


def of_this_module(event: Event) -> None:
    """A hook that a pickle can carry."""
    seen.append(event)


def of(kind: type[E], told: list[Event]) -> list[E]:
    """The events of a kind."""
    return [event for event in told if isinstance(event, kind)]


def kinds(told: list[Event]) -> list[type[Event]]:
    """What happened, in order."""
    return [type(event) for event in told]


async def until(true: Callable[[], object]) -> None:
    """Waits for what a thread does."""
    while not true():  # noqa: ASYNC110 - of a thread
        await asyncio.sleep(0.001)


def no_hook_runs() -> bool:
    """Whether no hook has a thread."""
    return not any(thread.name == "embedwire-hook" for thread in threading.enumerate())


class TestOneCall:
    """From a call to its vectors."""

    async def test_in_order(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A call's beginning, the session, the request's beginning and end, and the call's end, with their numbers."""
        told: list[Event] = []
        doors = open_doors(on_event=told.append, dimensions=8)
        texts = ["one", "two words", "two words"]
        await doors.embed(texts)
        await doors.close()
        assert kinds(told) == [CallStarted, RequestStarted, SessionOpened, RequestFinished, CallFinished]
        started, sent, opened, answered, finished = told
        url = f"{server.url}/v1"
        assert {event.server for event in told} == {url}  # type: ignore[attr-defined]
        assert isinstance(started, CallStarted)
        assert (started.model, started.kind, started.texts, started.characters) == ("m", "document", 3, 21)
        assert started.dimensions == 8
        assert isinstance(sent, RequestStarted)
        assert (sent.calls, sent.texts, sent.characters) == ((started.call,), 2, 12)
        assert (sent.attempt, sent.in_flight, sent.model, sent.kind) == (1, 1, "m", "document")
        assert isinstance(opened, SessionOpened)
        assert isinstance(answered, RequestFinished)
        assert (answered.request, answered.calls) == (sent.request, sent.calls)
        assert (answered.status, answered.error, answered.tokens) == (200, None, 7)
        assert (answered.reply_model, answered.texts, answered.attempt) == ("m", 2, 1)
        assert isinstance(finished, CallFinished)
        assert (finished.call, finished.outcome, finished.error) == (started.call, "done", None)
        assert (finished.texts, finished.embedded, finished.requests, finished.tokens) == (3, 3, 1, 7)
        assert 0 <= finished.waited <= finished.seconds
        assert answered.seconds <= finished.seconds
        assert [event.at for event in told] == sorted(event.at for event in told)
        assert abs(told[-1].at - time.time()) < 60

    async def test_a_query(self, open_doors: Open) -> None:
        """A query is told of as one."""
        told: list[Event] = []
        doors = open_doors(on_event=told.append)
        await doors.embed_query("a query")
        await doors.close()
        assert {event.kind for event in of(CallFinished, told) + of(RequestFinished, told)} == {"query"}  # type: ignore[operator]

    async def test_a_stream(self, open_doors: Open) -> None:
        """Each piece of a stream is a call."""
        told: list[Event] = []
        doors = open_doors(on_event=told.append, batch_size=4)
        await doors.pieces(numbered(10))
        await doors.close()
        assert sorted(event.texts for event in of(CallFinished, told)) == [2, 4, 4]

    async def test_the_model_that_is_served(self, here: EmbeddingServer) -> None:
        """Where none was named, requests and the end of the call tell the one that the server serves."""
        told: list[Event] = []
        async with own(here, model=None, on_event=told.append) as client:
            await client.embed(["a"])
        assert [event.model for event in of(CallStarted, told)] == [None]
        assert [event.model for event in of(RequestFinished, told)] == ["test-model"]
        assert [(event.model, event.reply_model) for event in of(CallFinished, told)] == [("test-model",) * 2]

    async def test_no_texts(self, here: EmbeddingServer) -> None:
        """Nothing happens where there is nothing to embed."""
        told: list[Event] = []
        async with own(here, on_event=told.append) as client:
            await client.embed([])
        assert told == []


class TestTrouble:
    """What goes wrong."""

    async def test_a_repeat(self, here: EmbeddingServer) -> None:
        """A failed request is told of, then why it is sent again and when, then the second one."""
        told: list[Event] = []
        here.answer(Answer.error(500, "no"))
        async with own(here, max_retries=RetryPolicy(base=0), on_event=told.append) as client:
            await client.embed(["a"])
        first, second = of(RequestFinished, told)
        assert (first.status, first.error, first.attempt) == (500, "ServerUnavailable", 1)
        assert (second.status, second.error, second.attempt) == (200, None, 2)
        (again,) = of(RequestRepeated, told)
        assert (again.attempt, again.attempts, again.status, again.error) == (2, 3, 500, "ServerUnavailable")
        assert again.pause >= 0
        assert again.why
        assert kinds(told).index(RequestRepeated) == kinds(told).index(RequestFinished) + 1

    async def test_a_failed_call(self, here: EmbeddingServer) -> None:
        """A call that fails tells what it raised, and how many texts were done."""
        told: list[Event] = []
        here.script = lambda request: Answer.error(400, "bad") if "bad" in str(request.texts) else None
        async with own(here, batch_size=1, concurrency=1, on_event=told.append) as client:
            with pytest.raises(TextRefused) as raised:
                await client.embed(["a", "b", "bad"])
        (finished,) = of(CallFinished, told)
        assert (finished.outcome, finished.error) == ("failed", type(raised.value).__name__)
        assert (finished.texts, finished.embedded) == (3, 2)

    async def test_no_reply(self, here: EmbeddingServer) -> None:
        """A request that got no reply has no status."""
        told: list[Event] = []
        here.answer(Answer.hang())
        async with own(here, max_retries=0, timeout=Timeouts(total=0.05), on_event=told.append) as client:
            with pytest.raises(Exception, match="timeout"):
                await client.embed(["a"])
        (finished,) = of(RequestFinished, told)
        assert (finished.status, finished.error) == (None, "RequestTimeout")

    async def test_a_cancelled_call(self, open_doors: Open, server: EmbeddingServer) -> None:
        """A caller that leaves ends its call and the request."""
        told: list[Event] = []
        doors = open_doors(on_event=told.append, deadline=0.1)
        with server.hold():
            with pytest.raises(DeadlineExceeded):
                await doors.embed(["a"])
            await doors.close()
        assert [(event.outcome, event.error) for event in of(CallFinished, told)] == [
            ("failed", "DeadlineExceeded")
        ]
        assert [event.error for event in of(RequestFinished, told)] == ["Cancelled"]

    async def test_a_caller_that_leaves(self, server: EmbeddingServer) -> None:
        """It is told so, of its call and of the request."""
        told: list[Event] = []
        async with own(server, on_event=told.append) as client:
            with server.hold():
                task = asyncio.ensure_future(client.embed(["a"]))
                await server.wait_for(lambda: server.in_flight == 1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        assert [event.outcome for event in of(CallFinished, told)] == ["cancelled"]
        assert [event.error for event in of(RequestFinished, told)] == ["Cancelled"]

    async def test_a_closed_client(self, server: EmbeddingServer) -> None:
        """A call that a close ends is told of."""
        told: list[Event] = []
        client = own(server, on_event=told.append)
        with server.hold():
            task = asyncio.ensure_future(client.embed(["a"]))
            await server.wait_for(lambda: server.in_flight == 1)
            await client.close()
        with pytest.raises(UsageError):
            await task
        assert [event.error for event in of(CallFinished, told)] == ["UsageError"]

    async def test_a_full_queue(self, server: EmbeddingServer) -> None:
        """A call that finds no room begins and fails."""
        told: list[Event] = []
        async with own(server, max_queued=1, on_event=told.append) as client:
            with server.hold():
                first = asyncio.ensure_future(client.embed(["a"]))
                await server.wait_for(lambda: server.in_flight == 1)
                with pytest.raises(Overloaded):
                    await client.embed(["b"])
            await first
        assert [event.error for event in of(CallFinished, told)] == ["Overloaded", None]

    async def test_a_split(self) -> None:
        """A batch that is too large is divided, the limit that was learnt is told."""
        told: list[Event] = []
        async with (
            EmbeddingServer(max_batch=4) as server,
            own(server, batch_size=8, on_event=told.append) as client,
        ):
            await client.embed(numbered(8))
        (split,) = of(BatchSplit, told)
        assert (split.parts, split.kind) == ((4, 4), "document")
        assert split.why
        (limit,) = of(LimitLearnt, told)
        assert (limit.of, limit.limit, limit.model) == ("texts", 4, "m")

    async def test_less_in_flight(self, here: EmbeddingServer) -> None:
        """A server that has too much to do gets fewer requests at once."""
        told: list[Event] = []
        here.answer(Answer.hang())
        policy: dict[str, Any] = {"max_retries": RetryPolicy(base=0), "timeout": Timeouts(total=0.05)}
        async with own(here, concurrency=4, batch_size=1, on_event=told.append, **policy) as client:
            await client.embed(numbered(8))
        assert of(ConcurrencyReduced, told)
        assert all(0 < event.allowed < 4 for event in of(ConcurrencyReduced, told))

    async def test_a_new_session(self, here: EmbeddingServer) -> None:
        """After a connection error there is a new session."""
        told: list[Event] = []
        async with own(here, max_retries=RetryPolicy(base=0), on_event=told.append) as client:
            await client.embed_query("first")
            here.answer(Answer(body=b"{}", cut=1, then="reset"))
            await client.embed_query("second")
        assert len(of(SessionOpened, told)) == 2

    async def test_what_is_logged(self, here: EmbeddingServer) -> None:
        """What is else worth knowing, and logged, is told in words."""
        told: list[Event] = []
        here.answer(Answer.vectors(lambda rows: [[0.0] * 8, *rows[1:]]))
        async with own(here, on_event=told.append) as client:
            await client.embed(["a", "b"])
        assert [(event.level, event.what) for event in of(Noticed, told)] == [
            ("warning", "it gave 1 of 2 texts a vector of zeros only")
        ]

    @pytest.mark.parametrize("how", ["truncate", "average"])
    async def test_long_texts_are_one_call(self, how: str, here: EmbeddingServer) -> None:
        """A call whose texts are too long is one call, over when all of them have their vectors."""
        told: list[Event] = []

        def script(request: Request) -> Answer | None:
            most = max(map(len, request.texts), default=0)
            return Answer.too_large(most, 500) if most > 500 else None

        here.script = script
        async with own(here, too_long=how, on_event=told.append) as client:
            await client.embed(["short", "long " * 200])
        (started,), (finished,) = of(CallStarted, told), of(CallFinished, told)
        assert started.call == finished.call
        assert (finished.outcome, finished.texts, finished.embedded) == ("done", 2, 2)
        assert finished.requests == len(of(RequestFinished, told)) == len(here.requests) > 1
        assert {call for event in of(RequestFinished, told) for call in event.calls} == {started.call}


class TestSeveralServers:
    """What several servers are to each other."""

    async def test_set_aside_and_taken_back(self) -> None:
        """A server that goes away is set aside, and taken back when it is there again."""
        told: list[Event] = []
        async with fleet(2) as servers, client_of(servers, batch_size=1, on_event=told.append) as client:
            await client.embed(numbered(4))
            await servers[0].astop()
            while not of(ServerSetAside, told):
                await client.embed(numbered(8))
            await servers[0].astart()
            while not of(ServerTakenBack, told):
                await client.embed(numbered(8))
        url = f"{servers[0].url}/v1"
        assert [(event.server, event.state) for event in of(ServerSetAside, told)] == [(url, "set aside")]
        assert [event.server for event in of(ServerTakenBack, told)] == [url]

    async def test_calls_name_all(self) -> None:
        """A call names all its servers, a request the one that it went to."""
        told: list[Event] = []
        async with fleet(2) as servers, client_of(servers, on_event=told.append) as client:
            await client.embed(["a"])
        urls = [f"{server.url}/v1" for server in servers]
        assert of(CallFinished, told)[0].server == ", ".join(urls)
        assert of(RequestFinished, told)[0].server in urls


class TestSharedRequests:
    """Clients of equal settings share requests."""

    async def test_each_clients_hooks(self, server: EmbeddingServer) -> None:
        """A request with texts of two clients is told to the hooks of both, once; of the calls each hears its own."""
        one: list[Event] = []
        two: list[Event] = []
        both: list[Event] = []
        first = shared(server, concurrency=1, on_event=[one.append, both.append])
        second = shared(server, concurrency=1, on_event=[two.append, both.append])
        silent = shared(server, concurrency=1)
        assert first == second == silent
        gate = Gate()
        server.answer(Answer.hold(gate))
        plug = asyncio.ensure_future(silent.aembed_query("plug"))
        await server.wait_for(lambda: server.in_flight == 1)
        calls = [client.aembed_query(name) for client, name in ((first, "a"), (second, "b"), (silent, "c"))]
        waiting = asyncio.gather(*calls)
        await asyncio.sleep(0.05)
        gate.open()
        await asyncio.gather(plug, waiting)
        for client in (first, second, silent):
            await client.aclose()
        assert [sorted(batch) for batch in server.batches] == [["plug"], ["a", "b", "c"]]
        for told in (one, two, both):
            (request,) = of(RequestFinished, told)
            assert (request.texts, len(request.calls)) == (3, 2)
        assert len(of(CallFinished, one)) == len(of(CallFinished, two)) == 1
        assert len(of(CallFinished, both)) == 2
        assert {event.call for event in of(CallFinished, both)} == set(of(RequestFinished, both)[0].calls)
        assert len({request.connection for request in server.requests}) == 1

    async def test_who_joins_late(self, server: EmbeddingServer) -> None:
        """A call for a text that is on its way already hears of the request's end, and did not wait."""
        one: list[Event] = []
        two: list[Event] = []
        first, second = shared(server, on_event=one.append), shared(server, on_event=two.append)
        with server.hold():
            calls = [asyncio.ensure_future(first.aembed(["a"]))]
            await server.wait_for(lambda: server.in_flight == 1)
            calls.append(asyncio.ensure_future(second.aembed(["a"])))
            await until(lambda: two)
            await asyncio.sleep(0.02)
        await asyncio.gather(*calls)
        await asyncio.gather(first.aclose(), second.aclose())
        assert len(server.batches) == 1
        assert kinds(two) == [CallStarted, RequestFinished, CallFinished]
        finished = of(CallFinished, two)[0]
        assert (finished.waited, finished.requests) == (0.0, 1)

    async def test_who_left(self, server: EmbeddingServer) -> None:
        """A client that was closed hears no more of what happens at the server."""
        one: list[Event] = []
        first, second = shared(server, on_event=one.append), shared(server)
        await first.aembed(["a"])
        await first.aclose()
        before = len(one)
        await second.aembed(["b"])
        await second.aclose()
        assert len(one) == before


class TestHarmless:
    """A hook never harms a call."""

    async def test_one_that_raises(
        self, open_doors: Open, server: EmbeddingServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its error is told once, without its words; it goes on being told, and so are the others."""
        told: list[Event] = []

        def broken(event: Event) -> None:
            told.append(event)
            raise ValueError("a secret of the hook")

        others: list[Event] = []
        doors = open_doors(on_event=[broken, others.append])
        texts = numbered(12)
        assert right(await doors.embed(texts), texts)
        await doors.close()
        assert kinds(told) == kinds(others)
        messages = [record.getMessage() for record in caplog.records if "on_event" in record.getMessage()]
        assert len(messages) == 1
        assert "broken of on_event= raised ValueError" in messages[0]
        assert "secret" not in caplog.text

    async def test_one_that_ends_the_program(self, open_doors: Open) -> None:
        """SystemExit and KeyboardInterrupt of a hook end nothing."""
        told: list[Event] = []

        def leave(event: Event) -> None:
            told.append(event)
            raise SystemExit(3)

        doors = open_doors(on_event=leave)
        await doors.embed(["a"])
        await doors.embed(["b"])
        await doors.close()
        assert len(of(CallFinished, told)) == 2

    async def test_one_that_blocks(self, open_doors: Open) -> None:
        """Calls go on, other hooks are told, and a close waits for it for a second at most."""
        gate = threading.Event()
        others: list[Event] = []
        doors = open_doors(on_event=[lambda _: gate.wait(), others.append])
        for number in range(20):
            await doors.embed([f"text {number}"])
        await until(lambda: len(of(CallFinished, others)) == 20)
        await doors.close()
        gate.set()

    async def test_one_that_is_too_slow(self, here: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """The oldest events are kept, in order; how many were lost comes in their place."""
        monkeypatch.setattr(mailbox, "MOST", 5)
        gate, told = threading.Event(), list[Event]()

        def slow(event: Event) -> None:
            gate.wait()
            told.append(event)

        async with own(here, on_event=slow) as client:
            for number in range(4):
                await client.embed([f"text {number}"])
            gate.set()
            await until(lambda: len(told) >= 6)
            await client.embed(["last"])
        lost = of(EventsLost, told)
        assert sum(event.count for event in lost) == 4 * 4 + 1 - 6
        assert kinds(told)[6] is EventsLost
        assert kinds(told)[-1] is CallFinished

    async def test_one_that_embeds(self, server: EmbeddingServer) -> None:
        """A hook may embed and close: it runs in a thread of its own, which does not wait for itself."""
        told: list[Event] = []
        other = shared(server)

        def embed(event: Event) -> None:
            if isinstance(event, CallFinished):
                other.embed(["from the hook"])
                client.close()
                told.append(event)

        client = shared(server, on_event=embed)
        await client.aembed(["a"])
        await until(lambda: told)
        await other.aclose()

    async def test_no_thread_without_a_hook(self, open_doors: Open) -> None:
        """Where there is no hook there is no thread, and that of a hook ends when there is nothing to tell."""
        await until(no_hook_runs)
        doors = open_doors()
        await doors.embed(["a"])
        assert no_hook_runs()
        doors = open_doors(on_event=lambda _: None)
        await doors.embed(["a"])
        await until(no_hook_runs)

    async def test_dropped_clients(self, server: EmbeddingServer) -> None:
        """A client per request, each with a hook of its own that is forgotten, leaves nothing behind."""
        before = len(mailbox._mailboxes)
        for number in range(20):
            client = shared(server, on_event=lambda _: None)
            await client.aembed([f"text {number}"])
            del client
        await until(no_hook_runs)
        await until(lambda: len(mailbox._mailboxes) <= before + 1)


class TestArguments:
    """What `on_event=` takes."""

    @pytest.mark.parametrize("kind", [EmbeddingClient, SharedEmbeddingClient])
    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            (5, "on_event must be a function, a list of functions or None, not 5"),
            ("print", "not a str"),
            ([print, "print"], "on_event must be a function, or a list of functions, not a str"),
            (Gate, r"on_event takes an object, not its class: Gate\(…\)"),
        ],
    )
    def test_something_else(self, kind: Any, wrong: Any, says: str) -> None:
        """It is refused when the client is made, with the cure."""
        with pytest.raises(InputError, match=says):
            kind("http://localhost:8080", on_event=wrong)

    def test_an_async_function(self) -> None:
        """A function of coroutines would never run: it is refused."""

        async def hook(event: Event) -> None: ...

        with pytest.raises(InputError, match="takes no async function"):
            SharedEmbeddingClient("http://localhost:8080", on_event=hook)

    async def test_the_same_twice(self, here: EmbeddingServer) -> None:
        """A hook that is named twice is told once."""
        told: list[Event] = []
        async with own(here, on_event=[told.append, told.append]) as client:
            await client.embed(["a"])
        assert len(of(CallFinished, told)) == 1

    def test_change_nothing_else(self) -> None:
        """Clients that differ in hooks alone are equal, and have the same name of a cache."""
        plain = SharedEmbeddingClient("http://localhost:8080", model="m")
        hooked = SharedEmbeddingClient("http://localhost:8080", model="m", on_event=print)
        assert plain == hooked
        assert hash(plain) == hash(hooked)
        assert plain.cache_name("query") == hooked.cache_name("query")
        assert "print" not in repr(hooked)

    @copies
    async def test_go_along_with_copies(self, again: Any, server: EmbeddingServer) -> None:
        """A copy, or what comes out of a pickle, tells the same function."""
        seen.clear()
        twin = again(shared(server, on_event=of_this_module))
        await twin.aembed(["a"])
        await twin.aclose()
        assert len(of(CallFinished, seen)) == 1

    @pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
    async def test_copies_share_any_hook(self, again: Any, server: EmbeddingServer) -> None:
        """A copy in this process tells what the original tells, lambdas and methods too."""
        told: list[Event] = []
        twin = again(shared(server, on_event=[told.append, lambda _: None]))
        await twin.aembed(["a"])
        await twin.aclose()
        assert len(of(CallFinished, told)) == 1

    def test_what_no_pickle_carries(self) -> None:
        """A lambda is refused where it is pickled, with the cure; a client without hooks is pickled as ever."""
        client = SharedEmbeddingClient("http://localhost:8080", on_event=lambda _: None)
        with pytest.raises(
            InputError, match="on_event cannot be pickled as it is; pass functions of a module"
        ):
            pickle.dumps(client)
        assert pickled(SharedEmbeddingClient("http://localhost:8080")) == client


class TestProcesses:
    """A fork, and the end of a process."""

    @needs_fork
    def test_a_forked_child(self, script: Script) -> None:
        """It tells its own calls, and none of the parent's, in a thread of its own."""
        process = script("""
            told = []
            client = make(on_event=lambda event: told.append((os.getpid(), type(event).__name__, event)))
            client.embed(texts("before"))
            child = os.fork()
            mine = len(told)
            client.embed(["a", "b", "c"])
            client.close()
            calls = [event.texts for pid, name, event in told[mine:] if name == "CallFinished"]
            assert {pid for pid, _, _ in told[mine:]} == {os.getpid()}
            assert calls in ([3], [60, 3]) if child else calls == [3], calls
            if child:
                assert os.waitpid(child, 0)[1] == 0
            else:
                os._exit(0)
            """)
        finish(process)

    def test_the_end(self, script: Script) -> None:
        """What happened is told before the process ends, where the hook is quick enough; a hook that hangs is left."""
        process = script("""
            import time

            def slow(event):
                time.sleep(0.05)
                if type(event).__name__ == "CallFinished":
                    print("told")

            client = make(on_event=[slow, lambda event: threading.Event().wait()])
            client.embed(["a"])
            """)
        assert finish(process) == "told\n"


def test_events_are_frozen_records() -> None:
    """Each event can be compared, is frozen, and says when it happened."""
    for name in events.__all__:
        kind = getattr(events, name)
        assert dataclasses.is_dataclass(kind)
        assert kind.__dataclass_params__.frozen
        assert "at" in {field.name for field in dataclasses.fields(kind)}


async def test_the_log_needs_no_hook(here: EmbeddingServer, caplog: pytest.LogCaptureFixture) -> None:
    """The log is told of all clients, at its levels; DEBUG tells of each batch once."""
    caplog.set_level(logging.DEBUG, "embedwire")
    here.answer(Answer.error(500, "no"))
    async with own(here, max_retries=RetryPolicy(base=0)) as client:
        await client.embed(["a"])
    levels = [(record.levelname, record.getMessage().split()[0]) for record in caplog.records]
    assert levels[:2] == [("DEBUG", "sending"), ("INFO", "new")]
    assert levels[2][0] == "WARNING"
    assert len(levels) == 3
