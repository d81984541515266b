"""How far something is, in few words. Pure."""

from __future__ import annotations


def fitting(said: list[str], width: int) -> str:
    """As much of it as a line has room for, and at least a part of the first."""
    line = said[0]
    for one in said[1:]:
        if len(line) + 2 + len(one) > width:
            break
        line += f"  {one}"
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


def clock(seconds: float) -> str:
    """Seconds as ``1:05`` or ``2:03:04``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short(number: int) -> str:
    """A number as ``950``, ``12.3k`` or ``4.5M``."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(number)
