"""What a run is asked to do, checked; and by what it is known again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from embedwire._settings.checks import check_bool, check_int, shown
from embedwire._settings.settings import Settings
from embedwire.bulk.records import VECTOR, Columns, Dtype, OutputFormat, Source
from embedwire.exceptions import InputError

ROWS_PER_FILE = 100_000
SUFFIXES: dict[str, OutputFormat] = {".parquet": "parquet", ".jsonl": "jsonl", ".npy": "npy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be written, and where.

    Attributes:
        out: A file, or the folder of several.
        columns: Of the input.
        format: Of the output.
        dtype: Of its numbers.
        rows_per_file: Most rows of a file; None: the output is one file.
        rejects: The file for rows that get no vector; None: the first one ends the run.
        resume: Go on with what is there.
        overwrite: Replace what is there.
    """

    out: Path
    columns: Columns
    format: OutputFormat
    dtype: Dtype
    rows_per_file: int | None
    rejects: Path | None
    resume: bool
    overwrite: bool

    def identity(self, settings: Settings, sources: Sequence[Source]) -> dict[str, Any]:
        """All that decides what the output is; it is compared when a run goes on."""
        extra = settings.form.extra
        return {
            "model": settings.form.model,
            "dimensions": settings.form.dimensions,
            "normalize": settings.normalize,
            "prompt": settings.prompts.document,
            "too_long": settings.too_long,
            "extra_body": "none" if extra == "{}" else f"sha256 {hashlib.sha256(extra.encode()).hexdigest()}",
            "text_column": self.columns.text,
            "id_column": self.columns.id,
            "keep": list(self.columns.keep),
            "format": self.format,
            "dtype": self.dtype,
            "rows_per_file": self.rows_per_file,
            "inputs": [source.identity() for source in sources],
        }


def job_of(
    out: str | os.PathLike[str],
    *,
    text_column: str,
    id_column: str | None,
    keep: Sequence[str],
    output_format: OutputFormat | None,
    dtype: Dtype,
    rows_per_file: int | None,
    rejects: str | os.PathLike[str] | None,
    resume: bool,
    overwrite: bool,
) -> Job:
    """The arguments of a run, checked.

    Raises:
        InputError: One of them is wrong; the message names it and says the cure.
    """
    if check_bool("resume", resume) and check_bool("overwrite", overwrite):
        raise InputError("resume and overwrite exclude each other: go on with what is there, or replace it")
    kind, rows_per_file = _form(os.fspath(out), output_format, rows_per_file)
    if not isinstance(dtype, str) or dtype not in get_args(Dtype):
        raise InputError(f"dtype must be one of {', '.join(get_args(Dtype))}, not {shown(dtype)}")
    kept = (keep,) if isinstance(keep, str) else tuple(keep)
    columns = Columns(text=text_column, id=id_column, keep=kept)
    if kind == "npy" and columns.carried:
        raise InputError(
            ".npy holds vectors alone; leave id_column and keep out, or write .parquet or .jsonl"
        )
    if VECTOR in columns.carried:
        raise InputError(f"the column {VECTOR!r} of the output is for the vectors; keep another one")
    return Job(
        out=Path(out),
        columns=columns,
        format=kind,
        dtype=dtype,
        rows_per_file=rows_per_file,
        rejects=_rejects(rejects, out),
        resume=resume,
        overwrite=overwrite,
    )


def _rejects(rejects: str | os.PathLike[str] | None, out: str | os.PathLike[str]) -> Path | None:
    if rejects is None:
        return None
    if Path(rejects).resolve() == Path(out).resolve():
        raise InputError(f"rejects needs a file of its own, and {os.fspath(out)} is for the vectors")
    return Path(rejects)


def _form(out: str, wanted: OutputFormat | None, rows: int | None) -> tuple[OutputFormat, int | None]:
    """The format of the output, and how many rows go into a file, where there are several."""
    if wanted is not None and wanted not in SUFFIXES.values():
        raise InputError(f"output_format must be one of {', '.join(SUFFIXES.values())}, not {shown(wanted)}")
    suffix = Path(out).suffix.lower()
    if not suffix or out.endswith(("/", os.sep)) or Path(out).is_dir():
        if rows is not None:
            check_int("rows_per_file", rows, least=1)
        return wanted or "parquet", rows or ROWS_PER_FILE
    return _form_of_file(Path(out).name, suffix, wanted, rows), None


def _form_of_file(name: str, suffix: str, wanted: OutputFormat | None, rows: int | None) -> OutputFormat:
    if suffix not in SUFFIXES:
        raise InputError(
            f"the output must be a file whose name ends in {', '.join(SUFFIXES)}, or a folder (a name without ending, "
            f"or with / behind it), not {name}"
        )
    if wanted not in (None, SUFFIXES[suffix]):
        raise InputError(
            f"the output's name ends in {suffix}, and its format is to be {wanted}; say one of them"
        )
    if rows is not None:
        raise InputError(f"{name} is one file; rows_per_file needs a folder as output")
    return SUFFIXES[suffix]


def without_unknown(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What can be compared before the server told which model it serves."""
    return {name: value for name, value in identity.items() if name != "model" or value is not None}
