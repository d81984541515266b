"""Parquet shards: numbers and columns grow in two plain files, of which the Parquet file is made when it is full."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedwire.bulk.arrow import arrow
from embedwire.bulk.formats import by_chunk, kept_as
from embedwire.bulk.records import ROW, VECTOR, Columns, Dtype, Row

GROUP = 2**23  # bytes of vectors in one row group
_COMPACT: Any = {"default": str, "ensure_ascii": False, "separators": (",", ":")}
AS_JSON = {b"embedwire": b"json"}  # marks a column of texts that stand for values of several types


class Parquet:
    """``.parquet``: the carried columns, and the vectors as lists of fixed size.

    Columns of Arrow and Parquet input keep their types. Those of JSON and CSV get the type that holds all their values;
    where there is none, and for objects, the values are written as JSON.
    """

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
                    array, field = self._inferred(name, [chunk.carried[index][name] for index in indexes])
                    arrays.append(array)
                    fields.append(field)
            elif chunk.carried.num_columns:
                taken = chunk.carried.take(self._pa.array(indexes))
                arrays += taken.columns
                fields += list(taken.schema)
            yield self._pa.RecordBatch.from_arrays(arrays, schema=self._pa.schema(fields))

    def _inferred(self, name: str, values: list[Any]) -> tuple[Any, Any]:
        """An array of the values' own type, or of their JSON."""
        if not any(isinstance(value, dict) for value in values):
            try:
                array = self._pa.array(values)
            except (self._pa.ArrowException, OverflowError, TypeError):
                pass
            else:
                if not self._pa.types.is_nested(array.type) or self._pa.types.is_list(array.type):
                    return array, self._pa.field(name, array.type)
        return _json(self._pa, values), self._pa.field(name, self._pa.string(), metadata=AS_JSON)

    def finish(self, parts: Sequence[Path], rows: int, width: int) -> Path:
        """Makes the Parquet file, a row group at a time."""
        kind, numbers = kept_as(self._dtype, width)
        schema = self._unified(parts[1])
        value = self._pa.from_numpy_dtype(kind)
        listed = self._pa.list_(self._pa.field("element", value, nullable=False), numbers)
        whole = self._pa.schema([*schema, self._pa.field(VECTOR, listed, nullable=False)])
        path = parts[0].with_suffix(".parquet")
        group = max(1, GROUP // (numbers * kind.itemsize)) if rows else 1
        columns = self._tables(parts[1], schema, group)
        names = [field.name for field in schema]
        with (
            self._pq.ParquetWriter(
                path,
                whole,
                compression=dict.fromkeys(names, "zstd"),
                use_dictionary=names,
                write_statistics=names,
            ) as writer,
            parts[0].open("rb") as file,
        ):
            for start in range(0, rows, group):
                count = min(group, rows - start)
                flat = np.fromfile(file, kind, count * numbers)
                vectors = self._pa.FixedSizeListArray.from_arrays(self._pa.array(flat), type=listed)
                arrays = next(columns).columns if len(schema) else []
                writer.write_table(self._pa.Table.from_arrays([*arrays, vectors], schema=whole), group)
        return path

    def _frames(self, path: Path) -> Iterator[Any]:
        with path.open("rb") as file:
            while size := file.read(8):
                yield self._pa.ipc.open_stream(file.read(int.from_bytes(size, "little")))

    def _unified(self, path: Path) -> Any:
        """The schema that holds the columns of all rows."""
        kinds: dict[str, Any] = {}  # None: no one type holds all values
        for frame in self._frames(path):
            for field in frame.schema:
                kind = None if _is_json(field) else field.type
                known = kinds.setdefault(field.name, kind)
                if known != kind:
                    kinds[field.name] = self._both(known, kind)
        return self._pa.schema([self._field(name, kind) for name, kind in kinds.items()])

    def _field(self, name: str, kind: Any) -> Any:
        """A column of a type; None is for JSON, and a column without any value is one of texts."""
        text = self._pa.string()
        if kind is None:
            return self._pa.field(name, text, metadata=AS_JSON)
        return self._pa.field(name, text if self._pa.types.is_null(kind) else kind)

    def _both(self, one: Any, other: Any) -> Any:
        """The type that holds the values of two; None where there is none."""
        if one is None or other is None:
            return None
        schemas = [self._pa.schema([("", kind)]) for kind in (one, other)]
        try:
            return self._pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        except self._pa.ArrowException:
            return None

    def _tables(self, path: Path, schema: Any, rows: int) -> Iterator[Any]:
        """The columns, so many rows at a time."""
        waiting: list[Any] = []
        count = 0
        for frame in self._frames(path):
            table = self._cast(frame.read_all(), schema)
            waiting.append(table)
            count += table.num_rows
            while count >= rows:
                whole = self._pa.concat_tables(waiting)
                yield whole.slice(0, rows)
                waiting, count = [whole.slice(rows)], count - rows
        if count:
            yield self._pa.concat_tables(waiting)

    def _cast(self, table: Any, schema: Any) -> Any:
        arrays = []
        for field in schema:
            column = table.column(field.name)
            if _is_json(field) and not _is_json(table.schema.field(field.name)):
                column = _json(self._pa, column.to_pylist())
            arrays.append(column.cast(field.type))
        return self._pa.Table.from_arrays(arrays, schema=schema)


def _json(pa: Any, values: list[Any]) -> Any:
    texts = [None if value is None else json.dumps(value, **_COMPACT) for value in values]
    return pa.array(texts, pa.string())


def _is_json(field: Any) -> bool:
    return (field.metadata or {}).items() >= AS_JSON.items()
