"""Texts as the caller passed them → texts as they are sent. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from embedwire._settings.checks import is_unicode, plain, shown
from embedwire._settings.options import Kind, Prompts
from embedwire.exceptions import InputError


def check_text(text: object) -> str:
    """One query.

    Raises:
        InputError: It is not a str, or not valid Unicode.
    """
    if not isinstance(text, str):
        raise InputError(f"the text to embed must be a str, not {type(text).__name__}{_cure(text)}")
    text = plain(text)
    if not is_unicode(text):
        raise InputError(
            "the text to embed holds a lone surrogate, which no UTF-8 can carry; " + _SURROGATE_CURE
        )
    return text


def check_texts(texts: object, start: int = 0) -> list[str]:
    """A list of texts, as a copy: what the caller does to the list later changes nothing.

    Args:
        texts: What the caller passed.
        start: Index of its first text in the caller's list, if it is a part of one.

    Raises:
        InputError: It is not a list of valid str; the message names the first bad index.
    """
    if isinstance(texts, str):
        raise InputError("texts must be a list of str, and a single str was passed; pass [text]")
    if not isinstance(texts, Sequence) or isinstance(texts, (bytes, bytearray, memoryview)):
        cure = _cure(texts) or "; pass list(texts)"
        raise InputError(f"texts must be a list of str, not {type(texts).__name__}{cure}")
    texts = list(texts)
    for index, text in enumerate(texts, start):
        if not isinstance(text, str):
            raise InputError(f"texts[{index}] must be a str, not {type(text).__name__}{_cure(text)}")
        if type(text) is not str:
            text = texts[index - start] = plain(text)
        if not is_unicode(text):
            raise InputError(
                f"texts[{index}] holds a lone surrogate, which no UTF-8 can carry; {_SURROGATE_CURE}"
            )
    return texts


def check_kind(kind: object) -> None:
    """Raises InputError where ``kind`` is neither ``"document"`` nor ``"query"``."""
    if not isinstance(kind, str) or kind not in ("document", "query"):
        raise InputError(f"kind must be 'document' or 'query', not {shown(kind)}")


def with_prompt(texts: list[str], kind: Kind, prompts: Prompts) -> list[str]:
    """The texts, each behind the prompt of its kind. Nothing else about a text is ever changed."""
    prompt = prompts.query if kind == "query" else prompts.document
    return [prompt + text for text in texts] if prompt else texts


def _cure(thing: object) -> str:
    """Where the text of a framework's document stands."""
    names = {*dir(type(thing)), *getattr(thing, "__dict__", ())}
    field = next(
        (name for name in ("page_content", "text") if name in names), None
    )  # LangChain's, LlamaIndex's
    return f"; pass its .{field}" if field else ""


_SURROGATE_CURE = "clean it with text.encode('utf-8', 'replace').decode()"
