"""What the tests of both adapters need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable
from typing import Any

KEY = "sk-do-not-show-4711"
NOBODY = "http://127.0.0.1:9"  # for objects that are looked at and send nothing


async def result_of(value: Any) -> Any:
    """The value of a sync or an async call."""
    return await value if isinstance(value, Awaitable) else value


def last_words_without(framework: str, adapter: str) -> str:
    """The last line that Python says when an adapter is imported and its framework is not installed."""
    code = f"import sys; sys.modules[{framework!r}] = None; import {adapter}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]
