"""`discreet`: a constructor whose errors carry no key out, not even in the local variables of a traceback.

Tools that report errors (Sentry by default, rich on demand) send the locals of every frame along, and in a constructor
the key is one. The caller's own frames are the caller's business.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def discreet(door: Callable[P, T]) -> Callable[P, T]:
    """Empties this package's frames in the traceback of whatever ``door`` raises; other people's stay as they are."""

    @functools.wraps(door)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return door(*args, **kwargs)
        except BaseException as error:
            _conceal(error)
            raise
        finally:
            del args, kwargs

    return guarded


def _conceal(error: BaseException) -> None:
    if error.__suppress_context__:  # raised `from None`: what it came from is nobody's business
        error.__context__ = None
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if str(frame.f_globals.get("__name__")).partition(".")[0] == "embedwire":
            # A frame that still runs is a door's, which forgets its arguments by itself.
            with contextlib.suppress(RuntimeError):
                frame.clear()
        trace = trace.tb_next
