"""The fuzzer of `make fuzz`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


class TestTheFuzzer:
    """`make fuzz` is of use to who has what it needs, and says what that is to who has not."""

    def test_says_what_it_needs(self) -> None:
        """Without atheris it ends with one sentence about the platforms, not with a traceback."""
        script = (
            "import runpy, sys; sys.modules['atheris'] = None; "
            "runpy.run_module('fuzz.fuzz_reply', run_name='__main__')"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("atheris is not installed")
        assert "Linux" in done.stderr
        assert "Traceback" not in done.stderr
