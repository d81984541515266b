"""Pages of Markdown as tests meet them: README and the pages of docs/ alike.

Blocks of Python and bash are run, all of a page from top to bottom, with two exceptions that a reader sees, too: a
block whose title ends with "(not run …)", and one with the title "before": old lines of another package, which are run
by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOCAL = re.compile(r"http://localhost:\d+")
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w-]*)(?P<rest>.*)$")
_TITLE = re.compile(r'title="([^"]*)"')
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """What stands between two fences.

    Attributes:
        line: Of its first line in the page, from 1.
        language: What it is written in; "" where that is not said.
        title: What stands above it.
        code: Its lines.
    """

    line: int
    language: str
    title: str
    code: str

    @property
    def is_run(self) -> bool:
        """Whether it is run as a part of its page."""
        return not self.title.endswith(")") and self.title != "before"


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page."""
    lines = iter(enumerate(page.splitlines(), start=1))
    for number, line in lines:
        if opened := _FENCE.match(line):
            inside = []
            for _, text in lines:
                if text.strip() == opened["ticks"]:
                    break
                inside.append(text.removeprefix(opened["indent"]))
            title = _TITLE.search(opened["rest"])
            yield Block(number + 1, opened["language"], title[1] if title else "", "\n".join(inside))


def program(some: Iterable[Block]) -> str:
    """Blocks as one program, each line at its line of the page, so that a traceback points into the page."""
    lines: list[str] = []
    for block in some:
        lines += [""] * (block.line - 1 - len(lines))
        lines += block.code.splitlines()
    return "\n".join(lines) + "\n"


def python(page: str) -> str:
    """All of a page's Python that is run."""
    return program(block for block in blocks(page) if block.language == "python" and block.is_run)


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, header left out."""
    section = re.split(rf"\n#+ {re.escape(heading)}\n", page)[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def prose(page: str) -> str:
    """A page without its blocks."""
    kept, ticks = [], ""
    for line in page.splitlines():
        fence = _FENCE.match(line)
        if ticks:
            ticks = "" if line.strip() == ticks else ticks
        elif fence:
            ticks = fence["ticks"]
        else:
            kept.append(line)
    return "\n".join(kept)


def links(page: str) -> list[str]:
    """Where a page's links and pictures lead, in this repository."""
    found: list[str] = _LINK.findall(re.sub(r"`[^`]*`", "", prose(page)))
    return [target for target in found if "://" not in target]


def anchors(page: str) -> set[str]:
    """What a link may name behind a #: the headings, as they are written in addresses."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
