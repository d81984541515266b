"""A shell completes `embedwire` at Tab: real shells, where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
needs_the_script = pytest.mark.skipif(
    not shutil.which("embedwire", path=str(BIN)), reason="there is no embedwire script"
)


def run(*command: str) -> str:
    """What a command prints, with `embedwire` on the path."""
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    ran = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PATH": path}, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def shell(name: str) -> str:
    """Its path; skips the test without it."""
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


CASES = [
    ("embedwire doc", ["doctor"]),
    ("embedwire ser", ["serve"]),
    ("embedwire serve --poo", ["--pooling"]),
    ("embedwire serve --pooling l", ["last"]),
    ("embedwire completion z", ["zsh"]),
]


@needs_the_script
@pytest.mark.parametrize(("line", "words"), CASES)
def test_bash(line: str, words: list[str]) -> None:
    """Bash completes commands, options and their values."""
    script = """
        eval "$(embedwire completion bash)"
        COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        $(complete -p embedwire | sed 's/.*-F \\([^ ]*\\).*/\\1/') embedwire
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    assert run(shell("bash"), "--norc", "-c", script, "bash", line).split() == words


@needs_the_script
@pytest.mark.parametrize(("line", "words"), CASES)
def test_fish(line: str, words: list[str]) -> None:
    """Fish completes commands, options and their values."""
    out = run(
        shell("fish"), "--no-config", "-c", "embedwire completion fish | source; complete -C $argv[1]", line
    )
    assert [one.split("\t")[0] for one in out.splitlines()] == words


@needs_the_script
@pytest.mark.parametrize(("line", "words"), CASES)
def test_zsh(line: str, words: list[str]) -> None:
    """Zsh completes commands, options and their values, at a real Tab in a terminal."""
    script = """
        zmodload zsh/zpty
        zpty terminal zsh -f -i
        zpty -w terminal 'PS1= RPS1= PROMPT_EOL_MARK=; autoload -Uz compinit; compinit -u -D; stty cols 300'
        zpty -w terminal 'eval "$(embedwire completion zsh)"; echo rea""dy'
        zpty -r terminal REPLY '*ready*'
        zpty -w -n terminal "$1"$'\\t'
        zpty -r terminal REPLY "*$2*"
        print -r -- "$REPLY"
    """
    completed = f"{line[: line.rindex(' ')]} {words[0]}"
    assert completed in run(shell("zsh"), "-f", "-c", script, "zsh", line, completed)


@pytest.mark.parametrize("name", ["bash", "zsh", "fish", "powershell"])
def test_each_script_is_printed_without_a_shell(name: str) -> None:
    """What is printed asks the command itself, for any of the shells, wherever it is printed."""
    script = run(sys.executable, "-m", "embedwire", "completion", name)
    assert "_EMBEDWIRE_COMPLETE" in script
    assert f"complete_{name}" in script


def test_a_shell_that_is_not_known() -> None:
    """The known ones are named."""
    ran = subprocess.run(
        [sys.executable, "-m", "embedwire", "completion", "tcsh"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    for name in ("bash", "zsh", "fish"):
        assert name in ran.stderr


def test_without_typer_a_shell_gets_no_words() -> None:
    """An install that lost its extra completes nothing, rather than words of the help."""
    script = 'import sys; sys.modules["typer"] = None; from embedwire.__main__ import main; main()'
    environ = os.environ | {
        "_EMBEDWIRE_COMPLETE": "complete_bash",
        "COMP_WORDS": "embedwire s",
        "COMP_CWORD": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environ, check=False
    )
    assert (ran.stdout, ran.stderr) == ("", "")
