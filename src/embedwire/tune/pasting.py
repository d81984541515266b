"""The sizes to paste: for LangChain, LlamaIndex, the client and the command. Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import orjson

from embedwire.tune.records import Cell

if TYPE_CHECKING:
    from embedwire.tune.records import Outcome

BY_LLAMA_INDEX, MOST_BY_LLAMA_INDEX = 256, 2048  # texts that LlamaIndex hands over at once, and the most
ROUNDS = 4  # of requests in each of those, so that the places on the wire are seldom empty


def settings(outcome: Outcome, cell: Cell) -> tuple[tuple[str, str], ...]:
    """Code for each way to use it: its name, and lines to paste."""
    url = outcome.url
    model = None if outcome.info is None else outcome.info.model
    named = "" if model is None else f", model={_quoted(model)}"
    sizes = f"batch_size={cell.batch}, concurrency={cell.requests}"
    handed = min(MOST_BY_LLAMA_INDEX, ROUNDS * cell.in_flight)
    more = f", embed_batch_size={handed}" if handed > BY_LLAMA_INDEX else ""
    others = "".join(f", {name}={value!r}" for name, value in outcome.arguments.items())
    where = f"{_quoted(url)}{named}{others}, {sizes}"
    flags = "" if model is None else f" --model {shlex.quote(model)}"
    flags += "".join(
        f" --{name.replace('_', '-')} {_flag(value)}" for name, value in outcome.arguments.items()
    )
    return (
        (
            "LangChain",
            f"from embedwire.langchain import EmbedwireEmbeddings\n\nembeddings = EmbedwireEmbeddings({where})",
        ),
        (
            "LlamaIndex",
            "from embedwire.llama_index import EmbedwireEmbedding\n\n"
            f"embed_model = EmbedwireEmbedding({where}{more})",
        ),
        (
            "Without a framework",
            f"from embedwire import EmbeddingClient\n\nclient = EmbeddingClient({where})",
        ),
        (
            "Whole corpora",
            f"embedwire embed INPUT -o OUTPUT --url {shlex.quote(url)}{flags} --batch-size {cell.batch} "
            f"--concurrency {cell.requests}",
        ),
    )


def _flag(value: object) -> str:
    return shlex.quote(value if isinstance(value, str) else orjson.dumps(value).decode())


def _quoted(text: str) -> str:
    """A str as Python writes it, in double quotes: JSON's way is one of its ways."""
    return orjson.dumps(text).decode()
