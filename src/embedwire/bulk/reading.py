"""A source → its rows, in chunks."""

from __future__ import annotations

import csv
import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import IO, Any, NamedTuple

import orjson

from embedwire._settings.checks import is_unicode, plain
from embedwire.bulk.arrow import arrow, chunks_of_file, missing
from embedwire.bulk.records import Chunk, Columns, Source
from embedwire.exceptions import InputError

ROWS = 512  # in a chunk, at most; and so many characters:
CHARACTERS = 2**20
LINE = 2**26  # bytes of one line, at most
SURROGATES = "its text is not valid UTF-8"
# What a file of texts never begins with → what such a file is, and the cure.
BEGINNINGS = {
    b"\xff\xfe": "UTF-16; make it UTF-8: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16; make it UTF-8: iconv -f UTF-16 -t UTF-8",
    b"\x1f\x8b": "compressed with gzip; unpack it, or let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard; unpack it, or let its name end in .zst",
    b"PAR1": "Parquet; say so: --input-format parquet, input_format=",
}


class Entry(NamedTuple):
    """One row as it was read: its line, its columns, or what is wrong with it."""

    line: int
    columns: Mapping[Any, Any]
    problem: str | None = None


def chunks_of(source: Source, columns: Columns) -> Iterator[Chunk]:
    """Reads a source; what is wrong with single rows stands in the chunks.

    Raises:
        InputError: It cannot be read, lacks a column, or is changed meanwhile; the rows before come first.
    """
    with ExitStack() as stack:
        raw = stack.enter_context(_opened(source))
        try:
            if source.format == "parquet":
                yield from _checked(chunks_of_file(raw, source, columns), source, raw)
                return
            file = stack.enter_context(_unpacked(source, raw))
            _check_begin(file, source)
            entries = READERS[source.format](file, columns)
            yield from _checked(_chunked(entries, source, columns, lambda: _told(raw)), source, raw)
        except (EOFError, zlib.error, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise InputError(f"{source.name} cannot be read to its end: {reason}") from None


def chunks_of_rows(rows: Iterable[object], columns: Columns) -> Iterator[Chunk]:
    """Rows of the caller: dicts, or texts alone; what was read is counted in rows."""
    count = 0

    def entries() -> Iterator[Entry]:
        nonlocal count
        for number, row in enumerate(rows, start=1):
            count = number
            if isinstance(row, str):
                yield Entry(number, {columns.text: row})
            elif isinstance(row, Mapping):
                yield Entry(number, row)
            else:
                raise InputError(f"rows must be dicts or str, and row {number} is a {type(row).__name__}")

    return _chunked(entries(), Source(name="rows", format="parquet"), columns, lambda: count)


# Files


def _opened(source: Source) -> IO[bytes]:
    if source.path is not None:
        try:
            return source.path.open("rb")
        except OSError as error:
            raise InputError(f"{source.name} cannot be read: {error.strerror}") from None
    if sys.stdin is None or sys.stdin.closed:
        raise InputError("stdin is closed; name a file, or send the rows: … | embedwire embed - …")
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb")


def _unpacked(source: Source, raw: IO[bytes]) -> IO[bytes]:
    unpacked: Any = raw
    if source.packed == "gz":
        unpacked = gzip.GzipFile(fileobj=raw)
    elif source.packed == "zst":
        unpacked = io.BufferedReader(arrow("a .zst file").CompressedInputStream(raw, "zstd"))
    return unpacked  # type: ignore[no-any-return]  # each is read as a file is


def _check_begin(file: Any, source: Source) -> None:
    begin: bytes = file.peek(4)[:4]
    for wrong, what in BEGINNINGS.items():
        if begin.startswith(wrong):
            raise InputError(f"{source.name} is {what}")
    if b"\x00" in begin:
        raise InputError(f"{source.name} is no text in UTF-8, but UTF-16 without a mark, perhaps")


def _told(raw: IO[bytes]) -> int:
    return raw.tell() if raw.seekable() else 0


def _checked(chunks: Iterator[Chunk], source: Source, raw: IO[bytes]) -> Iterator[Chunk]:
    """The chunks of a file that stays as it was when the run began."""
    for chunk in chunks:
        _check_unchanged(source, raw, chunk)
        yield chunk
    _check_unchanged(source, raw, None)


def _check_unchanged(source: Source, raw: IO[bytes], chunk: Chunk | None) -> None:
    if source.path is None:
        return
    stat = os.fstat(raw.fileno())
    if (stat.st_size, stat.st_mtime_ns) != (source.size, source.changed):
        where = "" if chunk is None else f" (about {chunk.place(0).rpartition(', ')[2]})"
        raise InputError(
            f"{source.name} was changed while it was read{where}: it had {source.size:,} bytes and has "
            f"{stat.st_size:,}. Give a file that stays as it is, such as a copy"
        )


# Formats


def _jsonl(file: IO[bytes], _: Columns) -> Iterator[Entry]:
    first = True
    for number, line in _lines(file):
        if not line.strip():
            continue
        if first and line.lstrip().startswith(b"["):
            raise InputError(f"line {number} begins a JSON array; give an object a line: jq -c '.[]'")
        first = False
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield Entry(number, {}, f"not JSON: {error.msg}, at column {error.colno}")
            continue
        if isinstance(value, dict):
            yield Entry(number, value)
        else:
            yield Entry(number, {}, f"not an object but a {type(value).__name__}; each line must be one")


def _text(file: IO[bytes], _: Columns) -> Iterator[Entry]:
    for number, line in _lines(file):
        text = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
        if text.strip():
            yield Entry(number, {"text": text})


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(LINE):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) >= LINE and not line.endswith(b"\n"):
            raise InputError(f"line {number} has more than {LINE:,} bytes: is there one row on each line?")
        yield number, line


def _csv(file: IO[bytes], columns: Columns, delimiter: str = ",") -> Iterator[Entry]:
    csv.field_size_limit(max(csv.field_size_limit(), LINE))
    lines = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _records(csv.reader(lines, delimiter=delimiter, strict=True), columns)
    finally:
        lines.detach()  # or the file would be closed with it


def _records(reader: Any, columns: Columns) -> Iterator[Entry]:
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield Entry(number, {}, f"not CSV: {error}")
            continue
        if fields is None:
            return
        if header is None:
            header = fields
            for name in columns.all:
                if header.count(name) > 1:
                    raise InputError(f"line {number} names the column {name!r} {header.count(name)} times")
        elif fields and len(fields) != len(header):
            yield Entry(number, {}, f"it has {len(fields)} fields, and the header {len(header)}")
        elif fields:
            yield Entry(number, dict(zip(header, fields, strict=True)))


def _tsv(file: IO[bytes], columns: Columns) -> Iterator[Entry]:
    return _csv(file, columns, "\t")


READERS: dict[str, Callable[[IO[bytes], Columns], Iterator[Entry]]] = {
    "jsonl": _jsonl,
    "text": _text,
    "csv": _csv,
    "tsv": _tsv,
}


# Chunks


def _chunked(
    entries: Iterator[Entry], source: Source, columns: Columns, read: Callable[[], int]
) -> Iterator[Chunk]:
    """Entries, many together; where the entries end with an error, those before it come first."""
    taken: list[Entry] = []
    characters, first = 0, True

    def chunk() -> Chunk:
        nonlocal taken, characters, first
        if first:
            _check_columns(taken, source, columns)
        first = False
        made = _chunk(taken, source, columns, read())
        taken, characters = [], 0
        return made

    try:
        for entry in entries:
            taken.append(entry)
            text = entry.columns.get(columns.text)
            characters += len(text) if isinstance(text, str) else 0
            if len(taken) >= ROWS or characters >= CHARACTERS:
                yield chunk()
    except InputError as error:
        if taken:
            yield chunk()
        raise InputError(
            f"{source.name}, {error}" if str(error).startswith("line ") else str(error)
        ) from None
    except Exception:
        if taken:
            yield chunk()
        raise
    if taken:
        yield chunk()


def _check_columns(entries: list[Entry], source: Source, columns: Columns) -> None:
    """A column that none of the first rows has is a mistake of the user's, not of the rows."""
    there = dict.fromkeys(str(name) for entry in entries for name in entry.columns)
    sound = [entry for entry in entries if entry.problem is None]
    for name in columns.all if sound else ():
        if name not in there:
            raise missing(name, source, list(there))


def _chunk(entries: list[Entry], source: Source, columns: Columns, read: int) -> Chunk:
    problems: dict[int, str] = {}
    texts: list[str | None] = []
    carried: list[dict[str, Any]] = []
    names = columns.carried
    for index, (_, fields, problem) in enumerate(entries):
        text = fields.get(columns.text)
        problem = problem or _problem_of(text, fields, columns)
        if problem is not None:
            problems[index] = problem
            text = None
        texts.append(text if text is None else plain(text))
        carried.append({name: fields.get(name) for name in names})
    return Chunk(
        source=source,
        lines=[entry.line for entry in entries],
        texts=texts,
        problems=problems,
        carried=carried,
        read=read,
    )


def _problem_of(text: object, fields: Mapping[Any, Any], columns: Columns) -> str | None:
    for name in (columns.text, columns.id):
        if name is not None and name not in fields:
            return f"there is no {name!r}; there are {', '.join(repr(str(one)) for one in fields) or 'no fields'}"
    if text is None:
        return f"{columns.text!r} is null"
    if not isinstance(text, str):
        return f"{columns.text!r} is no text but a {type(text).__name__}"
    return None if is_unicode(text) else SURROGATES
