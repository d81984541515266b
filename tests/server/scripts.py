"""Scripts in processes of their own, beside the server of a test."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PRELUDE = """
    import asyncio, gc, logging, os, signal, sys, threading
    from embedwire import EmbeddingClient, SharedEmbeddingClient, UsageError
    from embedwire.testing import is_vector_of

    # Debug mode reports steps of over 0.1 s; on a busy machine any step may be one.
    logging.getLogger("asyncio").addFilter(lambda record: not record.msg.startswith("Executing "))
    URL = sys.argv[1]

    def right(rows, texts):
        return len(rows) == len(texts) and all(map(is_vector_of, rows, texts))

    def texts(who, count=60):
        return [f"{who} {number}" for number in range(count)]

    def make(kind=SharedEmbeddingClient, **arguments):
        return kind(URL, **{"model": "test-model", "encoding": "float", **arguments})
"""
# From Python 3.12 on, forking a process that has threads warns, whoever forks.
CALM = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
Script = Callable[[str], "subprocess.Popen[str]"]


@contextmanager
def scripts(folder: Path, url: str) -> Iterator[Script]:
    """Gives what starts a script in a process of its own, where any warning is an error; in the end none is left."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        path = folder / "script.py"
        path.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(code))
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-X", "dev", *CALM, str(path), url]
        started.append(subprocess.Popen(command, text=True, cwd=folder, **pipes))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            with process:
                process.kill()
