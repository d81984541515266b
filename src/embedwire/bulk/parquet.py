"""Parquet shards: numbers and columns grow in two plain files, and the Parquet file is made of them meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedwire.bulk.arrow import arrow
from embedwire.bulk.columns import Types, inferred
from embedwire.bulk.formats import by_chunk, kept_as, sync
from embedwire.bulk.records import ROW, VECTOR, Columns, Dtype, Row

GROUP = 2**23  # bytes of vectors in one row group


class Parquet:
    """``.parquet``: the carried columns, and the vectors as lists of fixed size."""

    suffix = ".parquet"
    parts = (".vectors", ".columns")

    def __init__(self, columns: Columns, dtype: Dtype) -> None:
        self._columns = columns
        self._dtype: Dtype = dtype
        self._pa = arrow("Parquet output")
        self._pq = arrow("Parquet output", "pyarrow.parquet")

    def begin(self) -> Sequence[bytes]:
        """Nothing."""
        return [b"", b""]

    def encoded(self, rows: Sequence[Row], vectors: NDArray[Any]) -> Sequence[bytes]:
        """Their numbers, and their columns as Arrow streams, each after its length."""
        framed = []
        for batch in self._batches(rows):
            sink = self._pa.BufferOutputStream()
            with self._pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            stored = sink.getvalue().to_pybytes()
            framed += [len(stored).to_bytes(8, "little"), stored]
        return [np.ascontiguousarray(vectors).tobytes(), b"".join(framed)]

    def making(self, parts: Sequence[Path], before: Path | None) -> ParquetFile:
        """A Parquet file whose columns have room for the values of those before it, too."""
        types = Types.of(self._columns)
        if before is not None:
            types.widen(_columns(self._pq.read_schema(before)))
        return ParquetFile(parts, types, self._dtype)

    def align(self, files: Sequence[Path], work: Path) -> None:
        """Gives the columns of all files the same types; files that lack them are made again, one after another."""
        types = Types.of(self._columns)
        for path in files:
            types.widen(_columns(self._pq.read_schema(path)))
        while not all(self._is_aligned(path, types, work) for path in files):
            pass  # a value did not fit the type that it was to get, which is another one now

    def _is_aligned(self, path: Path, types: Types, work: Path) -> bool:
        if types.fits(self._pq.read_schema(path)):
            return True
        new = work / path.name
        with self._pq.ParquetFile(path) as file, contextlib.ExitStack() as stack:
            listed = file.schema_arrow.field(VECTOR)
            writer = stack.enter_context(_writer(new, types.schema, listed))
            for number in range(file.num_row_groups):
                table = file.read_row_group(number)
                arrays = types.cast(table)
                if arrays is None:
                    return False
                table = self._pa.Table.from_arrays([*arrays, table.column(VECTOR)], schema=writer.schema)
                writer.write_table(table, max(1, table.num_rows))
        sync(new)
        os.replace(new, path)
        sync(path.parent)
        return True

    def _batches(self, rows: Sequence[Row]) -> Iterator[Any]:
        start = 0
        for chunk, indexes in by_chunk(rows):
            arrays, fields = [], []
            if self._columns.numbered:
                arrays.append(self._pa.array([row.number for row in rows[start : start + len(indexes)]]))
                fields.append(self._pa.field(ROW, self._pa.int64()))
            start += len(indexes)
            if isinstance(chunk.carried, list):
                for name in self._columns.carried:
                    array, field = inferred(name, [chunk.carried[index][name] for index in indexes])
                    arrays.append(array)
                    fields.append(field)
            elif chunk.carried.num_columns:
                taken = chunk.carried.take(self._pa.array(indexes))
                arrays += taken.columns
                fields += list(taken.schema)
            yield self._pa.RecordBatch.from_arrays(arrays, schema=self._pa.schema(fields))


class ParquetFile:
    """A Parquet file, made of a shard's files as these grow, so that little is left to do when the last row is there.

    It has no end before that, so that a kill loses it, and it is made again, of the same files. Its state is the
    writer, how many rows that has, and the columns that were read for the next row group.

    Args:
        parts: The shard's files.
        types: Of the columns so far.
        dtype: Of the numbers.
    """

    def __init__(self, parts: Sequence[Path], types: Types, dtype: Dtype) -> None:
        self._parts, self._types, self._dtype = parts, types, dtype
        self._path = parts[0].with_suffix(Parquet.suffix)
        self._pa = arrow("Parquet output")
        self._open = contextlib.ExitStack()
        self._writer: Any = None
        self._done = 0
        self._read: list[Any] = []

    def grow(self, rows: int, width: int) -> None:
        """Writes one row group, where there are rows enough."""
        if rows - self._done >= self._group(width):
            self._write(self._group(width), width)

    def finish(self, rows: int, width: int) -> Path:
        """Writes what is left."""
        while self._writer is None or self._done < rows:
            self._write(min(self._group(width), rows - self._done), width)
        self._open.close()
        return self._path

    def close(self) -> None:
        """Lets go of its files; twice is fine."""
        with contextlib.suppress(OSError):  # of a full disk, which was told before
            self._open.close()

    def _group(self, width: int) -> int:
        kind, numbers = kept_as(self._dtype, width)
        return max(1, GROUP // max(1, numbers * kind.itemsize))

    def _write(self, rows: int, width: int) -> None:
        """Writes so many rows as a row group; begins again where their columns need wider types than those before."""
        if self._writer is None:
            self._begin(width)
        tables = self._tables(rows)
        wider = [self._types.widen(table.schema) for table in tables]
        cast = None if any(wider) else [self._types.cast(table) for table in tables]
        if cast is None or None in cast:
            self._open.close()
            self._writer = None
            return
        schema = self._types.schema
        whole = [self._pa.Table.from_arrays(arrays, schema=schema) for arrays in cast]
        columns = self._pa.concat_tables([schema.empty_table(), *whole])
        vectors = self._numbers(rows, width, self._writer.schema.field(VECTOR).type)
        group = self._pa.Table.from_arrays([*columns.columns, vectors], schema=self._writer.schema)
        self._writer.write_table(group, max(1, rows))
        self._done += rows

    def _numbers(self, rows: int, width: int, listed: Any) -> Any:
        """The vectors of the next so many rows."""
        if not rows:
            return self._pa.array([], listed)
        kind, numbers = kept_as(self._dtype, width)
        flat = self._pa.array(np.fromfile(self._vectors, kind, rows * numbers))
        return self._pa.FixedSizeListArray.from_arrays(flat, type=listed)

    def _begin(self, width: int) -> None:
        kind, numbers = kept_as(self._dtype, width)
        element = self._pa.field("element", self._pa.from_numpy_dtype(kind), nullable=False)
        listed = self._pa.field(
            VECTOR, self._pa.list_(element, numbers or -1), nullable=False
        )  # -1: of any length
        self._done, self._read = 0, []
        self._open = contextlib.ExitStack()
        self._vectors, self._columns = (self._open.enter_context(path.open("rb")) for path in self._parts)
        self._writer = self._open.enter_context(_writer(self._path, self._types.schema, listed))

    def _tables(self, rows: int) -> list[Any]:
        """The columns of the next so many rows, as they came."""
        count = sum(table.num_rows for table in self._read)
        while count < rows and (size := self._columns.read(8)):
            table = self._pa.ipc.open_stream(self._columns.read(int.from_bytes(size, "little"))).read_all()
            self._read.append(table)
            count += table.num_rows
        taken, self._read = self._read, []
        if count > rows:
            last = taken.pop()
            more = last.num_rows - (count - rows)
            taken.append(last.slice(0, more))
            self._read.append(last.slice(more))
        return taken


def _columns(schema: Any) -> Any:
    return schema.remove(schema.get_field_index(VECTOR))


def _writer(path: Path, columns: Any, vectors: Any) -> Any:
    """A writer of these columns, and of the vectors as the last one."""
    names = columns.names
    return arrow("Parquet output", "pyarrow.parquet").ParquetWriter(
        path,
        columns.append(vectors),
        compression=dict.fromkeys(names, "zstd"),
        use_dictionary=names,
        write_statistics=names,
    )
