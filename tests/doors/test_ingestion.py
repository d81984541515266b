"""LlamaIndex's ingestion again and again: what is embedded is counted at the server."""

from __future__ import annotations

from pathlib import Path

import chromadb
import pytest

from embedwire.testing import EmbeddingServer
from tests.doors.running import printed

DOCUMENTS = Path(__file__).parents[2] / "examples" / "documents"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of five short documents."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"Document number {number}.", "utf-8")
    return folder


def ingested(server: EmbeddingServer, folder: Path) -> set[str]:
    """The documents that the server embedded in one run of the example, its two questions left out."""
    before = len(server.batches)
    printed("stores/ingestion.py", server.url, folder, "texts", "kept")
    sent = {text for batch in server.batches[before:] for text in batch}
    return {text.removeprefix("Document number ") for text in sent if text.startswith("Document")}


def test_only_what_changed_is_embedded_again(server: EmbeddingServer, tmp_path: Path, texts: Path) -> None:
    """A second run embeds nothing; then a changed, a new and a removed document cost two texts."""
    assert ingested(server, tmp_path) == {"0.", "1.", "2.", "3.", "4."}
    assert ingested(server, tmp_path) == set()
    (texts / "3.txt").write_text("Document number 3, second edition.", "utf-8")
    (texts / "7.txt").write_text("Document number 7.", "utf-8")
    (texts / "0.txt").unlink()
    assert ingested(server, tmp_path) == {"3, second edition.", "7."}
    assert ingested(server, tmp_path) == set()
    stored = chromadb.PersistentClient(str(tmp_path / "kept" / "chroma")).get_collection("documents").get()
    assert sorted(one["ref_doc_id"] for one in stored["metadatas"] or []) == [
        f"{number}.txt" for number in (1, 2, 3, 4, 7)
    ]


def test_the_right_text_is_found(local_url: str, tmp_path: Path) -> None:
    """What was ingested answers questions in English and Korean, from the text in either language."""
    (tmp_path / "texts").mkdir()
    for name in ("declaration.en.txt", "declaration.ko.txt"):
        articles = (DOCUMENTS / name).read_text("utf-8").strip().split("\n\n")
        for article in articles:
            heading, text = article.split("\n", 1)
            (tmp_path / "texts" / f"{heading.replace(' ', '-')}.txt").write_text(text, "utf-8")
    lines = printed("stores/ingestion.py", local_url, tmp_path, "texts", "kept")
    assert lines[0].startswith("60 documents, ")
    for answer in lines[2::2]:
        assert answer.startswith(
            ("  Everyone has the right to take part in the government", "  모든 사람은 직접 또는")
        )
