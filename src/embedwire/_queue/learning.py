"""What the end of a batch teaches about how large the next ones may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from embedwire._http.records import Fault
from embedwire._queue.records import Batch
from embedwire.events import LimitLearnt


def note_size(batch: Batch, took: float) -> None:
    """A batch of this size went well; where all parts of a refused one did, it was refused for its size."""
    sizing, texts, chars = batch.route.sizes.sizing, len(batch.items), batch.chars
    with _changes_told(batch):
        sizing.texts.taken(texts)
        sizing.chars.taken(chars)
        sizing.lengths.taken(max(len(item.text) for item in batch.items))
        if not batch.hedges:
            batch.route.sizes.tuners[batch.kind].done(batch.number, batch.work, took)
        whole = batch.whole
        if whole is None or not whole.parts:
            return
        whole.parts -= 1
        whole.texts = max(whole.texts, texts)
        whole.chars = max(whole.chars, chars)
        if not whole.parts:
            cap = sizing.texts if whole.of == "texts" else sizing.chars
            cap.inferred(whole.texts if whole.of == "texts" else whole.chars)


def note_named(batch: Batch, fault: Fault) -> None:
    """The server may have said how many texts it takes."""
    if fault.max_texts is not None and fault.max_texts < len(batch.items):
        with _changes_told(batch):
            batch.route.sizes.sizing.texts.named(fault.max_texts)


def note_refused(batch: Batch, fault: Fault) -> None:
    """A batch of this size was refused as a whole, for its size perhaps."""
    sizing = batch.route.sizes.sizing
    if not batch.history.bisecting:  # a part of what failed tells nothing more
        batch.route.sizes.tuners[batch.kind].failed(len(batch.items))
    if fault.of_size:
        with _changes_told(batch):
            sizing.texts.refused(len(batch.items))
            if fault.of_size == "chars":
                sizing.chars.refused(batch.chars)


@contextmanager
def _changes_told(batch: Batch) -> Iterator[None]:
    """Tells of caps that are others afterwards."""
    sizing = batch.route.sizes.sizing
    texts, chars = sizing.texts.most, sizing.chars.most
    yield
    if sizing.texts.most not in (None, texts):
        _tell(batch, "texts", sizing.texts.most)
    if sizing.chars.most not in (None, chars):
        _tell(batch, "characters", sizing.chars.most)


def _tell(batch: Batch, of: Literal["texts", "characters"], limit: int | None) -> None:
    assert limit is not None  # noqa: S101 - it was learnt
    server, model = batch.route.server, batch.route.form.model
    batch.lane.pool.tell(LimitLearnt(server=server, model=model, of=of, limit=limit))
