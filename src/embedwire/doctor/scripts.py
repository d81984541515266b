"""Checks of texts that are not plain English: Korean, emoji, NUL."""

from __future__ import annotations

from embedwire.doctor.asking import Asker
from embedwire.doctor.findings import Finding, note, ok, problem
from embedwire.doctor.likeness import alike

KOREAN = ("서울은 대한민국의 수도이다.", "김치는 배추를 소금에 절여 만든 발효 음식이다.")
EMOJI = ("today 🎉🚀", "today 😭🔥")
BEFORE = "the first part"  # of a NUL
BEHIND = "\0 and quite another second one"
_UNREAD = "Use a model that was trained for it: what it cannot read, no search finds."


async def scripts(ask: Asker) -> Finding:
    """Whether two Korean texts, and two texts that differ in emoji, have different vectors."""
    heard = await ask.embed([*KOREAN, *EMOJI])
    if heard.matrix is None:
        return problem(
            "Korean, emoji", heard.why, "See the server's log; take such texts out until it is cured."
        )
    unread = [
        what
        for what, (one, other) in (("Korean", (0, 1)), ("emoji", (2, 3)))
        if alike(heard.matrix[one], heard.matrix[other])
    ]
    if unread:
        which = " and ".join(unread)
        return note("Korean, emoji", f"{which}: different texts have the same vector", _UNREAD)
    return ok("Korean, emoji", "taken, and told apart")


async def nul(ask: Asker) -> Finding:
    """Whether a text with a NUL in it is embedded whole."""
    heard = await ask.embed([BEFORE, BEFORE + BEHIND])
    cure = r'Take NUL out of texts before they are embedded: text.replace("\0", "").'
    if heard.matrix is None:
        if heard.refused:
            return note("NUL", f"a text with a NUL in it: {heard.refusal}", cure)
        return problem("NUL", f"a text with a NUL in it: {heard.why}", cure)
    if alike(heard.matrix[0], heard.matrix[1]):
        return problem("NUL", "what stands behind a NUL in a text is left out without a word", cure)
    return ok("NUL", "a text with a NUL in it is embedded whole")
