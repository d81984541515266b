"""Ends: of a client, of a stream's source, of the process; nothing is left open, and nobody meets a foreign error."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import numpy as np
import pytest

from embedwire import EmbeddingClient, InputError, SharedEmbeddingClient, UsageError
from embedwire.testing import EmbeddingServer
from tests.helpers import finish, numbered, right
from tests.server.doors import Doors, Open, own, shared
from tests.server.scripts import Script


async def by_cancel(close: Callable[[], Awaitable[None]]) -> None:
    """A task that closes, and is cancelled after its first step."""
    task = asyncio.ensure_future(close())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def by_cancel_at_once(close: Callable[[], Awaitable[None]]) -> None:
    """A task that closes, and is cancelled before its first step."""
    task = asyncio.ensure_future(close())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def by_cancel_twice(close: Callable[[], Awaitable[None]]) -> None:
    """A task that is cancelled again and again."""
    task = asyncio.ensure_future(close())
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def by_wait_for(close: Callable[[], Awaitable[None]]) -> None:
    """A close under a timeout that is over."""
    await asyncio.gather(asyncio.wait_for(close(), 0), return_exceptions=True)


async def by_scope(close: Callable[[], Awaitable[None]]) -> None:
    """A close in a scope of anyio that is cancelled already."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await close()


async def by_scope_later(close: Callable[[], Awaitable[None]]) -> None:
    """A close in a scope of anyio that is cancelled meanwhile; each await in it is cancelled again."""
    async with anyio.create_task_group() as group:
        group.start_soon(close)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        group.cancel_scope.cancel()


Cut = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
cuts = pytest.mark.parametrize(
    "cut", [by_cancel, by_cancel_at_once, by_cancel_twice, by_wait_for, by_scope, by_scope_later]
)


NOT_BEGUN = (by_cancel_at_once, by_wait_for, by_scope)  # where the close may not have taken its first step


class TestCloseThatIsCancelled:
    """Whoever cancels it, a close that was begun is done."""

    @pytest.mark.parametrize("kind", ["own", "shared"])
    @cuts
    async def test_leaves_nothing_open(
        self, cut: Cut, kind: str, server: EmbeddingServer, no_idle_limit: None
    ) -> None:
        """After a cancelled close no connection is left, with requests on the wire or without, and no word is said."""
        said: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        for busy in (True, False):
            client = own(server) if kind == "own" else shared(server)
            embed = client.embed if isinstance(client, EmbeddingClient) else client.aembed
            close = client.close if isinstance(client, EmbeddingClient) else client.aclose
            await asyncio.gather(*(embed([text]) for text in numbered(4)))
            assert server.open_connections > 0
            if busy:
                with server.hold():
                    calls = [asyncio.ensure_future(embed([f"{text}!"])) for text in numbered(4)]
                    await server.wait_for(lambda: server.in_flight == 4)
                    await cut(close)
                    if cut in NOT_BEGUN:
                        await close()  # it had not begun
                    ends = await asyncio.gather(*calls, return_exceptions=True)
                    assert {type(end) for end in ends} == {UsageError}
            else:
                await cut(close)
                if cut in NOT_BEGUN:
                    await close()
            await server.wait_for(lambda: server.open_connections == 0)
            await close()  # and again
            with pytest.raises(UsageError):
                await embed(["more"])
            del client, embed, close
            gc.collect()
            await asyncio.sleep(0)
        assert said == []

    @cuts
    async def test_and_repeated_waits_for_the_end(self, cut: Cut, server: EmbeddingServer) -> None:
        """A second close after a cancelled one waits until the first is done, and is silent."""
        client = own(server)
        with server.hold():
            call = asyncio.ensure_future(client.embed(["held"]))
            await server.wait_for(lambda: server.in_flight == 1)
            await cut(client.close)
            await client.close()
        await server.wait_for(lambda: server.open_connections == 0)
        assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], UsageError)


class TestCloseTwice:
    """Several closes of one client."""

    def test_from_many_threads(self, server: EmbeddingServer) -> None:
        """Eight threads that close one client at once all return; a call under way gets vectors or UsageError."""
        for _ in range(10):
            client = shared(server)
            client.embed(["used"])
            ends: list[object] = []
            together = threading.Barrier(9)

            def embed(
                client: SharedEmbeddingClient = client, ends: list[object] = ends, at: Any = together
            ) -> None:
                at.wait()
                try:
                    ends.append(right(client.embed(numbered(50)), numbered(50)))
                except UsageError:
                    ends.append(True)

            def close(
                client: SharedEmbeddingClient = client, ends: list[object] = ends, at: Any = together
            ) -> None:
                at.wait()
                client.close()
                ends.append(True)

            threads = [threading.Thread(target=close) for _ in range(8)] + [threading.Thread(target=embed)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            assert ends == [True] * 9
        server.wait(lambda: server.open_connections == 0)

    async def test_from_both_sides(self, server: EmbeddingServer) -> None:
        """A close on a loop and one in a thread, at once, are both fine."""
        client = shared(server)
        await client.aembed(["used"])
        await asyncio.gather(client.aclose(), asyncio.to_thread(client.close), client.aclose())
        await server.wait_for(lambda: server.open_connections == 0)


def failing(count: int, error: BaseException) -> Iterator[str]:
    """A source that fails after so many texts."""
    yield from numbered(count)
    raise error


async def failing_later(count: int, error: BaseException) -> AsyncIterator[str]:
    """An async source that fails after so many texts."""
    for text in numbered(count):
        yield text
        await asyncio.sleep(0)
    raise error


async def taken(doors: Doors, source: Any) -> tuple[int, BaseException | None]:
    """How many texts of a stream got their vectors, and how it ended."""
    count = 0

    def take(start: int, vectors: Any) -> None:
        nonlocal count
        assert start == count
        assert right(np.asarray(vectors), [f"text {at}" for at in range(start, start + len(vectors))])
        count += len(vectors)

    def sync() -> BaseException | None:
        try:
            for piece in doors.client.stream(source):  # type: ignore[union-attr]
                take(*piece)
        except Exception as error:
            return error
        return None

    if doors._kind == "sync":
        error = await asyncio.to_thread(sync)
        return count, error
    client = doors.client
    stream = client.stream(source) if isinstance(client, EmbeddingClient) else client.astream(source)
    try:
        async for piece in stream:
            take(*piece)
    except Exception as error:
        return count, error
    return count, None


class TestSource:
    """A stream's source that fails."""

    @pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 60, 500])
    async def test_gives_all_that_came_before(self, count: int, open_doors: Open) -> None:
        """Every text that a source gave before it failed gets its vector, and then its own error comes out."""
        doors = open_doors(batch_size=32)
        lost = ConnectionError("the database is gone")
        got = [await taken(doors, failing(count, lost))]
        if doors._kind != "sync":
            got.append(await taken(doors, failing_later(count, lost)))
        for texts, error in got:
            assert (texts, error) == (count, lost)

    @pytest.mark.parametrize("bad", [7, None, b"bytes", "\ud800"])
    async def test_gives_all_before_a_bad_text(self, bad: Any, open_doors: Open) -> None:
        """Every text before one that is no text gets its vector, and then the error names the bad one's index."""
        doors = open_doors(batch_size=32)
        count, error = await taken(doors, iter([*numbered(60), bad, "more"]))
        assert count == 60
        assert isinstance(error, InputError)
        assert "texts[60]" in str(error)


AT_EXIT = """
import atexit, logging, sys
logging.getLogger("asyncio").setLevel(logging.ERROR)  # of long steps on a busy machine
_, url, when, what, used = sys.argv

def bye():
    try:
        if what != "close":
            print(len(client.embed(["last", "words"])))
        if what != "embed":
            client.close()
            client.close()
        print("fine")
    except embedwire.UsageError as error:
        client.close()
        print("told", "ending" in str(error))

if when == "before the import":
    atexit.register(bye)
import embedwire
client = embedwire.SharedEmbeddingClient(url, model="test-model", encoding="float")
if when == "before the first use":
    atexit.register(bye)
if used == "True":
    client.embed(["x"])
if when == "after the first use":
    atexit.register(bye)
"""


AT_DEL = """
import logging, os, sys
import embedwire
logging.getLogger("asyncio").setLevel(logging.ERROR)  # of long steps on a busy machine
_, url, what, used = sys.argv

class Owner:
    def __init__(self):
        self.client = embedwire.SharedEmbeddingClient(url, model="test-model", encoding="float")

    def act(self, what):
        done = getattr(self.client, what)(*([["x"]] if what in ("embed", "stream") else []))
        return list(done or [])

    def __del__(self, what=what, told=embedwire.UsageError, out=os.write):
        try:
            self.act(what)
        except told:
            out(1, b"told ")
        except BaseException as error:
            out(1, repr(error).encode())
        out(1, b"done")

owner = Owner()
if used == "True":
    owner.act("embed")
"""


def started(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process in which any warning is an error."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class TestProcess:
    """The end of the process."""

    @pytest.mark.parametrize("used", [True, False])
    @pytest.mark.parametrize("what", ["close", "embed", "both"])
    @pytest.mark.parametrize("when", ["before the import", "before the first use", "after the first use"])
    def test_atexit(self, when: str, what: str, used: bool, server: EmbeddingServer) -> None:
        """A handler of ``atexit`` may close and embed; one registered before the import is told that it is too late."""
        said = finish(started(AT_EXIT, server.url, when, what, str(used))).split("\n")
        late = when == "before the import" and what != "close"
        assert said[-2] == ("told True" if late else "fine")
        assert ("2" in said) == (what != "close" and not late)
        server.wait(lambda: server.open_connections == 0)

    @pytest.mark.parametrize("used", [True, False])
    def test_weakref_finalize(self, used: bool, script: Script, server: EmbeddingServer) -> None:
        """``weakref.finalize`` of the user's, which runs at exit, may close a client."""
        code = f"""
            import weakref

            class Owner: pass

            owner, client = Owner(), make()
            weakref.finalize(owner, client.close)
            if {used}:
                client.embed(["x"])
            """
        finish(script(code))
        server.wait(lambda: server.open_connections == 0)

    @pytest.mark.parametrize("used", [True, False])
    @pytest.mark.parametrize("what", ["close", "embed", "stream", "wait_ready"])
    def test_del(self, what: str, used: bool, server: EmbeddingServer) -> None:
        """In a ``__del__`` that runs when the interpreter ends, closing is nothing, and embedding a UsageError."""
        said = finish(started(AT_DEL, server.url, what, str(used)))
        assert said == ("done" if what == "close" else "told done")
        server.wait(lambda: server.open_connections == 0)

    def test_threads(self, script: Script, server: EmbeddingServer) -> None:
        """Threads and pools that work on at the program's end get their vectors; daemons a UsageError, if anything."""
        code = """
            import contextlib
            from embedwire import UsageError
            from concurrent.futures import ThreadPoolExecutor

            client = make()
            pool = ThreadPoolExecutor(4)

            def work(who):
                assert right(client.embed(texts(who)), texts(who))
                os.write(1, b"right\\n")

            def for_ever():
                with contextlib.suppress(UsageError):
                    while True:
                        client.embed(texts(threading.get_ident(), 5))

            for _ in range(4):
                threading.Thread(target=for_ever, daemon=True).start()
            threading.Thread(target=work, args=("thread",)).start()
            for who in range(8):
                pool.submit(work, who)
            """
        assert finish(script(code)) == "right\n" * 9
        server.wait(lambda: server.open_connections == 0)

    def test_the_first_use_at_exit(self, script: Script, server: EmbeddingServer) -> None:
        """An EmbeddingClient that is used first in a handler of ``atexit``, by a host's name, works there."""
        code = """
            import atexit

            async def flush():
                async with EmbeddingClient(URL.replace("127.0.0.1", "localhost"), model="test-model") as client:
                    print(right(await client.embed(texts("last")), texts("last")))

            atexit.register(lambda: asyncio.run(flush()))
            """
        assert finish(script(code)) == "True\n"

    def test_a_loop_that_was_closed(self, script: Script, server: EmbeddingServer) -> None:
        """A client whose loop is over is closed, dropped, or used on the next one, silently."""
        code = """
            clients = [make(EmbeddingClient) for _ in range(3)]
            for client in clients:
                assert right(asyncio.run(client.embed(texts("a"))), texts("a"))
            asyncio.run(clients[0].close())
            assert right(asyncio.run(clients[1].embed(texts("b"))), texts("b"))
            del clients[2], client
            gc.collect()
            """
        finish(script(code))
        server.wait(lambda: server.open_connections == 0)
