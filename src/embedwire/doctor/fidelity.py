"""Checks of the vectors themselves: their length, and whether batch, base64 and ``dimensions`` give the right ones."""

from __future__ import annotations

import numpy as np

from embedwire.doctor.asking import Asker, Heard
from embedwire.doctor.contact import TEXT, Met
from embedwire.doctor.findings import Finding, note, ok, problem
from embedwire.doctor.likeness import Vector, apart, cosine

EXACT, CLOSE = 1e-5, 0.05  # of a vector's length: as good as equal; harmless for the order of results
SHORT = "stethoscope"
LONG = (
    "A patient of sixty years came in the morning with a cough that had begun in the mountains, and said that "
    "neither tea with honey nor three days in bed had helped against it; so the nurse wrote down what he had eaten."
)
_FILLING = (
    "rain",
    "the ship leaves the harbour at noon",
    "Which city is the capital of Korea?",
    "She repairs old violins, and sells them to orchestras in the south for more than they are worth.",
    "0123456789",
)


async def unit_length(ask: Asker, met: Met) -> Finding:
    """Whether vectors have length one, so that dot product and cosine are the same."""
    heard = await ask.embed([LONG])
    vectors = [met.vector] if heard.matrix is None else [met.vector, heard.matrix[0]]
    norms = [float(np.linalg.norm(vector)) for vector in vectors]
    if max(abs(norm - 1) for norm in norms) < 1e-3:
        return ok("unit length", "each vector has length 1")
    lengths = " and ".join(f"{norm:.3g}" for norm in norms)
    return note(
        "unit length",
        f"vectors have lengths such as {lengths}, not 1",
        "Pass normalize=True, or search by cosine: a dot product prefers long vectors.",
    )


async def drift(ask: Asker, met: Met) -> Finding:
    """Whether a text has the same vector alone and in a batch, and each text its own."""
    alone = [met.vector]
    for text in (SHORT, LONG):
        heard = await ask.embed([text])
        if heard.matrix is None:
            return problem("batch and alone", f"a text alone: {heard.why}", "See the server's log.")
        alone.append(heard.matrix[0])
    heard = await ask.embed([SHORT, *_FILLING, LONG, TEXT])
    if heard.matrix is None:
        return problem(
            "batch and alone", f"{len(_FILLING) + 3} texts in a request: {heard.why}", "Pass batch_size=1."
        )
    rows = [heard.matrix[-1], heard.matrix[0], heard.matrix[-2]]
    if any(len(row) != met.width for row in rows):
        return problem("batch and alone", "vectors of another width in a batch", "Pass batch_size=1.")
    if not all(_nearest(vector, heard.matrix) == place for vector, place in zip(alone, _PLACES, strict=True)):
        return problem(
            "batch and alone",
            "a batch's vectors are not in the order of its texts, or too far from those of the texts alone",
            "Do not use it like this. Pass batch_size=1, and look for an update of the server.",
        )
    return _drifts(max(apart(one, row) for one, row in zip(alone, rows, strict=True)))


_PLACES = (len(_FILLING) + 2, 0, len(_FILLING) + 1)  # of the three texts in the batch


def _nearest(vector: Vector, matrix: Vector) -> int:
    return int(np.argmax([cosine(vector, row) for row in matrix]))


def _drifts(most: float) -> Finding:
    if most <= EXACT:
        return ok("batch and alone", "a text has the same vector alone and in a batch")
    what = f"a text's vector in a batch is off by {100 * most:.2g} % of its length"
    if most <= CLOSE:
        return note(
            "batch and alone",
            what,
            "Compare vectors by nearness, never for equality. One slot (llama-server: -np 1) or f32 weights end it.",
        )
    return problem(
        "batch and alone",
        what,
        "Pass batch_size=1 until the server is updated: results come in another order.",
    )


async def base64(ask: Asker, met: Met) -> Finding:
    """Whether vectors in base64 are those in decimal numbers."""
    heard = await ask.embed([TEXT], encoding="base64")
    slower = "Nothing to do: embedwire takes decimal numbers then. Replies are some three times as large."
    if heard.matrix is None:
        if heard.refused:
            return note("base64", heard.refusal, slower)
        return problem("base64", heard.why, _DECIMAL)
    if not heard.base64:
        return note("base64", "ignored: decimal numbers came back", slower)
    row = heard.matrix[0]
    if len(row) != met.width or apart(met.vector, row) > CLOSE:
        return problem("base64", "vectors in base64 are not those in decimal numbers", _DECIMAL)
    return ok("base64", "right: the same vector as in decimal numbers")


_DECIMAL = 'Pass encoding="float"; have other clients ask for encoding_format "float".'


async def dimensions(ask: Asker, met: Met) -> Finding:
    """Whether a number of dimensions is obeyed."""
    wanted = met.width // 2
    if not wanted:
        return ok("dimensions", "there is one number a vector")
    heard = await ask.embed([TEXT], dimensions=wanted)
    cure = (
        f"Leave dimensions= out, or let embedwire cut: dimensions={wanted} cuts here and brings back to length 1, "
        "which is only good for models trained for it (Matryoshka)."
    )
    if heard.matrix is None:
        return note("dimensions", heard.refusal if heard.refused else heard.why, cure)
    width = heard.matrix.shape[1]
    if width == met.width:
        return note("dimensions", f"ignored: {width} numbers came back for dimensions={wanted}", cure)
    if width != wanted:
        return problem("dimensions", f"{width} numbers came back for dimensions={wanted}", cure)
    return _cut(met, heard, wanted)


def _cut(met: Met, heard: Heard, wanted: int) -> Finding:
    assert heard.matrix is not None  # noqa: S101 - who calls has looked
    before, after = (float(np.linalg.norm(vector)) for vector in (met.vector, heard.matrix[0]))
    if abs(before - 1) < 1e-3 < abs(after - 1):
        return note(
            "dimensions",
            f"obeyed, but what was cut has length {after:.2g}",
            f"Nothing to do with embedwire: dimensions={wanted} brings it to length 1. Have other clients do it.",
        )
    return ok("dimensions", f"obeyed: {wanted} numbers came back for dimensions={wanted}")


async def fields(ask: Asker) -> Finding:
    """Whether it takes the field that the usual clients send with each request."""
    heard = await ask.embed([TEXT], encoding="float")
    if heard.fault is None:
        return ok("fields", 'it takes encoding_format "float"')
    return note(
        "fields",
        f'encoding_format "float": {heard.refusal if heard.refused else heard.why}',
        "Pass encoding=None, which leaves the field out. Have other clients leave it out, too.",
    )
