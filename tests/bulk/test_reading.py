"""Files → rows: every format, and what is wrong with them by file and line."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedwire.bulk.arrow import batches_of_rows, chunks_of_batches
from embedwire.bulk.reading import chunks_of, chunks_of_rows
from embedwire.bulk.records import Chunk, Columns, Source
from embedwire.bulk.sources import sources_of
from embedwire.exceptions import InputError

COLUMNS = Columns(text="text", id=None, keep=("tag",))


def read(path: Path | str, columns: Columns = COLUMNS, told: Any = None) -> list[Chunk]:
    """All chunks of some files."""
    return [chunk for source in sources_of([path], told) for chunk in chunks_of(source, columns)]


def texts(chunks: list[Chunk]) -> list[str | None]:
    """Their texts."""
    return [text for chunk in chunks for text in chunk.texts]


def zstd(data: bytes) -> bytes:
    """Data as zstd packs it."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


JSONL = b'\xef\xbb\xbf{"text": "one", "tag": 1}\n\n{"text": "t\xc3\xa4xt", "tag": null}\r\n{"text": "", "tag": "c"}'
CSV = '\ufefftext,tag\n"one",1\n"tä\nxt",\n"a ""b""",c\n'.encode()


class TestFormats:
    """Each format gives its rows."""

    @pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstd)])
    def test_json_lines(self, tmp_path: Path, suffix: str, pack: Any) -> None:
        """JSON Lines, packed or not, with a byte order mark and empty lines, give each object as a row of its line."""
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(pack(JSONL))
        (chunk,) = read(path)
        assert chunk.texts == ["one", "täxt", ""]
        assert chunk.lines == [1, 3, 4]
        assert chunk.carried == [{"tag": 1}, {"tag": None}, {"tag": "c"}]

    @pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstd)])
    def test_csv(self, tmp_path: Path, suffix: str, pack: Any) -> None:
        """CSV with quotes and lines inside of fields gives each record as a row of the line where it begins."""
        path = tmp_path / f"a.csv{suffix}"
        path.write_bytes(pack(CSV))
        (chunk,) = read(path)
        assert chunk.texts == ["one", "tä\nxt", 'a "b"']
        assert chunk.lines == [2, 3, 5]
        assert chunk.carried == [{"tag": "1"}, {"tag": ""}, {"tag": "c"}]

    def test_tsv(self, tmp_path: Path) -> None:
        """Fields between tabs are a CSV with another comma."""
        (tmp_path / "a.tsv").write_text("tag\ttext\n1\tone, two\n")
        assert texts(read(tmp_path / "a.tsv")) == ["one, two"]

    def test_a_field_may_be_long(self, tmp_path: Path) -> None:
        """A text of a megabyte, above the standard library's limit for fields, is a text like others."""
        (tmp_path / "a.csv").write_text(f"text,tag\n{'x' * 2**20},1\n")
        assert texts(read(tmp_path / "a.csv")) == ["x" * 2**20]

    def test_plain_text(self, tmp_path: Path) -> None:
        """Each line of plain text is a text, blanks at its ends included; empty lines are left out."""
        (tmp_path / "a.txt").write_bytes(b"one\r\n\r\n  two \nthree")
        (chunk,) = read(tmp_path / "a.txt", Columns(text="text", id=None, keep=()))
        assert (chunk.texts, chunk.lines) == (["one", "  two ", "three"], [1, 3, 4])

    def test_parquet(self, tmp_path: Path) -> None:
        """Parquet gives its rows with the types that its columns have, dictionaries as what they stand for."""
        tags = pa.array(["a", "b", "a"]).dictionary_encode()
        pq.write_table(
            pa.table({"text": ["one", None, "three"], "tag": tags, "other": [1, 2, 3]}),
            tmp_path / "a.parquet",
        )
        (chunk,) = read(tmp_path / "a.parquet")
        assert (chunk.texts, list(chunk.lines)) == (["one", None, "three"], [1, 2, 3])
        assert chunk.problems == {1: "'text' is null"}
        assert chunk.carried.to_pylist() == [{"tag": "a"}, {"tag": "b"}, {"tag": "a"}]
        assert chunk.carried.schema.field("tag").type == pa.string()

    def test_arrow(self) -> None:
        """A table of the program's own is read like a Parquet file, in chunks."""
        table = pa.table({"text": [f"text {i}" for i in range(1300)], "tag": range(1300)})
        source = Source(name="rows", format="parquet")
        chunks = list(chunks_of_batches(batches_of_rows(table, source, COLUMNS), source, COLUMNS))
        assert texts(chunks) == table["text"].to_pylist()
        assert max(len(chunk.texts) for chunk in chunks) <= 512
        assert chunks[-1].place(0) == "rows, row 1025"

    def test_rows(self) -> None:
        """Dicts and texts of the program's own are rows."""
        (chunk,) = chunks_of_rows([{"text": "one", "tag": 1}, "two"], COLUMNS)
        assert (chunk.texts, chunk.carried) == (["one", "two"], [{"tag": 1}, {"tag": None}])
        with pytest.raises(InputError, match="rows must be dicts or str, and row 2 is a int"):
            list(chunks_of_rows(["one", 2], Columns(text="text", id=None, keep=())))

    def test_chunks_are_bounded(self, tmp_path: Path) -> None:
        """However long the texts are, few megabytes of them are read at once."""
        rows = (json.dumps({"text": "x" * 2**19, "tag": 1}) for _ in range(8))
        (tmp_path / "a.jsonl").write_text("\n".join(rows))
        assert [len(chunk.texts) for chunk in read(tmp_path / "a.jsonl")] == [2, 2, 2, 2]


class TestBadRows:
    """What is wrong with one row is told of that row, and the others are read."""

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("{broken", "not JSON: "),
            ("[1, 2]", "not an object but a list"),
            ('{"tag": 1}', "there is no 'text'; there are 'tag'"),
            ('{"text": null}', "'text' is null"),
            ('{"text": 5}', "'text' is no text but a int"),
            ('{"text": "\\ud800"}', "not JSON: "),
        ],
    )
    def test_json(self, tmp_path: Path, line: str, problem: str) -> None:
        """A line that gives no text says why, and where it is."""
        (tmp_path / "a.jsonl").write_text(f'{{"text": "one", "tag": 1}}\n{line}\n{{"text": "three"}}\n')
        (chunk,) = read(tmp_path / "a.jsonl")
        assert chunk.texts == ["one", None, "three"]
        assert chunk.problems[1].startswith(problem)
        assert chunk.place(1) == f"{tmp_path / 'a.jsonl'}, line 2"

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            (b"one\n", "it has 1 fields, and the header 2"),
            (b"one,2,3\n", "it has 3 fields, and the header 2"),
            (b'"one" x,2\n', "not CSV: "),
            (b"\xff,2\n", "its text is not valid UTF-8"),
        ],
    )
    def test_csv(self, tmp_path: Path, line: bytes, problem: str) -> None:
        """A record that gives no text says why."""
        (tmp_path / "a.csv").write_bytes(b"text,tag\none,1\n" + line + b"three,3\n")
        (chunk,) = read(tmp_path / "a.csv")
        assert chunk.texts == ["one", None, "three"]
        assert chunk.problems[1].startswith(problem)

    def test_an_open_quote_is_found(self, tmp_path: Path) -> None:
        """A quote that is never closed is told, instead of taking the rest of the file as one text."""
        (tmp_path / "a.csv").write_text('text,tag\none,1\n"two,2\nthree,3\n')
        (chunk,) = read(tmp_path / "a.csv")
        assert (chunk.texts, chunk.problems) == (["one", None], {1: "not CSV: unexpected end of data"})


class TestBadFiles:
    """What is wrong with a file as a whole ends the reading, after the rows before."""

    @pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
    @pytest.mark.parametrize("missing", ["text", "tag"])
    def test_a_missing_column(self, tmp_path: Path, suffix: str, missing: str) -> None:
        """A column that is not there is named, and so are those that are."""
        path, there = tmp_path / f"a.{suffix}", {"text": "tag", "tag": "text"}[missing]
        if suffix == "parquet":
            pq.write_table(pa.table({there: ["1"], "more": ["2"]}), path)
        elif suffix == "csv":
            path.write_text(f"{there},more\n1,2\n")
        else:
            path.write_text(f'{{"{there}": "1", "more": "2"}}\n')
        with pytest.raises(
            InputError, match=rf"a\.{suffix} has no column '{missing}'; it has '{there}', 'more'"
        ):
            read(path)

    def test_a_column_of_numbers(self, tmp_path: Path) -> None:
        """A Parquet column without texts is refused by its type."""
        pq.write_table(pa.table({"text": [1], "tag": [2]}), tmp_path / "a.parquet")
        with pytest.raises(InputError, match="'text' holds no texts but int64"):
            read(tmp_path / "a.parquet")

    @pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
    def test_a_cut_archive(self, tmp_path: Path, suffix: str, pack: Any) -> None:
        """An archive that breaks off is told, after the rows that it gave."""
        rows = "".join(json.dumps({"text": f"text {i} {i * i % 7919}", "tag": i}) + "\n" for i in range(5000))
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(pack(rows.encode())[:-2000])
        chunks = chunks_of(sources_of([path], None)[0], COLUMNS)
        assert next(chunks).texts[0] == "text 0 0"
        with pytest.raises(InputError, match=r"a\.jsonl\.\w+ cannot be read to its end: "):
            list(chunks)

    def test_no_parquet(self, tmp_path: Path) -> None:
        """A file that is no Parquet is told in a line."""
        (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
        with pytest.raises(InputError, match=r"a\.parquet cannot be read as Parquet: [^\n]+$"):
            read(tmp_path / "a.parquet")

    def test_a_file_that_grows(self, tmp_path: Path) -> None:
        """A file that is written while it is read ends the reading with its sizes."""
        path = tmp_path / "a.jsonl"
        path.write_text("".join(json.dumps({"text": f"text {i}", "tag": i}) + "\n" for i in range(2000)))
        chunks = chunks_of(sources_of([path], None)[0], COLUMNS)
        next(chunks)
        with path.open("a") as file:
            file.write('{"text": "half a li')
        with pytest.raises(
            InputError, match=r"a\.jsonl was changed while it was read.*: it had [\d,]+ bytes"
        ):
            list(chunks)

    @pytest.mark.parametrize(
        ("name", "begin", "message"),
        [
            ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "is UTF-16; make it UTF-8: iconv"),
            ("a.csv", "text,tag\na,b\n".encode("utf-16-be"), "is no text in UTF-8, but UTF-16"),
            ("a.txt", "one\ntwo\n".encode("utf-16-le"), "is no text in UTF-8, but UTF-16"),
            (
                "a.txt",
                gzip.compress(b"one", mtime=0),
                "is compressed with gzip; unpack it, or let its name end in .gz",
            ),
            ("a.csv", zstd(b"text\n"), "is compressed with Zstandard"),
            ("a.jsonl", b"PAR1abc", "is Parquet; say so: --input-format parquet"),
            ("a.txt.gz", b"no archive", "cannot be read to its end: Not a gzipped file"),
            ("a.jsonl", b'\n[{"text": "a"}]', "line 2 begins a JSON array; give an object a line"),
            ("a.csv", b"text,tag,text\na,b,c\n", "line 1 names the column 'text' 2 times"),
            ("a.csv", b"tag;text\na;b\n", "has no column 'text'; it has 'tag;text'"),
        ],
    )
    def test_what_is_no_such_file(self, tmp_path: Path, name: str, begin: bytes, message: str) -> None:
        """A file of another kind than its name says is told by what it is, before one of its rows is taken."""
        (tmp_path / name).write_bytes(begin)
        with pytest.raises(InputError, match=rf"{re.escape(name)},? {re.escape(message)}"):
            read(tmp_path / name)

    def test_a_column_that_is_there_twice(self, tmp_path: Path) -> None:
        """Of two columns with one name none is chosen; where they are not needed, they do no harm."""
        twice = pa.table([["one"], ["1"], ["2"]], names=["text", "tag", "tag"])
        pq.write_table(twice, tmp_path / "a.parquet")
        with pytest.raises(InputError, match="has the column 'tag' 2 times"):
            read(tmp_path / "a.parquet")
        (tmp_path / "a.csv").write_text("text,more,more,tag\none,1,2,3\n")
        assert read(tmp_path / "a.csv")[0].texts == ["one"]

    def test_a_line_without_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A line too long to be a row, a JSON array perhaps, is refused before it fills the memory."""
        monkeypatch.setattr("embedwire.bulk.reading.LINE", 100)
        (tmp_path / "a.jsonl").write_text('{"text": "one", "tag": 1}\n[' + "1, " * 100)
        with pytest.raises(InputError, match=r"a\.jsonl, line 2 has more than 100 bytes"):
            read(tmp_path / "a.jsonl")


class TestSources:
    """What arguments mean."""

    def test_folders_and_patterns(self, tmp_path: Path) -> None:
        """A folder is all files below it whose names tell a format, a pattern its matches; the output is left out."""
        for name in ("b.jsonl", "a.csv.gz", "sub/c.txt", "no.bin", ".hidden.jsonl", "out/part-0.parquet"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        hidden = [tmp_path / "out"]
        names = [Path(one.name).name for one in sources_of([tmp_path], None, hidden)]
        assert names == ["a.csv.gz", "b.jsonl", "c.txt"]
        (only,) = sources_of([f"{tmp_path}/*.jsonl"], None)
        assert (Path(only.name).name, only.format) == ("b.jsonl", "jsonl")
        (packed,) = sources_of([f"{tmp_path}/*.gz"], None)
        assert (packed.format, packed.packed) == ("csv", "gz")

    def test_what_the_run_writes_is_no_input(self, tmp_path: Path) -> None:
        """A file that is to be written is never read, nor replaced while it is."""
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "part-0.parquet").touch()
        with pytest.raises(InputError, match="is to be written by this run, so it cannot be read"):
            sources_of([tmp_path / "out" / "part-0.parquet"], None, [tmp_path / "out"])

    @pytest.mark.parametrize(
        ("inputs", "told", "message"),
        [
            ([], None, "no input was given"),
            (["none.jsonl"], None, "none.jsonl cannot be read: No such file"),
            (["*.jsonl"], None, "no file matches"),
            (["a.bin"], None, "tells no format"),
            (["a.bin"], "xml", "must be one of jsonl, csv"),
            (["a.parquet.gz"], None, "unpack the file first"),
            (["-"], "parquet", "cannot be read from stdin"),
            (["empty"], None, "holds no file"),
        ],
    )
    def test_what_is_none(self, here: Path, inputs: list[str], told: Any, message: str) -> None:
        """What cannot be read is told with its name and the cure."""
        for name in ("a.bin", "a.parquet.gz"):
            (here / name).touch()
        (here / "empty").mkdir()
        with pytest.raises(InputError, match=message):
            sources_of(inputs, told)
