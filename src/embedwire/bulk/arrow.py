"""Arrow tables and Parquet files → rows, in chunks; pyarrow is loaded where it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import IO, Any

from embedwire.bulk.records import Chunk, Columns, Source
from embedwire.exceptions import InputError

ROWS = 512  # in a chunk


def arrow(what: str, module: str = "pyarrow") -> ModuleType:
    """pyarrow, or one of its modules.

    Raises:
        InputError: It is not installed; ``what`` needs it.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise InputError(f'{what} needs pyarrow: install embedwire with its extra "cli"') from None


def is_arrow(rows: object) -> bool:
    """Whether some rows are Arrow's: a table, a batch, a reader, or what any other library hands over as a stream."""
    return hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__arrow_c_array__")


def batches_of_rows(rows: Any, source: Source, columns: Columns) -> Iterator[Any]:
    """The batches of Arrow data of the caller, with the columns that are needed."""
    pa = arrow("an Arrow table")
    if not hasattr(rows, "__arrow_c_stream__"):
        rows = pa.Table.from_batches([pa.record_batch(rows)])
    reader = pa.RecordBatchReader.from_stream(rows)
    wanted = _check_schema(reader.schema, source, columns)
    for batch in reader:
        batch = batch.select(wanted)
        for start in range(0, batch.num_rows, ROWS):
            yield batch.slice(start, ROWS)


def chunks_of_file(raw: IO[bytes], source: Source, columns: Columns) -> Iterator[Chunk]:
    """The rows of a Parquet file.

    Raises:
        InputError: It is none, is broken, or lacks a column.
    """
    pa, pq = arrow("Parquet"), arrow("Parquet", "pyarrow.parquet")
    try:
        file = pq.ParquetFile(raw)
        wanted = _check_schema(file.schema_arrow, source, columns)
        batches = file.iter_batches(batch_size=ROWS, columns=wanted, use_threads=False)
        yield from chunks_of_batches(batches, source, columns, file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source.name} cannot be read as Parquet: {_line(error)}") from None


def chunks_of_batches(
    batches: Iterable[Any], source: Source, columns: Columns, total: int | None = None
) -> Iterator[Chunk]:
    """Chunks of batches, one each.

    Args:
        batches: Arrow record batches.
        source: Where they come from.
        columns: What is in them.
        total: Rows in all of them, where ``source`` is a file; else what was read is counted in rows.
    """
    pa = arrow("Arrow")
    before = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        try:
            texts = batch.column(columns.text).to_pylist()
        except UnicodeDecodeError:
            raise InputError(
                f"{source.name}: a text in rows {before + 1} to {before + batch.num_rows} is not valid UTF-8"
            ) from None
        carried = _plain(pa, batch.select(list(columns.carried)))
        yield Chunk(
            source=source,
            lines=range(before + 1, before + batch.num_rows + 1),
            texts=texts,
            problems={index: f"{columns.text!r} is null" for index, text in enumerate(texts) if text is None},
            carried=carried,
            read=source.size * (before + batch.num_rows) // total if total else before + batch.num_rows,
        )
        before += batch.num_rows


def missing(name: str, source: Source, there: Sequence[str]) -> InputError:
    """The error of a column that is not there."""
    return InputError(f"{source.name} has no column {name!r}; it has {', '.join(map(repr, there)) or 'none'}")


def _check_schema(schema: Any, source: Source, columns: Columns) -> list[str]:
    wanted = list(columns.all)
    for name in wanted:
        if name not in schema.names:
            raise missing(name, source, schema.names)
        if schema.names.count(name) > 1:
            raise InputError(f"{source.name} has the column {name!r} {schema.names.count(name)} times")
    pa = arrow("Arrow")
    kind = schema.field(columns.text).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise InputError(f"{source.name}: the column {columns.text!r} holds no texts but {kind}")
    return wanted


def _plain(pa: ModuleType, batch: Any) -> Any:
    """A batch without dictionaries, which would differ from batch to batch."""
    if not any(pa.types.is_dictionary(field.type) for field in batch.schema):
        return batch
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
