"""`embed_file`, `embed_rows` and `estimate` against real sockets: right vectors, few requests, nothing twice."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedwire import EmbeddingClient, InputError, SharedEmbeddingClient, TextRefused, Timeouts, UsageError
from embedwire.bulk import Progress, embed_file, embed_rows, estimate
from embedwire.bulk.records import Chunk, Row, Source
from embedwire.bulk.seen import Seen, Ticket
from embedwire.exceptions import RequestError
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.bulk.conftest import documents, read_jsonl, sent, write_jsonl
from tests.helpers import numbered, right


def refusing(*texts: str) -> Any:
    """A script that refuses every request with one of these texts."""

    def script(request: Request) -> Answer | None:
        return Answer.too_large(600, 512) if request.embeds and set(texts) & set(request.texts) else None

    return script


def embeddings(path: Path) -> Any:
    """The vectors of a JSON Lines file."""
    return np.array([row["embedding"] for row in read_jsonl(path)], np.float32)


class TestVectors:
    """The output has what the client gives."""

    @pytest.mark.parametrize("suffix", ["jsonl", "csv", "txt", "parquet"])
    @pytest.mark.parametrize("out", ["o.npy", "o.jsonl", "o.parquet", "o"])
    def test_are_the_clients(self, here: Path, server: EmbeddingServer, suffix: str, out: str) -> None:
        """From every format into every format, each row has the vector that the client gives, to the bit, in order."""
        texts, path = numbered(100), here / f"in.{suffix}"
        if suffix == "jsonl":
            write_jsonl(path, [{"text": text} for text in texts])
        elif suffix == "parquet":
            pq.write_table(pa.table({"text": texts}), path)
        else:
            path.write_text("\n".join(["text"] * (suffix == "csv") + texts))
        report = embed_file(path, out, server.url, rows_per_file=40 if out == "o" else None)
        assert (report.rows, report.rejects, report.repeats) == (100, 0, 0)
        if out == "o.npy":
            vectors = np.load(out)
        elif out == "o.jsonl":
            vectors = embeddings(here / out)
        else:
            vectors = np.stack(pq.read_table(out)["embedding"].to_numpy())
        with SharedEmbeddingClient(server.url) as client:
            assert vectors.tobytes() == client.embed_array(texts).tobytes()

    def test_equal_texts_travel_once(self, here: Path, server: EmbeddingServer) -> None:
        """A text that comes again, at once or much later, costs no further request."""
        texts = [*numbered(600), *["text 0"] * 5000, *numbered(600)]
        report = embed_rows(texts, "o.npy", server.url)
        assert Counter(sent(server)) == Counter(numbered(600))
        assert (report.rows, report.repeats) == (6200, 5600)
        assert right(np.load("o.npy"), texts)

    def test_the_clients_arguments_hold(self, here: Path, server: EmbeddingServer) -> None:
        """A client that is passed gives its arguments, stays usable, and its prompt stands before each text."""
        client = SharedEmbeddingClient(
            server.url, prompts="e5", batch_size=7, dimensions=4, model="test-model"
        )
        report = embed_rows(numbered(20), "o.npy", client)
        assert {len(batch) for batch in server.batches if "ready" not in batch[0]} <= set(range(1, 8))
        assert set(sent(server)) - {"passage: ready", "query: ready"} == {
            f"passage: {text}" for text in numbered(20)
        }
        assert np.load("o.npy").shape == (20, 4)
        assert client.usage().texts == 0
        assert report.usage.texts >= 20
        assert len(client.embed_query("still there")) == 4
        client.close()

    def test_arrow_and_dicts(self, here: Path, server: EmbeddingServer) -> None:
        """A table's columns keep their types; an iterable of dicts gives the same vectors."""
        days = pa.array([0, 1, None], pa.date32())
        table = pa.table({"text": numbered(3), "day": days, "n": pa.array([1, 2, 3], pa.int8())})
        embed_rows(table, "a.parquet", server.url, id_column="n", keep=["day"])
        embed_rows(iter(table.to_pylist()), "b.parquet", server.url, id_column="n", keep=["day"])
        a, b = pq.read_table("a.parquet"), pq.read_table("b.parquet")
        assert (a.schema.field("n").type, a.schema.field("day").type) == (pa.int8(), pa.date32())
        assert a["embedding"].to_pylist() == b["embedding"].to_pylist()
        assert a["day"].to_pylist() == b["day"].to_pylist()

    def test_no_rows(self, here: Path, server: EmbeddingServer) -> None:
        """An input without rows gives an output without rows."""
        for out in ("o.npy", "o.jsonl", "o.parquet"):
            assert embed_rows([], out, server.url).rows == 0
        assert (
            len(np.load("o.npy"))
            == pq.read_table("o.parquet").num_rows
            == len(read_jsonl(here / "o.jsonl"))
            == 0
        )

    async def test_where_a_loop_runs(self, here: Path, server: EmbeddingServer) -> None:
        """It works in a notebook, where a loop is running in the thread that calls it."""
        assert embed_rows(numbered(3), "o.npy", server.url).rows == 3
        with pytest.raises(InputError, match=r"rows, row 1: 'text' is null"):
            embed_rows([{"text": None}], "p.npy", server.url)


class TestBadTexts:
    """A text that gets no vector ends the run with file and line, or goes to the rejects."""

    def test_file_and_line(self, here: Path, server: EmbeddingServer) -> None:
        """The error of a refused text names its file and line, and neither its index in a stream nor the text."""
        write_jsonl(here / "a.jsonl", documents(40))
        write_jsonl(here / "b.jsonl", documents(40, 40))
        server.script = refusing("text 57")
        with pytest.raises(TextRefused, match=r"^b\.jsonl, line 18: .*--rejects FILE") as caught:
            embed_file(["a.jsonl", "b.jsonl"], "o.jsonl", server.url)
        assert "texts[" not in str(caught.value)
        assert "text 57" not in str(caught.value)
        assert not (here / "o.jsonl").exists()

    def test_then_go_on_with_rejects(self, here: Path, server: EmbeddingServer) -> None:
        """What was done before a bad text is kept: the run goes on with rejects, and sends none of it again."""
        write_jsonl(here / "a.jsonl", [*documents(30), "{broken", {"id": "d31"}, *documents(30, 30)])
        client = EmbeddingClient(server.url, batch_size=5, concurrency=1)
        with pytest.raises(InputError, match=r"^a\.jsonl, line 31: not JSON: .*"):
            embed_file("a.jsonl", "o.jsonl", client)
        assert sorted(sent(server)) == sorted(numbered(30))
        server.script = refusing("text 45")
        report = embed_file("a.jsonl", "o.jsonl", client, resume=True, rejects="bad.jsonl", id_column=None)
        assert Counter(sent(server))["text 29"] == 1
        assert (report.rows, report.resumed, report.rejects) == (59, 30, 3)
        bad = read_jsonl(here / "bad.jsonl")
        assert [(one["row"], one["file"], one["line"]) for one in bad] == [
            (30, "a.jsonl", 31),
            (31, "a.jsonl", 32),
            (47, "a.jsonl", 48),
        ]
        assert "not JSON" in bad[0]["reason"]
        assert "there is no 'text'" in bad[1]["reason"]
        good = [text for text in numbered(60) if text != "text 45"]
        assert right(embeddings(here / "o.jsonl"), good)

    def test_repeats_of_a_bad_text(self, here: Path, server: EmbeddingServer) -> None:
        """A refused text that comes again is rejected again, and not sent again."""
        server.script = refusing("bad")
        report = embed_rows(["bad", "good", "bad", "bad"], "o.npy", server.url, rejects="bad.jsonl")
        assert (report.rows, report.rejects) == (1, 3)
        assert sent(server).count("bad") <= 2  # with the other, and alone

    def test_a_server_that_is_gone(self, here: Path, server: EmbeddingServer) -> None:
        """A server that is gone for too long ends the run where it was, which goes on when it is there again."""
        write_jsonl(here / "a.jsonl", documents(200))
        client = EmbeddingClient(
            server.url, batch_size=5, concurrency=1, max_retries=0, timeout=Timeouts(restart=0)
        )

        def script(request: Request) -> Answer | None:
            return Answer.error(503, "gone") if "text 100" in request.texts else None

        server.script = script
        with pytest.raises(RequestError, match=r"stopped at a\.jsonl, line 1\d\d; what was done is kept"):
            embed_file("a.jsonl", "o.npy", client)
        server.script = None
        report = embed_file("a.jsonl", "o.npy", client, resume=True)
        assert (report.rows, report.resumed) == (200, 100)
        assert right(np.load("o.npy"), numbered(200))

    @pytest.mark.slow
    def test_a_server_that_restarts(self, here: Path, server: EmbeddingServer) -> None:
        """A server that goes away in the middle and comes back is waited for."""
        threading.Timer(0.3, server.stop).start()
        threading.Timer(1.5, server.start).start()

        def slowly() -> Iterator[str]:
            for text in numbered(400):
                time.sleep(0.005)
                yield text

        assert embed_rows(slowly(), "o.npy", server.url).rows == 400
        assert right(np.load("o.npy"), numbered(400))


class TestResume:
    """A run goes on with its own job alone."""

    def start(self, server: EmbeddingServer, **arguments: Any) -> Path:
        """A run that ended at its 31st row."""
        write_jsonl(Path("a.jsonl"), [*documents(30), "{broken", *documents(30, 30)])
        with pytest.raises(InputError):
            embed_file("a.jsonl", "o.jsonl", server.url, **arguments)
        return Path("a.jsonl")

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"model": "other"}, "model was 'test-model' and is 'other'"),
            ({"dimensions": 4}, "dimensions was None and is 4"),
            ({"prompts": "e5"}, "prompt was '' and is 'passage: '"),
            ({"too_long": "truncate"}, "too_long was 'raise' and is 'truncate'"),
            ({"normalize": True}, "normalize was False and is True"),
            ({"extra_body": {"a": "secret"}}, "extra_body was 'none' and is 'sha256 "),
        ],
    )
    def test_another_client(self, here: Path, server: EmbeddingServer, changed: Any, message: str) -> None:
        """What decides the vectors must be as it was; the error says what is not."""
        self.start(server)
        with pytest.raises(InputError, match=message) as caught:
            embed_file("a.jsonl", "o.jsonl", EmbeddingClient(server.url, **changed), resume=True, rejects="r")
        assert "secret" not in str(caught.value)

    def test_another_model_is_served(self, here: Path, server: EmbeddingServer) -> None:
        """Where no model is named, the one that is served must be the same."""
        self.start(server)
        with (
            EmbeddingServer(model="newer") as other,
            pytest.raises(InputError, match="model was 'test-model' and is 'newer'"),
        ):
            embed_file("a.jsonl", "o.jsonl", other.url, resume=True, rejects="r")

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"keep": ["id"]}, r"keep was \[\] and is \['id'\]"),
            ({"dtype": "float16"}, "dtype was 'float32' and is 'float16'"),
        ],
    )
    def test_another_output(self, here: Path, server: EmbeddingServer, changed: Any, message: str) -> None:
        """What decides the files must be as it was."""
        self.start(server)
        with pytest.raises(InputError, match=message):
            embed_file("a.jsonl", "o.jsonl", server.url, resume=True, rejects="r", **changed)

    def test_a_file_that_changed(self, here: Path, server: EmbeddingServer) -> None:
        """A file that has another size, time or name is not the one that was read."""
        path = self.start(server)
        text = path.read_text()
        path.write_text(text.replace("{broken\n", ""))
        with pytest.raises(
            InputError, match=r"a\.jsonl had [\d,]+ bytes and has [\d,]+\. Give what was given"
        ):
            embed_file(path, "o.jsonl", server.url, resume=True)
        path.write_text(text)
        with pytest.raises(InputError, match=r"a\.jsonl was changed since"):
            embed_file(path, "o.jsonl", server.url, resume=True)
        path.rename("b.jsonl")
        with pytest.raises(InputError, match=r"the input was a\.jsonl and is b\.jsonl"):
            embed_file("b.jsonl", "o.jsonl", server.url, resume=True)
        with pytest.raises(InputError, match="it had 1 input files, and these are 2"):
            embed_file(["b.jsonl", "b.jsonl"], "o.jsonl", server.url, resume=True)
        assert embed_file("b.jsonl", "o.jsonl", server.url, overwrite=True, rejects="r").rows == 60

    def test_rows_that_changed(self, here: Path, server: EmbeddingServer) -> None:
        """Rows of the program's own must be those of the first run, as far as that came."""
        rows: list[Any] = [*numbered(30), {"text": None}, *numbered(10)]
        with pytest.raises(InputError):
            embed_rows(rows, "o.npy", server.url)
        for other in (["another", *rows[1:]], rows[:20]):
            with pytest.raises(InputError, match=r"the first [23]0 rows are not those"):
                embed_rows(other, "o.npy", server.url, resume=True, rejects="r")
        assert embed_rows(rows, "o.npy", server.url, resume=True, rejects="r").resumed == 30

    def test_a_finished_run(self, here: Path, server: EmbeddingServer) -> None:
        """A run that is finished is gone on with for nothing: no request, the same files."""
        write_jsonl(here / "a.jsonl", documents(10))
        embed_file("a.jsonl", "o.npy", server.url, resume=True)
        before, requests = (here / "o.npy").read_bytes(), len(server.requests)
        report = embed_file("a.jsonl", "o.npy", server.url, resume=True)
        assert (report.rows, report.resumed, report.files) == (10, 10, (Path("o.npy"),))
        assert ((here / "o.npy").read_bytes(), len(server.requests)) == (before, requests)

    def test_overwrite_keeps_the_old_file_until_the_end(self, here: Path, server: EmbeddingServer) -> None:
        """A file that is replaced is there until the new one is whole."""
        embed_rows(numbered(10), "o.npy", server.url)
        with pytest.raises(InputError):
            embed_rows([*numbered(5), 5], "o.npy", server.url, overwrite=True)
        assert len(np.load("o.npy")) == 10
        embed_rows(numbered(5), "o.npy", server.url, overwrite=True)
        assert len(np.load("o.npy")) == 5

    def test_an_interrupt_keeps_what_is_done(self, here: Path, server: EmbeddingServer) -> None:
        """Ctrl-C ends the run at once; what was embedded is written, and not sent again."""
        gate_after = 40

        def script(request: Request) -> Answer | None:
            if sum(len(batch) for batch in server.batches) > gate_after:
                return Answer.hang()
            return None

        server.script = script
        client = EmbeddingClient(server.url, batch_size=5, concurrency=1)
        timer = threading.Timer(2.0, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            embed_rows(numbered(100), "o.npy", client)
        timer.cancel()
        server.script = None
        report = embed_rows(numbered(100), "o.npy", client, resume=True)
        assert report.resumed >= 30
        assert max(Counter(sent(server)).values()) <= 2
        assert right(np.load("o.npy"), numbered(100))


class TestTheDisk:
    """What the disk does not take ends the run, and is not half there."""

    def test_no_space(self, here: Path, server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """No space left is told in a line; what was written is kept, and gone on with."""
        from embedwire.bulk import spool

        write, room = spool.write, [60]

        def full(file: Any, data: bytes) -> None:
            room[0] -= 1
            if room[0] < 0:
                file.write(data[: len(data) // 2])
                raise OSError(28, "No space left on device")
            write(file, data)

        client = EmbeddingClient(server.url, batch_size=5, concurrency=1)
        with monkeypatch.context() as patched:
            patched.setattr(spool, "write", full)
            with pytest.raises(
                UsageError, match=r"o\.jsonl cannot be written: No space left on device\. What was"
            ):
                embed_rows(numbered(2000), "o.jsonl", client)
        report = embed_rows(numbered(2000), "o.jsonl", client, resume=True)
        assert report.resumed > 0
        assert right(embeddings(here / "o.jsonl"), numbered(2000))

    def test_a_place_that_is_none(self, here: Path, server: EmbeddingServer) -> None:
        """A folder that cannot be made is told in a line."""
        (here / "file").touch()
        with pytest.raises(UsageError, match=r"o\.npy cannot be written: "):
            embed_rows(numbered(3), "file/o.npy", server.url)


class TestProgress:
    """How far it is."""

    def test_a_callback(self, here: Path, server: EmbeddingServer) -> None:
        """A callback hears of the run's end with all its numbers."""
        heard: list[Progress] = []
        write_jsonl(here / "a.jsonl", documents(100))
        report = embed_file("a.jsonl", "o.npy", server.url, progress=heard.append)
        last = heard[-1]
        assert (last.phase, last.rows, last.fraction, last.rejects) == ("done", 100, 1.0, 0)
        assert last.tokens == report.usage.tokens

    def test_a_callback_that_fails(self, here: Path, server: EmbeddingServer) -> None:
        """What a callback raises ends the run and comes through."""

        def show(progress: Progress) -> None:
            raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            embed_rows(numbered(5), "o.npy", server.url, progress=show)

    def test_an_estimate(self, here: Path, server: EmbeddingServer) -> None:
        """An estimate counts rows and characters, finds what is bad, embeds 50 texts, and writes nothing."""
        write_jsonl(here / "a.jsonl", [*documents(100), "{broken"])
        found = estimate("a.jsonl", server.url)
        assert (found.rows, found.bad, found.sampled) == (101, 1, 50)
        assert found.characters == sum(map(len, numbered(100)))
        assert found.first_bad is not None
        assert found.first_bad.startswith("a.jsonl, line 101: not JSON")
        assert found.seconds is not None
        assert len(sent(server)) == 50
        assert [path.name for path in here.iterdir()] == ["a.jsonl"]


class TestArguments:
    """Wrong arguments are refused before anything is sent."""

    @pytest.mark.parametrize(
        ("out", "arguments", "message"),
        [
            ("o.csv", {}, "must be a file whose name ends in .parquet"),
            ("o.npy", {"rows_per_file": 5}, "o.npy is one file; rows_per_file needs a folder"),
            ("o.npy", {"keep": ["id"]}, ".npy holds vectors alone"),
            ("o.npy", {"output_format": "jsonl"}, "say one of them"),
            ("o", {"output_format": "xml"}, "output_format must be one of"),
            ("o", {"rows_per_file": 0}, "rows_per_file must be an int of at least 1"),
            ("o.jsonl", {"dtype": "int4"}, "dtype must be one of float32"),
            ("o.jsonl", {"keep": ["embedding"]}, "is for the vectors"),
            ("o.jsonl", {"resume": True, "overwrite": True}, "exclude each other"),
        ],
    )
    def test_are_refused(
        self, here: Path, server: EmbeddingServer, out: str, arguments: Any, message: str
    ) -> None:
        """The message names the argument and the cure; nothing is sent or written."""
        with pytest.raises(InputError, match=message):
            embed_rows(numbered(3), out, server.url, **arguments)
        assert (server.requests, list(here.iterdir())) == ([], [])

    def test_the_output_is_no_input(self, here: Path, server: EmbeddingServer) -> None:
        """A folder that holds both input and output is read without the output."""
        write_jsonl(here / "a.jsonl", documents(3))
        assert embed_file(".", "o.jsonl", server.url, rejects="bad.jsonl").rows == 3
        assert embed_file(".", "o.jsonl", server.url, rejects="bad.jsonl", overwrite=True).rows == 3


def test_what_was_seen_is_bounded() -> None:
    """Texts that were embedded are remembered up to an amount of memory, those wanted again the longest."""
    chunk = Chunk(source=Source(name="a"), lines=[], texts=[], problems={}, carried=[], read=0)
    seen = Seen(memory=100_000)
    for number in range(1000):
        ticket = Ticket(Row(number, chunk, 0))
        ticket.vector = np.zeros((4, 16), np.float32)[0]
        seen.add(f"text {number}", ticket, 16)
        assert seen.find("text 0") is not None
    kept = [number for number in range(1000) if seen.find(f"text {number}") is not None]
    assert 100 < len(kept) < 250
    assert kept[1:] == list(range(1000 - len(kept) + 1, 1000))
    first = seen.find("text 0")
    assert first is not None
    assert first.vector is not None
    assert first.vector.base is None


def test_json_is_json(here: Path, server: EmbeddingServer) -> None:
    """What JSON has no word for is written as text."""
    table = pa.table({"text": ["one"], "raw": [b"\xff\x00"], "big": pa.array([2**63], pa.uint64())})
    rows = [{"text": "two", "raw": {1: 2**70}, "big": None}]
    embed_rows(table, "a.jsonl", server.url, keep=["raw", "big"])
    embed_rows(rows, "b.jsonl", server.url, keep=["raw", "big"])
    (one,), (two,) = read_jsonl(here / "a.jsonl"), read_jsonl(here / "b.jsonl")
    assert (one["row"], one["raw"], one["big"]) == (0, "/wA=", 2**63)
    assert (two["raw"], len(two["embedding"])) == ({"1": 2**70}, 8)
    assert json.dumps(two)
