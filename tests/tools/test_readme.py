"""The README: its code runs, and its tables are complete."""

import inspect
import re
import subprocess
from pathlib import Path

import pytest

from embedwire import EmbeddingClient, Timeouts, exceptions
from tests.tools.strict import STRICT, complaints

README = Path(__file__).parents[2] / "README.md"
FAULTS = README.parent / "docs" / "FAULTS.md"
URL = "http://localhost:8080"


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path, llama: str) -> None:
    """All Python of the README runs from top to bottom against a real llama.cpp, without a warning."""
    script = tmp_path / "README.py"
    script.write_text(python(README.read_text("utf-8")).replace(URL, llama), "utf-8")
    ran = subprocess.run(
        [*STRICT, "-X", "utf8", script],
        capture_output=True,
        encoding="utf-8",
    )
    assert ran.returncode == 0, ran.stderr
    assert complaints(ran.stderr) == ""
    assert ran.stdout.splitlines().count("Seoul is the capital of Korea.") == 2
    assert "text 1 has 40002 tokens, the server takes 512\ndone: [0, 2] (2, 384)\n" in ran.stdout
    assert ran.stdout.endswith("0 (1, 384)\n2 (1, 384)\nskipped: [1]\n")


def test_every_option_is_listed_with_its_default() -> None:
    """The table of options has every argument of the client, in order, with the default it really has."""
    listed = [(name, default) for name, default, _ in rows("Options")]
    assert listed == [
        (f"`{name}`", "" if option.default is option.empty else f"`{_shown(option.default)}`")
        for name, option in inspect.signature(EmbeddingClient).parameters.items()
    ]


def test_the_tree_is_the_one_of_the_module() -> None:
    """The tree of errors is the one at the top of the module, which is checked against the classes."""
    tree = [line[4:] for line in str(exceptions.__doc__).splitlines() if "──" in line]
    assert len(tree) == len(exceptions.__all__) - 2  # EmbedwireError is its root, Completed no error
    assert "\n".join(tree) in README.read_text("utf-8")


def test_the_faults_are_those_of_the_report() -> None:
    """Number and counts of the faults are those that `make compare-faults` wrote last."""
    summary, *groups = FAULTS.read_text("utf-8").split("\n## ")
    counts = {
        line.split("|")[1].strip(): line.split("|")[2:-1]
        for line in summary.splitlines()
        if line.startswith("|")
    }
    told = {name: cells for name, *cells in rows("Beside other clients")}
    assert told == {
        "right": [count.strip() for count in counts["✔"]],
        "wrong vectors, no error": [count.strip() for count in counts["wrong or missing vectors, no error"]],
    }
    faults = sum(line.startswith("| ") for group in groups for line in group.splitlines()) - len(groups)
    assert f"runs {faults} faults of servers" in README.read_text("utf-8")


def test_every_link_leads_somewhere() -> None:
    """No relative link of the README is dead."""
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text("utf-8")):
        assert (README.parent / target).exists(), target


def python(markdown: str) -> str:
    """The Python blocks, each line at its line of the page, so that a traceback points into the page."""
    inside, lines = False, []
    for line in markdown.splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            line = ""
        lines.append(line if inside else "")
    return "\n".join(lines)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, header left out."""
    section = README.read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def _shown(default: object) -> str:
    if isinstance(default, str):
        return f'"{default}"'
    if default == Timeouts():
        return "Timeouts()"
    return f"{default:_}" if type(default) is int else str(default)
