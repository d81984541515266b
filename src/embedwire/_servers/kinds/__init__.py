"""The kinds of servers: one small file for each software, and this registry. Pure.

To add one: a file with a `ServerKind`, and its line in `KINDS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedwire._servers.kinds.base import ServerKind, Told
from embedwire._servers.kinds.infinity import INFINITY
from embedwire._servers.kinds.llama_cpp import LLAMA_CPP
from embedwire._servers.kinds.lm_studio import LM_STUDIO
from embedwire._servers.kinds.ollama import OLLAMA
from embedwire._servers.kinds.openai_like import OPENAI_LIKE
from embedwire._servers.kinds.tei import TEI
from embedwire._servers.kinds.vllm import VLLM

__all__ = ["KINDS", "Meaning", "ServerKind", "Told", "meaning", "recognised"]

KINDS = (LLAMA_CPP, TEI, INFINITY, OLLAMA, VLLM, LM_STUDIO, OPENAI_LIKE)  # the last is the rest


def recognised(headers: Mapping[str, str]) -> ServerKind:
    """The kind of server that sends such headers; names of headers in any case."""
    return next((kind for kind in KINDS if kind.sends(headers)), OPENAI_LIKE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What the words of an error mean, whichever server's they are: it may not have been recognised yet.

    Attributes:
        of_text: The text itself is at fault.
        tokens: Tokens in it.
        limit: The limit in tokens.
        max_texts: The most texts in one request.
        loading: The model is still loading.
    """

    of_text: bool = False
    tokens: int | None = None
    limit: int | None = None
    max_texts: int | None = None
    loading: bool = False


def meaning(words: str, error_type: str, details: Mapping[str, Any]) -> Meaning:
    """Understands an error.

    Args:
        words: Its message.
        error_type: Its type.
        details: All its fields.
    """
    tokens, limit = _numbers(words, details)
    return Meaning(
        of_text=bool(_OF_TEXT.search(words) or _OF_TEXT.search(error_type)),
        tokens=tokens,
        limit=limit,
        max_texts=_max_texts(words),
        loading=bool(_LOADING.search(words)),
    )


def _numbers(words: str, details: Mapping[str, Any]) -> tuple[int | None, int | None]:
    for pattern in _TOKENS:
        if match := pattern.search(words):
            return int(match["tokens"]), int(match["limit"])
    for kind in KINDS:
        if kind.token_fields and kind.token_fields[0] in details:
            tokens, limit = (details.get(name) for name in kind.token_fields)
            return tokens if type(tokens) is int else None, limit if type(limit) is int else None
    return None, None


def _max_texts(words: str) -> int | None:
    if not _ABOUT_COUNT.search(words):
        return None
    for pattern in _TOO_MANY:
        if (match := pattern.search(words)) and 0 < (most := int(match["most"])) < 1_000_000:
            return most
    return None


def _any(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(pattern for pattern in patterns if pattern), re.IGNORECASE)


_OF_TEXT = _any([kind.words.of_text for kind in KINDS])
_LOADING = _any([kind.words.loading for kind in KINDS])
_TOKENS = [re.compile(kind.words.tokens, re.IGNORECASE | re.DOTALL) for kind in KINDS if kind.words.tokens]
# Not a number of tokens or bytes.
_TOO_MANY = [
    re.compile(rf"(?:{kind.words.too_many})(?!\d|\.\d|\s*(?:tokens|char|words|bytes|[kM]i?B))", re.IGNORECASE)
    for kind in KINDS
    if kind.words.too_many
]
_ABOUT_COUNT = re.compile(r"batch|inputs|items|texts|array|list|documents|number of", re.IGNORECASE)
