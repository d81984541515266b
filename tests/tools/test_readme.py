"""The README: its code runs, its links lead somewhere. What its tables say is checked with those of docs/."""

import subprocess
from pathlib import Path

import pytest

from tests.tools.pages import ROOT, links, python
from tests.tools.strict import STRICT, complaints

README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path, llama: str) -> None:
    """All Python of the README runs from top to bottom against a real llama.cpp, without a warning."""
    script = tmp_path / "README.py"
    script.write_text(python(README).replace("http://localhost:8080", llama), "utf-8")
    ran = subprocess.run(
        [*STRICT, "-X", "utf8", script],
        capture_output=True,
        encoding="utf-8",
    )
    assert ran.returncode == 0, ran.stderr
    assert complaints(ran.stderr) == ""
    assert ran.stdout.splitlines().count("Seoul is the capital of Korea.") == 2


def test_every_link_leads_somewhere() -> None:
    """No relative link of the README is dead."""
    for target in links(README):
        assert target.startswith("#") or (ROOT / target.partition("#")[0]).exists(), target
