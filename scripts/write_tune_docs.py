"""Has `embedwire tune` measure servers, and writes what it says into docs/TUNE.md, and its pictures beside it.

Run it as ``python -m scripts.write_tune_docs``; it takes three minutes, in which the machine should do nothing else: on
a busy one nothing can be told, and real servers are left out. ``--simulated``: only the server in simulated time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import looptime

from embedwire.testing import EmbeddingServer
from embedwire.tune.heatmap import svg
from embedwire.tune.records import Outcome
from embedwire.tune.report import end
from embedwire.tune.sweeping import Options, Sweep
from embedwire.tune.texts import Pool, Read, read
from scripts.make_minilm_gguf import model_path
from tests.servers import llamacpp, local_server

DOCS = Path(__file__).parents[1] / "docs"
BEGIN = "## What it says\n"
SHOWN = "http://127.0.0.1:8080"
PICTURE = "Texts per second by texts in a request and requests in flight"


def measured(url: str) -> Outcome:
    """What a sweep of a minute finds, with built-in texts."""
    sweep = Sweep(Options(url=url), Pool(read((), "text", None)))
    asyncio.run(sweep.run(lambda look: print(look.phase)))
    outcome = sweep.outcome()
    return replace(outcome, url=outcome.url.replace(url, SHOWN))


def simulated() -> Outcome:
    """What a sweep finds at a server with four workers that gains from batches, in simulated time."""

    async def work() -> Outcome:
        async with EmbeddingServer(
            slots=4, latency=0.3, latency_per_text=0.03, server_header="uvicorn"
        ) as server:
            texts = [f"text {number:05}" for number in range(9_000)]
            sweep = Sweep(
                Options(url=server.url, seconds=240.0, batch=32, requests=16), Pool(Read("docs.txt", texts))
            )
            await sweep.run(lambda _: None)
            outcome = sweep.outcome()
            return replace(outcome, url=outcome.url.replace(server.url, SHOWN))

    loop = looptime.new_event_loop()
    try:
        return loop.run_until_complete(work())
    finally:
        loop.close()


def section(title: str, name: str, arguments: str, outcome: Outcome) -> str:
    """What is said of one server; its picture is written beside."""
    (DOCS / f"{name}.svg").write_text(svg(outcome), "utf-8")
    command = f"$ embedwire tune {SHOWN}{arguments} --heatmap {name}.svg"
    print(title, outcome.complete)
    return f"### {title}\n\n```text\n{command}\n{end(outcome, 100)}\n```\n\n![{PICTURE}]({name}.svg)\n"


def main() -> None:
    """Replace everything from `BEGIN` on, and the pictures."""
    told = [BEGIN]
    os.chdir(
        model_path().parent
    )  # so that llama.cpp's name for its model is that of a file, and of no folder
    parts: list[tuple[str, str, AbstractContextManager[str]]] = [
        ("llama.cpp with four slots", "tune-llama-cpp", llamacpp(model=Path(model_path().name), slots=4)),
        ("The bundled server, `embedwire serve`", "tune-bundled", local_server()),
    ]
    for title, name, server in () if "--simulated" in sys.argv else parts:
        with server as url:
            outcome = measured(url)
        if outcome.complete:
            told.append(section(title, name, "", outcome))
    title = "A test server with four workers: 0.3 s for a request and 30 ms for each text, in simulated time"
    arguments = " docs.txt --seconds 240 --max-batch 32 --max-in-flight 16"
    told.append(section(title, "tune-simulated", arguments, simulated()))
    page = DOCS / "TUNE.md"
    page.write_text(page.read_text("utf-8").partition(BEGIN)[0] + "\n".join(told), "utf-8")


if __name__ == "__main__":
    main()
