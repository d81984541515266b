"""What was found out about a server: the records. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Level: TypeAlias = Literal["ok", "note", "problem"]
FINE, PROBLEMS, NOT_ASKED = 0, 1, 2  # exit codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of a report.

    Attributes:
        name: What was looked at.
        level: ``"ok"``; ``"note"`` for what embedwire copes with and others may not, or what costs speed alone;
            ``"problem"`` where vectors would be wrong, texts lost or calls fail.
        what: What was seen.
        cure: What to do about it, as a sentence; "" for nothing.
    """

    name: str
    level: Level
    what: str
    cure: str = ""


def ok(name: str, what: str) -> Finding:
    """There is nothing to do."""
    return Finding(name=name, level="ok", what=what)


def note(name: str, what: str, cure: str = "") -> Finding:
    """It works, and one should know."""
    return Finding(name=name, level="note", what=what, cure=cure)


def problem(name: str, what: str, cure: str) -> Finding:
    """It goes wrong."""
    return Finding(name=name, level="problem", what=what, cure=cure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """One server, looked at.

    Attributes:
        url: As messages show it.
        findings: In the order in which they were made.
        asked: Whether it embedded at all, so that it could be asked.
        model: Its model's name; None where it does not tell.
        vector: Of the text that every server is asked for; None where there is none.
        settings: What to paste, by framework.
        requests: Embedding requests that were sent.
        seconds: How long it took.
    """

    url: str
    findings: tuple[Finding, ...]
    asked: bool = True
    model: str | None = None
    vector: NDArray[np.float32] | None = field(default=None, repr=False)
    settings: tuple[tuple[str, str], ...] = ()
    requests: int = 0
    seconds: float = 0.0


def exit_code(servers: Sequence[Examined], compared: Sequence[Finding]) -> int:
    """0 where there is no problem, 1 where there is one, 2 where a server could not be asked."""
    if not all(server.asked for server in servers):
        return NOT_ASKED
    findings = [*compared, *(finding for server in servers for finding in server.findings)]
    return PROBLEMS if any(finding.level == "problem" for finding in findings) else FINE
