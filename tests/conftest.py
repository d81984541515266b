"""What holds for every test; the real servers are in `tests.servers.fixtures`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from pytest_asyncio import is_async_test

from embedwire._clients import fork
from embedwire._http import repeats
from embedwire._http.backoff import delay
from embedwire._servers import known


def pytest_configure(config: pytest.Config) -> None:
    """Let the one known warning of a dependency pass; all others are errors."""
    config.addinivalue_line(
        "filterwarnings", "ignore:.langchain-community. is being sunset:DeprecationWarning"
    )
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # of a job in the background, which children inherit
        signal.signal(signal.SIGINT, signal.default_int_handler)


DOORS = Path(__file__).parent / "doors"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The folder whose packages only `make test-doors` installs is collected where it is named."""
    named = any(Path(arg.partition("::")[0]).absolute().is_relative_to(DOORS) for arg in config.args)
    return True if collection_path == DOORS and not named else None


fork.engine()  # a loop with simulated time does not wait for the thread that loads it first


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Before each sync test looptime asks for the current loop: none, or asyncio would make one that stays open."""
    if not is_async_test(pyfuncitem):
        asyncio.set_event_loop(None)
    return (yield)


@pytest.fixture(autouse=True)
def a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test learned about a server, or a key in the environment, changes nothing for the next."""
    known.forget()
    for name in ("EMBEDWIRE_BASE_URL", "EMBEDWIRE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=sys.version_info < (3, 11))
def round_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looptime 0.7, the last for Python 3.10, spins for ever after a pause of more than microseconds' precision."""
    monkeypatch.setattr(repeats, "delay", lambda *given: round(delay(*given), 3))
