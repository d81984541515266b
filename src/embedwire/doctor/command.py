"""What `embedwire doctor` does: looks at each server, compares them, and tells by its exit code."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Sequence

from embedwire.doctor.comparing import compared
from embedwire.doctor.examining import Options, examine, target_at
from embedwire.doctor.findings import NOT_ASKED, Examined, Finding, exit_code
from embedwire.doctor.report import as_json, end, line
from embedwire.exceptions import InputError

STOPPED = 130  # as shells have it


def run(
    urls: Sequence[str],
    options: Options,
    *,
    machine: bool = False,
    colour: bool = False,
    width: int | None = None,
    say: Callable[[str], object] | None = None,
) -> int:
    """Looks at servers, one after another.

    Args:
        urls: At least one.
        options: See there.
        machine: One JSON object at the end, and nothing else.
        colour: Whether the terminal shows colours.
        width: Columns; None: the terminal's.
        say: Takes the report, some lines at a time. None: standard output.

    Returns:
        The exit code: 0 where all is fine, 1 where there are problems, 2 where a server could not be asked, and 130
        where Ctrl-C came in between.
    """
    try:
        return asyncio.run(_run(urls, options, machine, colour, width, say or _to_stdout))
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        return STOPPED


async def _run(
    urls: Sequence[str],
    options: Options,
    machine: bool,
    colour: bool,
    width: int | None,
    say: Callable[[str], object],
) -> int:
    columns = width or shutil.get_terminal_size().columns
    servers: list[Examined] = []

    def tell(finding: Finding) -> None:
        if not machine:
            say(line(finding, columns, colour=colour))

    try:
        names = [target_at(url, options).base_url for url in urls]
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return NOT_ASKED
    for url, name in zip(urls, names, strict=True):
        if not machine:
            say(f"\n{name}\n" if servers else f"{name}\n")
        servers.append(await examine(url, options, tell))
        if not machine:
            say(end(servers[-1]))
    findings = compared(servers)
    if machine:
        say(as_json(servers, findings))
    elif findings:
        say("\nCompared:\n")
        for finding in findings:
            tell(finding)
    return exit_code(servers, findings)


def _to_stdout(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()
