"""Examples, as a reader would start them, and pieces of code in a process of their own."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

EXAMPLES = Path(__file__).parents[2] / "examples"
URL = "http://localhost:8080"  # which stands in the examples


def printed(example: str, url: str, folder: Path, *arguments: str, **env: str) -> list[str]:
    """What an example prints, run in a folder with another server.

    In this process: what the frameworks take to be imported is spent once.
    """
    source = (EXAMPLES / example).read_text("utf-8")
    assert URL in source
    code = compile(source.replace(URL, url), str(EXAMPLES / example), "exec", dont_inherit=True)
    out, here = io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with (
            contextlib.redirect_stdout(out),
            mock.patch.object(sys, "argv", [example, *arguments]),
            mock.patch.dict(os.environ, env),
        ):
            exec(code, {"__name__": "__main__"})  # noqa: S102 - it is ours
        gc.collect()  # its clients, as at the end of a process
    finally:
        os.chdir(here)
        if "chromadb" in sys.modules:  # which would take the same path in another folder for this one
            from chromadb.api.shared_system_client import SharedSystemClient

            SharedSystemClient.clear_system_cache()
    return out.getvalue().splitlines()


def said(script: Path, *arguments: str, **env: str) -> list[str]:
    """The lines that a new Python process prints."""
    ran = subprocess.run(
        [sys.executable, "-X", "utf8", str(script), *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **env},
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()
