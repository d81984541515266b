"""Checks of how much a server takes: texts in a request, and words in a text."""

from __future__ import annotations

from dataclasses import dataclass

from embedwire._servers.bounds import STEPS
from embedwire.doctor.asking import Asker, Heard
from embedwire.doctor.contact import Met
from embedwire.doctor.findings import Finding, note, ok, problem
from embedwire.doctor.likeness import Vector, alike

MOST_TEXTS = STEPS[-1]  # that embedwire itself puts into one request
FEWEST_WORDS, MOST_WORDS = 128, 8192
FINENESS = 32  # parts of the interval in which the end of a text is looked for
SLOW = 0.4  # of the timeout: no longer text is tried after one that took so much of it


async def batch_size(ask: Asker, met: Met) -> Finding:
    """How many texts a request may carry, of those that embedwire tries."""
    most = MOST_TEXTS
    while most > 1 and most * met.seconds > 2 * ask.timeout:
        most //= 2  # a slow server would only run into the timeout
    count, refused, why = await _largest(ask, most)
    if why:
        return problem("batch size", f"{count} texts in a request: {why}", "Pass batch_size=1.")
    if not refused:
        slower = "" if most == MOST_TEXTS else f" ({MOST_TEXTS} would take it too long to try)"
        return ok("batch size", f"{count} texts in a request are taken{slower}")
    return note(
        "batch size",
        f"{count} texts in a request are taken, {refused} are not",
        f"embedwire finds it out at the price of a refusal; pass batch_size={count} to spare it. Other clients "
        "must be told.",
    )


async def _largest(ask: Asker, most: int) -> tuple[int, int, str]:
    """The number of texts that is taken, the next one that is not (0: none), and what else went wrong ("": nothing)."""
    count, refused = most, 0
    while True:
        heard = await ask.embed([f"text {number}" for number in range(count)])
        if heard.fault is None:
            return count, refused, ""
        if not (heard.refused or heard.silent) or count == 1:
            return count, refused, heard.why
        told = heard.fault.max_texts
        refused, count = count, told if told is not None and told < count else count // 2


@dataclass(frozen=True, slots=True)
class _Tried:
    """A text of so many words, and what came of it."""

    words: int
    heard: Heard

    @property
    def vector(self) -> Vector:
        """Its vector, where it has one."""
        assert self.heard.matrix is not None  # noqa: S101 - who asks has looked
        row: Vector = self.heard.matrix[0]
        return row

    @property
    def size(self) -> str:
        """Its words, and its tokens where the server counts them."""
        tokens = self.heard.tokens
        return f"{self.words} words" + (f" ({tokens} tokens)" if tokens else "")


async def long_texts(ask: Asker, met: Met) -> Finding:
    """Where a text's end is refused, or silently left out: doubled until something happens, then searched between."""
    last = await _try(ask, FEWEST_WORDS)
    while last.heard.matrix is not None and last.words < MOST_WORDS:
        if last.heard.seconds > SLOW * ask.timeout:
            return ok("long texts", f"taken up to {last.size} at least; longer ones are slow here")
        longer = await _try(ask, 2 * last.words)
        if longer.heard.matrix is None:
            return await _refused(ask, met, last, longer)
        if alike(last.vector, longer.vector):
            return await _cut(ask, last.words // 2, last)
        last = longer
    if last.heard.matrix is None:
        return await _refused(ask, met, None, last)
    most = await _try(ask, MOST_WORDS - MOST_WORDS // FINENESS)
    if most.heard.matrix is not None and alike(most.vector, last.vector):
        return await _cut(ask, MOST_WORDS // 2, most)
    return ok("long texts", f"taken whole up to {last.size} at least")


async def _cut(ask: Asker, below: int, whole: _Tried) -> Finding:
    """The shortest beginning of a text that has the whole text's vector, which one of ``below`` words has not."""
    above = whole
    while above.words - below > max(1, whole.words // FINENESS):
        middle = await _try(ask, (below + above.words) // 2)
        if middle.heard.matrix is not None and alike(middle.vector, whole.vector):
            above = middle
        else:
            below = middle.words
    return problem(
        "long texts",
        f"cut in silence: what stands behind about {above.size} does not count",
        "Split longer texts before you embed them, or have the server refuse them instead: then too_long= of "
        "embedwire decides.",
    )


async def _refused(ask: Asker, met: Met, taken: _Tried | None, refused: _Tried) -> Finding:
    """What the refusal of a text says, and from how many words on it comes."""
    fault = refused.heard.fault
    assert fault is not None  # noqa: S101 - there is no vector
    if refused.heard.silent:
        return note(
            "long texts",
            f"{refused.words} words got no answer within {ask.timeout:g} s",
            "Split long texts, or raise timeout=.",
        )
    if fault.limit is not None:
        return _told(met, fault.limit)
    if taken is None or not (fault.of_text or refused.heard.refused):
        return problem(
            "long texts", f"{refused.words} words: {refused.heard.why}", "Split texts; see the server's log."
        )
    below, above = taken.words, refused.words
    while above - below > max(1, refused.words // FINENESS):
        middle = await _try(ask, (below + above) // 2)
        below, above = (middle.words, above) if middle.heard.matrix is not None else (below, middle.words)
    return ok("long texts", f"not cut, but from about {above} words on {refused.heard.refusal}")


def _told(met: Met, limit: int) -> Finding:
    context = met.told.context
    if context is not None and limit < context:
        return note(
            "long texts",
            f"refused above {limit} tokens, although the context is {context}",
            f"Start llama-server with -b {context} -ub {context}; or pass too_long='truncate' or 'average'.",
        )
    return ok("long texts", f"refused above {limit} tokens, not cut: too_long= decides what becomes of them")


async def _try(ask: Asker, words: int) -> _Tried:
    return _Tried(words, await ask.embed([text_of(words)]))


def text_of(words: int) -> str:
    """A text of so many words, a beginning of any longer one; each stretch of it speaks of something else."""
    return " ".join(_word(place) for place in range(words))


def _word(place: int) -> str:
    topic = _TOPICS[max(0, (place // FEWEST_WORDS).bit_length()) % len(_TOPICS)]
    return topic[(place * place + place // 7) % len(topic)]


_TOPICS = [
    words.split()
    for words in (
        "river stone meadow forest rain mountain valley cloud autumn wind",
        "engine wheel piston fuel brake road driver garage speed tyre",
        "violin concert melody singer piano stage rhythm choir drum song",
        "butter onion pepper oven bread salt soup kitchen plate cheese",
        "senator election law vote party treaty minister court debate tax",
        "planet orbit rocket star comet telescope moon gravity crater probe",
        "goal referee stadium league striker penalty coach season ball fans",
        "nurse fever tablet surgeon cough wound vaccine clinic pulse bandage",
    )
]
