"""The columns that go from the input into Parquet: which type each one gets, and values brought to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from embedwire.bulk.arrow import arrow
from embedwire.bulk.records import ROW, Columns

EXACT = 2**53  # whole numbers below it are the same as float64
MARK = b"embedwire"  # in a field's metadata:
JSON = b"json"  # a column of texts that stand for values of several types
EMPTY = b"null"  # a column of texts without any value: it may still get any type


class Types:
    """The type of each column, wide enough for all values that were seen. Its state is the types.

    Columns of Arrow keep their types as long as one is enough. Those of JSON get the type that holds all their values;
    where there is none, and for objects, the values become JSON.
    """

    def __init__(self) -> None:
        self._pa = arrow("Parquet output")
        self._kinds: dict[str, Any] = {}  # None: JSON

    @classmethod
    def of(cls, columns: Columns) -> Types:
        """Those of an output before its first row."""
        types = cls()
        types._kinds = {ROW: types._pa.int64()} if columns.numbered else {}
        types._kinds |= dict.fromkeys(columns.carried, types._pa.null())
        return types

    def widen(self, schema: Any) -> bool:
        """Makes room for columns of these types; whether that changed something."""
        before = dict(self._kinds)
        for field in schema:
            mark = (field.metadata or {}).get(MARK)
            kind = None if mark == JSON else self._pa.null() if mark == EMPTY else field.type
            self._kinds[field.name] = self._both(self._kinds.get(field.name, kind), kind)
        return before != self._kinds

    @property
    def schema(self) -> Any:
        """The columns, as they are written."""
        return self._pa.schema([self._field(name, kind) for name, kind in self._kinds.items()])

    def cast(self, table: Any) -> list[Any] | None:
        """The columns of a table with these types; None where a value does not fit its own, which is then JSON."""
        arrays = []
        for field in self.schema:
            column = table.column(field.name)
            if is_json(field) and not is_json(table.schema.field(field.name)):
                column = as_json(self._pa, column.to_pylist())
            try:
                arrays.append(column.cast(field.type))
            except self._pa.ArrowException:  # a whole number that is none of float64, say
                self._kinds[field.name] = None
                return None
        return arrays

    def fits(self, schema: Any) -> bool:
        """Whether columns have these types already."""
        there = {field.name: (field.type, is_json(field)) for field in schema}
        return all(there.get(field.name) == (field.type, is_json(field)) for field in self.schema)

    def _field(self, name: str, kind: Any) -> Any:
        text = self._pa.string()
        if kind is None:
            return self._pa.field(name, text, metadata={MARK: JSON})
        if self._pa.types.is_null(kind):
            return self._pa.field(name, text, metadata={MARK: EMPTY})
        return self._pa.field(name, kind)

    def _both(self, one: Any, other: Any) -> Any:
        """The type that holds the values of two; None where there is none."""
        if one is None or other is None:
            return None
        schemas = [self._pa.schema([("", kind)]) for kind in (one, other)]
        try:
            return self._pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        except self._pa.ArrowException:
            return None


def inferred(name: str, values: Sequence[Any]) -> tuple[Any, Any]:
    """An array of the values' own type, or of their JSON; and its field."""
    pa = arrow("Parquet output")
    kinds = set(_kinds(values))
    if dict not in kinds and not (bool in kinds and kinds & {int, float}):  # Arrow takes True for 1.0
        try:
            array = pa.array(values)
        except (pa.ArrowException, OverflowError, TypeError):
            pass
        else:
            if not pa.types.is_nested(array.type) or pa.types.is_list(array.type):
                return array, pa.field(name, array.type)
    return as_json(pa, values), pa.field(name, pa.string(), metadata={MARK: JSON})


def _kinds(values: Sequence[Any]) -> Iterator[type]:
    """The types of values, those in lists, too."""
    for value in values:
        yield type(value)
        if isinstance(value, list):
            yield from _kinds(value)


def is_json(field: Any) -> bool:
    """Whether a column holds JSON."""
    return (field.metadata or {}).get(MARK) == JSON


def as_json(pa: Any, values: Sequence[Any]) -> Any:
    """An array of the values' JSON, which is the same whatever type they had in between."""
    texts = [
        None
        if value is None
        else json.dumps(_whole(value), default=str, ensure_ascii=False, separators=(",", ":"))
        for value in values
    ]
    return pa.array(texts, pa.string())


def _whole(value: Any) -> Any:
    """A value whose whole numbers are int: 1 beside 0.5 was 1.0 in between."""
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    return value
