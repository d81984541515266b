"""Looks through a built site: every link within it leads somewhere, and no page asks another host for anything.

    python scripts/check_site.py site

Prints what is wrong, one line each, and exits with 1 then.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ASKED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
FETCHED = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
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
    for path in sorted(site.rglob("*.css")):
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


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]).resolve())
    print("\n".join(found) if found else f"{sys.argv[1]}: every link leads somewhere, nothing comes from elsewhere")
    sys.exit(bool(found))
