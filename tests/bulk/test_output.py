"""What is written, in every format; what a kill at any moment leaves behind; who may write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from embedwire.bulk.formats import Format, Jsonl, Npy, kept
from embedwire.bulk.lock import Lock
from embedwire.bulk.manifest import Layout
from embedwire.bulk.output import Output
from embedwire.bulk.parquet import Parquet
from embedwire.bulk.records import Chunk, Columns, Done, Row, Source
from embedwire.bulk.rejects import Rejects
from embedwire.exceptions import InputError, UsageError
from tests.bulk.conftest import read_jsonl

COLUMNS = Columns(text="text", id="id", keep=())
ROWS = 13
WIDTH = 5
FORMATS: dict[str, Callable[[], Format]] = {
    "jsonl": lambda: Jsonl(COLUMNS),
    "npy": lambda: Npy("float32"),
    "parquet": lambda: Parquet(COLUMNS, "float32"),
}


def done(*numbers: int, bad: tuple[int, ...] = (), width: int = WIDTH, carried: Any = None) -> list[Done]:
    """Rows with these numbers, and their vectors."""
    chunk = Chunk(
        source=Source(name="a.jsonl"),
        lines=numbers,
        texts=[f"text {number}" for number in numbers],
        problems={},
        carried=carried or [{"id": f"d{number}"} for number in numbers],
        read=0,
    )
    return [
        Done(
            Row(number, chunk, at),
            None if number in bad else np.arange(number, number + width, dtype=np.float32),
            "too bad" if number in bad else None,
        )
        for at, number in enumerate(numbers)
    ]


def opened(
    folder: Path,
    form: str,
    per_file: int | None,
    *,
    resume: bool = True,
    overwrite: bool = False,
    model: str = "m",
) -> Output:
    """An output of 13 rows in a folder, begun."""
    made = FORMATS[form]()
    out = folder / ("out" if per_file else f"out{made.suffix}")
    rejects = Rejects(folder / "rejects.jsonl")
    output = Output(
        Layout(out, made.suffix, per_file), made, "float32", rejects, resume=resume, overwrite=overwrite
    )
    try:
        output.begin({"model": model})
    except BaseException:
        output.close()
        raise
    return output


def write(folder: Path, form: str, per_file: int | None, step: int = 3, *, overwrite: bool = False) -> None:
    """Writes what is not written yet, some rows at a time."""
    output = opened(folder, form, per_file, resume=not overwrite, overwrite=overwrite)
    try:
        while (first := output.position.next) < ROWS:
            output.append(done(*range(first, min(ROWS, first + step)), bad=(3, 11)))
        output.finish()
    finally:
        output.close()


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder, but the manifest, which tells times."""
    found = (path for path in folder.rglob("*") if path.is_file() and "manifest" not in path.name)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


class Killed(BaseException):
    """The process is gone: nothing behind this runs."""


def kill_at(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Lets the process end at the so-many-th write, halfway through it, or before the so-many-th rename or removal."""
    left = [count]

    def dies() -> bool:
        left[0] -= 1
        return left[0] < 0

    def spool_write(file: Any, data: bytes) -> None:
        if dies():
            file.write(data[: len(data) // 2])
            raise Killed
        file.write(data)

    def replace(old: Any, new: Any) -> None:
        if dies():
            raise Killed
        os.rename(old, new)

    def sync(path: Path) -> None:
        if dies():
            raise Killed

    monkeypatch.setattr("embedwire.bulk.spool.write", spool_write)
    monkeypatch.setattr("embedwire.bulk.spool.sync", sync)
    monkeypatch.setattr("embedwire.bulk.output.sync", sync)
    monkeypatch.setattr("embedwire.bulk.manifest.sync", sync)
    monkeypatch.setattr("embedwire.bulk.parquet.sync", sync)
    monkeypatch.setattr("embedwire.bulk.output.os.replace", replace)


@pytest.mark.parametrize("per_file", [None, 4])
@pytest.mark.parametrize("form", FORMATS)
class TestKills:
    """Whatever moment a kill comes at, the next run makes the output that an undisturbed one makes."""

    def test_at_every_moment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, per_file: int | None
    ) -> None:
        """A run that is killed at its n-th step, for every n, and gone on with, ends with the same files."""
        whole = tmp_path / "whole"
        whole.mkdir()
        write(whole, form, per_file)
        for count in range(1000):
            folder = tmp_path / f"killed {count}"
            folder.mkdir()
            with monkeypatch.context() as patched:
                kill_at(patched, count)
                try:
                    write(folder, form, per_file)
                except Killed:
                    pass
                else:
                    break
            write(folder, form, per_file, step=5)
            assert files(folder) == files(whole), count
        assert count > 10

    def test_while_another_output_is_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, per_file: int | None
    ) -> None:
        """A run that replaces another one's unfinished output, and is killed, never goes on with that one's rows."""
        whole = tmp_path / "whole"
        whole.mkdir()
        write(whole, form, per_file)
        for count in range(8):
            folder = tmp_path / f"killed {count}"
            folder.mkdir()
            output = opened(folder, form, per_file, model="old")
            output.append(done(*range(10), width=7))
            output.close()
            with monkeypatch.context() as patched:
                kill_at(patched, count)
                with pytest.raises(Killed):
                    write(folder, form, per_file, overwrite=True)
            try:
                write(folder, form, per_file)
            except InputError:  # it is still the old one
                write(folder, form, per_file, overwrite=True)
            assert files(folder) == files(whole), count


class TestFormats:
    """What is in the files."""

    def test_parquet(self, tmp_path: Path) -> None:
        """Parquet has the id, and vectors of fixed size, in the order of the rows; rejected rows are not in it."""
        write(tmp_path, "parquet", None)
        table = pq.read_table(tmp_path / "out.parquet")
        assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float not null>[5]"
        good = [number for number in range(ROWS) if number not in (3, 11)]
        assert table["id"].to_pylist() == [f"d{number}" for number in good]
        assert table["embedding"].to_pylist() == [list(range(number, number + WIDTH)) for number in good]
        assert [row["row"] for row in read_jsonl(tmp_path / "rejects.jsonl")] == [3, 11]

    def test_a_folder_is_a_dataset(self, tmp_path: Path) -> None:
        """A folder of shards is read as one table, as all other files in it begin with a dot or underscore."""
        write(tmp_path, "parquet", 4)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "_manifest.json",
            *(f"part-{number:05}.parquet" for number in range(3)),
        ]
        assert pq.read_table(tmp_path / "out").num_rows == 11
        manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
        assert [file["rows"] for file in manifest["files"]] == [4, 4, 3]
        assert (manifest["complete"], manifest["position"]["rejects"]) == (True, 2)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([1, 2, 3, 4], [1, 2, 3, 4]),
            ([1, 2, 3, 0.5], [1.0, 2.0, 3.0, 0.5]),
            ([None, None, "a", None], [None, None, "a", None]),
            ([None, None, None, None], [None, None, None, None]),
            ([[], ["a"], None, ["b"]], [[], ["a"], None, ["b"]]),
            ([1, "a", None, True], ["1", '"a"', None, "true"]),
            ([{"a": 1}, 2, None, []], ['{"a":1}', "2", None, "[]"]),
            ([2**70, 1, 2, 3], ["1180591620717411303424", "1", "2", "3"]),
        ],
    )
    @pytest.mark.parametrize("step", [1, 2, 4])
    def test_columns_of_json(self, tmp_path: Path, values: list[Any], expected: list[Any], step: int) -> None:
        """A column gets the type that holds all its values, or is JSON, however the rows came."""
        write_values(tmp_path, values, None, step)
        table = pq.read_table(tmp_path / "out.parquet")
        assert table["x"].to_pylist() == expected
        assert table["row"].to_pylist() == [0, 1, 2, 3]

    @pytest.mark.parametrize("step", [1, 2, 3, 8])
    def test_json_is_the_same_however_rows_came(self, tmp_path: Path, step: int) -> None:
        """What becomes JSON does not depend on what stood beside it: neither whole numbers nor lists of them."""
        values = [1, 0.5, 2.0, "a", [1, 2], [0.5, 3], 2**60, None]
        write_values(tmp_path, values, None, step)
        told = ["1", "0.5", "2", '"a"', "[1,2]", "[0.5,3]", "1152921504606846976", None]
        assert pq.read_table(tmp_path / "out.parquet")["x"].to_pylist() == told

    @pytest.mark.parametrize("step", [1, 2, 4])
    def test_whole_numbers_beyond_float64(self, tmp_path: Path, step: int) -> None:
        """A whole number that float64 does not hold is never rounded: beside a fraction it is JSON."""
        write_values(tmp_path, [2**60 + 1, 1, 0.5, 2], None, step)
        table = pq.read_table(tmp_path / "out.parquet")
        assert table["x"].to_pylist() == ["1152921504606846977", "1", "0.5", "2"]

    def test_a_file_is_made_while_rows_come(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before the end most row groups are written, also where a wider type made the file begin again."""
        monkeypatch.setattr("embedwire.bulk.parquet.GROUP", 3 * 4 * WIDTH)
        write_values(tmp_path / "whole", [*range(10), 0.5, *range(9)], None, 20)
        output = output_of_values(tmp_path / "growing", None)
        for number, value in enumerate([*range(10), 0.5, *range(9)]):
            output.append(done(number, carried=[{"x": value}]))
            output.grow()
        made = tmp_path / "growing" / "out.parquet.work" / "00000.parquet"
        assert made.stat().st_size > 500  # five groups of six; their end is missing
        output.finish()
        output.close()
        file = pq.ParquetFile(tmp_path / "growing" / "out.parquet")
        assert [file.metadata.row_group(at).num_rows for at in range(7)] == [3] * 6 + [2]
        assert file.read()["x"].to_pylist() == [*range(10), 0.5, *range(9)]
        assert files(tmp_path / "growing") == files(tmp_path / "whole")

    def test_dtypes(self) -> None:
        """float16 rounds, int8 scales each vector to its largest number, binary keeps the signs."""
        vectors = np.array([[0.5, -1.0, 0.25], [0.0, 0.0, 0.0], [-3.0, 1.0, 2.0]], np.float32)
        assert kept(vectors, "float32") is vectors
        assert kept(vectors, "float16").dtype == np.float16
        assert kept(vectors, "int8").tolist() == [[64, -127, 32], [0, 0, 0], [-127, 42, 85]]
        assert kept(vectors, "binary").tolist() == [[0b10100000], [0], [0b01100000]]
        with pytest.raises(InputError, match="float16 cannot hold"):
            kept(np.array([[1e6]], np.float32), "float16")


class TestFolders:
    """The files of a folder are one table, whatever each of them holds."""

    VALUES: tuple[tuple[list[Any], str], ...] = (
        ([1, 2, 3, 0.5, None, 4], "double"),
        ([None, None, 1, 2, None, 3], "int64"),
        ([None, None, None, None, "a", None], "string"),
        ([1, 2, "a", None, 0.5, True], "string"),
        (["a", "b", 1, 2, None, {"b": [1]}], "string"),
        ([2**60 + 1, 1, 2, 3, 0.5, 4], "string"),
        ([[], [1], None, [0.5], [2], []], "list<element: double>"),
    )

    @pytest.mark.parametrize(("values", "kind"), VALUES)
    def test_have_the_same_types(self, tmp_path: Path, values: list[Any], kind: str) -> None:
        """All files have the type, and the values, that one file has; a kill at any moment changes nothing."""
        write_values(tmp_path / "one", values, None, 6)
        write_values(tmp_path / "whole", values, 2, 2)
        one = pq.read_table(tmp_path / "one" / "out.parquet")
        dataset = ds.dataset(tmp_path / "whole" / "out", format="parquet")
        assert str(dataset.schema.field("x").type) == kind
        assert dataset.to_table()["x"].to_pylist() == one["x"].to_pylist()
        schemas = [pq.read_schema(path) for path in sorted((tmp_path / "whole" / "out").glob("*.parquet"))]
        assert len(schemas) == 3
        assert all(schema.equals(schemas[0]) for schema in schemas)

    @pytest.mark.parametrize("values", [VALUES[0][0], VALUES[3][0]])
    def test_kills(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[Any]) -> None:
        """A run that is killed at its n-th step, for every n, ends with the same files as one that is not."""
        write_values(tmp_path / "whole", values, 2, 2)
        for count in range(1000):
            folder = tmp_path / f"killed {count}"
            with monkeypatch.context() as patched:
                kill_at(patched, count)
                try:
                    write_values(folder, values, 2, 2)
                except Killed:
                    pass
                else:
                    break
            write_values(folder, values, 2, 1)
            assert files(folder) == files(tmp_path / "whole"), count
        assert count > 10

    def test_of_columns_with_types(self, tmp_path: Path) -> None:
        """Columns of Arrow that differ between inputs become one type, too."""
        output = output_of_values(tmp_path, 2)
        first = pa.record_batch({"x": pa.array([1, 2], pa.int32())})
        second = pa.record_batch({"x": pa.array([2**40, None], pa.int64())})
        for start, batch in ((0, first), (2, second)):
            output.append(done(start, start + 1, carried=batch))
        output.finish()
        output.close()
        table = ds.dataset(tmp_path / "out", format="parquet").to_table()
        assert (table.schema.field("x").type, table["x"].to_pylist()) == (pa.int64(), [1, 2, 2**40, None])


def output_of_values(folder: Path, per_file: int | None) -> Output:
    """An output with the column ``x``, begun or gone on with."""
    folder.mkdir(exist_ok=True)
    form = Parquet(Columns(text="text", id=None, keep=("x",)), "float32")
    layout = Layout(folder / ("out" if per_file else "out.parquet"), ".parquet", per_file)
    output = Output(layout, form, "float32", Rejects(None), resume=True, overwrite=False)
    try:
        output.begin({})
    except BaseException:
        output.close()
        raise
    return output


def write_values(folder: Path, values: list[Any], per_file: int | None, step: int) -> None:
    """Writes the column ``x`` as far as it is not written yet, so many rows at a time."""
    output = output_of_values(folder, per_file)
    try:
        while (first := output.position.next) < len(values):
            some = values[first : first + step]
            output.append(done(*range(first, first + len(some)), carried=[{"x": value} for value in some]))
        output.finish()
    finally:
        output.close()


class TestWhoMayWrite:
    """An output belongs to one run and one job."""

    def test_two_runs(self, tmp_path: Path) -> None:
        """A second run on the same output is refused while the first one is there, and only so long."""
        first = opened(tmp_path, "npy", None)
        with pytest.raises(UsageError, match="another run is writing there"):
            opened(tmp_path, "npy", None)
        first.close()
        opened(tmp_path, "npy", None).close()

    def test_a_lock_that_was_removed_is_made_anew(self, tmp_path: Path) -> None:
        """A lock file that nobody holds locks nobody out."""
        (tmp_path / "lock").touch()
        lock = Lock(tmp_path / "lock")
        with pytest.raises(UsageError):
            Lock(tmp_path / "lock")
        lock.release()
        lock.release()
        assert not (tmp_path / "lock").exists()

    @pytest.mark.parametrize("per_file", [None, 4])
    def test_what_exists(self, tmp_path: Path, per_file: int | None) -> None:
        """An output that is there, finished or not, is touched with resume or overwrite alone."""
        opened(tmp_path, "npy", per_file).close()
        with pytest.raises(InputError, match="holds an unfinished run; go on with it"):
            opened(tmp_path, "npy", per_file, resume=False)
        write(tmp_path, "npy", per_file)
        with pytest.raises(InputError, match="exists; choose another output, or replace it"):
            opened(tmp_path, "npy", per_file, resume=False)

    def test_what_somebody_else_made(self, tmp_path: Path) -> None:
        """A file or a folder that no run made is never taken for one, and a folder not even replaced."""
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").touch()
        (tmp_path / "out.npy").touch()
        with pytest.raises(InputError, match="no run of embedwire wrote what is there"):
            opened(tmp_path, "npy", 4)
        with pytest.raises(InputError, match="exists; choose another output"):
            opened(tmp_path, "npy", None)
        layout = Layout(tmp_path / "out", ".npy", 4)
        with pytest.raises(InputError, match="no run of embedwire wrote what is there"):
            Output(layout, Npy("float32"), "float32", Rejects(None), resume=False, overwrite=True)

    def test_another_model(self, tmp_path: Path) -> None:
        """Vectors of another length than those before are not written."""
        output = opened(tmp_path, "npy", None)
        output.append(done(0, 1))
        with pytest.raises(
            UsageError, match="have 6 numbers now, and those before had 5: it serves another model"
        ):
            output.append(done(2, width=6))
        output.close()
        again = opened(tmp_path, "npy", None)
        assert again.position.next == 2
        again.close()
