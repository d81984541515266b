"""Several servers beside the first one: whether they have the same model. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from embedwire._servers.facts import same_model
from embedwire.doctor.asking import printable
from embedwire.doctor.findings import Examined, Finding, note, ok, problem
from embedwire.doctor.likeness import apart, cosine

SAME = 1e-4  # of a vector's length
RELATED = 0.95  # cosine: the same weights in fewer bits
_EMBED_AGAIN = "Never search with one what the other embedded: use one model, or embed everything again."


def compared(servers: Sequence[Examined]) -> tuple[Finding, ...]:
    """Each further server that embedded, beside the first one that did."""
    able = [server for server in servers if server.vector is not None]
    return tuple(_beside(able[0], other) for other in able[1:])


def _beside(one: Examined, other: Examined) -> Finding:
    assert one.vector is not None  # noqa: S101 - it embedded
    assert other.vector is not None  # noqa: S101
    who = f"{other.url} beside {one.url}"
    models = f"model {_name(other)} instead of {_name(one)}"
    differ = not same_model(one.model, other.model)
    if len(one.vector) != len(other.vector):
        widths = f"{len(other.vector)} numbers a vector instead of {len(one.vector)}"
        return problem("same model", f"{who}: {widths}, {models}", _EMBED_AGAIN)
    near, far = cosine(one.vector, other.vector), apart(one.vector, other.vector)
    if near < RELATED:
        what = models if differ else f"another model of the same name, {_name(one)}"
        return problem("same model", f"{who}: {what}; the same text has a cosine of {near:.3f}", _EMBED_AGAIN)
    if differ:
        cure = "Give both the same name: embedwire takes another name for another model."
        return note("same model", f"{who}: {models}, with like vectors (cosine {near:.5f})", cure)
    if far > SAME:
        what = f"the same text's vectors are apart by {100 * far:.2g} % (cosine {near:.5f})"
        return note("same model", f"{who}: {what}", "Serve the same file on both: the quantisation differs.")
    return ok("same model", f"{who}: the same model, width and vector")


def _name(server: Examined) -> str:
    return "without a name" if server.model is None else repr(printable(server.model))
