"""A report as text for people, and as JSON for machines. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import orjson

from embedwire._version import __version__
from embedwire.doctor.findings import Examined, Finding, exit_code

LEAST_WIDTH, MOST_WIDTH = 40, 110
_LEVEL, _NAME = 8, 17  # columns
_COLOURS = {"ok": "32", "note": "33", "problem": "31;1"}


def line(finding: Finding, width: int, *, colour: bool = False) -> str:
    """A finding, wrapped, its cure below it."""
    width = max(LEAST_WIDTH, min(width, MOST_WIDTH))
    head = f"  {finding.level:<{_LEVEL}}{finding.name:<{_NAME}}"
    indent = " " * len(head) if width >= 2 * len(head) else "    "
    text = textwrap.fill(
        finding.what,
        width,
        initial_indent=head,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
    if colour:
        text = text.replace(finding.level, f"\033[{_COLOURS[finding.level]}m{finding.level}\033[0m", 1)
    if not finding.cure:
        return text
    start = f"{indent}-> "
    cure = textwrap.fill(
        finding.cure,
        width,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
        break_long_words=False,
    )
    return f"{text}\n{cure}"


def end(server: Examined) -> str:
    """What stands below the findings: how many there are, what that took, and the settings to paste."""
    parts = []
    for level in ("problem", "note"):
        count = sum(finding.level == level for finding in server.findings)
        parts.append(f"{count} {level}{'s' * (count != 1)}")
    requests = f"{server.requests} embedding request{'s' * (server.requests != 1)}"
    lines = ["", f"{', '.join(parts)}; {requests} in {server.seconds:.1f} s."]
    for framework, code in server.settings:
        lines += ["", f"{framework}:", "", textwrap.indent(code, "    ")]
    return "\n".join(lines)


def as_json(servers: Sequence[Examined], compared: Sequence[Finding]) -> str:
    """The whole report as one JSON object."""
    report = {
        "embedwire": __version__,
        "exit_code": exit_code(servers, compared),
        "servers": [dict(_told(server)) for server in servers],
        "compared": [asdict(finding) for finding in compared],
    }
    return orjson.dumps(report, option=orjson.OPT_INDENT_2).decode()


def _told(server: Examined) -> Iterator[tuple[str, object]]:
    yield "url", server.url
    yield "asked", server.asked
    yield "model", server.model
    yield "dimensions", None if server.vector is None else len(server.vector)
    yield "requests", server.requests
    yield "seconds", round(server.seconds, 3)
    yield "findings", [asdict(finding) for finding in server.findings]
    yield "settings", dict(server.settings)
