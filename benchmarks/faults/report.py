"""Cells → docs/FAULTS.md. Pure, but for the date and the installed versions."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version

from benchmarks.faults.clients import PACKAGES, Door
from benchmarks.faults.row import Row
from benchmarks.faults.rows import TABLE
from benchmarks.faults.rules import SILENT, Seen

GOOD, BAD, NONE = "✔", "✘", "-"

INTRO = """\
# What clients do when a server misbehaves

`make compare-faults` ran each fault below against each client and wrote this file: {date}, Python {python} on
{system}, {minutes:.0f} minutes. Each cell is a process of its own with a server of its own, on a real socket
(`embedwire.testing.EmbeddingServer`), and has at most {cap:.0f} s. The requests are those for embeddings that the
server received; its other questions (`/health`) are counted as GET. The seconds are those of the calls, without the
import of the package; they are rough, as several cells run at once. Vectors are compared with the text's own, to the
last bit; to 1e-6 where they are cut.

{good} or {bad} comes from the rule that stands below each table, the same code for every client, embedwire included.
The rules are those of embedwire's authors; each cell says what happened, for those who would judge otherwise.

| client | version | used as |
|---|---|---|
{clients}

All have their default settings but for URL, key and model, and where the row says so.
"""

USED = {
    "embedwire": "`EmbedwireEmbeddings` (LangChain), `EmbedwireEmbedding` (LlamaIndex), `EmbeddingClient` on one loop. "
    "A cell shows the first where all three have the same mark and outcome, else each; "
    "✔ counts where all three have it.",
    "langchain-openai": "`OpenAIEmbeddings.embed_documents`, with `check_embedding_ctx_length=False`: "
    "by default it sends token ids instead of texts.",
    "llama-index openai-like": "`OpenAILikeEmbedding.get_text_embedding_batch`",
    "openai": "`OpenAI().embeddings.create`, and `AsyncOpenAI` for `asyncio.run`; "
    "vectors are read as `[item.embedding for item in reply.data]`.",
    "baseten-performance-client": "`PerformanceClient.embed`, several servers as an `EndpointPool`; vectors are read "
    "with `.numpy()`",
    "litellm": "`Router.embedding`, where there are several servers",
}


def applies(row: Row, door: type[Door]) -> bool:
    """Whether a client has the options that a row sets."""
    if row.concurrency is not None and not door.limits_concurrency:
        return False
    return door.servers in ("any", "several" if row.several else "one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one door did at one row."""

    row: Row
    door: type[Door]
    seen: Seen

    @property
    def applies(self) -> bool:
        """Whether there was anything to see: not every client can be dumped, or told how many requests to send."""
        if not applies(self.row, self.door):
            return False
        return self.row.way != "dump" or not self.seen.ended or self.seen.did.shown is not None

    @property
    def good(self) -> bool:
        """Whether all rules hold."""
        return self.applies and self.seen.ended and all(rule.holds(self.seen) for rule in self.row.rules)

    @property
    def silent(self) -> bool:
        """Whether vectors were given out that are not those of the texts."""
        return any(outcome.endswith(SILENT) for outcome in self.seen.outcomes)

    @property
    def gist(self) -> tuple[bool, list[str]]:
        """What doors agree on that did the same; how many requests "auto" makes is a matter of moments."""
        return self.good, self.seen.outcomes

    @property
    def words(self) -> str:
        """The cell."""
        if not self.applies:
            return NONE
        seen = self.seen
        parts = [_in_short(seen.outcomes), *(rule.fact(seen) for rule in self.row.rules)]
        if seen.outcomes:
            asked = len(seen.requests) - len(seen.sent)
            requests = f"{len(seen.sent)} request{'s' * (len(seen.sent) != 1)}"
            parts += [requests + (f" + {asked} GET" if asked else "")]
            parts += [f"{seen.seconds:.1f} s"] if seen.over is None else []
        return f"{GOOD if self.good else BAD} {', '.join(part for part in parts if part)}"


def report(cells: Sequence[Cell], *, minutes: float, cap: float) -> str:
    """The whole file."""
    columns = list(dict.fromkeys(cell.door.column for cell in cells))
    parts = [_intro(columns, minutes, cap), _summary(cells, columns)]
    for group, rows in TABLE.items():
        if here := [row for row in rows if any(cell.row is row for cell in cells)]:
            parts.append(_group(group, here, cells, columns))
    return "\n".join(parts)


def _intro(columns: Sequence[str], minutes: float, cap: float) -> str:
    clients = "\n".join(
        f"| {column} | {', '.join(f'{name} {version(name)}' for name in PACKAGES[column])} | {USED[column]} |"
        for column in columns
    )
    return INTRO.format(
        date=datetime.now(timezone.utc).date(),
        python=platform.python_version(),
        system=platform.system(),
        minutes=minutes,
        cap=cap,
        good=GOOD,
        bad=BAD,
        clients=clients,
    )


def _summary(cells: Sequence[Cell], columns: Sequence[str]) -> str:
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    rows = list({id(cell.row): cell.row for cell in cells}.values())
    marks = {column: [_mark(_doors(cells, row, column)) for row in rows] for column in columns}
    lines += [
        f"| {words} | {' | '.join(str(marks[column].count(mark)) for column in columns)} |"
        for mark, words in ((GOOD, GOOD), (BAD, BAD), (NONE, "has no such thing"))
    ]
    silent = [
        sum(any(cell.silent for cell in _doors(cells, row, column)) for row in rows) for column in columns
    ]
    lines.append(f"| wrong or missing vectors, no error | {' | '.join(map(str, silent))} |")
    return "\n".join([*lines, ""])


def _group(group: str, rows: Sequence[Row], cells: Sequence[Cell], columns: Sequence[str]) -> str:
    lines = [
        f"## {group}",
        "",
        f"| the server, or the use | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in rows:
        shown = [_merged(_doors(cells, row, column)) for column in columns]
        lines.append(f"| {row.name} | {' | '.join(shown)} |")
    lines += ["", "Right:", ""]
    lines += [
        f"- {row.name}: {', '.join(rule.words for rule in row.rules)}. {row.note}".rstrip() for row in rows
    ]
    return "\n".join([*lines, ""])


def _doors(cells: Sequence[Cell], row: Row, column: str) -> list[Cell]:
    return [cell for cell in cells if cell.row is row and cell.door.column == column]


def _mark(doors: Sequence[Cell]) -> str:
    """Good only if every door is."""
    applying = [cell for cell in doors if cell.applies]
    if not applying:
        return NONE
    return GOOD if all(cell.good for cell in applying) else BAD


def _merged(doors: Sequence[Cell]) -> str:
    applying = [cell for cell in doors if cell.applies] or list(doors[:1])
    if all(cell.gist == applying[0].gist for cell in applying):
        return applying[0].words
    return "<br>".join(f"{cell.door.label}: {cell.words}" for cell in applying)


def _in_short(outcomes: Sequence[str]) -> str:
    """One after the other, or counted where there are many."""
    if len(outcomes) <= 2:
        return ", then ".join(dict.fromkeys(outcomes))
    if len(set(outcomes)) == 1:
        return outcomes[0]
    return ", ".join(f"{count} {outcome}" for outcome, count in Counter(outcomes).items())
