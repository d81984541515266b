"""The same object in many loops, threads and processes, through copies, interrupts and its own end; without a word.

What `tests/test_client.py` shows for one client at a time is shown here for the adapters, for uvloop and a notebook,
and for several of these at once.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from embedwire import EmbeddingClient, SharedEmbeddingClient, UsageError
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, EmbeddingServer, Request, is_vector_of

TEXTS = [f"text {number}" for number in range(23)]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")


def needs(module: str) -> pytest.MarkDecorator:
    """Only where a library that the package does not need is installed."""
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


def right(rows: Any, texts: list[str]) -> bool:
    """Whether each text has its own vector."""
    return len(rows) == len(texts) and all(map(is_vector_of, rows, texts))


def named(who: object, count: int = 12) -> list[str]:
    """Texts of somebody's own."""
    return [f"{who}: {number}" for number in range(count)]


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """A server on a thread of its own."""
    with EmbeddingServer() as server:
        yield server


@pytest.fixture
def no_idle_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let idle connections stay, so that only a close closes them."""
    monkeypatch.setattr("embedwire._transport.KEEP_ALIVE", 3600)


class Doors:
    """Each client through the same two methods, where it has them.

    Attributes:
        client: The client.
        embed: A sync door for texts; None where there is none.
        aembed: An async door for texts.
    """

    def __init__(self, kind: str, url: str, **arguments: Any) -> None:
        arguments = {"encoding": "float", **arguments}
        self.client: Any
        self.embed: Any = None
        if kind == "EmbeddingClient":
            self.client = EmbeddingClient(url, model="m", **arguments)
            self.aembed = self.client.embed
        elif kind == "SharedEmbeddingClient":
            self.client = SharedEmbeddingClient(url, model="m", **arguments)
            self.embed, self.aembed = self.client.embed, self.client.aembed
        elif kind == "LangChain":
            self.client = EmbedwireEmbeddings(base_url=url, model="m", **arguments)
            self.embed, self.aembed = self.client.embed_documents, self.client.aembed_documents
        else:
            self.client = EmbedwireEmbedding(base_url=url, model_name="m", **arguments)
            self.embed, self.aembed = (
                self.client.get_text_embedding_batch,
                self.client.aget_text_embedding_batch,
            )

    async def aclose(self) -> None:
        """Close the client."""
        await (self.client.aclose() if self.embed else self.client.close())


SHARED = ["SharedEmbeddingClient", "LangChain", "LlamaIndex"]
KINDS = ["EmbeddingClient", *SHARED]


class TestLoops:
    """One object, many event loops, at once and one after another."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_several_runs(self, kind: str, server: EmbeddingServer) -> None:
        """Every `asyncio.run` gets its vectors, sync calls between them too, the shared ones on one connection."""
        doors = Doors(kind, server.url, concurrency=1)
        for run in range(5):
            assert right(asyncio.run(doors.aembed(named(run))), named(run))
            if doors.embed:
                assert right(doors.embed(named(f"sync {run}")), named(f"sync {run}"))
        asyncio.run(doors.aclose())
        server.wait(lambda: server.open_connections == 0)
        assert server.connections == (1 if doors.embed else 5)

    def test_many_threads_with_many_loops(self, server: EmbeddingServer) -> None:
        """Eight threads, each with loops of its own and all clients in them, get their own vectors within one bound."""
        shared = {kind: Doors(kind, server.url, concurrency=3, batch_size=4) for kind in SHARED}
        begin = threading.Barrier(8)

        async def run(who: str) -> bool:
            own = Doors("EmbeddingClient", server.url, concurrency=1)
            calls = {
                kind: doors.aembed(named(f"{who} {kind}")) for kind, doors in {**shared, "own": own}.items()
            }
            rows = await asyncio.gather(*calls.values())
            await own.aclose()
            return all(right(part, named(f"{who} {kind}")) for kind, part in zip(calls, rows, strict=True))

        def work(thread: int) -> bool:
            begin.wait()
            runs = [asyncio.run(run(f"{thread} {number}")) for number in range(3)]
            syncs = [
                right(doors.embed(named((thread, kind))), named((thread, kind)))
                for kind, doors in shared.items()
            ]
            return all(runs + syncs)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))
        assert server.peak_in_flight <= 3 + 8
        for doors in shared.values():
            doors.client.close()

    @pytest.mark.parametrize("kind", SHARED)
    async def test_sync_and_async_at_once(self, kind: str, server: EmbeddingServer) -> None:
        """On one running loop, sync calls go through while async ones are under way, as in a handler."""
        doors = Doors(kind, server.url, concurrency=2)
        calls = [asyncio.ensure_future(doors.aembed(named(call))) for call in range(5)]
        for call in range(5):
            assert right(doors.embed(named(f"sync {call}")), named(f"sync {call}"))
            await asyncio.sleep(0)
        for call, rows in enumerate(await asyncio.gather(*calls)):
            assert right(rows, named(call))
        await doors.aclose()


COPIES: dict[str, Callable[[Any], Any]] = {
    "a pickle": lambda client: pickle.loads(pickle.dumps(client)),
    "a copy": copy.copy,
    "a deep copy": copy.deepcopy,
}


class TestCopies:
    """A copy of an object in use is an object of its own."""

    @pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
    @pytest.mark.parametrize("kind", SHARED)
    def test_made_in_the_middle_of_a_call(
        self, kind: str, copied: Callable[[Any], Any], server: EmbeddingServer
    ) -> None:
        """Made while a request is on its way, it works, and its end leaves that request and its original alone."""
        doors = Doors(kind, server.url, concurrency=2)
        with ThreadPoolExecutor(1) as pool:
            with server.hold():
                call = pool.submit(doors.embed, TEXTS[:5])
                server.wait(lambda: server.in_flight == 1)
                twin = Doors(kind, server.url)
                twin.client.close()
                twin.client = copied(doors.client)
            again = getattr(twin.client, doors.embed.__name__)
            assert right(again(TEXTS), TEXTS)
            twin.client.close()
            assert right(call.result(), TEXTS[:5])
            assert right(doors.embed(named("after")), named("after"))
        doors.client.close()
        assert server.aborted == []

    @pytest.mark.parametrize("used", [False, True])
    @pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
    async def test_of_an_embedding_client(
        self, used: bool, copied: Callable[[Any], Any], server: EmbeddingServer
    ) -> None:
        """A copy of an EmbeddingClient works and closes by itself, used before or not."""
        client = EmbeddingClient(server.url, model="m", encoding="float")
        if used:
            await client.embed(TEXTS)
        twin = copied(client)
        assert right(await twin.embed(named("twin")), named("twin"))
        await twin.close()
        assert right(await client.embed(named("client")), named("client"))
        await client.close()
        await server.wait_for(lambda: server.open_connections == 0)


@pytest.mark.usefixtures("no_idle_limit")
class TestDropped:
    """What is dropped in the middle of its work stops it, and leaves nothing behind."""

    @pytest.mark.parametrize("kind", KINDS)
    async def test_with_a_cancelled_call(self, kind: str, server: EmbeddingServer) -> None:
        """A client whose last call was cancelled and forgotten lets go of its requests and connections."""
        with server.hold():
            call = asyncio.ensure_future(Doors(kind, server.url, concurrency=2).aembed(TEXTS))
            await server.wait_for(lambda: server.in_flight == 2)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            del call
            gc.collect()
            await server.wait_for(lambda: server.open_connections == 0 and len(server.aborted) == 2)

    @pytest.mark.parametrize(
        "door", ["EmbeddingClient.stream", "SharedEmbeddingClient.stream", "SharedEmbeddingClient.astream"]
    )
    async def test_with_a_stream(self, door: str, server: EmbeddingServer) -> None:
        """A stream that was begun and dropped with its client cancels what is on its way."""
        server.script = lambda request: None if "text 0" in request.texts else Answer.hang()
        arguments: dict[str, Any] = {"model": "m", "encoding": "float", "batch_size": 1, "concurrency": 3}
        client: Any = (SharedEmbeddingClient if door.startswith("Shared") else EmbeddingClient)(
            server.url, **arguments
        )
        stream = getattr(client, door.split(".")[1])(TEXTS)
        assert (next(stream) if hasattr(stream, "__next__") else await anext(stream))[0] == 0
        await server.wait_for(lambda: server.in_flight == 3)
        del stream, client
        gc.collect()
        await server.wait_for(lambda: server.open_connections == 0)
        assert len(server.batches) == 4


class TestEnd:
    """A close from anywhere, at any time, once or often."""

    @pytest.mark.parametrize("kind", SHARED)
    def test_in_many_threads_at_once(self, kind: str, server: EmbeddingServer) -> None:
        """While eight threads call and eight close, a call gives right vectors or UsageError, and nobody hangs."""
        doors, begin = Doors(kind, server.url, concurrency=2), threading.Barrier(16)

        def call(thread: int) -> str:
            begin.wait()
            try:
                for number in range(20):
                    assert right(doors.embed(named((thread, number), 3)), named((thread, number), 3))
            except UsageError as error:
                return str(error)
            return "done"

        def close(_: int) -> None:
            begin.wait()
            server.wait(lambda: len(server.batches) >= 5)
            doors.client.close()
            asyncio.run(doors.client.aclose())

        with ThreadPoolExecutor(16) as pool:
            ended = [pool.submit(call, thread) for thread in range(8)]
            closed = [pool.submit(close, thread) for thread in range(8)]
            assert {future.result() for future in closed} == {None}
            assert {future.result() for future in ended} <= {"done", "this client was closed; make a new one"}
        with pytest.raises(UsageError):
            doors.embed(["after"])
        server.wait(lambda: server.open_connections == 0)

    async def test_of_one_that_is_closing(self, server: EmbeddingServer) -> None:
        """Several closes of an EmbeddingClient at once all wait for the same end; calls after the first are told."""
        client = EmbeddingClient(server.url, model="m", encoding="float")
        with server.hold():
            call = asyncio.ensure_future(client.embed(TEXTS))
            await server.wait_for(lambda: server.in_flight > 0)
            closing = [asyncio.ensure_future(client.close()) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(UsageError):
                await client.embed(["late"])
            await asyncio.gather(*closing)
            with pytest.raises(UsageError):
                await call
        await server.wait_for(lambda: server.open_connections == 0)

    @pytest.mark.parametrize("kind", SHARED)
    def test_in_a_pause(self, kind: str, server: EmbeddingServer) -> None:
        """A call that waits for its next attempt, half a minute away, ends with its client."""
        server.script = lambda request: Answer.throttled(30) if request.embeds else None
        doors = Doors(kind, server.url)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(doors.embed, TEXTS[:5])
            server.wait(lambda: len(server.batches) == 1 and server.in_flight == 0)
            doors.client.close()
            with pytest.raises(UsageError):
                call.result()


PRELUDE = """
    import asyncio, gc, logging, os, signal, sys, threading
    from embedwire import EmbeddingClient, SharedEmbeddingClient, UsageError
    from embedwire.testing import is_vector_of

    # Debug mode reports steps of over 0.1 s; on a busy machine any step may be one.
    logging.getLogger("asyncio").addFilter(lambda record: not record.msg.startswith("Executing "))

    logging.getLogger("embedwire").addHandler(logging.NullHandler())
    URL = sys.argv[1]

    def right(rows, texts):
        return len(rows) == len(texts) and all(map(is_vector_of, rows, texts))

    def named(who, count=12):
        return [f"{who}: {number}" for number in range(count)]

    def make(kind=SharedEmbeddingClient, **arguments):
        return kind(URL, **{"model": "m", "encoding": "float", **arguments})

    def langchain(**arguments):
        from embedwire.langchain import EmbedwireEmbeddings
        return EmbedwireEmbeddings(base_url=URL, model="m", encoding="float", **arguments)

    def llama_index(**arguments):
        from embedwire.llama_index import EmbedwireEmbedding
        return EmbedwireEmbedding(base_url=URL, model_name="m", encoding="float", **arguments)
"""
# From Python 3.12 on, forking a process that has threads warns, whoever forks.
CALM = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
Script = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def script(tmp_path: Path, server: EmbeddingServer) -> Iterator[Script]:
    """Starts a script in a process of its own, in which any warning is an error."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(code))
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-X", "dev", *CALM, str(path), server.url]
        started.append(subprocess.Popen(command, text=True, cwd=tmp_path, **pipes))
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


def finish(process: subprocess.Popen[str], timeout: float = 50) -> str:
    """What a script printed; fails where it failed, hung, or wrote to stderr."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the script hung; {out} {err}")
    assert err == ""
    assert process.returncode == 0
    return out


@needs("uvloop")
class TestUvloop:
    """uvloop is a loop like any other."""

    def test_runs_every_client(self, script: Script, server: EmbeddingServer) -> None:
        """Each client works on uvloop, in several runs, closed, left open or dropped with a call under way."""
        code = """
            import uvloop, warnings

            client, shared, embeddings = make(EmbeddingClient), make(), langchain()

            async def main(run):
                for doors in (client.embed, shared.aembed, embeddings.aembed_documents):
                    assert right(await doors(named(run)), named(run))
                assert right(shared.embed(named("sync")), named("sync"))
                async with make(EmbeddingClient) as another:
                    pieces = [piece async for piece in another.stream(named(run))]
                    assert right([row for _, rows in pieces for row in rows], named(run))

            async def cancel():
                call = asyncio.ensure_future(make(EmbeddingClient).embed(named("cancelled")))
                await asyncio.sleep(0)
                call.cancel()

            uvloop.run(cancel())
            with warnings.catch_warnings():
                # uvloop tells of each connection that is open when it is closed, whoever will close it.
                warnings.simplefilter("ignore", ResourceWarning)
                for run in range(3):
                    uvloop.run(main(run))
            asyncio.run(main("asyncio"))
            del client
            gc.collect()
            """
        finish(script(code))
        server.wait(lambda: server.open_connections == 0)

    @needs_fork
    def test_runs_the_loop_thread(self, script: Script, server: EmbeddingServer) -> None:
        """Where uvloop is the policy, embedwire's own thread runs on it too, and goes through a fork and the end."""
        code = """
            import uvloop, warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # policies are deprecated
                asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
            shared = make(concurrency=2)
            assert right(shared.embed(named("before", 60)), named("before", 60))
            from embedwire._loop import loop_thread
            assert isinstance(loop_thread().loop, uvloop.Loop)
            child = os.fork()
            for round in range(5):
                who = ("parent" if child else "child", round)
                assert right(shared.embed(named(who)), named(who))
            if not child:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            with make(concurrency=3) as another:
                assert right(asyncio.run(another.aembed(named("after"))), named("after"))
            """
        finish(script(code))
        server.wait(lambda: server.open_connections == 0)


NOTEBOOK = [
    "from embedwire.langchain import EmbedwireEmbeddings\n"
    "from embedwire import EmbeddingClient, SharedEmbeddingClient\n"
    "from embedwire.testing import is_vector_of\n"
    "embeddings = EmbedwireEmbeddings(base_url=URL, model='m')\n"
    "client = EmbeddingClient(URL, model='m')\n"
    "texts = [f'text {number}' for number in range(60)]\n"
    "def right(rows): return len(rows) == 60 and all(map(is_vector_of, rows, texts))",
    "print(right(embeddings.embed_documents(texts)))",
    "print(right(await embeddings.aembed_documents(texts)))",
    "print(right(await client.embed(texts)))",
    "with SharedEmbeddingClient(URL, model='m') as shared:\n    print(right(shared.embed(texts)))",
    "rows = [row async for _, vectors in client.stream(texts) for row in vectors]\nprint(right(rows))",
    "embeddings = EmbedwireEmbeddings(base_url=URL, model='m')\nprint(right(embeddings.embed_documents(texts)))",
]


@needs("nbclient")
@needs("ipykernel")
def test_a_notebook(script: Script, tmp_path: Path) -> None:
    """In a notebook, where a loop runs always, sync and async calls both work, cell after cell, run again too."""
    code = f"""
        import nbclient, nbformat, warnings

        warnings.simplefilter("ignore")  # those of Jupyter are not ours
        os.environ.update(HOME=os.getcwd(), IPYTHONDIR=os.getcwd(), JUPYTER_RUNTIME_DIR=os.getcwd())
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # of the kernel itself; that of a cell is among its outputs
        cells = [f"URL = {{URL!r}}", *{NOTEBOOK!r}]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        nbclient.NotebookClient(notebook, timeout=40, kernel_name="python3").execute()
        for cell in notebook.cells:
            print(*(output.get("text", output) for output in cell.outputs), sep="", end="")
        """
    assert finish(script(code)) == "True\n" * (len(NOTEBOOK) - 1)


class TestForks:
    """Parents, children and grandchildren all go on."""

    @needs_fork
    @pytest.mark.parametrize("used", [True, False])
    def test_from_a_thread_with_requests_in_flight(
        self, used: bool, script: Script, server: EmbeddingServer
    ) -> None:
        """Forked from a thread while others call, child and grandchild get their own vectors, as does the parent."""
        code = f"""
            shared, embeddings, own = make(concurrency=4), langchain(concurrency=4), make(EmbeddingClient)
            if {used}:
                assert right(shared.embed(named("before")), named("before"))
            begun, ok = threading.Barrier(4), []

            def work(who):
                for round in range(4):
                    mine = named((who, round))
                    assert right(shared.embed(mine), mine)
                    assert right([embeddings.embed_query(text) for text in mine], mine)
                    assert right(asyncio.run(embeddings.aembed_documents(mine)), mine)
                    assert right([row for _, rows in shared.stream(mine) for row in rows], mine)
                    if who in ("child", "grandchild"):
                        assert right(asyncio.run(own.embed(mine)), mine)
                ok.append(who)

            def busy(who):
                begun.wait()
                work(who)

            def forking():
                begun.wait()
                child = os.fork()
                if not child:
                    try:
                        ok.clear()
                        other = threading.Thread(target=work, args=("child, other thread",))
                        other.start()
                        grandchild = os.fork()
                        work("child" if grandchild else "grandchild")
                        if grandchild:
                            other.join()
                            assert os.waitpid(grandchild, 0)[1] == 0
                            assert len(ok) == 2, ok
                    except BaseException:
                        import traceback
                        traceback.print_exc()
                        os._exit(1)
                    os._exit(0)
                work("parent")
                assert os.waitpid(child, 0)[1] == 0

            threads = [threading.Thread(target=busy, args=(f"thread {{n}}",)) for n in range(3)]
            threads.append(threading.Thread(target=forking))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(ok) == 4, ok
            """
        finish(script(code))
        assert server.aborted == []

    def test_a_worker_with_adapters(self, script: Script) -> None:
        """Adapters that were used before go to a worker that starts anew, and work there as they do here."""
        code = """
            import multiprocessing

            def works(adapter, who):
                sync, run = (
                    (adapter.embed_documents, adapter.aembed_documents)
                    if hasattr(adapter, "embed_documents")
                    else (adapter.get_text_embedding_batch, adapter.aget_text_embedding_batch)
                )
                return right(sync(named(who)), named(who)) and right(asyncio.run(run(named(who))), named(who))

            if __name__ == "__main__":
                adapters = [langchain(), llama_index()]
                assert all(works(adapter, "before") for adapter in adapters)
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    assert all(pool.starmap(works, [(adapter, who) for who in "ab" for adapter in adapters]))
                    pool.close()
                    pool.join()
                assert all(works(adapter, "after") for adapter in adapters)
            """
        finish(script(code))


class TestExit:
    """A process that ends ends, at once and silently, whatever was under way."""

    @pytest.mark.parametrize("trouble", ["silence", "a pause", "loading"])
    def test_with_calls_in_other_threads(self, trouble: str, script: Script, server: EmbeddingServer) -> None:
        """Daemon threads whose calls wait for replies, for the next attempt or for a model hold no process up."""
        server.loading = trouble == "loading"
        if trouble != "loading":
            slow = Answer.hang() if trouble == "silence" else Answer.throttled(30)
            server.script = lambda request: slow if request.embeds else None
        code = """
            client, embeddings = make(concurrency=8), langchain(concurrency=8)
            calls = [
                lambda: client.embed(named("embed", 5)),
                lambda: embeddings.embed_documents(named("adapter", 5)),
                lambda: asyncio.run(client.aembed(named("aembed", 5))),
                lambda: list(client.stream(named("stream", 5))),
            ]
            for call in calls:
                threading.Thread(target=call, daemon=True).start()
            sys.stdin.read()
            """
        process = script(code)
        server.wait(lambda: len(server.batches) >= 3, timeout=30)
        finish(process)
        server.wait(lambda: server.open_connections == 0)

    def test_while_it_waits_for_a_server(self, script: Script, server: EmbeddingServer) -> None:
        """A daemon thread in `wait_ready` holds no process up, and says nothing when it ends."""
        server.loading = True
        code = """
            threading.Thread(target=make().wait_ready, daemon=True).start()
            threading.Thread(target=lambda: asyncio.run(make().await_ready()), daemon=True).start()
            sys.stdin.read()
            """
        process = script(code)
        server.wait(lambda: len(server.requests) >= 2, timeout=30)
        finish(process)

    @pytest.mark.parametrize("end", ["return", "sys.exit()", "raise KeyboardInterrupt"])
    def test_with_tasks_under_way(self, end: str, script: Script, server: EmbeddingServer) -> None:
        """`asyncio.run` that ends with calls under way, or in a pause, ends them without a word."""

        def answer(request: Request) -> Answer | None:
            if "pause: 0" in request.texts:
                return Answer.throttled(30)
            return Answer.hang() if "silence: 0" in request.texts else None

        server.script = answer
        code = f"""
            async def main():
                for embed in (make(EmbeddingClient).embed, make().aembed):
                    for who in ("pause", "silence"):
                        os.tasks.append(asyncio.ensure_future(embed(named(who, 5))))
                    assert right(await embed(named("other")), named("other"))
                {end}

            os.tasks = []  # in another module, which lives longer
            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                pass
            """
        finish(script(code))
        server.wait(lambda: server.open_connections == 0)


@needs_signals
def test_interrupts(script: Script, server: EmbeddingServer) -> None:
    """Ctrl-C ends each adapter's sync call, and an `asyncio.run` of its async twin; the object goes on after it."""
    doors = [
        "embeddings.embed_documents(named('a', 5))",
        "embeddings.embed_query('a')",
        "model.get_text_embedding_batch(named('a', 5))",
        "model.get_query_embedding('a')",
        "asyncio.run(embeddings.aembed_documents(named('a', 5)))",
        "asyncio.run(model.aget_text_embedding_batch(named('a', 5)))",
    ]
    calls = ", ".join(f"lambda: {door}" for door in doors)
    with server.hold():
        process = script(
            f"""
            embeddings, model = langchain(), llama_index()
            for number, call in enumerate([{calls}]):
                try:
                    call()
                except KeyboardInterrupt:
                    print(number)
            sys.stdin.read()
            assert right(embeddings.embed_documents(named("after")), named("after"))
            assert right(model.get_text_embedding_batch(named("after")), named("after"))
            """
        )
        for number in range(len(doors)):
            server.wait(lambda: len(server.batches) == number + 1, timeout=30)  # noqa: B023
            process.send_signal(signal.SIGINT)
            server.wait(lambda: len(server.aborted) == number + 1)  # noqa: B023
    assert finish(process).split() == [str(number) for number in range(len(doors))]
