"""Ctrl-C ends a command with one line, whatever it is doing, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from embedwire._starting import is_the_command
from tests.helpers import needs_signals

ROOT = Path(__file__).parents[2]
pytestmark = needs_signals

AT_IMPORT = """
    import runpy, signal, sys

    class Pressed:
        def find_spec(self, name, *_):
            if name == {name!r}:
                signal.raise_signal(signal.SIGINT)

    sys.meta_path.insert(0, Pressed())
    sys.argv = {argv!r}
    {start}
"""
COMMAND = "from embedwire.__main__ import main; main()"


def pressed(name: str, argv: list[str], start: str) -> tuple[int, str, str]:
    """How a program ends where Ctrl-C is pressed while it imports a module: exit code, stdout, stderr."""
    script = textwrap.dedent(AT_IMPORT).format(name=name, argv=argv, start=start)
    environ = os.environ | {"NO_COLOR": "1", "EMBEDWIRE_BASE_URL": "http://127.0.0.1:9"}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environ,
        timeout=60,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize(
    "name",
    [
        "embedwire._clients.own",
        "asyncio",
        "ssl",
        "embedwire.cli",
        "typer",
        "embedwire.cli.serve",
        "embedwire.serve",
    ],
)
def test_while_the_command_is_imported(name: str) -> None:
    """From the first import of the package's on, Ctrl-C is one line and exit code 130."""
    assert pressed(name, ["embedwire", "serve", "--port", "0"], COMMAND) == (130, "", "Stopped.\n")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["doctor", "http://127.0.0.1:9"], "embedwire.doctor.command"),
        (["gateway", "http://127.0.0.1:9", "--port", "0"], "embedwire.gateway"),
        (["embed", "-", "-o", "x.jsonl"], "embedwire.bulk.command"),
        (["serve", "x.gguf"], "embedwire.serve"),
    ],
)
def test_while_a_command_loads_what_it_needs(command: list[str], name: str) -> None:
    """Each command ends with one line also before it has begun."""
    code, out, said = pressed(name, ["embedwire", *command], COMMAND)
    assert (code, out) == (130, "")
    assert said.startswith("Stopped.")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("name", ["langchain_core", "llama_index.core", "embedwire"])
def test_while_the_demo_is_imported(name: str) -> None:
    """`make demo` takes seconds to import two frameworks; Ctrl-C then is one line."""
    run = "runpy.run_path('examples/demo.py', run_name='__main__')"
    assert pressed(name, ["examples/demo.py"], run) == (130, "", "Stopped.\n")


@pytest.mark.slow
def test_while_the_demo_runs() -> None:
    """Ctrl-C in the middle of the demo is one line, and its server is gone."""
    command = [sys.executable, "-u", "examples/demo.py"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert "Universal Declaration" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == "Stopped.\n"


def test_another_program_keeps_its_own_ctrl_c() -> None:
    """Who imports the package has KeyboardInterrupt as ever."""
    code, _, said = pressed("embedwire._clients.own", ["program.py"], "import embedwire")
    assert code not in (0, 130) or "KeyboardInterrupt" in said
    assert said.endswith("KeyboardInterrupt\n")


def test_a_job_in_the_background_goes_on() -> None:
    """Where a shell has the command ignore Ctrl-C, it is ignored during imports as well."""
    start = f"signal.signal(signal.SIGINT, signal.SIG_IGN); {COMMAND}"
    code, out, said = pressed("typer", ["embedwire", "--version"], start)
    assert (code, said) == (0, "")
    assert out.startswith("embedwire ")


@pytest.mark.parametrize(
    ("argv", "original", "right"),
    [
        (["/usr/bin/embedwire", "serve"], ["python3", "/usr/bin/embedwire", "serve"], True),
        (["-m", "serve"], ["python3", "-m", "embedwire", "serve"], True),
        (["-m"], ["python3", "-W", "error", "-m", "embedwire"], True),
        (["-m"], ["python3", "-m", "pytest", "embedwire"], False),
        (["-m"], ["python3", "-m", "embedwire.gateway"], False),
        (["app.py"], ["python3", "app.py"], False),
        ([""], ["python3"], False),
        ([], [], False),
    ],
)
def test_the_command_is_known_by_its_name(argv: list[str], original: list[str], right: bool) -> None:
    """Both ways of starting the command are known, and nothing else is."""
    assert is_the_command(argv, original) == right
