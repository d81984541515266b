"""Every call ends: after others gave up, and through forks, signals and exits in the middle of the first use."""

from __future__ import annotations

import asyncio
import gc
import textwrap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from embedwire import (
    AuthenticationFailed,
    EmbeddingClient,
    EmbedwireError,
    RetryPolicy,
    SharedEmbeddingClient,
    UsageError,
)
from embedwire._queue.calls import SLICE
from embedwire._queue.records import Call
from embedwire.testing import Answer, EmbeddingServer, Gate, Request
from tests.helpers import finish, needs_fork, needs_signals, numbered, right, simulated
from tests.server.doors import own, shared
from tests.server.scripts import Script

TWICE = RetryPolicy(attempts=2, base=0.1)
BAD: dict[str, Answer] = {
    "a vector too few": Answer.items(lambda data: data[:-1]),
    "a vector too many": Answer.items(lambda data: [*data, data[0]]),
    "no numbers": Answer.vectors(lambda rows: [[] for _ in rows]),
    "a null": Answer.vectors(lambda rows: [[None, *row[1:]] for row in rows]),
    "another width": Answer.vectors(lambda rows: [rows[0] + rows[0], *rows[1:]]),
    "not JSON": Answer(body=b"<html>"),
    "not HTTP": Answer(raw=b"garbage\r\n\r\n"),
    "a 400": Answer.error(400, "no"),
    "a 401": Answer.error(401, "no"),
    "a 404": Answer.error(404, "no"),
    "a 413": Answer.error(413, "no"),
    "a 500": Answer.error(500, "no"),
    "a 503": Answer.error(503, "no"),
    "a 429": Answer.throttled(retry_after=5),
    "too large": Answer.too_large(600, 512),
    "hung up": Answer.hang_up(),
    "reset": Answer.reset(),
    "cut": Answer(cut=20),
    "a redirect": Answer.redirect("http://elsewhere.test/"),
}


def bad_for(size: int, bad: Answer) -> tuple[Callable[[Request], Answer | None], Gate]:
    """A script that answers requests of so many texts badly, and the gate that it opens first."""
    gate = Gate()
    held = replace(bad, gate=gate)
    return lambda request: held if request.embeds and len(request.texts) == size else None, gate


async def ended(*calls: asyncio.Future[Any]) -> None:
    """Waits until calls have ended, in whatever way, and each with an error of this package or none."""
    _, late = await asyncio.wait(calls, timeout=600)
    assert not late
    for call in calls:
        if not call.cancelled() and call.exception() is not None:
            assert isinstance(call.exception(), EmbedwireError)


async def embedded_again(client: EmbeddingClient, *texts: str) -> None:
    """Checks that each text gets its vector."""
    for text in texts:
        again = asyncio.ensure_future(client.embed_query(text))
        await ended(again)
        assert right([again.result()], [text])


@simulated
class TestGivenUp:
    """A text that somebody gave up can be asked for again."""

    @pytest.mark.parametrize("bad", BAD)
    async def test_in_a_batch_that_goes_wrong(self, bad: str, here: EmbeddingServer) -> None:
        """A text that was cancelled inside a batch whose reply is bad gets its vector when it is asked for again."""
        async with own(here, concurrency=1, max_retries=TWICE) as client:
            here.script, gate = bad_for(3, BAD[bad])
            with here.hold():
                calls = [asyncio.ensure_future(client.embed(["first"]))]
                await here.wait_for(lambda: here.in_flight == 1)
                calls += [asyncio.ensure_future(client.embed_query(text)) for text in ("a", "b", "x")]
                await asyncio.sleep(0.01)
            await here.wait_for(lambda: here.batches[-1] == ["a", "b", "x"])
            with gate:
                calls[-1].cancel()
                await asyncio.sleep(0.01)
            await ended(*calls)
            here.script = None
            await embedded_again(client, "x", "a", "b")

    @pytest.mark.parametrize("bad", ["a vector too few", "a 400", "a 500", "reset"])
    @pytest.mark.parametrize(
        "who", ["one of two callers", "a bulk call", "by its deadline", "with its client", "dropped"]
    )
    async def test_in_other_ways(self, who: str, bad: str, here: EmbeddingServer) -> None:
        """However a text was given up, and whoever wants it too, later callers get its vector."""
        arguments: dict[str, Any] = {"concurrency": 1, "max_retries": TWICE}
        leaving = own(here, **arguments, **({"deadline": 1.0} if who == "by its deadline" else {}))
        async with own(here, **arguments) as client:
            here.script, gate = bad_for(3, BAD[bad])
            with here.hold():
                calls = [asyncio.ensure_future(client.embed(["first"]))]
                await here.wait_for(lambda: here.in_flight == 1)
                if who == "a bulk call":
                    gone: asyncio.Future[Any] = asyncio.ensure_future(leaving.embed(["x", "y"]))
                    calls.append(asyncio.ensure_future(client.embed(["a"])))
                else:
                    gone = asyncio.ensure_future(leaving.embed_query("x"))
                    others = ("a", "b", "x") if who == "one of two callers" else ("a", "b")
                    calls += [asyncio.ensure_future(client.embed_query(text)) for text in others]
                await asyncio.sleep(0.01)
            await here.wait_for(lambda: len(here.batches[-1]) == 3)
            with gate:
                if who == "with its client":
                    await leaving.close()
                elif who == "by its deadline":
                    await asyncio.sleep(1)
                else:
                    gone.cancel()
                if who == "dropped":
                    del leaving
                    gc.collect()
                await asyncio.sleep(0.01)
            await asyncio.wait({gone}, timeout=600)
            await ended(*calls)
            here.script = None
            await embedded_again(client, "x", "y", "a")
        if who != "dropped":
            gone.cancelled() or gone.exception()
            await leaving.close()

    @pytest.mark.parametrize("where", ["queued", "on the wire", "paused", "loading", "asking", "limited"])
    async def test_wherever_it_was(self, where: str, here: EmbeddingServer) -> None:
        """A call that is cancelled wherever it waits gives back what it held: the next ones get their vectors."""
        arguments: dict[str, Any] = {"concurrency": 1}
        if where == "asking":
            arguments["model"] = None
        if where == "limited":
            arguments["rate_limit"] = 2
        slow = {"paused": Answer.throttled(retry_after=30), "loading": Answer.loading()}.get(
            where, Answer(delay=5)
        )
        async with own(here, **arguments) as client:
            here.script = lambda request: slow if request.embeds or where == "asking" else None
            for round_ in range(12):  # more than there are places of any kind
                calls = [asyncio.ensure_future(client.embed([f"{round_} {n}"])) for n in range(3)]
                await asyncio.sleep(1 if where != "limited" else 10)
                for call in calls[1:] if where == "queued" else calls:
                    call.cancel()
                await ended(*calls)
            here.script = None
            call = asyncio.ensure_future(client.embed(numbered(60)))
            await ended(call)
            assert right(call.result(), numbered(60))


@simulated
class TestAtOnce:
    """What ends badly is asked for again, or waited for by others, in that very moment."""

    @pytest.mark.parametrize("kind", ["query", "document"])
    async def test_a_large_call_that_fails_is_sent_again(self, kind: Any, here: EmbeddingServer) -> None:
        """The texts of a call that fails whole, and is let go of in slices, are embedded for who asks at once."""
        texts = numbered(10 * SLICE)
        async with own(here, batch_size=2000, concurrency=1) as client:
            await client.embed_query("warm")
            refused: list[Request] = []

            def script(request: Request) -> Answer | None:
                if texts[0] not in request.texts or refused:
                    return None
                refused.append(request)
                return BAD["a 401"]

            here.script = script
            large = asyncio.ensure_future(client.embed(texts, kind))
            await asyncio.sleep(0)
            other = asyncio.ensure_future(client.embed(["other"], kind))  # keeps the lane
            with pytest.raises(AuthenticationFailed):
                await large
            again = asyncio.ensure_future(client.embed(texts, kind))
            await ended(again, other)
            assert right(again.result(), texts)

    @pytest.mark.parametrize("concurrency", [1, 2, 5])
    async def test_base64_is_confirmed_after_a_pause(self, concurrency: int, here: EmbeddingServer) -> None:
        """While the request that confirms base64 pauses, those that wait for its outcome hold no slot."""
        failed: list[Request] = []

        def script(request: Request) -> Answer | None:
            if request.embeds and request.json["encoding_format"] == "float" and not failed:
                failed.append(request)
                return Answer.error(503, "busy")
            return None

        here.script = script
        async with own(here, encoding="base64", concurrency=concurrency, batch_size=1) as client:
            call = asyncio.ensure_future(client.embed(numbered(20)))
            await ended(call)
            assert right(call.result(), numbered(20))
            assert failed

    @pytest.mark.parametrize("busy", [False, True])
    async def test_clients_are_closed_one_after_the_other(self, busy: bool, here: EmbeddingServer) -> None:
        """Every call ends, in whatever moment of another visitor's end its client is closed."""
        for steps in range(20):
            first, second = own(here, api_key="a"), own(here, api_key="b")
            await asyncio.gather(first.embed_query("warm"), second.embed_query("warm"))
            with here.hold():
                calls = [asyncio.ensure_future(second.embed_query("b"))]
                if busy:
                    calls.append(asyncio.ensure_future(first.embed_query("a")))
                await here.wait_for(lambda: here.in_flight == len(calls))  # noqa: B023 - at once
                closing = asyncio.ensure_future(first.close())
                for _ in range(steps):
                    await asyncio.sleep(0)
                await second.close()
                await closing
                await ended(*calls)
                assert all(isinstance(call.exception(), UsageError) for call in calls)

    @pytest.mark.parametrize("kind", ["query", "document"])
    @pytest.mark.parametrize("nth", [1, 2, 40])
    async def test_no_memory_for_a_vector(
        self, nth: int, kind: Any, here: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where there is no memory for some callers' vectors, they are told, and nobody waits for ever."""
        put, puts = Call.put, 0

        def no_memory(call: Call, *arguments: Any) -> None:
            nonlocal puts
            puts += 1
            if puts == nth:
                raise MemoryError
            put(call, *arguments)

        async with own(here, batch_size=100, concurrency=1) as client:
            with here.hold():
                first = asyncio.ensure_future(client.embed_query("first"))
                await here.wait_for(lambda: here.in_flight == 1)
                texts = [[f"text {who}", "of all"] for who in range(40)]
                calls = [asyncio.ensure_future(client.embed(some, kind)) for some in texts]
                await asyncio.sleep(0)
            await first
            monkeypatch.setattr(Call, "put", no_memory)
            _, late = await asyncio.wait(calls, timeout=600)
            assert not late
            told = [call for call in calls if isinstance(call.exception(), MemoryError)]
            assert len(told) == 41 - nth  # who had its vectors before has them
            for call, some in zip(calls, texts, strict=True):
                assert call in told or right(call.result(), some)
            await embedded_again(client, "of all", "text 39", "last")


@pytest.mark.parametrize("bad", ["a vector too few", "a 400", "reset"])
def test_given_up_through_the_shared_client(bad: str, server: EmbeddingServer) -> None:
    """A text given up inside a batch that goes wrong is embedded for the shared client's next caller too."""

    async def main(client: SharedEmbeddingClient) -> None:
        server.script, gate = bad_for(3, BAD[bad])
        with server.hold():
            calls = [asyncio.ensure_future(client.aembed(["first"]))]
            await server.wait_for(lambda: server.in_flight == 1)
            calls += [asyncio.ensure_future(client.aembed_query(text)) for text in ("a", "b", "x")]
            await asyncio.sleep(0)  # each has been told to the loop thread
        await server.wait_for(lambda: server.batches[-1] == ["a", "b", "x"])
        with gate:
            calls[-1].cancel()
            await asyncio.wait(calls[-1:])
        await ended(*calls)
        server.script = None
        assert right([await asyncio.wait_for(client.aembed_query("x"), 20)], ["x"])

    with shared(server, concurrency=1, max_retries=TWICE) as client:
        asyncio.run(main(client))


def run(script: Script, prelude: str, code: str) -> None:
    """Runs a script to its last line."""
    assert finish(script(prelude + textwrap.dedent(code) + "print('done')\n"), timeout=25) == "done\n"


# Something is done in the middle of the first use, when a module is looked for that comes with it.
MODULES = ["aiohttp", "aiohttp.client", "aiohttp.connector"]
AT = """
import contextlib

class At:
    def __init__(self, name, do):
        self.name, self.do = name, do
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            sys.meta_path.remove(self)
            self.do()

FIRST = {
    "shared": lambda: make().embed(texts("first")),
    "async": lambda: asyncio.run(make().aembed(texts("first"))),
    "own": lambda: asyncio.run(first(EmbeddingClient)),
}

async def first(kind):
    async with make(kind) as client:
        return await client.embed(texts("first"))
"""


@needs_fork
class TestForkDuringTheFirstUse:
    """A child forked in the middle of the first use embeds, and so does its parent."""

    @pytest.mark.parametrize("door", ["shared", "async", "own"])
    @pytest.mark.parametrize("module", MODULES)
    def test_in_another_thread(self, module: str, door: str, script: Script) -> None:
        """A fork while another thread is in its first use hangs neither the child nor the parent."""
        code = f"""
            reached, results = threading.Event(), []
            At({module!r}, reached.set)
            thread = threading.Thread(target=lambda: results.append(FIRST[{door!r}]()))
            thread.start()
            reached.wait()
            child = os.fork()
            if not child:
                signal.alarm(15)  # where it hangs, it ends
                os._exit(0 if all(right(use(), texts("first")) for use in FIRST.values()) else 1)
            assert os.waitpid(child, 0)[1] == 0
            thread.join()
            assert right(results[0], texts("first"))
            assert right(make().embed(texts("after")), texts("after"))
            """
        run(script, AT, code)

    @pytest.mark.parametrize("door", ["shared", "async", "own"])
    @pytest.mark.parametrize("module", MODULES)
    def test_by_a_signal_handler(self, module: str, door: str, script: Script) -> None:
        """A fork by a signal handler that interrupts the first use hangs neither the child nor the parent."""
        code = f"""
            def fork(*_):
                child = os.fork()
                if not child:
                    signal.alarm(15)
                    os._exit(0 if right(make().embed(texts("child")), texts("child")) else 1)
                children.append(child)

            children = []
            signal.signal(signal.SIGUSR1, fork)
            At({module!r}, lambda: os.kill(os.getpid(), signal.SIGUSR1))
            assert right(FIRST[{door!r}](), texts("first"))
            assert [os.waitpid(child, 0)[1] for child in children] == [0]
            """
        run(script, AT, code)


@needs_signals
class TestSignalDuringTheFirstUse:
    """A signal handler may do with a client whatever other code may, also in the middle of the first use."""

    @pytest.mark.parametrize("inside", ["shared", "async thread"])
    @pytest.mark.parametrize("door", ["shared", "async", "own"])
    @pytest.mark.parametrize("module", MODULES)
    def test_that_embeds(self, module: str, door: str, inside: str, script: Script) -> None:
        """A signal handler that embeds while the first use is under way gets its vectors, as does the first."""
        code = f"""
            def handler(*_):
                if {inside!r} == "shared":
                    done.append(right(make().embed(texts("inside")), texts("inside")))
                else:
                    thread = threading.Thread(target=lambda: done.append(right(FIRST["own"](), texts("first"))))
                    thread.start()
                    thread.join()

            done = []
            signal.signal(signal.SIGUSR1, handler)
            At({module!r}, lambda: os.kill(os.getpid(), signal.SIGUSR1))
            assert right(FIRST[{door!r}](), texts("first"))
            assert done == [True]
            """
        run(script, AT, code)

    @pytest.mark.parametrize("door", ["shared", "async", "own"])
    @pytest.mark.parametrize("module", MODULES)
    def test_that_interrupts(self, module: str, door: str, script: Script) -> None:
        """A first use that was interrupted is followed by one that embeds."""
        code = f"""
            def handler(*_):
                raise InterruptedError

            signal.signal(signal.SIGUSR1, handler)
            At({module!r}, lambda: os.kill(os.getpid(), signal.SIGUSR1))
            with contextlib.suppress(InterruptedError):
                FIRST[{door!r}]()
            assert all(right(use(), texts("first")) for use in FIRST.values())
            """
        run(script, AT, code)


EXITS = ["SystemExit", "KeyboardInterrupt"]
STRICT = """
class Strict(logging.Handler):
    def __init__(self, at, error):
        super().__init__()
        self.at, self.error = at, error

    def emit(self, record):
        self.at -= 1
        if not self.at:
            raise self.error

def outcome(who):
    got = []

    def call():
        try:
            got.append("right" if right(client.embed(texts(who)), texts(who)) else "wrong")
        except UsageError:
            got.append("told")

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(10)
    return got[0] if got else "hangs"
"""


class TestExitOnTheLoopThread:
    """What ends a program, raised on the loop thread, ends neither that thread nor anybody's wait."""

    @pytest.mark.parametrize("error", EXITS)
    def test_by_a_log_handler(self, error: str, script: Script, server: EmbeddingServer) -> None:
        """A log handler that exits at a warning fails the call that it was about; the next one is embedded."""
        code = f"""
            logging.getLogger("embedwire").addHandler(Strict(1, {error}))
            client = make()
            assert outcome("first") in ("told", "right")
            assert [outcome(who) for who in "abc"] == ["right"] * 3
            """
        server.answer(Answer.error(500, "no"))
        run(script, STRICT, code)

    @pytest.mark.parametrize("error", EXITS)
    def test_at_any_record(self, error: str, script: Script, server: EmbeddingServer) -> None:
        """Whichever of its records a log handler exits at, every call ends, and later ones are embedded."""
        code = f"""
            logger = logging.getLogger("embedwire")
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
            for at in range(1, 9):
                handler = Strict(at, {error})
                logger.addHandler(handler)
                client = make(model=None, encoding="auto", max_retries=3)
                assert outcome(f"first {{at}}") in ("told", "right"), at
                assert outcome(f"second {{at}}") in ("told", "right"), at
                logger.removeHandler(handler)
                assert outcome(f"third {{at}}") == "right", at
                client.close()
            """
        met = set()

        def script_of_server(request: Request) -> Answer | None:
            """A 500 at the first sight of each first text."""
            text = request.texts[0] if request.embeds else ""
            if text in met or not text.startswith("first"):
                return None
            met.add(text)
            return Answer.error(500, "no") if text.endswith(" 0") else None

        server.script = script_of_server
        run(script, STRICT, code)

    @pytest.mark.parametrize(
        "what", ["sys.exit()", "raise KeyboardInterrupt", "asyncio.get_running_loop().stop()"]
    )
    def test_by_a_function_passed_in(self, what: str, script: Script) -> None:
        """A function passed as `api_key` that exits, or stops the loop, makes nobody wait for ever."""
        code = f"""
            def key():
                if bad:
                    bad.pop()
                    {what}
                return "key"

            bad = [1]
            client = make(api_key=key, concurrency=1)
            assert outcome("first") in ("told", "right")
            assert [outcome(who) for who in "abc"] == ["right"] * 3
            """
        run(script, STRICT, code)

    def test_others_are_not_hit(self, script: Script, server: EmbeddingServer) -> None:
        """Calls that wait while the loop thread is hit get their vectors, or are told; none waits for ever."""
        code = """
            logging.getLogger("embedwire").addHandler(Strict(1, SystemExit))
            client = make(concurrency=2)
            got = []
            threads = [
                threading.Thread(target=lambda n=n: got.append(outcome(str(n))), daemon=True) for n in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert set(got) <= {"right", "told"}, got
            assert outcome("after") == "right"
            """
        server.answer(Answer.error(500, "no"))
        run(script, STRICT, code)
