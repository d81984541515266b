"""The doors to Chroma, Haystack, LanceDB and pydantic-ai where their packages are not there; see tests/doors."""

from __future__ import annotations

import asyncio

import pytest

from embedwire import InputError
from embedwire._clients.counting import SharedCountingClient
from embedwire._doors import Door
from embedwire.testing import EmbeddingServer
from tests.frameworks.both import KEY, last_words_without
from tests.helpers import numbered, right


@pytest.mark.parametrize(
    ("door", "framework", "extra"),
    [
        ("chroma", "chromadb", "chroma"),
        ("haystack", "haystack", "haystack"),
        ("lancedb", "lancedb", "lancedb"),
        ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
    ],
)
def test_a_missing_package_is_told_with_its_extra(door: str, framework: str, extra: str) -> None:
    """Who has not installed what a door leads to reads the extra that brings it."""
    last = last_words_without(framework, f"embedwire.{door}")
    assert last.startswith(f"ModuleNotFoundError: embedwire.{door} needs ")
    assert last.endswith(f"embedwire[{extra}]")


def test_a_config_makes_an_equal_door() -> None:
    """What was passed is JSON without keys, headers and the like, and nothing else is in it."""
    door = Door("http://u:p@h", headers={"A": KEY}, proxy="http://p", ssl=False, prompts="e5", deadline=3)
    assert door.config() == {"base_url": "http://h", "prompts": "e5", "deadline": 3}
    assert Door(**Door("http://h", api_key=KEY, model_name="m").config()).model == "m"


async def test_a_counted_call_is_counted_alone() -> None:
    """Calls that share requests are told of their own texts; an empty one of nothing, and bad texts are refused."""
    with EmbeddingServer() as server, SharedCountingClient(server.url) as client:
        texts = numbered(30)
        await client.aembed(["warm"])
        counted = await asyncio.gather(*(client.aembed_counted([text]) for text in texts))
        for text, (vectors, usage) in zip(texts, counted, strict=True):
            assert right(vectors, [text])
            assert (usage.texts, usage.tokens) == (1, 4)
        assert (await client.aembed_counted([]))[0] == []
        assert client.usage().texts == 1
        with pytest.raises(InputError, match="texts must be a list"):
            await client.aembed_counted("one")  # type: ignore[arg-type]


def test_a_counted_call_has_its_kind() -> None:
    """The sync twin gives the same, and a query has a query's prompt."""
    with EmbeddingServer() as server, SharedCountingClient(server.url, prompts="e5") as client:
        vectors, usage = client.embed_counted(["one"], "query")
        assert right(vectors, ["query: one"])
        assert usage.requests == 1
        assert server.batches == [["query: one"]]
