"""Texts as the caller passed them → texts as they are sent. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from embedwire._http.steps import Work, at_once
from embedwire._settings.checks import is_unicode, plain, shown
from embedwire._settings.options import Kind, Prompts
from embedwire.exceptions import InputError

STEP = 2**18  # characters that are looked at in one step, where each text counts as so many more:
PER_TEXT = 2**8


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


def check_texts(texts: object) -> list[str]:
    """As `checked`, at once."""
    return at_once(checked(texts))


def checked(texts: object) -> Work[list[str]]:
    """A list of texts, as a copy: what the caller does to the list later changes nothing.

    Raises:
        InputError: It is not a list of valid str; the message names the first bad index.
    """
    if isinstance(texts, str):
        raise InputError("texts must be a list of str, and a single str was passed; pass [text]")
    if not isinstance(texts, Sequence) or isinstance(texts, (bytes, bytearray, memoryview)):
        cure = _cure(texts) or "; pass list(texts)"
        raise InputError(f"texts must be a list of str, not {type(texts).__name__}{cure}")
    texts, left = list(texts), STEP
    for index, text in enumerate(texts):
        if type(text) is not str or not text.isascii():
            text = texts[index] = check_text_at(index, text)
        left -= PER_TEXT + len(text)
        if left < 0:
            yield
            left = STEP
    return texts


def check_text_at(index: int, text: object) -> str:
    """A text of the caller's list.

    Raises:
        InputError: It is not a str, or not valid Unicode; the message names its index.
    """
    if not isinstance(text, str):
        raise InputError(f"texts[{index}] must be a str, not {type(text).__name__}{_cure(text)}")
    text = plain(text)
    if not is_unicode(text):
        raise InputError(
            f"texts[{index}] holds a lone surrogate, which no UTF-8 can carry; {_SURROGATE_CURE}"
        )
    return text


def check_kind(kind: object) -> None:
    """Raises InputError where ``kind`` is neither ``"document"`` nor ``"query"``."""
    if not isinstance(kind, str) or kind not in ("document", "query"):
        raise InputError(f"kind must be 'document' or 'query', not {shown(kind)}")


def with_prompt(texts: list[str], kind: Kind, prompts: Prompts) -> list[str]:
    """As `prompted`, at once."""
    return at_once(prompted(texts, kind, prompts))


def prompted(texts: list[str], kind: Kind, prompts: Prompts) -> Work[list[str]]:
    """The texts, each behind the prompt of its kind. Nothing else about a text is ever changed."""
    prompt = prompts.query if kind == "query" else prompts.document
    if not prompt:
        return texts
    longer, left = [], STEP
    for text in texts:
        longer.append(prompt + text)
        left -= PER_TEXT + len(longer[-1])
        if left < 0:
            yield
            left = STEP
    return longer


def _cure(thing: object) -> str:
    """Where the text of a framework's document stands."""
    names = {*dir(type(thing)), *getattr(thing, "__dict__", ())}
    field = next(
        (name for name in ("page_content", "text") if name in names), None
    )  # LangChain's, LlamaIndex's
    return f"; pass its .{field}" if field else ""


_SURROGATE_CURE = "clean it with text.encode('utf-8', 'replace').decode()"
