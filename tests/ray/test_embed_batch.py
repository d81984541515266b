"""`EmbedBatch`: batches of every format, in a pool of actors and by itself."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from embedwire import InputError, RequestError, SharedEmbeddingClient
from embedwire.ray import EmbedBatch, Tally
from embedwire.testing import Answer, EmbeddingServer, Request
from tests.helpers import numbered, right

FORMATS = ["numpy", "pandas", "pyarrow"]


def batch_of(form: str, texts: list[Any]) -> Any:
    """A batch with an id and a text in each row."""
    ids = list(range(len(texts)))
    if form == "pandas":
        return pd.DataFrame({"id": ids, "text": texts}, index=[10 + number for number in ids])
    if form == "pyarrow":
        return pa.table({"id": ids, "text": pa.array(texts, pa.string())})
    return {"id": np.array(ids), "text": np.array(texts, object)}


def rows_of(batch: Any) -> list[dict[str, Any]]:
    """Its rows, as Ray has them."""
    block = ray.data.block.BlockAccessor.batch_to_block(batch)
    rows: list[dict[str, Any]] = ray.data.block.BlockAccessor.for_block(block).to_arrow().to_pylist()
    return rows


def refusing(request: Request) -> Answer | None:
    """Refuses one text."""
    return Answer.too_large(600, 512) if request.embeds and "text 2" in request.texts else None


@pytest.mark.parametrize("form", FORMATS)
class TestOneBatch:
    """A batch comes back with vectors, in its format."""

    def test_vectors(self, server: EmbeddingServer, form: str) -> None:
        """All columns that came are there, and each row has its vector, as float32."""
        batch = EmbedBatch(server.url)(batch_of(form, numbered(5)))
        assert type(batch) is type(batch_of(form, []))
        rows = rows_of(batch)
        assert [list(row) for row in rows] == [["id", "text", "embedding"]] * 5
        assert [row["id"] for row in rows] == list(range(5))
        assert right([row["embedding"] for row in rows], numbered(5))
        if form == "numpy":
            assert (batch["embedding"].dtype, batch["embedding"].shape) == (np.float32, (5, 8))

    def test_names_of_columns(self, server: EmbeddingServer, form: str) -> None:
        """The columns are called as the user says; one that is there is replaced."""
        embed = EmbedBatch(
            server.url, text_column="text", output_column="id", on_error="column", error_column="why"
        )
        rows = rows_of(embed(batch_of(form, numbered(2))))
        assert [list(row) for row in rows] == [["id", "text", "why"]] * 2
        assert right([row["id"] for row in rows], numbered(2))
        with pytest.raises(InputError, match="the batch has no column 'body'; it has 'id', 'text'"):
            EmbedBatch(server.url, text_column="body")(batch_of(form, numbered(2)))

    def test_failures_in_a_column(self, server: EmbeddingServer, form: str) -> None:
        """Rows that get no vector have a null and the reason, without the text; types are the same as without any."""
        server.script = refusing
        embed = EmbedBatch(server.url, on_error="column")
        rows = rows_of(embed(batch_of(form, ["text 0", None, "text 2", "text 3"])))
        assert [row["embedding"] is None for row in rows] == [False, True, True, False]
        assert right([rows[0]["embedding"], rows[3]["embedding"]], ["text 0", "text 3"])
        assert (rows[0]["error"], rows[1]["error"], rows[3]["error"]) == (None, "'text' is null", None)
        assert "600 tokens" in rows[2]["error"]
        assert "text 2" not in rows[2]["error"]
        assert "texts[" not in rows[2]["error"]
        tables = [embed(batch_of(form, texts)) for texts in (["text 2"], ["text 0"], [None])]
        kinds = {
            ray.data.block.BlockAccessor.for_block(ray.data.block.BlockAccessor.batch_to_block(one))
            .to_arrow()
            .schema.field("embedding")
            .type
            for one in tables
        }
        assert kinds == {pa.list_(pa.float32())}

    def test_failures_raised(self, server: EmbeddingServer, form: str) -> None:
        """A text that gets no vector, or is none, is raised; the error carries no vectors."""
        server.script = refusing
        with pytest.raises(RequestError, match="600 tokens") as caught:
            EmbedBatch(server.url)(batch_of(form, numbered(4)))
        assert caught.value.completed is None
        assert len(pickle.dumps(caught.value)) < 2000
        with pytest.raises(InputError, match=r"row 1 of a batch: 'text' is null.*on_error='column'"):
            EmbedBatch(server.url)(batch_of(form, ["a", None]))

    def test_a_server_that_is_gone_is_raised(self, server: EmbeddingServer, form: str) -> None:
        """Where the server is at fault no row is blamed."""
        client = SharedEmbeddingClient("http://127.0.0.1:1", max_retries=0, timeout=1)
        with pytest.raises(RequestError, match="Connection refused"):
            EmbedBatch(client, on_error="column")(batch_of(form, numbered(2)))

    def test_no_rows(self, server: EmbeddingServer, form: str) -> None:
        """A batch without rows comes back without rows."""
        assert rows_of(EmbedBatch(server.url)(batch_of(form, []))) == []
        assert rows_of(EmbedBatch(server.url, on_error="column")(batch_of(form, []))) == []


class TestArguments:
    """What is wrong is told when the object is made."""

    def test_limits_are_shared_out(self) -> None:
        """Where the client has a limit, it must be said among how many actors; each gets its part."""
        client = SharedEmbeddingClient("http://h", concurrency=7)
        with pytest.raises(InputError, match="say how many there are, actors="):
            EmbedBatch(client)
        with pytest.raises(InputError, match="concurrency=7 cannot be shared out among 8"):
            EmbedBatch(client, actors=8)
        assert EmbedBatch(client, actors=3)._client.__getstate__().form.concurrency == 2

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"on_error": "skip"}, "on_error must be 'raise' or 'column'"),
            ({"actors": 0}, "actors must be an int of at least 1"),
            ({"kind": "passage"}, "kind"),
        ],
    )
    def test_are_checked(self, wrong: Any, message: str) -> None:
        """A wrong argument is named."""
        with pytest.raises(InputError, match=message):
            EmbedBatch("http://h", **wrong)

    def test_pickles_without_what_it_holds(self, server: EmbeddingServer) -> None:
        """It goes through a pickle, used or not; its key is in no repr."""
        client = SharedEmbeddingClient(server.url, api_key="open sesame")
        embed = EmbedBatch(client)
        embed(batch_of("numpy", numbered(2)))
        again = pickle.loads(pickle.dumps(embed))
        assert right(again(batch_of("numpy", numbered(2)))["embedding"], numbered(2))
        assert "sesame" not in repr(embed)
        assert again._name != embed._name


def test_a_pool_of_actors(here: Path, cluster: str) -> None:
    """Each row of a data set gets its vector; what is in flight is what the user said; usage is added up."""
    rows = [{"id": number, "text": text} for number, text in enumerate(numbered(300))]
    with EmbeddingServer(latency=0.01) as server:
        server.script = refusing
        client = SharedEmbeddingClient(server.url, batch_size=5, concurrency=4, model="test-model")
        tally = Tally()
        given = {"client": client, "actors": 2, "on_error": "column", "tally": tally}
        made = ray.data.from_items(rows, override_num_blocks=6).map_batches(
            EmbedBatch,
            fn_constructor_kwargs=given,
            concurrency=2,
            batch_size=40,
            num_cpus=0.5,
        )
        made.write_parquet(str(here / "out"))
        table = pq.read_table(here / "out").sort_by("id")
        assert table["id"].to_pylist() == list(range(300))
        vectors = table["embedding"].to_pylist()
        assert [at for at, vector in enumerate(vectors) if vector is None] == [2]
        assert right(vectors[:2] + vectors[3:], [text for text in numbered(300) if text != "text 2"])
        assert table.schema.field("embedding").type.value_type == pa.float32()
        assert server.peak_in_flight <= 4
        usage = tally.usage()
        assert usage.texts == 299
        assert usage.requests == len(server.batches)


def test_a_compute_strategy_and_an_actor_that_dies(here: Path, server: EmbeddingServer, cluster: str) -> None:
    """A pool that `compute=` names works, too; an actor that dies is replaced, and what it had done is in the tally."""
    tally = Tally()

    class Mortal(EmbedBatch):
        """Dies once, after its second batch."""

        def __call__(self, batch: Any) -> Any:
            done = super().__call__(batch)
            if not (here / "died").exists() and tally.usage().texts >= 20:
                (here / "died").touch()
                os._exit(1)
            return done

    made = ray.data.from_items(
        [{"text": text} for text in numbered(100)], override_num_blocks=10
    ).map_batches(
        Mortal,
        fn_constructor_kwargs={"client": server.url, "tally": tally},
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=10,
        num_cpus=0.5,
    )
    rows = made.take_all()
    assert (here / "died").exists()
    assert sorted(row["text"] for row in rows) == sorted(numbered(100))
    assert right([row["embedding"] for row in rows], [row["text"] for row in rows])
    assert tally.usage().texts >= 110


def test_no_key_is_shown(here: Path, cluster: str) -> None:
    """A key reaches the actors, and neither their errors nor Ray's logs show it."""
    with EmbeddingServer(api_key="open sesame") as server:
        data = ray.data.from_items([{"text": text} for text in numbered(10)])
        for key in ("open sesame", "close sesame"):
            client = SharedEmbeddingClient(server.url, api_key=key)
            made = data.map_batches(
                EmbedBatch, fn_constructor_kwargs={"client": client}, concurrency=1, num_cpus=0.5
            )
            if key == "open sesame":
                assert len(made.take_all()) == 10
            else:
                with pytest.raises(Exception, match="AuthenticationFailed") as caught:
                    made.take_all()
                assert "sesame" not in str(caught.value)
        assert "sesame" not in repr(made) + str(made.stats())
    logs = [path for path in Path(os.environ["HOME"]).rglob("*") if path.is_file() and "logs" in path.parts]
    for path in logs:
        assert b"sesame" not in path.read_bytes(), path
