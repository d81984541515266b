"""LanceDB, with the real package: what a table embeds, keeps and opens again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lancedb
import pytest
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector
from pydantic import ValidationError

import embedwire.lancedb
from embedwire import ConnectionFailed, Prompts
from embedwire.testing import Answer, EmbeddingServer, is_vector_of
from tests.doors.running import printed, said
from tests.helpers import numbered
from tests.servers import free_port

KEY = "sk-do-not-show-4711"
OPEN = """
import sys
import lancedb
import embedwire.lancedb
from lancedb.embeddings import get_registry
get_registry().set_var("key", sys.argv[2])
print(lancedb.connect(sys.argv[1]).open_table("texts").search("text 7").limit(1).to_list()[0]["text"])
"""


def function(**options: Any) -> Any:
    """An embedding function as users make it."""
    return get_registry().get("embedwire").create(**options)


def table(folder: Path, made: Any) -> Any:
    """A new table with a source and a vector column."""

    class Text(LanceModel):
        text: str = made.SourceField()
        vector: Vector(made.ndims()) = made.VectorField()  # type: ignore[valid-type]

    return lancedb.connect(str(folder)).create_table("texts", schema=Text)


def test_the_example_finds_the_right_text(local_url: str, tmp_path: Path) -> None:
    """A table answers questions in English and Korean."""
    answer = "  Books may be kept for three weeks; each further day costs ten cents."
    assert printed("doors/lancedb_table.py", local_url, tmp_path)[1::2] == [answer, answer]


def test_texts_are_documents_and_searches_are_queries(server: EmbeddingServer, tmp_path: Path) -> None:
    """Each kind has its prompt, and each row its own vector."""
    kept = table(tmp_path, function(base_url=server.url, prompts="e5", dimensions=8))
    assert server.batches == []
    kept.add([{"text": text} for text in numbered(3)])
    (found,) = kept.search("text 1").limit(1).to_list()
    assert server.batches[0] == [f"passage: {text}" for text in numbered(3)]
    assert server.batches[-1] == ["query: text 1"]
    assert is_vector_of(found["vector"], f"passage: {found['text']}", tolerance=1e-5)


async def test_the_async_table_embeds_queries_too(server: EmbeddingServer, tmp_path: Path) -> None:
    """`AsyncTable.search` with a text asks the same function."""
    table(tmp_path, function(base_url=server.url)).add([{"text": text} for text in numbered(9)])
    opened = await (await lancedb.connect_async(str(tmp_path))).open_table("texts")
    (found,) = await (await opened.search("text 7")).limit(1).to_list()
    assert found["text"] == "text 7"


def test_another_process_opens_it_without_its_function(tmp_path: Path) -> None:
    """The options come from the table and the key from a variable; neither key nor header is on the disk."""
    get_registry().set_var("key", KEY)
    with EmbeddingServer(api_key=KEY) as server:
        made = function(
            base_url=server.url, api_key="$var:key", headers={"X-Token": "header-4711"}, prompts=Prompts()
        )
        table(tmp_path / "db", made).add([{"text": text} for text in numbered(9)])
        code = tmp_path / "open.py"
        code.write_text(OPEN)
        assert said(code, str(tmp_path / "db"), KEY) == ["text 7"]
    for file in filter(Path.is_file, (tmp_path / "db").rglob("*")):
        assert b"4711" not in file.read_bytes(), file


def test_a_key_in_plain_is_refused() -> None:
    """LanceDB's own rule holds: a key is a variable, or comes from the environment."""
    with pytest.raises(ValueError, match="cannot be set to a hardcoded value"):
        function(base_url="http://h", api_key=KEY)


def test_a_row_without_text_has_no_vector(server: EmbeddingServer) -> None:
    """None among texts stays None, and the others keep their places."""
    first, none, last = function(base_url=server.url).compute_source_embeddings(["one", None, "two"])
    assert none is None
    assert is_vector_of(first, "one")
    assert is_vector_of(last, "two")


def test_nothing_is_repeated_above_the_client(tmp_path: Path) -> None:
    """A refusal is told at once and as it is: LanceDB's own seven repeats do not come on top."""
    with EmbeddingServer() as server:
        kept = table(tmp_path, function(base_url=server.url, dimensions=8))
        server.answer(Answer(status=401), Answer(status=401))
        with pytest.raises(
            RuntimeError, match="the server asks for a key"
        ):  # Arrow has no other class for it
            kept.add([{"text": "one"}])
        assert len(server.batches) == 1
    gone = function(base_url=f"http://127.0.0.1:{free_port()}", max_retries=0)
    with pytest.raises(ConnectionFailed, match="Check that the server runs"):
        gone.ndims()


def test_a_wrong_argument_is_told_when_it_is_made() -> None:
    """Names and values are checked, and the cure is said."""
    with pytest.raises(ValidationError, match="pass base_url="):
        function(host="http://h")
    with pytest.raises(ValidationError, match="dimensions"):
        function(base_url="http://h", dimensions=-1)


def test_equal_ones_are_equal() -> None:
    """They can be compared and hashed, whatever was passed."""
    one, two = (function(base_url=["http://a", "http://b"], extra_body={"a": [1]}) for _ in range(2))
    assert (one == two, hash(one) == hash(two)) == (True, True)
    assert hash(embedwire.lancedb.EmbedwireEmbeddings.create(base_url="http://c")) != hash(one)
