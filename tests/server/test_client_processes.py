"""Both clients in processes that end, fork, are interrupted or make others."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from embedwire.testing import EmbeddingServer
from tests.helpers import finish, needs_fork, needs_signals, numbered
from tests.server.scripts import Script


class TestProcesses:
    """A client survives what happens to processes."""

    @pytest.mark.parametrize(
        "code",
        [
            "client = make(); assert right(client.embed(texts('a')), texts('a'))",
            "client = make(); client.embed(texts('a')); del client; gc.collect()",
            "client = make(); client.embed(texts('a')); client.loop = client; del client; gc.collect()",
            "client = make(); asyncio.run(client.aembed(texts('a'))); del client; gc.collect()",
            "client = make(); threading.Thread(target=client.embed, args=(texts('a'),)).start()",
            "make(); make().embed_query('a'); make(EmbeddingClient)",
            "client = make(EmbeddingClient); asyncio.run(client.embed(texts('a')))",
            "client = make(EmbeddingClient); asyncio.run(client.embed(texts('a'))); del client; gc.collect()",
            "os.client = make(EmbeddingClient); asyncio.run(os.client.embed(texts('a')))",  # in another module
            "os.client = make(); os.client.embed(texts('a'))",
            """
            async def main():
                client = make(EmbeddingClient)
                await client.embed(texts('a'))
                del client
                gc.collect()
            asyncio.run(main())
            """,
            """
            async def main():
                stream = make().astream(texts('a'))
                await anext(stream)
            asyncio.run(main())
            """,
        ],
    )
    def test_what_is_not_closed_gives_no_warning(
        self, code: str, script: Script, server: EmbeddingServer
    ) -> None:
        """Dropped, forgotten or left to the end of the process, a client is silent with every warning on."""
        finish(script(code))
        server.wait(lambda: server.open_connections == 0)

    def test_exits_with_requests_in_flight(
        self, script: Script, server: EmbeddingServer, tmp_path: Path
    ) -> None:
        """A process whose main thread ends does not wait for requests of its daemon threads, nor complain."""
        code = """
            import time

            client = make(concurrency=2)
            for who in "ab":
                threading.Thread(target=client.embed, args=(texts(who),), daemon=True).start()
            while not os.path.exists("leave"):
                time.sleep(0.01)
            """
        with server.hold():
            process = script(code)
            server.wait(lambda: server.in_flight == 2, timeout=30)
            (tmp_path / "leave").touch()
            finish(process)
            server.wait(lambda: server.open_connections == 0)

    @needs_signals
    @pytest.mark.parametrize("call", ["embed(texts('a'))", "embed_query('a 0')", "wait_ready(60)"])
    def test_an_interrupt_ends_a_sync_call(self, call: str, script: Script, server: EmbeddingServer) -> None:
        """Ctrl-C ends a sync call with KeyboardInterrupt, its requests are dropped, and the client goes on."""
        with server.hold():
            process = script(
                f"""
                client = make(concurrency=1)
                try:
                    client.{call}
                except KeyboardInterrupt:
                    print("interrupted", flush=True)
                assert right(client.embed(texts("b")), texts("b"))
                """,
            )
            server.wait(lambda: server.in_flight == 1, timeout=30)
            process.send_signal(signal.SIGINT)
            server.wait(lambda: len(server.aborted) == 1)
        assert finish(process) == "interrupted\n"
        assert [text for batch in server.batches for text in batch if text.startswith("a")] in (
            ["a 0"],
            numbered(5, "a"),
            [],
        )

    @pytest.mark.parametrize("used", [True, False])
    @pytest.mark.parametrize(
        "call",
        ["embed_query('inside')", "embed(['inside'])", "wait_ready(5)", "stream(['inside']).__next__()"],
    )
    def test_a_sync_method_on_the_loop_thread_is_told(
        self, call: str, used: bool, script: Script, server: EmbeddingServer
    ) -> None:
        """On embedwire's own loop thread, where it would wait for ever, a sync method is a UsageError."""
        code = f"""
            def key():  # is called on the loop thread
                inner.{call}
                return "key"

            inner, outer = make(), make(api_key=key)
            if {used}:
                inner.embed_query("before")
            try:
                outer.embed_query("a")
            except UsageError as error:
                assert "its async twin" in str(error)
                print("told")
            assert right([inner.embed_query("after")], ["after"])
            """
        assert finish(script(code), timeout=20) == "told\n"
        assert ["inside"] not in server.batches

    @needs_fork
    @pytest.mark.parametrize("used", [True, False])
    @pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit()"])
    def test_goes_through_a_fork(
        self, used: bool, leave: str, script: Script, server: EmbeddingServer
    ) -> None:
        """Parent and child both go on with one client, each with its own vectors on its own connections."""
        code = f"""
            client = make(concurrency=4)
            if {used}:
                assert right(client.embed(texts("before")), texts("before"))
            child = os.fork()
            me = "parent" if child else "child"
            for round in range(5):
                assert right(client.embed(texts(f"{{me}} {{round}}")), texts(f"{{me}} {{round}}"))
                assert right(asyncio.run(client.aembed(texts(me))), texts(me))
                gc.collect()
            client.close()
            if not child:
                {leave}
            assert os.waitpid(child, 0)[1] == 0
            again = make()
            assert right(again.embed(texts("after")), texts("after"))
            """
        finish(script(code))
        assert server.aborted == []

    @needs_fork
    def test_a_child_that_only_ends_harms_nobody(self, script: Script, server: EmbeddingServer) -> None:
        """A child that drops what it inherited, and ends, leaves the parent's connections as they were."""
        code = """
            client = make(concurrency=1)
            client.embed(texts("before"))
            for leave in (os._exit, sys.exit):
                child = os.fork()
                if not child:
                    del client
                    gc.collect()
                    leave(0)
                assert os.waitpid(child, 0)[1] == 0
                assert right(client.embed(texts(leave.__module__)), texts(leave.__module__))
            """
        finish(script(code))
        assert server.connections == 1

    @needs_fork
    def test_forks_with_requests_in_flight(self, script: Script, server: EmbeddingServer) -> None:
        """A fork in the middle of requests disturbs neither them nor the child's own."""
        code = """
            from concurrent.futures import ThreadPoolExecutor
            client = make(concurrency=2)
            with ThreadPoolExecutor() as pool:
                calls = [pool.submit(client.embed, texts(f"parent {call}")) for call in range(4)]
                while not client.server_info().dimensions:
                    pass
                children = []
                for number in range(3):
                    child = os.fork()
                    if not child:
                        ok = right(client.embed(texts(f"child {number}")), texts(f"child {number}"))
                        os._exit(0 if ok else 1)
                    children.append(child)
                assert all(right(call.result(), texts(f"parent {n}")) for n, call in enumerate(calls))
            assert all(os.waitpid(child, 0)[1] == 0 for child in children)
            """
        finish(script(code))

    @needs_fork
    @pytest.mark.parametrize("used", [True, False])
    def test_an_embedding_client_goes_through_a_fork(
        self, used: bool, script: Script, server: EmbeddingServer
    ) -> None:
        """EmbeddingClient starts anew in the child, on a loop of its own, and goes on in the parent."""
        code = f"""
            client = make(EmbeddingClient)
            loop = asyncio.new_event_loop()
            if {used}:
                loop.run_until_complete(client.embed(texts("before")))
            child = os.fork()
            if not child:
                for round in "ab":
                    assert right(asyncio.run(client.embed(texts("child" + round))), texts("child" + round))
                gc.collect()
                os._exit(0)
            assert right(loop.run_until_complete(client.embed(texts("parent"))), texts("parent"))
            assert os.waitpid(child, 0)[1] == 0
            assert right(loop.run_until_complete(client.embed(texts("after"))), texts("after"))
            loop.run_until_complete(client.close())
            loop.close()
            """
        finish(script(code))

    @needs_fork
    @pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit()"])
    def test_a_child_that_drops_an_embedding_client_harms_nobody(
        self, leave: str, script: Script, server: EmbeddingServer
    ) -> None:
        """A child that drops an EmbeddingClient it inherited neither warns nor touches the parent's connections."""
        code = f"""
            client = make(EmbeddingClient, concurrency=1)
            loop = asyncio.new_event_loop()
            loop.run_until_complete(client.embed(texts("before")))
            child = os.fork()
            if not child:
                del client
                gc.collect()
                {leave}
            assert os.waitpid(child, 0)[1] == 0
            for round in "ab":
                assert right(loop.run_until_complete(client.embed(texts(round))), texts(round))
            loop.run_until_complete(client.close())
            loop.close()
            """
        finish(script(code))
        assert server.connections == 1

    @pytest.mark.parametrize(
        "method",
        ["spawn", pytest.param("fork", marks=needs_fork), pytest.param("forkserver", marks=needs_fork)],
    )
    def test_works_in_a_pool_of_processes(self, method: str, script: Script, server: EmbeddingServer) -> None:
        """A used client passed to worker processes embeds there as it does here."""
        code = f"""
            import multiprocessing

            def work(job):
                client, who = job
                return right(client.embed(texts(who)), texts(who))

            if __name__ == "__main__":
                client = make()
                client.embed(texts("before"))
                with multiprocessing.get_context({method!r}).Pool(2) as pool:
                    assert all(pool.map(work, [(client, who) for who in "abcd"], chunksize=1))
                    pool.close()
                    pool.join()
                assert right(client.embed(texts("after")), texts("after"))
            """
        finish(script(code))
