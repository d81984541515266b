"""A fault → the exception that one caller sees; what in the server's words is a text's or a key's. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from embedwire._http.records import Fault
from embedwire.exceptions import RequestError, TextRefused

WITHHELD = "(withheld: the message repeats a text or the key)"
SHORTEST = 4  # characters of a text that is looked for as a whole
RUN = 12  # characters in a row that count as a repetition of a longer one


def to_error(
    fault: Fault, *, attempts: int, server: str, index: int | None, count: int | None
) -> RequestError:
    """The exception for one caller.

    Args:
        fault: What went wrong.
        attempts: Requests that were sent for the text.
        server: Base URL.
        index: The text, in the caller's list; None where no text was involved.
        count: Length of that list; None where it is not known.
    """
    where = server if index is None else f"{server}, texts[{index}]" + (f" of {count}" if count else "")
    tries = f", after {attempts} request{'s' * (attempts != 1)}" if attempts else ""
    words = f' The server says: "{fault.words.rstrip(".")}".' if fault.words else ""
    error = fault.error(f"{fault.what}: {where}{tries}.{words} {fault.cure}")
    error.server = server
    error.index = index
    error.attempts = attempts
    error.status = fault.status
    error.retry_after = fault.retry_after
    error.tokens = fault.tokens
    error.limit = fault.limit
    if isinstance(error, TextRefused):
        error.too_long = fault.too_long
    return error


def screened(words: str, secrets: Iterable[str]) -> str:
    """The server's words, or a note in their place where they repeat a text or a key.

    Servers quote what they were sent, escaped or not. A text counts as repeated when 12 of its characters
    in a row, or all of a shorter one of at least 4, stand in the message.
    """
    runs = _hashes(words)
    for secret in secrets:
        for form in _forms(secret):
            if len(form) < SHORTEST:
                continue
            if form in words if len(form) < RUN else _repeats(words, runs, form):
                return WITHHELD
    return words


def unquoted(words: str, texts: Iterable[str]) -> str:
    """The server's own words, without what it repeats of the texts: a text may speak of rate limits or of models, too.

    Left out are 12 characters in a row and more of a text, and a shorter text where it stands in quotes, in brackets
    or behind a colon.
    """
    runs = _hashes(words)
    if not words:
        return ""
    table, own = _table(runs), np.ones(len(words), dtype=bool)
    for text in texts:
        for form in _forms(text):
            if len(form) < RUN:
                quotes = _quoted(form).finditer(words) if form and form in words else ()
                for quote in quotes:
                    own[slice(*quote.span())] = False
            elif len(runs):
                hashes = _hashes(form)
                likely = hashes[table[hashes >> np.uint64(48)]]
                for at in np.flatnonzero(np.isin(runs, likely)):
                    own[at : at + RUN] = False
    left = "".join(char if mine else "\0" for char, mine in zip(words, own.tolist(), strict=True))
    return re.sub("\0+", "…", left)


def _quoted(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=[\"'`“«(\[{{<:=])\s?{re.escape(text)}(?=[\"'`”»)\]}}>,;]|\.?$)")


def _forms(text: str) -> set[str]:
    """How a server may repeat a text: as it is, or escaped."""
    return {" ".join(text.split()), ascii(text)[1:-1], orjson.dumps(text).decode()[1:-1]}


def _repeats(words: str, runs: NDArray[np.uint64], text: str) -> bool:
    """Whether 12 characters in a row of a text stand in some words; linear in the text, which may have megabytes."""
    if len(runs) == 0:
        return False
    hashes = _hashes(text)
    candidates = np.flatnonzero(_table(runs)[hashes >> np.uint64(48)])
    found = candidates[np.isin(hashes[candidates], runs)]
    return any(text[at : at + RUN] in words for at in found.tolist())


def _table(runs: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """For each start of a hash, whether one of the runs has it."""
    table = np.zeros(2**16, dtype=bool)
    table[runs >> np.uint64(48)] = True
    return table


def _hashes(text: str) -> NDArray[np.uint64]:
    """The hash of each 12 characters in a row: of one, of two, of four, of eight, and of eight and four."""
    if len(text) < RUN:
        return np.empty(0, dtype=np.uint64)
    one = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    two: Any = one[:-1] + one[1:] * _POWERS[1]
    four = two[:-2] + two[2:] * _POWERS[2]
    eight = four[:-4] + four[4:] * _POWERS[4]
    hashes: NDArray[np.uint64] = (eight[:-4] + four[8:] * _POWERS[8]) * _POWERS[1]
    return hashes  # times a factor once more, so that the first bits, too, depend on every character


_FACTOR = 0x9E3779B97F4A7C15  # odd, its bits well mixed: 2**64 over the golden ratio
_POWERS = {power: np.uint64(pow(_FACTOR, power, 2**64)) for power in (1, 2, 4, 8)}
