"""Where gevent or eventlet have patched threads: the sync doors wait as greenlets do, and asyncio is left alone."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from embedwire.testing import Answer, EmbeddingServer
from tests.helpers import needs

PATCH = {
    "gevent": "import gevent.monkey\ngevent.monkey.patch_all()\nspawn, get = gevent.spawn, lambda g: g.get()",
    "eventlet": "import eventlet\neventlet.monkey_patch()\nspawn, get = eventlet.spawn, lambda g: g.wait()",
}
EMBEDWIRE = """
from embedwire import DeadlineExceeded, SharedEmbeddingClient
from embedwire.testing import is_vector_of
"""
PRELUDE = """
import asyncio, sys, time

def right(rows, texts):
    return len(rows) == len(texts) and all(map(is_vector_of, rows, texts))

def make(**arguments):
    return SharedEmbeddingClient(sys.argv[1], **{"model": "test-model", "encoding": "float", **arguments})

async def later(text):
    await asyncio.sleep(0.01)
    return right(await make().aembed([text]), [text])

client = make()
"""
patchers = pytest.mark.parametrize(
    "patcher", [pytest.param(name, marks=needs(name)) for name in ("gevent", "eventlet")]
)
moments = pytest.mark.parametrize("moment", ["before", "after"])


def ran(patcher: str, moment: str, code: str, server: EmbeddingServer, folder: Path) -> str:
    """What a script printed in a patched process, which must end well within a minute."""
    parts = [PATCH[patcher], EMBEDWIRE] if moment == "before" else [EMBEDWIRE, PATCH[patcher]]
    script = folder / "script.py"
    script.write_text("\n".join([*parts, PRELUDE, textwrap.dedent(code)]))
    command = [sys.executable, "-W", "ignore", str(script), server.url]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    # eventlet says which locks there were before it.
    errors = [line for line in process.stderr.splitlines() if "were not greened" not in line]
    assert (process.returncode, errors) == (0, [])
    return process.stdout


@patchers
@moments
class TestPatched:
    """In a process whose threads are greenlets."""

    def test_sync_doors_run_at_the_same_time(
        self, patcher: str, moment: str, server: EmbeddingServer, tmp_path: Path
    ) -> None:
        """Calls of several greenlets overlap, others run meanwhile, and each gets its vectors."""
        server.script = lambda request: Answer(delay=1) if request.embeds else None
        code = """
            ticks = []
            def tick():
                while len(ticks) < 1000:
                    ticks.append(time.sleep(0.01))
            spawn(tick)
            jobs = [spawn(client.embed, [f"text {number}"]) for number in range(4)]
            print(all(right(get(job), [f"text {number}"]) for number, job in enumerate(jobs)), len(ticks) >= 20)
        """
        assert ran(patcher, moment, code, server, tmp_path) == "True True\n"
        assert server.peak_in_flight == 4

    def test_asyncio_works_during_and_after(
        self, patcher: str, moment: str, server: EmbeddingServer, tmp_path: Path
    ) -> None:
        """``asyncio.run``, and the async doors in it, work while the loop thread runs, and after the client's end."""
        server.script = lambda request: Answer(delay=1) if "slow" in request.texts else None
        code = """
            job = spawn(client.embed, ["slow"])
            time.sleep(0.2)
            print(asyncio.run(later("during")), right(get(job), ["slow"]), asyncio.run(later("between")))
            client.close()
            print(asyncio.run(later("after")))
        """
        assert ran(patcher, moment, code, server, tmp_path) == "True True True\nTrue\n"

    def test_streams_and_deadlines(
        self, patcher: str, moment: str, server: EmbeddingServer, tmp_path: Path
    ) -> None:
        """A stream whose source waits gives its vectors, and a deadline ends a call that hangs."""
        server.script = lambda request: Answer.hang() if "never" in request.texts else None
        code = """
            def source():
                for number in range(600):
                    if number % 200 == 0:
                        time.sleep(0.01)
                    yield f"text {number}"
            pieces = [right(rows, [f"text {at}" for at in range(start, start + len(rows))])
                      for start, rows in client.stream(source())]
            print(all(pieces), len(pieces) > 0)
            try:
                make(deadline=0.3).embed_query("never")
            except DeadlineExceeded:
                print("late")
        """
        assert ran(patcher, moment, code, server, tmp_path) == "True True\nlate\n"


@needs("gevent")
def test_a_greenlet_that_is_killed_cancels_its_call(server: EmbeddingServer, tmp_path: Path) -> None:
    """What a killed greenlet waited for is not sent any more, and the client goes on."""
    code = """
        slow = make(concurrency=1)
        first = spawn(slow.embed, ["slow"])
        time.sleep(0.3)
        second = spawn(slow.embed, ["never sent"])
        time.sleep(0.1)
        second.kill()
        print(right(get(first), ["slow"]), right(slow.embed(["next"]), ["next"]))
    """
    server.script = lambda request: Answer(delay=1) if "slow" in request.texts else None
    assert ran("gevent", "before", code, server, tmp_path) == "True True\n"
    assert server.batches == [["slow"], ["next"]]
