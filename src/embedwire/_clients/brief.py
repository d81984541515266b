"""`brief`: what leaves a door has the caller's line and the door's in its traceback, and none of the plumbing between.

Other people's exceptions, and bugs, keep all of it.
"""

from __future__ import annotations

from types import TracebackType

from embedwire.exceptions import EmbedwireError


class _Brief:
    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if trace is not None and isinstance(error, EmbedwireError):
            trace.tb_next = None


brief = _Brief()
