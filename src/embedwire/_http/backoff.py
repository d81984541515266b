"""When to send again: the pause before a repeat, and the one that the server asks for. Pure."""

from __future__ import annotations

import datetime
import email.utils
import random
import re
import time
from collections.abc import Callable, Mapping

from embedwire._http.records import Action
from embedwire._settings.options import RetryPolicy

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def retry_after(headers: Mapping[str, str], *, now: Callable[[], float] = time.time) -> float | None:
    """Seconds that the server asks to wait, from ``retry-after-ms`` or ``Retry-After`` (seconds or a date).

    Absurd values (not a number, negative, over a day) are ignored.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if _SECONDS.fullmatch(value):
            seconds = float(value) * unit
        else:
            try:
                date = email.utils.parsedate_to_datetime(value)
                date = date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)
                seconds = max(0.0, date.timestamp() - now())
            except (ValueError, TypeError, OverflowError):
                continue
        if 0 <= seconds <= 86_400:
            return seconds
    return None


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
            come back in the same moment.
        rand: A number in 0..1.
    """
    jitter = rand() if policy.jitter else 1.0
    if asked:  # 0, or a date that is past: no reason to hurry
        return asked + (asked * 0.1 * jitter if policy.jitter else 0.0)
    base = policy.throttled_base if action is Action.THROTTLE else policy.base
    return min(policy.cap, base * policy.multiplier ** min(repeat - 1, 64)) * jitter
