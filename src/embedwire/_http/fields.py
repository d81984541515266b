"""Which fields of the request the words of a refusal speak of, whichever server's they are. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

ENCODING, DIMENSIONS = "encoding_format", "dimensions"
REFUSALS = (400, 406, 413, 415, 422, 500, 501)  # statuses with which a field, or a value of it, is refused
MOST = 20_000  # bytes that are read of a refusal


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a refusal speaks of.

    Attributes:
        fields: `ENCODING`, `DIMENSIONS`, or both.
        wants: The one encoding that it says is right; None where it says none, or several.
    """

    fields: frozenset[str] = frozenset()
    wants: str | None = None


NOTHING = Spoken()


def spoken_of(status: int | None, body: bytes) -> Spoken:
    """The fields that a refusal speaks of: in its message, as its ``param``, in FastAPI's ``loc``."""
    if status not in REFUSALS or not body:
        return NOTHING
    words = " ".join(_strings(_parsed(body)))
    fields = {field for field, pattern in _NAMED.items() if pattern.search(words)}
    wants = _wanted(words)
    # Where no field is named, it is most often this one that a server does not know.
    if wants == "base64" or (not fields and _UNNAMED.search(words)):
        fields.add(ENCODING)
    return Spoken(frozenset(fields), wants if ENCODING in fields else None)


_NAMED = {
    ENCODING: re.compile(
        r"encoding[ _-]?format|(?:unsupported|unknown|invalid) (?:encoding|format)\b"
        r"|\b(?:base64|float)\b\W{0,3}(?:encoding )?(?:is|are)?\W?(?:not|un)\W?(?:supported|allowed)",
        re.IGNORECASE,
    ),
    DIMENSIONS: re.compile(r"\bdimensions?\b|matryoshka", re.IGNORECASE),
}
_UNNAMED = re.compile(
    r"(?:extra|unknown|unexpected|unrecognized|unsupported|additional)"
    r" (?:request )?(?:fields?|inputs?|propert(?:y|ies)|parameters?|arguments?)",
    re.IGNORECASE,
)
_ALLOWED = re.compile(
    r"\b(?:should|must|can only|may only|has to|needs to) be\b"
    r"|(?<!not )(?<!n't )\b(?:expect|accept|allow|support)(?:s|ed)?\b"
    r"|\b(?:valid|only|use)\b",
    re.IGNORECASE,
)
_ENCODINGS = re.compile(r"\b(?:base64|float)\b", re.IGNORECASE)


def _wanted(words: str) -> str | None:
    """The encoding that is named as the right one: alone, before the sentence ends or another rule begins."""
    starts = [match.end() for match in _ALLOWED.finditer(words)]
    for start, end in zip(starts, [*starts[1:], len(words)], strict=False):
        clause = re.split(r"[.;(]|\b(?:not|but|got|found|instead)\b", words[start:end], maxsplit=1)[0]
        named = {match[0].lower() for match in _ENCODINGS.finditer(clause)}
        if len(named) == 1:
            return named.pop()
    return None


_QUOTED = (
    "input",
    "ctx",
    "body",
    "url",
    "request",
    "data",
    "traceback",
    "stack",
)  # not the server's own words


def _parsed(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:MOST].decode("utf-8", "replace")


def _strings(value: object, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value[:MOST]
    elif isinstance(value, list) and depth < 8:
        for item in value[:20]:
            yield from _strings(item, depth + 1)
    elif isinstance(value, dict) and depth < 8:
        for name, item in value.items():
            if name not in _QUOTED:
                yield from _strings(item, depth + 1)
                if isinstance(item, list):
                    yield "."  # the end of a sentence
