"""The words of an error reply, wherever a server puts them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

MOST_WORDS = 300  # characters of a server's message


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What an error reply says.

    Attributes:
        message: Its words, capped.
        type: Its type, such as ``exceed_context_size_error``.
        fields: All its fields.
    """

    message: str = ""
    type: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


def said(body: bytes) -> Said:
    """Reads an error reply, in the shapes that servers use; nothing where it has none of them."""
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Said()
    error = reply.get("error", reply) if isinstance(reply, dict) else {}
    if isinstance(error, str):  # Ollama, TEI: {"error": "…", "error_type": "…"}
        return Said(message=_capped(error), type=_word(reply.get("error_type", reply.get("type"))))
    if not isinstance(error, dict):
        return Said()
    message = error.get("message", error.get("detail"))
    if isinstance(message, list) and message and isinstance(message[0], dict):  # FastAPI: infinity, vLLM
        message = message[0].get("msg")
    return Said(
        message=_capped(message) if isinstance(message, str) else "",
        type=_word(error.get("type")),
        fields=error,
    )


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _capped(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= MOST_WORDS else words[: MOST_WORDS - 1] + "…"
