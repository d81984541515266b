"""Runs the Python of pages, each in a namespace and a folder of its own, all in this process: imports cost once.

    python -m tests.tools.run_pages < pages.json

Reads a list of ``[file, code, folder]`` and prints a JSON object: file → what it said, and why it failed, or "". What
is left open at the end of a page is that page's failure. Errors point into the page: a line stands where it does there.
That is why sybil does not run them: in the process of pytest, what a page leaves open would be nobody's.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import sys
import traceback

COMPLAINTS = ("Traceback", "Exception ignored")


def run(file: str, code: str, folder: str) -> dict[str, str]:
    """What a page says, and why it failed."""
    os.chdir(folder)
    out, err, failed = io.StringIO(), io.StringIO(), ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            names = {"__name__": "__main__"}
            exec(compile(code, file, "exec"), names)  # noqa: S102 - it is what a reader runs
            names.clear()
        except BaseException:  # SystemExit, too
            failed = traceback.format_exc()
        gc.collect()
    said = err.getvalue()
    if not failed and any(word in said for word in COMPLAINTS):
        failed = said
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    return {"out": out.getvalue(), "failed": failed}


if __name__ == "__main__":
    logging.getLogger("embedwire").addHandler(logging.NullHandler())  # a page may show a repeat
    print(json.dumps({page[0]: run(*page) for page in json.load(sys.stdin)}))
