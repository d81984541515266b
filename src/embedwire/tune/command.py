"""What `embedwire tune` does with its arguments."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedwire.exceptions import EmbedwireError, InputError
from embedwire.tune.heatmap import svg
from embedwire.tune.records import Outcome
from embedwire.tune.report import ERROR, as_json, end, exit_code
from embedwire.tune.showing import shower
from embedwire.tune.sweeping import Options, Sweep
from embedwire.tune.texts import Pool, read

STOPPED = 130  # as shells have it
NO_PNG = "embedwire writes no PNG: the heat map goes to {0}; rsvg-convert {0} -o {1} makes one of it"


def run(
    options: Options,
    inputs: Sequence[str] = (),
    *,
    column: str = "text",
    told: Any = None,
    heatmap: Path | None = None,
    out: Path | None = None,
    machine: bool = False,
    quiet: bool = False,
) -> int:
    """Tunes one server: shows how far it is on stderr, and what was found on stdout.

    Args:
        options: See there.
        inputs: Files, folders, patterns, or ``"-"`` for stdin; none: built-in texts.
        column: Of the texts.
        told: The format of the input; None: as names tell.
        heatmap: File for the picture.
        out: File for the report as JSON.
        machine: The report as JSON on stdout, too, in the place of text.
        quiet: Nothing is shown meanwhile.

    Returns:
        The exit code: 0 where the best sizes were found, 1 after an error, 3 where there was too little to tell, and
        130 where Ctrl-C came in between.
    """
    try:
        picture = _picture(heatmap)
        for path in filter(None, (picture, out)):
            _check_writable(path)
        sweep = Sweep(options, Pool(read(inputs, column, told)))
    except EmbedwireError as error:
        _say(f"embedwire: {error}")
        return ERROR
    shows = shower(sys.stderr, quiet=quiet)
    code, said = None, ""
    try:
        asyncio.run(sweep.run(shows.show))
    except KeyboardInterrupt:
        code, said = STOPPED, "Stopped."
    except EmbedwireError as error:
        code, said = ERROR, f"embedwire: {error}"
    finally:
        shows.close()
    if said:
        _say(said)
    outcome = sweep.outcome()
    if code is None and not outcome.taken.cells:
        _say(
            f"embedwire: {options.seconds:.3g} s were not enough to measure anything; give it longer: --seconds"
        )
    if outcome.taken.cells:
        try:
            _hand_over(outcome, picture, out, machine=machine)
        except OSError as error:
            _say(f"embedwire: {error.filename}: {error.strerror}")
            return ERROR
    return exit_code(outcome) if code is None else code


def parsed(option: str, text: str | None, example: str) -> Any:
    """An option's JSON object; None where it was not passed.

    Raises:
        InputError: It is none.
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{option} must be a JSON object, such as {example}")
    return value


def _hand_over(outcome: Outcome, picture: Path | None, out: Path | None, *, machine: bool) -> None:
    """Prints the report, and writes the files that are wanted."""
    text = as_json(outcome) if machine else end(outcome, shutil.get_terminal_size().columns)
    _to_stdout(text)
    for path, content in ((out, as_json), (picture, svg)):
        if path is not None:
            path.write_text(content(outcome), encoding="utf-8")
            _say(f"written: {path}")


def _picture(path: Path | None) -> Path | None:
    """The file of the heat map."""
    if path is None or path.suffix.lower() == ".svg":
        return path
    if path.suffix.lower() == ".png":
        other = path.with_suffix(".svg")
        _say(NO_PNG.format(other, path))
        return other
    raise InputError(f"--heatmap writes *.svg, not {path.name}")


def _check_writable(path: Path) -> None:
    """Whether a file can be written, before a minute is spent."""
    folder = path.parent
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if not folder.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise InputError(f"{path} cannot be written: permission denied")


def _to_stdout(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def _say(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(line + "\n")
