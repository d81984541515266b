"""Ways that lead nowhere say which way does: documents in the place of texts, `with`, trio."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from langchain_core.documents import Document
from llama_index.core import Document as LlamaDocument
from llama_index.core.schema import TextNode

from embedwire import EmbeddingClient, InputError, SharedEmbeddingClient, UsageError
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import EmbeddingServer
from tests.frameworks.both import NOBODY
from tests.helpers import needs, numbered, right


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (Document(page_content="a text"), "page_content"),
        (LlamaDocument(text="a text"), "text"),
        (TextNode(text="a text"), "text"),
    ],
    ids=["langchain", "llama_index", "node"],
)
def test_documents_are_no_texts(document: Any, field: str) -> None:
    """A document in a text's place is refused with the field that holds the text, which is one."""
    client = SharedEmbeddingClient(NOBODY)
    embeddings = EmbedwireEmbeddings(NOBODY)
    doors: list[tuple[Callable[[Any], Any], Any]] = [
        (client.embed, ["a", document]),
        (client.embed, document),
        (client.embed_query, document),
        (lambda texts: list(client.stream(texts)), [document]),
        (embeddings.embed_documents, [document]),
    ]
    for door, argument in doors:
        with pytest.raises(InputError, match=rf"pass its \.{field}$"):
            door(argument)
    assert getattr(document, field) == "a text"


def test_other_things_are_no_documents() -> None:
    """What has no such field gets no such advice."""
    with pytest.raises(InputError, match=r"not int$"):
        SharedEmbeddingClient(NOBODY).embed_query(5)  # type: ignore[arg-type]


def test_with_says_async_with() -> None:
    """`with EmbeddingClient()` names both ways out, and the other one works."""
    with (
        pytest.raises(UsageError, match=r"async with EmbeddingClient.*SharedEmbeddingClient"),
        EmbeddingClient(NOBODY),  # type: ignore[attr-defined]
    ):
        pass
    with EmbeddingServer() as server, SharedEmbeddingClient(server.url, model="m") as client:
        assert right(client.embed(["a"]), ["a"])


@needs("trio")
class TestTrio:
    """Trio's tasks cannot wait for asyncio's futures."""

    def test_async_doors_say_so(self) -> None:
        """Each raises a UsageError that names the way that works, and sends nothing."""
        import trio

        shared, own = SharedEmbeddingClient(NOBODY), EmbeddingClient(NOBODY)
        chain, index = EmbedwireEmbeddings(NOBODY), EmbedwireEmbedding(NOBODY)
        doors: list[Callable[[], Any]] = [
            lambda: shared.aembed(["a"]),
            lambda: shared.aembed_query("a"),
            lambda: shared.aembed_array(["a"]),
            lambda: anext(shared.astream(["a"])),
            lambda: shared.await_ready(),
            lambda: shared.aclose(),
            lambda: own.embed(["a"]),
            lambda: own.embed_query("a"),
            lambda: own.wait_ready(),
            lambda: own.__aenter__(),
            lambda: anext(own.stream(["a"])),
            lambda: chain.aembed_documents(["a"]),
            lambda: chain.aembed_query("a"),
            lambda: chain.await_ready(),
            lambda: chain.aget_dimensions(),
            lambda: index.aget_text_embedding("a"),
            lambda: index.aget_query_embedding("a"),
        ]

        async def knock() -> None:
            for door in doors:
                with pytest.raises(UsageError, match=r"need asyncio.*trio\.to_thread\.run_sync\("):
                    await door()
            await own.close()  # has nothing to close

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trio.run(knock)

    def test_the_cure_works(self) -> None:
        """Sync methods in trio's threads give vectors, many at a time."""
        import trio

        texts = numbered(20)

        async def work(url: str) -> None:
            with closing(EmbedwireEmbeddings(url, model="m")) as embeddings:
                rows: dict[str, list[float]] = {}

                async def one(text: str) -> None:
                    rows[text] = await trio.to_thread.run_sync(embeddings.embed_query, text)

                async with trio.open_nursery() as nursery:
                    for text in texts:
                        nursery.start_soon(one, text)
                assert right([rows[text] for text in texts], texts)

        with EmbeddingServer() as server:
            trio.run(work, server.url)

    def test_no_coroutine_is_left(self) -> None:
        """At the first use of a process, too, nothing is said but the error."""
        script = (
            "import trio, gc\n"
            "from embedwire import EmbeddingClient, SharedEmbeddingClient, UsageError\n"
            "async def main():\n"
            "    for call in (EmbeddingClient('http://h').embed, SharedEmbeddingClient('http://h').aembed):\n"
            "        try: await call(['a'])\n"
            "        except UsageError: print('told')\n"
            "trio.run(main); gc.collect()\n"
        )
        ran = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", script],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.stdout.split(), ran.stderr, ran.returncode) == (["told", "told"], "", 0)
