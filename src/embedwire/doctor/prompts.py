"""Whether a model wants words of its own before queries and documents, by its name. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from embedwire._settings.options import PRESETS, Prompts
from embedwire.doctor.findings import Finding, note, ok


@dataclass(frozen=True, slots=True)
class Family:
    """Models that were trained alike.

    Attributes:
        name: As part of a model's name, a regular expression; "-" stands for what may separate words.
        prompts: What they want: the name of a preset, `Prompts`, or None for nothing.
        card: Where that stands, on huggingface.co; "" for other places.
        own: They want something that `Prompts` cannot say, or that differs from model to model: see the card.
    """

    name: str
    prompts: str | Prompts | None
    card: str = ""
    own: bool = False


_INSTRUCT = Prompts(
    query="Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
)
# The first that fits counts: exceptions stand before their family. All from the cards.
FAMILIES = (
    Family("e5-mistral|e5-.*instruct", _INSTRUCT, "intfloat/multilingual-e5-large-instruct"),
    Family("e5", "e5", "intfloat/multilingual-e5-base"),
    Family("bge-m3", None, "BAAI/bge-m3"),
    Family("bge-multilingual-gemma2|bge-en-icl", None, "BAAI/bge-multilingual-gemma2", own=True),
    Family("bge-.*zh", Prompts(query="为这个句子生成表示以用于检索相关文章："), "BAAI/bge-base-zh-v1.5"),  # noqa: RUF001
    Family("bge", "bge", "BAAI/bge-base-en-v1.5"),
    Family("nomic-embed-code", None, "nomic-ai/nomic-embed-code", own=True),
    Family("nomic-embed", "nomic", "nomic-ai/nomic-embed-text-v1.5"),
    Family("qwen3-embedding", "qwen3", "Qwen/Qwen3-Embedding-0.6B"),
    Family(r"gte-qwen[\d-]*", _INSTRUCT, "Alibaba-NLP/gte-Qwen2-1.5B-instruct"),
    Family("gte", None, "Alibaba-NLP/gte-multilingual-base"),
    Family("arctic-embed2|arctic-embed-.*v2", "arctic2", "Snowflake/snowflake-arctic-embed-l-v2.0"),
    Family("arctic-embed", "arctic", "Snowflake/snowflake-arctic-embed-m-v1.5"),
    Family("mxbai-embed", "mxbai", "mixedbread-ai/mxbai-embed-large-v1"),
    Family("embeddinggemma|embedding-gemma", "embeddinggemma", "google/embeddinggemma-300m"),
    Family("jina-embeddings-v2", None, "jinaai/jina-embeddings-v2-base-en"),
    Family(
        "jina-embeddings-v4",
        Prompts(query="Query: ", document="Passage: "),
        "jinaai/jina-embeddings-v4-text-retrieval-GGUF",
    ),
    Family("jina-embeddings", None, "jinaai/jina-embeddings-v3", own=True),
    Family("all-minilm|all-mpnet|minilm", None, "sentence-transformers/all-MiniLM-L6-v2"),
    Family("granite-embedding", None, "ibm-granite/granite-embedding-278m-multilingual"),
    Family("universal-sentence-encoder|text-embedding-(?:3|ada)", None),
)


def family_of(model: str) -> Family | None:
    """The family of a model, by its name: that of a file and of a repository, too."""
    name = re.sub(r"[\s_./\\:]+", "-", model.lower())
    return next(
        (one for one in FAMILIES if re.search(rf"(?:^|-|nano|kor?-?)(?:{one.name})(?:-|$)", name)), None
    )


def prompts(model: str | None) -> Finding:
    """Whether two prompts matter for a model of this name."""
    family = None if model is None else family_of(model)
    if family is None:
        return ok("prompts", "no family of models is known by this name; see its card")
    source = f" (card: {family.card})" if family.card else ""
    if family.own:
        return note(
            "prompts",
            f"this model wants words of its own before queries{source}",
            "Take them from its card: prompts=Prompts(query=…, document=…).",
        )
    if family.prompts is None:
        return ok("prompts", f"this model wants none{source}")
    return note(
        "prompts",
        f"this model wants words of its own before {_before(family.prompts)}{source}",
        f"Pass prompts={written(family.prompts)}, unless the server adds them itself.",
    )


def written(prompts: str | Prompts) -> str:
    """Prompts, as an argument is written."""
    if isinstance(prompts, str):
        return f'"{prompts}"'
    shown = [f"query={prompts.query!r}", *([f"document={prompts.document!r}"] if prompts.document else [])]
    return f"Prompts({', '.join(shown)})"


def _before(prompts: str | Prompts) -> str:
    both = PRESETS[prompts] if isinstance(prompts, str) else prompts
    return "queries and documents" if both.document else "queries"
