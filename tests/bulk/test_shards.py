"""Shards: which rows they have, and how files that others made are taken in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from embedwire.bulk import RayEngine, embed_file
from embedwire.bulk.gathered import Gathered, job_of_shard
from embedwire.bulk.job import Job, job_of
from embedwire.bulk.local import format_of, layout_of, run_job
from embedwire.bulk.output import digested
from embedwire.bulk.records import Chunk, Position, Source
from embedwire.bulk.rejects import Rejects
from embedwire.bulk.shards import Shard, cut, shards_of
from embedwire.exceptions import InputError, UsageError
from embedwire.testing import EmbeddingServer
from tests.bulk.conftest import documents, read_jsonl, write_jsonl


def chunks(count: int, size: int, *, arrow: bool = False, bad: tuple[int, ...] = ()) -> list[Chunk]:
    """Rows in chunks of some size; a row is ten bytes."""
    made = []
    for start in range(0, count, size):
        numbers = range(start, min(count, start + size))
        rows: Any = [{"id": number} for number in numbers]
        made.append(
            Chunk(
                source=Source(name="a.jsonl"),
                lines=[number + 1 for number in numbers],
                texts=[None if number in bad else f"text {number}" for number in numbers],
                problems={number - start: "bad" for number in numbers if number in bad},
                carried=pa.RecordBatch.from_pylist(rows) if arrow else rows,
                read=10 * numbers.stop,
                start=10 * start,
            )
        )
    return made


def ids(pieces: Any) -> list[int]:
    """The ids of chunks."""
    found: list[int] = []
    for piece in pieces:
        rows = piece.carried if isinstance(piece.carried, list) else piece.carried.to_pylist()
        found += [row["id"] for row in rows]
    return found


def same(chunk: Chunk) -> Chunk:
    """It is kept as it is."""
    return chunk


class TestShards:
    """Rows belong to shards by their number alone."""

    @pytest.mark.parametrize("arrow", [False, True])
    @pytest.mark.parametrize("size", [1, 3, 7, 100])
    def test_by_number(self, size: int, arrow: bool) -> None:
        """However the rows come, a shard has those between two multiples of its size, with all that is of them."""
        shards = list(shards_of(chunks(23, size, arrow=arrow, bad=(4, 11)), Position(), 5, same))
        assert [(one.first, one.rows) for one in shards] == [(0, 5), (5, 5), (10, 5), (15, 5), (20, 3)]
        for one in shards:
            numbers = list(range(one.first, one.first + one.rows))
            assert ids(one.pieces) == numbers
            assert [line for piece in one.pieces for line in piece.lines] == [n + 1 for n in numbers]
            texts = [text for piece in one.pieces for text in piece.texts]
            assert texts == [None if n in (4, 11) else f"text {n}" for n in numbers]
            bad = [piece.lines[at] - 1 for piece in one.pieces for at in piece.problems]
            assert bad == [n for n in (4, 11) if n in numbers]
            assert (one.begin, one.end) == (10 * one.first, 10 * (one.first + one.rows))
            own = 0
            for text in texts:
                own = digested(own, text)
            assert one.own == own
        assert shards[-1].digest == digest_of(chunks(23, 1, bad=(4, 11)), 23)

    @pytest.mark.parametrize("size", [1, 4, 100])
    @pytest.mark.parametrize("done", [0, 1, 8, 19])
    def test_behind_what_is_done(self, done: int, size: int) -> None:
        """What is done is compared, and left out; the shards begin behind it."""
        position = Position(next=done, digest=digest_of(chunks(20, 1), done))
        shards = list(shards_of(chunks(20, size), position, 6, same))
        assert [row for one in shards for row in ids(one.pieces)] == list(range(done, 20))
        assert [one.first for one in shards] == list(range(done, 20, 6))
        with pytest.raises(InputError, match="the input was changed since"):
            list(shards_of(chunks(20, size), Position(next=max(1, done), digest=1), 6, same))

    def test_an_input_that_is_shorter_now(self) -> None:
        """An input that ends before what is done was changed."""
        with pytest.raises(InputError, match="the first 20 rows are not those"):
            list(shards_of(chunks(20, 7), Position(next=21), 6, same))

    def test_what_is_kept_is_kept_as_it_is_read(self) -> None:
        """A chunk is put away before the next one is read, so that little is held."""
        read: list[int] = []

        def reading() -> Any:
            for chunk in chunks(20, 5):
                assert len(read) == chunk.lines[0] - 1
                yield chunk

        list(shards_of(reading(), Position(), 10, lambda chunk: read.extend(chunk.lines)))
        assert len(read) == 20

    def test_a_whole_chunk_is_not_copied(self) -> None:
        """All rows of a chunk are the chunk."""
        (chunk,) = chunks(5, 5)
        assert cut(chunk, 0, 5) is chunk


def digest_of(all_chunks: list[Chunk], rows: int) -> int:
    """The digest of the first rows, each of which is a chunk."""
    digest = 0
    for chunk in all_chunks[:rows]:
        digest = digested(digest, chunk.texts[0])
    return digest


class TestGathered:
    """Shards that are jobs of their own become the output that one run makes."""

    def job(self, out: Path, **more: Any) -> Job:
        """A job of ten rows in a file."""
        given: dict[str, Any] = {"rejects": None, "resume": True, "dtype": "float32", "output_format": None}
        given |= {
            "text_column": "text",
            "id_column": None,
            "keep": ["id"],
            "rows_per_file": 10,
            "overwrite": False,
        }
        return job_of(out, **{**given, **more})

    def opened(self, job: Job) -> Gathered:
        """Its output, begun."""
        form = format_of(job)
        output = Gathered(
            layout_of(job, form.suffix), form, job.dtype, Rejects(job.rejects), resume=True, overwrite=False
        )
        output.begin({"model": "test-model"})
        return output

    def made(self, job: Job, shard: Shard, url: str) -> Position:
        """The file of a shard, which is a job of its own."""
        source = Source(name=shard.name)
        return run_job(
            job_of_shard(job, shard), [source], iter(shard.pieces), 0, url, None, first=shard.first
        ).position

    @pytest.mark.parametrize("form", ["parquet", "jsonl", "npy"])
    def test_is_what_one_run_makes(self, here: Path, server: EmbeddingServer, form: Any) -> None:
        """Whichever order the shards are made in, the files are those of one run, to the byte; a shard is made once."""
        keep = [] if form == "npy" else ["id"]
        write_jsonl(here / "a.jsonl", documents(35))
        embed_file("a.jsonl", "whole", server.url, rows_per_file=10, output_format=form, keep=keep)
        job = self.job(here / "parts", output_format=form, keep=keep)
        from embedwire.bulk.reading import chunks_of
        from embedwire.bulk.sources import sources_of

        (source,) = sources_of(["a.jsonl"], None)
        shards = list(shards_of(chunks_of(source, job.columns), Position(), 10, same))
        output = self.opened(job)
        positions = {shard.first: self.made(job, shard, server.url) for shard in reversed(shards)}
        sent = len(server.batches)
        assert positions[10] == self.made(job, shards[1], server.url)
        assert len(server.batches) == sent
        for shard in shards:
            output.adopt(shard, positions[shard.first], job_of_shard(job, shard))
        output.finish()
        output.close()
        assert contents(here / "parts") == contents(here / "whole")
        one, other = (orjson_of(here / name / "_manifest.json") for name in ("whole", "parts"))
        assert one["position"] == other["position"]
        assert one["files"] == other["files"]

    def test_after_a_kill_between_rename_and_manifest(self, here: Path, server: EmbeddingServer) -> None:
        """A file that was renamed, and not listed as the process was killed, is listed by the next run."""
        job = self.job(here / "parts")
        (shard,) = shards_of(chunks(10, 10), Position(), 10, same)
        output = self.opened(job)
        position = self.made(job, shard, server.url)
        part = job_of_shard(job, shard)
        part.out.rename(here / "parts" / "part-00000.parquet")
        output.close()
        again = self.opened(job)
        again.adopt(shard, position, part)
        assert again.position.rows == 10
        assert [path.name for path in again.files] == ["part-00000.parquet"]
        again.finish()
        again.close()
        assert sorted(path.name for path in (here / "parts").iterdir()) == [
            "_manifest.json",
            "part-00000.parquet",
        ]

    def test_a_folder_that_is_not_shared_is_told(self, here: Path, server: EmbeddingServer) -> None:
        """A file that a task made, and that is not here, is told with the cure."""
        job = self.job(here / "parts")
        (shard,) = shards_of(chunks(10, 10), Position(), 10, same)
        output = self.opened(job)
        position = self.made(job, shard, server.url)
        job_of_shard(job, shard).out.unlink()
        with pytest.raises(UsageError, match="a folder that all machines of the cluster share"):
            output.adopt(shard, position, job_of_shard(job, shard))
        output.close()

    def test_rejects(self, here: Path, server: EmbeddingServer) -> None:
        """Rows without a vector are in the one file, in their order; a shard that has no others makes no file."""
        job = self.job(here / "parts", rejects=here / "bad.jsonl")
        bad = (3, *range(10, 20), 25)
        output = self.opened(job)
        for shard in shards_of(chunks(30, 30, bad=bad), Position(), 10, same):
            output.adopt(shard, self.made(job, shard, server.url), job_of_shard(job, shard))
        output.finish()
        assert (output.position.rows, output.position.rejects) == (18, 12)
        output.close()
        assert [row["row"] for row in read_jsonl(here / "bad.jsonl")] == list(bad)
        assert [path.name for path in output.files] == ["part-00000.parquet", "part-00001.parquet"]

    def test_no_rows(self, here: Path) -> None:
        """An output without rows is the one that a run makes: one empty file."""
        output = self.opened(self.job(here / "parts", output_format="jsonl"))
        output.finish()
        output.close()
        assert (here / "parts" / "part-00000.jsonl").read_bytes() == b""


def contents(folder: Path) -> dict[str, bytes]:
    """The finished files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] not in "._"}


def orjson_of(path: Path) -> Any:
    """What is in a JSON file."""
    import orjson

    return orjson.loads(path.read_bytes())


class TestEngine:
    """`engine=`, where it is wrong."""

    @pytest.mark.parametrize(
        ("engine", "message"),
        [
            ("spark", r"engine must be 'local', 'ray' or RayEngine\(address=…, workers=…\), not a str"),
            (None, "engine must be 'local', 'ray'"),
            (RayEngine(workers=0), "workers must be an int of at least 1, not 0"),
            (RayEngine(address=7), "address must be a str, or None, not 7"),  # type: ignore[arg-type]
        ],
    )
    def test_is_refused(self, here: Path, engine: Any, message: str) -> None:
        """An engine that there is not, or with a wrong field, is refused before anything is done."""
        with pytest.raises(InputError, match=message):
            embed_file("a.jsonl", "out", "http://h", engine=engine)

    def test_wants_a_folder(self, here: Path, server: EmbeddingServer) -> None:
        """One file cannot be made by several tasks; the message says what can."""
        write_jsonl(here / "a.jsonl", documents(3))
        with pytest.raises(InputError, match=r"give a folder as output, not out\.parquet"):
            embed_file("a.jsonl", "out.parquet", server.url, engine="ray")
