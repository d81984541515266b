"""A fault → the exception that one caller sees, with the index of the text in that caller's list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from embedwire._retry import Action, Fault
from embedwire.exceptions import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a text has no vector, and how many requests were sent for it."""

    fault: Fault
    attempts: int


class Failed(Exception):
    """A batch that got no vectors, and what to do about it: SPLIT or GIVE_UP."""

    def __init__(self, action: Action, fault: Fault, attempts: int = 1) -> None:
        super().__init__(fault.what)
        self.action = action
        self.fault = fault
        self.attempts = attempts


def to_error(failure: Failure, *, server: str, index: int | None, count: int | None) -> RequestError:
    """The exception for one caller.

    Args:
        failure: What went wrong.
        server: Base URL.
        index: The text, in the caller's list; None where no text was involved.
        count: Length of that list; None where it is not known.
    """
    fault = failure.fault
    where = server if index is None else f"{server}, texts[{index}]" + (f" of {count}" if count else "")
    tries = f", after {failure.attempts} request{'s' * (failure.attempts != 1)}" if failure.attempts else ""
    words = f' The server says: "{fault.words.rstrip(".")}".' if fault.words else ""
    error = fault.error(f"{fault.what}: {where}{tries}.{words} {fault.cure}")
    error.server = server
    error.index = index
    error.attempts = failure.attempts
    error.status = fault.status
    error.retry_after = fault.retry_after
    error.tokens = fault.tokens
    error.limit = fault.limit
    return error


def screened(words: str, secrets: Iterable[str]) -> str:
    """The server's words, or a note in their place where they repeat a text or a key.

    Servers quote what they were sent, escaped or not. A text counts as repeated when 12 of its characters
    in a row, or all of a shorter one of at least 4, stand in the message.
    """
    windows = [words[at : at + 12] for at in range(len(words) - 11)]
    for secret in secrets:
        for form in {" ".join(secret.split()), ascii(secret)[1:-1], orjson.dumps(secret).decode()[1:-1]}:
            if len(form) >= 4 and (form in words or any(window in form for window in windows)):
                return WITHHELD
    return words


WITHHELD = "(withheld: the message repeats a text or the key)"
