"""The kinds of servers: one small file for each software, and this registry. Pure.

To add one: a file with a `ServerKind`, and its line in `KINDS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from embedwire._servers.kinds.base import ServerKind, Told
from embedwire._servers.kinds.embedwire_gateway import EMBEDWIRE_GATEWAY
from embedwire._servers.kinds.infinity import INFINITY
from embedwire._servers.kinds.llama_cpp import LLAMA_CPP
from embedwire._servers.kinds.lm_studio import LM_STUDIO
from embedwire._servers.kinds.ollama import OLLAMA
from embedwire._servers.kinds.openai_like import OPENAI_LIKE
from embedwire._servers.kinds.tei import TEI
from embedwire._servers.kinds.vllm import VLLM

__all__ = ["KINDS", "OPENAI_LIKE", "Meaning", "ServerKind", "Told", "meaning", "owner", "recognised"]

KINDS = (
    LLAMA_CPP,
    TEI,
    INFINITY,
    OLLAMA,
    VLLM,
    LM_STUDIO,
    EMBEDWIRE_GATEWAY,
    OPENAI_LIKE,
)  # the last is the rest
_OWN_HEADERS = [kind.own_header for kind in KINDS if kind.own_header]


def recognised(headers: Mapping[str, str]) -> ServerKind | None:
    """The kind of server that sends such headers, in any case; None where they are a proxy's, or tell nothing."""
    own = tuple(name for name in _OWN_HEADERS if name in headers)
    return _recognised(headers.get("server", ""), own)


@lru_cache(maxsize=256)  # each reply asks, and it is always the same one
def _recognised(server: str, own: tuple[str, ...]) -> ServerKind | None:
    headers = {"server": server, **dict.fromkeys(own, "")}
    return next((kind for kind in KINDS if kind.sends(headers)), None)


def owner(names: Iterable[str]) -> ServerKind | None:
    """The kind of server whose list of models names such owners; None where none of them tells."""
    owners = {name.lower() for name in names}
    return next((kind for kind in KINDS if kind.owned_by and kind.owned_by in owners), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What the words of an error mean, whichever server's they are: it may not have been recognised yet.

    Attributes:
        of_text: The text itself is at fault.
        too_long: The same, and it is its length.
        tokens: Tokens in it.
        limit: The limit in tokens.
        max_texts: The most texts in one request.
        too_large: The request has too many tokens for a limit of its rate.
        of_request: The request itself is at fault.
        of_model: The same, and it is the name of the model.
        of_key: The key is not accepted.
        used_up: The account has no money, or no quota, left.
        loading: The model is still loading.
        unloaded: The model was put out of memory, and may come back.
        throttled: Too much was sent in too short a time.
        cure: What to do about it, where a kind of server knows; else "".
    """

    of_text: bool = False
    too_long: bool = False
    tokens: int | None = None
    limit: int | None = None
    max_texts: int | None = None
    too_large: bool = False
    of_request: bool = False
    of_model: bool = False
    of_key: bool = False
    used_up: bool = False
    loading: bool = False
    unloaded: bool = False
    throttled: bool = False
    cure: str = ""


def meaning(words: str, error_type: str, details: Mapping[str, Any]) -> Meaning:
    """Understands an error.

    Args:
        words: Its message.
        error_type: Its type.
        details: All its fields.
    """
    tokens, limit = _numbers(words, details)
    codes = [value for name in ("type", "code", "status") if isinstance(value := details.get(name), str)]
    all_words = " ".join((words, error_type, *codes))
    found = {name: bool(pattern.search(all_words)) for name, pattern in _ANY.items()}
    found["loading"] = found["loading"] or "estimated_time" in details
    found["too_long"] = (found["too_long"] or tokens is not None) and not found["too_large"]
    found["of_text"] = found["of_text"] or found["too_long"]
    found["of_request"] = found["of_request"] or found["of_model"] or details.get("param") in _FIELDS
    return Meaning(
        tokens=tokens,
        limit=limit,
        max_texts=_max_texts(words),
        cure=next((cure for pattern, cure in _CURES if pattern.search(words)), ""),
        **found,
    )


def _numbers(words: str, details: Mapping[str, Any]) -> tuple[int | None, int | None]:
    for pattern in _TOKENS if _ABOUT_TOKENS.search(words) else ():
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


def _any(name: str) -> re.Pattern[str]:
    """Whether any kind's words of a name are among some words."""
    patterns = [getattr(kind.words, name) for kind in KINDS]
    return re.compile("|".join(pattern for pattern in patterns if pattern), re.IGNORECASE)


_ANY = {
    name: _any(name)
    for name in (
        "of_text",
        "too_long",
        "too_large",
        "of_request",
        "of_model",
        "of_key",
        "used_up",
        "loading",
        "unloaded",
        "throttled",
    )
}
_FIELDS = (
    "model",
    "dimensions",
    "encoding_format",
    "user",
    "input_type",
)  # of a request, none of which is a text
_CURES = [(re.compile(pattern, re.IGNORECASE), cure) for kind in KINDS for pattern, cure in kind.cures]
_TOKENS = [re.compile(kind.words.tokens, re.IGNORECASE | re.DOTALL) for kind in KINDS if kind.words.tokens]
# Not a number of tokens or bytes.
_TOO_MANY = [
    re.compile(rf"(?:{kind.words.too_many})(?!\d|\.\d|\s*(?:tokens|char|words|bytes|[kM]i?B))", re.IGNORECASE)
    for kind in KINDS
    if kind.words.too_many
]
_ABOUT_TOKENS = re.compile(r"token|context|sequence|(?:input|text|prompt) length", re.IGNORECASE)
_ABOUT_COUNT = re.compile(r"batch|inputs|items|texts|array|list|documents|number of", re.IGNORECASE)
