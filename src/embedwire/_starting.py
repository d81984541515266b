"""Ctrl-C while the `embedwire` command is still being imported ends it with one line.

It is the first thing that `import embedwire` imports, and does nothing where another program imports the package: its
Ctrl-C is its own.
"""

import os
import signal
import sys
import threading
from types import FrameType

STOPPED = "Stopped."


def is_the_command(argv: list[str], original: list[str]) -> bool:
    """Whether a process with this command line is `embedwire …` or `python -m embedwire …`."""
    program = os.path.basename(argv[0]) if argv else ""
    if program == "-m":
        return "embedwire" in original[original.index("-m") + 1 :][:1] if "-m" in original else False
    return program in ("embedwire", "embedwire.exe", "embedwire-script.py")


def done() -> None:
    """All is imported: from now on Ctrl-C is a `KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(*_: int | FrameType | None) -> None:
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(130)  # an exception could be swallowed by what is being imported, and nothing has begun yet


if is_the_command(getattr(sys, "argv", []), sys.orig_argv) and (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT)
    is signal.default_int_handler  # a shell lets its background jobs ignore it
):
    signal.signal(signal.SIGINT, _stop)
