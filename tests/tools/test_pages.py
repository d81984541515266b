"""The pages of stores and integrations show code out of the examples, which other tests run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "STORES.md", ROOT / "docs" / "INTEGRATIONS.md"]
BLOCK = re.compile(r'```python title="(\S+) \(not run[^"]*"\n(.*?)```', re.DOTALL)


def squeezed(code: str) -> str:
    """Code without white space, comments and last commas: in a function lines are shorter than on a page."""
    return re.sub(r",([)\]}])", r"\1", re.sub(r"\s|#.*", "", code))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_of_an_example(page: Path) -> None:
    """Each Python block names its file, and each of its paragraphs stands there."""
    text = page.read_text("utf-8")
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```python") > 3
    for name, code in blocks:
        example = squeezed((ROOT / name).read_text("utf-8"))
        for paragraph in code.split("\n\n"):
            assert squeezed(paragraph) in example, f"{name}:\n{paragraph}"
