"""The examples of stores: each finds the right text for a question in English and in Korean."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doors.running import printed

LIBRARY = [
    "How long can I keep a book?",
    "  Books may be kept for three weeks; each further day costs ten cents.",
    "책을 얼마나 오래 빌릴 수 있나요?",
    "  Books may be kept for three weeks; each further day costs ten cents.",
]


@pytest.mark.parametrize("store", ["in_memory", "chroma", "qdrant"])
def test_langchain_stores_find_the_right_text(store: str, local_url: str, tmp_path: Path) -> None:
    """LangChain's own store, Chroma and Qdrant answer both questions with the text that a person would choose."""
    assert printed(f"stores/store_{store}.py", local_url, tmp_path) == LIBRARY


def test_chroma_takes_the_same_texts_again(local_url: str, tmp_path: Path) -> None:
    """Run twice in one folder, the example's collection has each text once, and still answers."""
    for _ in range(2):
        assert printed("stores/store_chroma.py", local_url, tmp_path) == LIBRARY


def test_pgvector_finds_the_right_text(postgres: str, local_url: str, tmp_path: Path) -> None:
    """A real PostgreSQL with pgvector answers both questions."""
    assert printed("stores/store_pgvector.py", local_url, tmp_path, DATABASE_URL=postgres) == LIBRARY


def test_langgraph_remembers(local_url: str, tmp_path: Path) -> None:
    """LangGraph's store finds the memory that answers, asked in either language."""
    assert printed("stores/store_langgraph.py", local_url, tmp_path) == [
        "What is the name of the cat?",
        "  The user has an old cat called Nabi.",
        "고양이 이름이 뭐예요?",
        "  The user has an old cat called Nabi.",
    ]
