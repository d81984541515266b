"""Builds the documentation site, and looks through it: `make docs`.

    python scripts/build_site.py

A warning of zensical or of what reads the docstrings is an error. So is a link within the site that leads nowhere, and
anything that a page would ask of another host. Prints what is wrong, one line each, and exits with 1 then.
"""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
WARNING = re.compile(r"^(?:griffe|mkdocstrings|mkdocs_autorefs)\b|\bwarning\b", re.IGNORECASE)
ASKED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
FETCHED = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "modulepreload",
    "manifest",
}
IN_STYLES = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""")


class Page(HTMLParser):
    """What a page links to, what it fetches by itself, and what may be linked to in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.feed(html)
        self.fetched += IN_STYLES.findall(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Takes note of a tag."""
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and FETCHED & set(given.get("rel", "").split()):
            self.fetched.append(given.get("href", ""))
        elif ASKED.get(tag, "") in given:
            self.fetched.append(given[ASKED[tag]])


def problems(site: Path) -> list[str]:
    """What is wrong with a site, a line each."""
    pages = {path: Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    wrong = [] if pages else [f"{site}: no page"]
    for path, page in pages.items():
        name = path.relative_to(site)
        wrong += [f"{name}: fetches {url}" for url in page.fetched if urlsplit(url).netloc]
        local = [*page.links, *page.fetched]
        wrong += [f"{name}: {url} is not there" for url in local if not _is_there(url, path, site, pages)]
    for path in sorted([*site.rglob("*.css"), *site.rglob("*.svg")]):
        found = IN_STYLES.findall(path.read_text("utf-8"))
        wrong += [f"{path.relative_to(site)}: fetches {url}" for url in found]
    return wrong


def _is_there(url: str, page: Path, site: Path, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return True
    path = unquote(parts.path)
    target = site / path.lstrip("/") if path.startswith("/") else (page.parent / path if path else page)
    target = target.resolve()
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return False
    return not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].ids


def build() -> list[str]:
    """Builds the site, and shows how; the lines that are warnings."""
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    ) as building:
        said = list(map(_shown, building.stdout or ()))
    failed = [f"zensical ended with {building.returncode}"] if building.returncode else []
    return failed + [line for line in said if WARNING.search(line)]


def _shown(line: str) -> str:
    print(line, end="", flush=True)
    return line.rstrip()


if __name__ == "__main__":
    found = build() or problems(ROOT / "site")
    print(
        "\n".join(["", *found])
        if found
        else "site/: every link leads somewhere, nothing is asked of other hosts"
    )
    sys.exit(bool(found))
