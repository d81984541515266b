"""What a fork means: the child starts anew, and leaks, never closes, what it inherited.

Parent and child share sockets and the epoll: closing in the child would unregister them in the parent, and hang it.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import threading
from collections.abc import Callable
from types import ModuleType

_in_child: list[Callable[[], None]] = []
# A fork while another thread is inside the first import of aiohttp would leave the child with a module lock that nobody
# releases, so forks wait for that import.
_importing = threading.RLock()
_loaded: list[ModuleType] = []


def engine() -> ModuleType:
    """`_clients.engine`, with which aiohttp and numpy come: loaded when it is needed first."""
    if not _loaded:
        with _importing:
            _loaded.append(importlib.import_module("embedwire._clients.engine"))
    return _loaded[0]


def engine_is_loaded() -> bool:
    """Whether the first use is over, which takes a second."""
    return bool(_loaded)


def in_child(start_anew: Callable[[], None]) -> None:
    """Calls a function in each forked child."""
    _in_child.append(start_anew)


def leak(thing: object) -> None:
    """Keeps an object, and all that it refers to, from ever being collected."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _after_in_child() -> None:
    _importing.release()
    for start_anew in _in_child:
        start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_after_in_child
    )
