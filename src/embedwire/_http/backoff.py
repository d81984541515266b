"""When to send again: the pause before a repeat, and the one that the server asks for. Pure."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping

from embedwire._http.records import Action
from embedwire._settings.options import RetryPolicy

DAY = 86_400.0  # seconds; nobody asks for more
_MONTHS = 1e8  # a number above it is no number of seconds but a moment, in seconds since 1970
_MILLENNIA = 1e11  # above that it is one in milliseconds

_UNITS = {"ms": 0.001, "mill": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_UNIT = r"(?:ms(?:ecs?)?|milliseconds?|s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?)"
_PART = re.compile(rf"({_NUMBER})\s*({_UNIT})(?![a-z])")
_DURATION = rf"{_NUMBER}\s*{_UNIT}(?![a-z])(?:(?:\s|,|and)*{_NUMBER}\s*{_UNIT}(?![a-z]))*"
_ONLY_DURATION = re.compile(_DURATION)
# "try again in 4.2s", "retry after 5 seconds", "retry_after: 5", "wait for 2 minutes", "resets in 6m0s"
_ASKS = re.compile(
    r"\b(?:(?:retry(?:ing)?|again|wait|resets?|available)\b[^0-9.;]{0,40}?\b(?:after|in|for|another|least)|wait)\b"
    r"[^0-9a-z.]{0,3}(?:(?:about|around|approximately|at least|another)\s+)?"
    rf"({_DURATION}|{_NUMBER}(?![0-9.]*[a-z/%-]|,[0-9]))"
)


def retry_after(
    headers: Mapping[str, str], words: str = "", *, now: Callable[[], float] = time.time
) -> float | None:
    """Seconds that the server asks to wait: by ``Retry-After``, else in words, else by when its limit is reset.

    Of a refusal only: with a success, the reset of a limit asks for nothing. Absurd values (not a number, negative,
    over a day) are ignored.

    Args:
        headers: Of the reply; their names in any case.
        words: The server's message.
        now: Seconds since 1970, where the reply has no ``Date``.
    """
    given = {name.lower(): value.strip() for name, value in headers.items()}
    moment = _date(given.get("date", ""))
    here = now() if moment is None else moment  # by the server's own clock, where it tells the time
    asked = _within_a_day(_number(given.get("retry-after-ms", ""), 0.001))
    if asked is None:
        asked = _seconds(given.get("retry-after", ""), here)
    if asked is None:
        asked = hint_in_words(words)
    return _reset(given, here) if asked is None else asked


def hint_in_words(words: str) -> float | None:
    """Seconds that a message asks to wait, such as "try again in 4.2s" or "Please retry after 5 seconds"."""
    found = _ASKS.search(re.sub(r"_|(?<=[a-z])-(?=[a-z])", " ", words.lower()))
    if found is None:
        return None
    asked = _number(found[1], 1.0)
    return _within_a_day(_duration(found[1]) if asked is None else asked)


def _reset(headers: Mapping[str, str], here: float) -> float | None:
    """When a limit lets the next request through; the limit that is used up counts, else the first to be reset."""
    resets = [*_resets(headers, here), *_policies(headers.get("ratelimit", ""))]
    used_up = [seconds for left, seconds in resets if left == 0]
    return max(used_up) if used_up else min((seconds for _, seconds in resets), default=None)


def _resets(headers: Mapping[str, str], here: float) -> Iterator[tuple[float | None, float]]:
    """What is left of each limit, and seconds until its reset, as in ``x-ratelimit-reset-tokens: 6m0s``."""
    for name, value in headers.items():
        if "ratelimit" not in name.replace("rate-limit", "ratelimit") or "reset" not in name:
            continue
        unit = 0.001 if name.endswith("-ms") else 1.0
        seconds = _seconds(value, here, unit)
        if seconds is not None:
            yield _number(headers.get(name.replace("reset", "remaining"), ""), 1.0), seconds


def _policies(value: str) -> Iterator[tuple[float | None, float]]:
    """The same of the one header of IETF's drafts: ``"burst";r=0;t=5, "daily";r=9;t=600``, ``remaining=0, reset=5``."""
    for policy in value.split(",") if ";" in value else [value]:
        parts: dict[str, str] = dict(re.findall(r"\b(r|t|remaining|reset)\s*=\s*([0-9]{1,9})", policy))
        seconds = _within_a_day(_number(parts.get("t", parts.get("reset", "")), 1.0))
        if seconds is not None:
            yield _number(parts.get("r", parts.get("remaining", "")), 1.0), seconds


def _seconds(value: str, here: float, unit: float = 1.0) -> float | None:
    """Seconds from now on: a number, a duration (``6m0s``, ``4s``, ``5 seconds``), a date, a moment since 1970."""
    number = _number(value, 1.0)
    if number is None:
        number = _duration(value)
        if number is not None:
            return _within_a_day(number)
        number = _date(value)
        return None if number is None else _within_a_day(max(0.0, number - here))
    if number < _MONTHS:
        return _within_a_day(number * unit)
    return _within_a_day(max(0.0, (number * 0.001 if number > _MILLENNIA else number) - here))


def _number(value: str, unit: float) -> float | None:
    return float(value) * unit if re.fullmatch(_NUMBER, value) else None


def _duration(value: str) -> float | None:
    value = value.lower()
    if not _ONLY_DURATION.fullmatch(value):
        return None
    return sum(float(number) * _unit(unit) for number, unit in _PART.findall(value))


def _unit(name: str) -> float:
    return next(seconds for start, seconds in _UNITS.items() if name.startswith(start))


def _date(value: str) -> float | None:
    """Seconds since 1970 of a date as HTTP has it, or as ISO 8601 has."""
    for read in (email.utils.parsedate_to_datetime, datetime.datetime.fromisoformat):
        with contextlib.suppress(ValueError, TypeError, OverflowError, IndexError):
            date = read(re.sub("[zZ]$", "+00:00", value))
            return (date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)).timestamp()
    return None


def _within_a_day(seconds: float | None) -> float | None:
    return seconds if seconds is not None and 0 <= seconds <= DAY else None


def delay(
    policy: RetryPolicy,
    action: Action,
    repeat: int,
    asked: float | None,
    rand: Callable[[], float] = random.random,
) -> float:
    """Seconds to wait before a repeat.

    Args:
        policy: The user's numbers.
        action: RETRY or THROTTLE.
        repeat: 1 before the second request, 2 before the third.
        asked: What the server asked for; it is the least, and up to a tenth is added so that not all callers
            come back in the same moment. Where it was waited for and the server still has too much to do, the pause
            grows all the same.
        rand: A number in 0..1.
    """
    chance = rand() if policy.jitter else 0.0
    if action is not Action.THROTTLE:
        if asked:  # 0, or a date that is past: no reason to hurry
            return asked * (1 + 0.1 * chance)
        return _growing(policy, policy.base, repeat) * (chance if policy.jitter else 1.0)
    if asked:
        return max(asked * (1 + 0.1 * chance), _growing(policy, policy.throttled_base, repeat - 1))
    # Never less than that: a server that takes one request a second takes none after 0.03 s.
    return min(policy.cap, _growing(policy, policy.throttled_base, repeat) * (1 + 0.5 * chance))


def _growing(policy: RetryPolicy, base: float, repeat: int) -> float:
    return min(policy.cap, base * policy.multiplier ** min(repeat - 1, 64)) if repeat > 0 else 0.0
