"""Every client and adapter through forks, interrupts and the end of a process, on uvloop and in a notebook; silently.

What `test_client_processes` shows for one client at a time is shown here for several at once.
"""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path

import pytest

from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import finish, needs, needs_fork, needs_signals
from tests.server.scripts import Script

PRELUDE = """
    logging.getLogger("embedwire").addHandler(logging.NullHandler())

    def named(who, count=12):
        return [f"{who}: {number}" for number in range(count)]

    def langchain(**arguments):
        from embedwire.langchain import EmbedwireEmbeddings
        return EmbedwireEmbeddings(base_url=URL, model="test-model", encoding="float", **arguments)

    def llama_index(**arguments):
        from embedwire.llama_index import EmbedwireEmbedding
        return EmbedwireEmbedding(base_url=URL, model_name="test-model", encoding="float", **arguments)
"""


@pytest.fixture
def script(script: Script) -> Script:
    """Starts a script that knows the adapters too, and where servers may fail: what is logged of it is no complaint."""
    return lambda code: script(textwrap.dedent(PRELUDE) + textwrap.dedent(code))


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
            from embedwire._clients.loop_thread import loop_thread
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
    "embeddings = EmbedwireEmbeddings(base_url=URL, model='test-model')\n"
    "client = EmbeddingClient(URL, model='test-model')\n"
    "texts = [f'text {number}' for number in range(60)]\n"
    "def right(rows): return len(rows) == 60 and all(map(is_vector_of, rows, texts))",
    "print(right(embeddings.embed_documents(texts)))",
    "print(right(await embeddings.aembed_documents(texts)))",
    "print(right(await client.embed(texts)))",
    "with SharedEmbeddingClient(URL, model='test-model') as shared:\n    print(right(shared.embed(texts)))",
    "rows = [row async for _, vectors in client.stream(texts) for row in vectors]\nprint(right(rows))",
    "embeddings = EmbedwireEmbeddings(URL, model='test-model')\nprint(right(embeddings.embed_documents(texts)))",
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
                    # Queries, which no pause of documents holds up.
                    assert right(await embed(named("other"), kind="query"), named("other"))
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
