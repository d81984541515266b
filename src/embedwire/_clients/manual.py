"""What the constructor's docstring says of each argument: the one text that all doors show. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any


def arguments_of(door: Callable[..., Any] | type) -> dict[str, str]:
    """Each argument's paragraph under "Args:", on one line; nothing where docstrings were left out (``python -OO``)."""
    text = inspect.getdoc(door.__init__ if isinstance(door, type) else door) or ""  # type: ignore[misc]
    _, _, part = text.partition("\nArgs:\n")
    part = re.split(r"\n(?=\S)", part)[0]
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", part, re.MULTILINE | re.DOTALL)
    return {name: " ".join(said.split()) for name, said in found}
