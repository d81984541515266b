"""Runs a part of the tests on each Python that pyproject.toml claims, but for the one that runs this.

The fast unit tests, and the client against real sockets. An interpreter is looked for on the PATH (`python3.13`) and
among those of pyenv; where there is none, that is said, and the others run. Each has an environment in .venv-pythons.

    python scripts/test_pythons.py [3.10 3.13 …]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = [
    "tests/unit",
    "tests/server/test_client.py",
    "tests/server/test_client_life.py",
    "tests/server/test_blog_post_calls.py",
]
PYTEST = ["-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-n", "2"]


def main(wanted: list[str]) -> int:
    """Exit code 0, unless tests failed somewhere."""
    here = "{}.{}".format(*sys.version_info)
    failed = []
    for version in wanted or [one for one in claimed() if one != here]:
        python = find(version)
        if python is None:
            print(f"Python {version}: skipped, as there is no interpreter of it on this machine.", flush=True)
            continue
        begun = time.monotonic()
        ok = run(version, python)
        print(
            f"Python {version}: {'passed' if ok else 'FAILED'} in {time.monotonic() - begun:.0f} s.",
            flush=True,
        )
        failed += [] if ok else [version]
    return len(failed)


def claimed() -> list[str]:
    """The versions among the classifiers."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)


def find(version: str) -> Path | None:
    """An interpreter that starts."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [
        shutil.which(f"python{version}"),
        *sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True),
    ]
    for candidate in filter(None, candidates):
        asked = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
        )
        if asked.stdout.strip() == version:
            return Path(candidate)
    return None


def run(version: str, python: Path) -> bool:
    """Whether its tests pass."""
    folder = ROOT / ".venv-pythons" / version
    mine = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = folder / ".ready"
    newest = max(path.stat().st_mtime for path in (ROOT / "pyproject.toml", Path(__file__)))
    if not ready.exists() or ready.stat().st_mtime < newest:
        print(f"Python {version}: installing what its tests need ...", flush=True)
        install = [mine, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in (
            [python, "-m", "venv", folder],
            [*install, "--upgrade", "pip>=25.1"],
            [*install, "-e", ".[cli,langchain,llama-index]", "--group", "tests"],
        ):
            if subprocess.run(command, cwd=ROOT).returncode:
                return False
        ready.touch()
    return not subprocess.run([mine, *PYTEST, *TESTS], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
