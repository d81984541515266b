"""Where a text may be cut: at white space, and never inside what a reader sees as one character. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

NEAR = 0.2  # of a piece's length, in which white space is looked for before its end
FAR = 1000  # characters, in which it is looked for at most
LONGEST = 256  # code points in one character; a longer one is none that anybody reads, and is cut anywhere
_JOINER = "\u200d"  # of emoji that are drawn as one
# Hangul vowels and final consonants, which follow another letter of their syllable
_JAMO = (range(0x1160, 0x1200), range(0xD7B0, 0xD800))
_TONES = range(0x1F3FB, 0x1F400)  # of skin, after an emoji
_TAGS = range(0xE0020, 0xE0080)  # letters after a flag, such as Scotland's
_FLAGS = range(0x1F1E6, 0x1F200)  # letters that make a flag in pairs


def cut(text: str, most: int) -> str:
    """The beginning of a text, of at most so many characters; at least one character as a reader sees it."""
    beginning = text[: _end(text, 0, most)]
    return beginning.rstrip() or beginning


def pieces(text: str, most: int) -> Iterator[str]:
    """A text in parts of about equal length, each of at most so many characters, one by one.

    None is only white space, unless the text is: then its beginning is the one part.
    """
    start = found = 0
    while start < len(text):
        rest = len(text) - start
        number = -(-rest // max(1, most))
        end = start + _end(text, start, -(-rest // number))
        piece = text[start:end]
        if not piece.isspace():
            found += 1
            yield piece
        start = end
    if not found and text:
        yield cut(text, most)


def _end(text: str, start: int, most: int) -> int:
    """How many characters from a place on to take, at most; more only where the first one is longer."""
    last = start + max(1, most)
    if last >= len(text):
        return len(text) - start
    for end in range(last, last - min(FAR, int(most * NEAR)), -1):
        if (text[end].isspace() or text[end - 1].isspace()) and not _is_inside(text, start, end):
            return end - start
    return _between(text, start, last) - start


def _between(text: str, start: int, last: int) -> int:
    """The last place between two characters up to here; the first one after it, where there is none."""
    for end in range(last, max(start, last - LONGEST), -1):
        if not _is_inside(text, start, end):
            return end
    if last - start >= LONGEST:
        return last
    for end in range(last + 1, min(len(text), start + LONGEST)):
        if not _is_inside(text, start, end):
            return end
    return len(text) if len(text) - start <= LONGEST else last


def _is_inside(text: str, start: int, at: int) -> bool:
    """Whether what stands before and after a place belongs together, in a piece that begins at ``start``."""
    before, after = text[at - 1], text[at]
    if unicodedata.category(after).startswith("M") or _JOINER in (before, after):
        return True
    code = ord(after)
    if (
        code in _TONES
        or code in _TAGS
        or any(code in jamo for jamo in _JAMO)
        or (before, after) == ("\r", "\n")
    ):
        return True
    if code in _FLAGS and ord(before) in _FLAGS:
        flags = at
        while flags > max(start, at - LONGEST) and ord(text[flags - 1]) in _FLAGS:
            flags -= 1
        return (at - flags) % 2 == 1
    return False
