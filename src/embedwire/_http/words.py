"""The words of a reply, wherever a server puts them. Pure."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

MOST_WORDS = 300  # characters of a server's message


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a reply says.

    Attributes:
        message: Its words, capped.
        type: Its type or its code, such as ``exceed_context_size_error``.
        fields: All fields of its error.
        page: It is a web page, so what answered is no embedding server but a proxy, or another program.
        code: The HTTP status that it names itself; None where it names none.
        error: It says that something failed, whatever its HTTP status.
    """

    message: str = ""
    type: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    page: bool = False
    code: int | None = None
    error: bool = False


SILENT = Said()


def said(body: bytes) -> Said:
    """Reads what a reply says, in the shapes that servers use; nothing where it says nothing."""
    try:
        reply = orjson.loads(body.removeprefix(_BOM))
    except orjson.JSONDecodeError:
        return _unstructured(body)
    outer = _first_object(reply)
    error = outer.get("error")
    inner = _first_object(error) or outer
    message = next(_words(error if error else reply), "")
    return Said(
        message=_capped(message),
        type=next((word for word in map(_word, _types(outer, inner)) if word), ""),
        fields=inner,
        code=_status_in(inner) or _status_in(outer),
        error=bool(error) or (bool(message) and not isinstance(outer.get("data"), list)),
    )


_BOM = b"\xef\xbb\xbf"
# Where servers put their words; in this order, as `title` and `type` say less than `detail`.
_PLACES = (
    *("message", "error", "detail", "errors", "msg", "error_msg", "error_message", "errorMessage"),
    *("description", "error_description", "reason", "title"),
)
_TITLE = re.compile(rb"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_PAGE = re.compile(rb"\s*(?:<!doctype html|<html|<head|<title|<body|<h1)", re.IGNORECASE)


def _unstructured(body: bytes) -> Said:
    """A web page's title, or words that stand alone."""
    if _PAGE.match(body):
        title = _TITLE.search(body)
        words = title[1] if title else _TAG.sub(" ", body[:2000].decode(errors="replace")).encode()
        return Said(message=_capped(html.unescape(words.decode(errors="replace"))), page=True)
    words = body[: 8 * MOST_WORDS].decode(errors="ignore")
    return Said(message=_capped(words) if _is_text(words) else "")


def _is_text(words: str) -> bool:
    return all(char.isprintable() or char in "\r\n\t" for char in words)


def _words(value: object, depth: int = 0) -> Iterator[str]:
    """Each message in a reply, the most telling first."""
    if depth > 4:  # an object inside a list inside an object inside an error
        return
    if isinstance(value, str) and value.strip():
        yield value
    elif isinstance(value, list):
        for item in value[:3]:
            yield from _words(item, depth + 1)
    elif isinstance(value, dict):
        for place in _PLACES:
            yield from _words(value.get(place), depth + 1)


def _first_object(value: object) -> Mapping[str, Any]:
    """The object, or the first one of a list."""
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, dict) else {}


def _types(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> list[object]:
    """Where a type may stand, a word for a code among them."""
    return [
        inner.get("type"),
        outer.get("error_type"),
        outer.get("type"),
        inner.get("code"),
        inner.get("status"),
    ]


def _status_in(fields: Mapping[str, Any]) -> int | None:
    """The HTTP status among an error's fields: 429, "429", or 42900 of servers that number their errors on."""
    for name in ("code", "status", "status_code", "statusCode", "error_code"):
        value = fields.get(name)
        number = int(value) if isinstance(value, str) and re.fullmatch(r"\d{3,6}", value) else value
        if type(number) is not int:
            continue
        for status in (number, number // 100, number // 1000):
            if 400 <= status < 600:
                return status
    return None


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _capped(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= MOST_WORDS else words[: MOST_WORDS - 1] + "…"
