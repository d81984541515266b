"""Has `embedwire tune` measure real servers, and writes what it says into docs/TUNE.md, and its pictures beside it.

Run it as ``python -m scripts.write_tune_docs``; it takes two minutes, in which the machine should do nothing else.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from embedwire.tune.heatmap import svg
from embedwire.tune.records import Outcome
from embedwire.tune.report import end
from embedwire.tune.sweeping import Options, Sweep
from embedwire.tune.texts import Pool, read
from scripts.make_minilm_gguf import model_path
from tests.servers import llamacpp, local_server

DOCS = Path(__file__).parents[1] / "docs"
BEGIN = "## What it says of real servers\n"
SHOWN = "http://127.0.0.1:8080"


def measured(url: str) -> Outcome:
    """What a sweep of a minute finds, with built-in texts."""
    sweep = Sweep(Options(url=url), Pool(read((), "text", None)))
    asyncio.run(sweep.run(lambda look: print(look.phase)))
    outcome = sweep.outcome()
    return replace(outcome, url=outcome.url.replace(url, SHOWN))


def main() -> None:
    """Replace everything from `BEGIN` on, and the pictures."""
    os.chdir(
        model_path().parent
    )  # so that llama.cpp's name for its model is that of a file, and of no folder
    parts: list[tuple[str, str, AbstractContextManager[str]]] = [
        ("llama.cpp with four slots", "tune-llama-cpp", llamacpp(model=Path(model_path().name), slots=4)),
        ("The bundled server, `embedwire serve`", "tune-bundled", local_server()),
    ]
    told = [BEGIN]
    for title, name, server in parts:
        with server as url:
            outcome = measured(url)
        text = end(outcome, 100)
        told.append(
            f"### {title}\n\n```text\n$ embedwire tune {SHOWN} --heatmap {name}.svg\n{text}\n```\n\n"
            f"![Texts per second by texts in a request and requests in flight]({name}.svg)\n"
        )
        (DOCS / f"{name}.svg").write_text(svg(outcome), "utf-8")
        print(title, outcome.complete)
    page = DOCS / "TUNE.md"
    page.write_text(page.read_text("utf-8").partition(BEGIN)[0] + "\n".join(told), "utf-8")


if __name__ == "__main__":
    main()
