"""Files, folders, patterns and stdin → the sources of a run."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedwire.bulk.records import InputFormat, Source
from embedwire.exceptions import InputError

FORMATS: dict[str, InputFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
}
STDIN = "-"


def sources_of(
    inputs: Sequence[str | os.PathLike[str]], told: InputFormat | None, leave_out: Sequence[Path] = ()
) -> list[Source]:
    """The sources that some arguments mean, in order; a folder's and a pattern's files sorted by name.

    Args:
        inputs: Files, folders (with all below them whose names tell a format), patterns, or ``"-"`` for stdin.
        told: The format of all of them; None: as their names tell.
        leave_out: Files and folders that are none, where folders and patterns are looked through: the output.

    Raises:
        InputError: There is no such file, it cannot be read, or its name tells no format.
    """
    if not inputs:
        raise InputError("no input was given; name files, folders or patterns, or - for stdin")
    if told is not None and told not in FORMATS.values():
        raise InputError(
            f"the format of the input must be one of {', '.join(dict.fromkeys(FORMATS.values()))}"
        )
    hidden = [path.resolve() for path in leave_out]
    found: list[Source] = []
    for one in inputs:
        name = os.fspath(one)
        if name == STDIN:
            if told == "parquet":
                raise InputError("Parquet cannot be read from stdin, as its end is read first; name a file")
            found.append(Source(name="stdin", format=told or "jsonl"))
        else:
            found += [_source(path, told) for path in _files(name, told, hidden)]
    return found


def _files(name: str, told: InputFormat | None, hidden: list[Path]) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        files = [one for one in sorted(_below(path, hidden)) if told is not None or _told(one)[0]]
        if not files:
            raise InputError(f"{name} holds no file whose name ends in one of {', '.join(FORMATS)}")
        return files
    if path.exists() or not glob.has_magic(name):
        if _is_hidden(path, hidden):
            raise InputError(
                f"{name} is to be written by this run, so it cannot be read; choose another output"
            )
        return [path]
    matches = [Path(one) for one in sorted(glob.glob(name, recursive=True))]
    files = [one for one in matches if one.is_file() and not _is_hidden(one, hidden)]
    if not files:
        raise InputError(f"no file matches {name}")
    return files


def _below(folder: Path, hidden: list[Path]) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [one for one in folders if one[0] != "." and not _is_hidden(here / one, hidden)]
        for name in names:
            if name[0] != "." and not _is_hidden(here / name, hidden):
                yield here / name


def _is_hidden(path: Path, hidden: list[Path]) -> bool:
    whole = path.resolve()
    return any(whole == one or one in whole.parents for one in hidden)


def _told(path: Path) -> tuple[InputFormat | None, str | None]:
    """The format that a name tells, and how the file is compressed."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes.pop()[1:] if suffixes and suffixes[-1] in (".gz", ".zst") else None
    return (FORMATS.get(suffixes[-1]) if suffixes else None), packed


def _source(path: Path, told: InputFormat | None) -> Source:
    by_name, packed = _told(path)
    kind = told or by_name
    if kind is None:
        raise InputError(
            f"the name of {path} tells no format; it should end in one of {', '.join(FORMATS)} (and .gz or .zst), or "
            "say the format: input_format=, --input-format"
        )
    if kind == "parquet" and packed:
        raise InputError(f"{path}: Parquet is compressed inside; unpack the file first")
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return Source(
        name=str(path),
        path=path,
        format=kind,
        packed=packed,  # type: ignore[arg-type]  # one of the two
        size=stat.st_size,
        changed=stat.st_mtime_ns,
    )
