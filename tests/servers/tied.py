"""``python tests/servers/tied.py MODULE ...`` is ``python -m MODULE ...``, but it ends when stdin closes.

So no server outlives the tests that started it, however they end.
"""

import os
import runpy
import sys
import threading


def main() -> None:
    """Run the module as ``__main__`` while a thread watches stdin."""
    threading.Thread(target=_exit_with_stdin, args=(sys.stdin.fileno(),), daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _exit_with_stdin(descriptor: int) -> None:
    while os.read(descriptor, 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
