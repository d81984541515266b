"""The documentation: its code runs, its commands exist, its tables are the code's, its links lead somewhere."""

from __future__ import annotations

import ast
import html
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedwire import EmbeddingClient, Timeouts, exceptions
from embedwire._settings.options import PRESETS
from scripts import build_site
from tests.helpers import numbered
from tests.tools.pages import DOCS, LOCAL, ROOT, anchors, blocks, links, program, prose, python, rows
from tests.tools.strict import STRICT

PAGES = {str(path.relative_to(DOCS)): path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md"))}
README = (ROOT / "README.md").read_text("utf-8")
ALL = {**PAGES, "README.md": README}
WITH_PYTHON = [name for name, page in PAGES.items() if python(page).strip()]
OLD = {
    f"{name}:{block.line}": program([block])
    for name, page in PAGES.items()
    for block in blocks(page)
    if block.title == "before"
}
BASH = [
    pytest.param(block, id=f"{name}:{block.line}")
    for name, page in PAGES.items()
    for block in blocks(page)
    if block.language == "bash" and block.is_run
]
COMMANDS = sorted({path.stem for path in (ROOT / "src/embedwire/cli").glob("*.py")} - {"__init__", "app"})
_ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("EMBEDWIRE_", "OPENAI_"))},
    "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT / "src")])),
    "PYTHONUTF8": "1",
}
# What a page prints, where more is promised than that it runs.
PRINTS = {
    "start.md": [
        "Seoul is the capital of Korea.\nSeoul is the capital of Korea.\n2 vectors of 384 numbers\n",
        "kimchi.md: ",
    ],
    "clients.md": ["lines 0 to ", "(2, 384) float32"],
    "options.md": [
        "'openai_api_base' here; pass base_url=",
        "'chunk_size' here; pass batch_size=",
        "'request_timeout' here; pass timeout=",
        "did you mean 'batch_size'?",
    ],
    "errors.md": [
        "text 1 has 40002 tokens, the server takes 512\ndone: [0, 2] (2, 384)\n0 (1, 384)\n2 (1, 384)\nskipped: [1]\n"
    ],
    "long-texts.md": ["(2, 384)", "1 of them in parts"],
    "several.md": ["in use"],
    "CORPORA.md": ["3 0 "],
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, llama: str, llama4: str) -> dict[str, dict[str, str]]:
    """What became of each page's Python, in a process in which any warning is an error."""
    code = {name: python(PAGES[name]).replace("http://localhost:8081", llama4) for name in WITH_PYTHON}
    return _outcomes(
        STRICT, {name: LOCAL.sub(llama, lines) for name, lines in code.items()}, tmp_path_factory
    )


@pytest.fixture(scope="module")
def ran_before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The same of old lines, whose packages may warn."""
    return _outcomes([sys.executable], OLD, tmp_path_factory)


class TestBlocks:
    """What a reader copies works."""

    @pytest.mark.slow
    @pytest.mark.timeout(600)  # for all pages together
    @pytest.mark.parametrize("name", WITH_PYTHON)
    def test_python(self, name: str, ran: dict[str, dict[str, str]]) -> None:
        """A page's Python runs from top to bottom against real servers, without a warning."""
        assert ran[name]["failed"] == ""
        for wanted in PRINTS.get(name, []):
            assert wanted in ran[name]["out"]

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("name", OLD)
    def test_old_lines(self, name: str, ran_before: dict[str, dict[str, str]]) -> None:
        """The lines of other packages are right for the versions that are installed: making the object works."""
        if missing := re.search(r"ModuleNotFoundError: (.*)", ran_before[name]["failed"]):
            pytest.skip(missing[1])
        assert ran_before[name]["failed"] == ""

    @pytest.mark.slow
    @pytest.mark.parametrize("block", BASH)
    def test_bash(self, block: Any, tmp_path: Path, llama: str) -> None:
        """A page's commands end with 0; what pip would install is looked at by another test."""
        _belongings(tmp_path)
        command = (
            f'set -euo pipefail\npip() {{ :; }}\nembedwire() {{ "{sys.executable}" -m embedwire "$@"; }}\n'
        )
        ran = _run(["bash", "-c", command + LOCAL.sub(llama, block.code)], tmp_path)
        assert ran.returncode == 0, ran.stderr

    @pytest.mark.parametrize("name", PAGES)
    def test_what_is_not_run_is_right_as_far_as_can_be_seen(self, name: str) -> None:
        """Each block that is not run says so in its title, and is of the language that it claims."""
        for block in blocks(PAGES[name]):
            if block.title.endswith(")"):
                assert "(not run" in block.title
            if block.language == "python":
                ast.parse(block.code)
            if block.language == "bash":
                assert _run(["bash", "-n", "-c", block.code], ROOT).returncode == 0

    def test_extras_are_those_of_the_package(self) -> None:
        """No page names an extra that there is not, and none has something installed from an index."""
        extras = set(
            re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
        )
        for name, page in ALL.items():
            for named in re.findall(r"pip install \"?(?:\.|embedwire)\[([\w,-]+)\]", page):
                assert set(named.split(",")) <= extras, name

    @pytest.mark.slow
    @pytest.mark.parametrize("command", COMMANDS)
    def test_options_of_commands(self, command: str) -> None:
        """Each option that a page passes to a command is one of its options."""
        shown = _run([sys.executable, "-m", "embedwire", command, "--help"], ROOT, COLUMNS="200").stdout
        for name, page in ALL.items():
            for line in re.findall(rf"\bembedwire {command}\b([^`\n#]*)", page):
                for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line):
                    assert re.search(rf"{option}\b", shown), f"{name}: {option}"


class TestTheTools:
    """What these tests stand on can fail."""

    def test_a_page_that_fails_or_leaves_something_open(self, tmp_path: Path) -> None:
        """Each is found out by itself, with the line of the page; the others are right."""
        page = '# Page\n\n```python\nprint("a")\n```\n\n    ```python title="after"\n    1 / 0\n    ```\n'
        leak = "import socket\nopened = socket.socket()\n"
        pages = [("fails.md", python(page)), ("leaks.md", leak), ("right.md", "print(1)")]
        sent = json.dumps([(name, code, str(tmp_path)) for name, code in pages])
        found = json.loads(_run([*STRICT, "-m", "tests.tools.run_pages"], ROOT, sent=sent).stdout)
        assert "line 8" in found["fails.md"]["failed"]
        assert "ZeroDivisionError" in found["fails.md"]["failed"]
        assert found["fails.md"]["out"] == "a\n"
        assert "unclosed <socket" in found["leaks.md"]["failed"]
        assert found["right.md"] == {"out": "1\n", "failed": ""}

    def test_what_is_run(self) -> None:
        """All but old lines, and what says that it is not."""
        titles = ["", ' title="after"', ' title="before"', ' title="The server (not run here)"']
        page = "".join(f"```python{title}\n{number}\n```\n" for number, title in enumerate(titles))
        assert [block.is_run for block in blocks(page)] == [True, True, False, False]
        assert python(page).split() == ["0", "1"]

    @pytest.mark.parametrize(
        ("page", "wrong"),
        [
            ('<a href="other.html#there">', []),
            ('<a href="https://example.com/"><link rel="canonical" href="https://example.com/">', []),
            ('<a href="none.html">', ["page.html: none.html is not there"]),
            ('<a href="other.html#nowhere">', ["page.html: other.html#nowhere is not there"]),
            ('<a href="#nowhere">', ["page.html: #nowhere is not there"]),
            ('<img src="none.svg">', ["page.html: none.svg is not there"]),
            ('<script src="//cdn.example.com/a.js">', ["page.html: fetches //cdn.example.com/a.js"]),
            (
                '<link rel="stylesheet" href="https://fonts.example.com/a">',
                ["page.html: fetches https://fonts.example.com/a"],
            ),
            (
                "<style>@import url(https://fonts.example.com/a);</style>",
                ["page.html: fetches https://fonts.example.com/a"],
            ),
        ],
    )
    def test_of_a_built_site(self, page: str, wrong: list[str], tmp_path: Path) -> None:
        """A link that leads nowhere, and what would be asked of another host, are found."""
        (tmp_path / "page.html").write_text(page, "utf-8")
        (tmp_path / "other.html").write_text('<h2 id="there">', "utf-8")
        assert build_site.problems(tmp_path) == wrong

    @pytest.mark.parametrize("name", ["a.css", "a.svg"])
    def test_of_a_style(self, name: str, tmp_path: Path) -> None:
        """A style, or a picture's, that asks another host for a font is found."""
        (tmp_path / "page.html").write_text("", "utf-8")
        (tmp_path / name).write_text('@font-face{src:url("https://fonts.example.com/a")}', "utf-8")
        assert build_site.problems(tmp_path) == [f"{name}: fetches https://fonts.example.com/a"]


class TestTables:
    """What pages say of the code is so."""

    @pytest.mark.parametrize("name", [name for name in ALL if "| `base_url` | `None` |" in ALL[name]])
    def test_every_option_is_listed_with_its_default(self, name: str) -> None:
        """The table of options has every argument of the client, in order, with the default it really has."""
        listed = [(option, default) for option, default, _ in rows(ALL[name], "Options")]
        assert listed == [
            (f"`{option}`", "" if value.default is value.empty else f"`{_shown(value.default)}`")
            for option, value in inspect.signature(EmbeddingClient).parameters.items()
        ]

    @pytest.mark.parametrize("name", [name for name in ALL if "├── InputError" in ALL[name]])
    def test_the_tree_is_the_one_of_the_module(self, name: str) -> None:
        """The tree of errors is the one at the top of the module, which is checked against the classes."""
        tree = [line[4:] for line in str(exceptions.__doc__).splitlines() if "──" in line]
        assert len(tree) == len(exceptions.__all__) - 2  # EmbedwireError is its root, Completed no error
        assert "\n".join(tree) in ALL[name]

    def test_every_error_has_a_cure(self) -> None:
        """The page of errors says what to do about each one that is raised."""
        cures = {name for name, _ in rows(PAGES["errors.md"], "What to do")}
        assert cures == {
            f"`{name}`"
            for name in exceptions.__all__
            if name not in ("EmbedwireError", "RequestError", "Completed")
        }

    def test_every_attribute_of_an_error_is_told(self) -> None:
        """The page of errors has each piece of data that an error carries, and no other."""
        told = {word for name, _ in rows(PAGES["errors.md"], "What they carry") for word in name.split(", ")}
        error = exceptions.RequestError("no")
        carried = {name for name in dir(error) if not name.startswith("_")} - set(dir(Exception))
        assert told == {f"`{name}`" for name in carried - {"set_outcome"}}

    def test_every_prompt_is_the_presets(self) -> None:
        """The page of prompts has each preset, word for word, and where it is from."""
        told = {}
        for name, query, document, card in rows(PAGES["prompts.md"], "By name"):
            assert "https://huggingface.co/" in card
            words = [html.unescape(re.sub(r"^`|`$|</?code>", "", cell)) for cell in (query, document)]
            told[name.strip('`"')] = [word.replace("`, a line break, `", "\n") for word in words]
        assert told == {name: [given.query, given.document] for name, given in PRESETS.items()}

    @pytest.mark.parametrize("name", [name for name in ALL if "faults of servers, and ways" in ALL[name]])
    def test_the_faults_are_those_of_the_report(self, name: str) -> None:
        """Number and counts of the faults are those that `make compare-faults` wrote last."""
        summary, *groups = PAGES["FAULTS.md"].split("\n## ")
        counts = {
            line.split("|")[1].strip(): line.split("|")[2:-1]
            for line in summary.splitlines()
            if line.startswith("|")
        }
        heading = "Beside other clients" if name == "README.md" else "When a server misbehaves"
        assert {kind: cells for kind, *cells in rows(ALL[name], heading)} == {
            "right": [count.strip() for count in counts["✔"]],
            "wrong vectors, no error": [
                count.strip() for count in counts["wrong or missing vectors, no error"]
            ],
        }
        faults = sum(line.startswith("| ") for group in groups for line in group.splitlines()) - len(groups)
        assert f"runs {faults} faults of servers" in ALL[name]


class TestLinks:
    """A reader arrives where a page sends him."""

    @pytest.mark.parametrize("name", PAGES)
    def test_lead_somewhere(self, name: str) -> None:
        """Each link and picture within the site is there, and so is the heading that it names."""
        for target in links(PAGES[name]):
            path, _, anchor = target.partition("#")
            there = (DOCS / name).parent / path if path else DOCS / name
            assert there.exists(), target
            assert DOCS in there.resolve().parents, f"{target} is not on the site"
            if anchor:
                assert anchor in anchors(there.read_text("utf-8")), target

    def test_every_page_stands_in_the_navigation(self) -> None:
        """Each page of docs/ has its line in zensical.toml, and each line its page."""
        config = re.sub(r"^ *#.*", "", (ROOT / "zensical.toml").read_text("utf-8"), flags=re.MULTILINE)
        listed = re.findall(r'"([\w./-]+\.md)"', config)
        assert sorted(listed) == sorted(PAGES)

    def test_pages_ask_nothing_of_other_hosts(self) -> None:
        """No picture, script or style comes from elsewhere."""
        for name, page in PAGES.items():
            assert not re.search(r"!\[[^\]]*\]\(https?:|<(?:img|script|link|iframe)\b", prose(page)), name


def _run(command: list[Any], folder: Path, sent: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        cwd=folder,
        env={**_ENVIRONMENT, **env},
        input=sent,
    )


def _outcomes(
    interpreter: list[Any], programs: dict[str, str], folders: pytest.TempPathFactory
) -> dict[str, dict[str, str]]:
    pages = []
    for name, code in programs.items():
        folder = folders.mktemp("page")
        _belongings(folder)
        pages.append([str(DOCS / name), code, str(folder)])
    done = _run([*interpreter, "-m", "tests.tools.run_pages"], ROOT, sent=json.dumps(pages))
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    return {name: outcomes[str(DOCS / name)] for name in programs}


def _belongings(folder: Path) -> None:
    """The files that a reader of the pages has."""
    lines = [f'{{"id": "{text}", "text": "{text}"}}\n' for text in numbered(3)]
    (folder / "docs.jsonl").write_text("".join(lines), "utf-8")
    (folder / "notes").mkdir()
    (folder / "notes" / "kimchi.md").write_text(
        "Salt the cabbage, and wait for a week.\n\nEat kimchi.\n", "utf-8"
    )
    (folder / "notes" / "seoul.md").write_text("Seoul is the capital of Korea.\n", "utf-8")


def _shown(default: object) -> str:
    if isinstance(default, str):
        return f'"{default}"'
    if default == Timeouts():
        return "Timeouts()"
    return f"{default:_}" if type(default) is int else str(default)
