"""What of a failure goes up: without any word of the server that repeats a text or a key."""

from __future__ import annotations

from dataclasses import replace

from embedwire._http.messages import WITHHELD, screened
from embedwire._http.records import Action, Fault, History, Refused
from embedwire._http.threads import in_thread

LARGE_TEXTS = 100_000  # characters that are screened on the loop; more are in a thread


async def refusal(action: Action, fault: Fault, history: History, secrets: list[str]) -> Refused:
    """What goes up.

    Args:
        action: What may help.
        fault: What went wrong.
        history: Of the texts.
        secrets: They, and the keys.
    """
    if not fault.words:
        return Refused(action, fault, history)
    if sum(map(len, secrets)) > LARGE_TEXTS:
        words = await in_thread(screened, fault.words, secrets)
    else:
        words = screened(fault.words, secrets)
    # A number in words that repeat a text may be the text's.
    cap = None if words == WITHHELD else fault.max_texts
    return Refused(action, replace(fault, words=words, max_texts=cap), history)
