"""Checks of single values. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from embedwire.exceptions import InputError


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can carry a text: it has no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain(text: str) -> str:
    """A str as the wire has it: what a subclass of str calls equal may be something else to the server."""
    return text if type(text) is str else str.__str__(text)


def shown(value: object) -> str:
    """A refused value as a message may show it: a number as it is, all else, which may be a key, by its type."""
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and no bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False


def check_int(name: str, value: object, *, least: int, also: str = "") -> None:
    """Raises InputError where ``value`` is no int of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(
            f"{name} must be an int of at least {least}{also and ', ' + also}, not {shown(value)}"
        )


def check_bool(name: str, value: object) -> bool:
    """The value, where it is True or False.

    Raises:
        InputError: It is neither.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, not {shown(value)}")
    return value


def check_seconds(name: str, value: object, *, zero: bool = False, none: bool = True, also: str = "") -> None:
    """Raises InputError where ``value`` is no number of seconds."""
    if value is None and none:
        return
    if not is_number(value) or value < 0 or (value == 0 and not zero):  # type: ignore[operator]
        raise InputError(
            f"{name} must be a number of seconds above 0{' or 0' if zero else ''}"
            f"{', None for no limit' if none else ''}{also and ', or ' + also}, not {shown(value)}"
        )


def json_of(name: str, fields: object) -> str:
    """Fields of a request as a JSON object in one spelling, so that equal ones are equal; "{}" for none.

    Raises:
        InputError: They are no mapping that JSON can carry, or have a field with an option of its own.
    """
    if not isinstance(fields, Mapping) or not all(isinstance(field, str) for field in fields):
        raise InputError(f"{name} must be a mapping of str to JSON values, not {shown(fields)}")
    for field, instead in _OPTIONS_OF_FIELDS.items():
        if field in fields:
            raise InputError(f"{name} must not have the field {field!r}; {instead}")
    try:
        text = json.dumps(dict(fields), allow_nan=False, ensure_ascii=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        text = "\ud800"
    if not is_unicode(text):
        raise InputError(
            f"{name} has a value that JSON cannot carry; use str, numbers, bools, None, lists, dicts"
        )
    return text


_OPTIONS_OF_FIELDS = {
    "input": "it is for the texts",
    "model": "pass model=",
    "dimensions": "pass dimensions=",
    "encoding_format": "pass encoding=; with None the field is left out",
}
