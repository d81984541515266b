"""Where a text may be cut: at white space, and never inside what a reader sees as one character. Pure."""

from __future__ import annotations

import unicodedata

NEAR = 0.2  # of a piece's length, in which white space is looked for before its end
_JOINER = "\u200d"  # of emoji that are drawn as one
_JAMO = range(
    0x1160, 0x1200
)  # Hangul vowels and final consonants, which follow another letter of their syllable
_TONES = range(0x1F3FB, 0x1F400)  # of skin, after an emoji
_FLAGS = range(0x1F1E6, 0x1F200)  # letters that make a flag in pairs


def cut(text: str, most: int) -> str:
    """The beginning of a text, of at most so many characters; at least one character as a reader sees it."""
    return text[: _end(text, most)].rstrip() or text[: _end(text, most)]


def pieces(text: str, most: int) -> list[str]:
    """A text in parts of about equal length, each of at most about so many characters; none is only white space."""
    number = -(-len(text) // max(1, most))
    found: list[str] = []
    while text and number > 1:
        end = _end(text, -(-len(text) // number))
        found.append(text[:end])
        text, number = text[end:], number - 1
    return [piece for piece in (*found, text) if piece.strip()]


def _end(text: str, most: int) -> int:
    """Where to cut, at most there; further only where the first character is longer."""
    if most >= len(text):
        return len(text)
    most = max(1, most)
    for end in range(most, int(most * (1 - NEAR)), -1):
        if text[end].isspace() or text[end - 1].isspace():
            return end
    end = most
    while end > 0 and _is_inside(text, end):
        end -= 1
    if end:
        return end
    end = most
    while end < len(text) and _is_inside(text, end):
        end += 1
    return end


def _is_inside(text: str, at: int) -> bool:
    """Whether what stands before and after a place belongs together."""
    before, after = text[at - 1], text[at]
    if unicodedata.category(after).startswith("M") or _JOINER in (before, after):
        return True
    if ord(after) in _JAMO or ord(after) in _TONES or (before, after) == ("\r", "\n"):
        return True
    if ord(after) in _FLAGS and ord(before) in _FLAGS:
        flags = at
        while flags and ord(text[flags - 1]) in _FLAGS:
            flags -= 1
        return (at - flags) % 2 == 1
    return False
