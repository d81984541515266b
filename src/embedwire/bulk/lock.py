"""One run at a time on one output: a lock that the system lets go of when its process ends, however that is."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from embedwire.exceptions import UsageError

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Lock:
    """Its state is the open file that is locked, in which its process's id stands.

    Args:
        path: Of that file, which is made.
        patience: Seconds that another run is waited for.

    Raises:
        UsageError: Another run has it.
    """

    def __init__(self, path: Path, patience: float = 0.0) -> None:
        self._path = path
        until = time.monotonic() + patience
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _lock(file)
            except OSError:
                os.close(file)
                if time.monotonic() < until:
                    time.sleep(0.2)
                    continue
                raise UsageError(
                    f"another run is writing there ({path} is locked); wait for it, or choose another output"
                ) from None
            if _is_at(file, path):  # else its last owner removed it between the two lines above
                os.ftruncate(file, 0)
                os.write(file, b"%d\n" % os.getpid())
                self._file: int | None = file
                return
            os.close(file)

    def release(self) -> None:
        """Lets others in; twice is fine."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # Windows removes no open file
                os.unlink(self._path)
            os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
