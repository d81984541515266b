"""What always holds of the queue, between any two steps of its loop. Reads private state, and changes none."""

from __future__ import annotations

from embedwire._queue.dispatcher import Dispatcher
from embedwire._queue.lane import KINDS, Lane
from embedwire._queue.records import OPEN, ROWS, Batch, Call, Item


def check_queue(dispatcher: Dispatcher) -> None:
    """Nobody waits for what nobody works on, nothing is kept that nobody wants, and the counters agree.

    Raises:
        AssertionError: It is not so.
    """
    lanes, calls = list(dispatcher._lanes.values()), dispatcher._calls.all()
    for lane in lanes:
        assert lane.busy, "a lane without work was kept"
        _check_lane(lane)
    for call in calls:
        assert call.lane in lanes, "an open call is in no lane"
        _check_call(call)
    for kind in KINDS:
        left = sum(call.left for call in calls if call.kind == kind)
        assert dispatcher._calls.texts[kind] == left, "texts are counted that no open call has left"
    assert dispatcher.queued == sum(call.left for call in calls)
    held = sum(batch.slot is not None and batch.slot.held for lane in lanes for batch in _under_way(lane))
    assert sum(slots.in_flight for slots in dispatcher._slots) >= held, "more slots are held than counted"


def nothing_left(dispatcher: Dispatcher) -> None:
    """No call, text, lane, batch, slot, wish or repeat is left in an idle queue.

    Raises:
        AssertionError: Something is.
    """
    assert dispatcher.queued == 0
    assert not dispatcher._calls.all()
    assert not dispatcher._lanes
    for slots in dispatcher._slots:
        assert slots.in_flight == 0
        assert not slots._wishes
        assert all(waiting.done() for kind in KINDS for waiting in slots._waiting[kind])


def _under_way(lane: Lane) -> set[Batch]:
    return {batch for kind in KINDS for batch in lane.under_way[kind]}


def _parts(lane: Lane) -> set[Batch]:
    return {batch for kind in KINDS for batch in lane.parts[kind]}


def _check_lane(lane: Lane) -> None:
    waiting = _waiting(lane)
    for text, item in lane.items.items():
        if isinstance(item, int):  # it waits for one call alone
            call, row = lane._numbered[item // ROWS], item % ROWS
            assert call.texts[row] == text
            assert call.items[row] is None
            assert not call.open or call.rows[row] == OPEN
            continue
        assert item.text == text
        assert item.wanted > 0, "a text was kept that nobody wants"
        assert item.wanted >= sum(1 for _ in item.rows()), "a row waits for a text that does not count it"
        assert _is_worked_on(item, lane, waiting), "a text is in the queue, and nobody works on it"
    for batch in _under_way(lane) | _parts(lane):
        wanted = sum(item.wanted > 0 and item.batch is batch for item in batch.items)
        assert batch.wanted >= wanted, "a batch has texts that it does not count"


def _check_call(call: Call) -> None:
    assert call.open
    assert call.left > 0, "a call is open whose rows are all done"
    assert call.left == call.rows.count(OPEN), "a call counts its rows wrongly"
    waiting = _waiting(call.lane)
    for row, item in enumerate(call.items):
        if call.rows[row] == OPEN and item is None:
            assert call.cursor <= row, "a call waits for what nobody works on"
            assert call in call.lane.calls[call.kind], "a call waits for what nobody works on"
        elif item is not None and call.rows[row] == OPEN:
            assert _is_worked_on(item, call.lane, waiting), "a call waits for what nobody works on"


def _waiting(lane: Lane) -> set[Item]:
    """The texts that an open call will have taken in its turn."""
    return {
        item
        for kind in KINDS
        for call in lane.calls[kind]
        for item in call.items[call.cursor :]
        if call.open and item is not None and item.batch is None
    }


def _is_worked_on(item: Item, lane: Lane, waiting: set[Item]) -> bool:
    batch = item.batch
    if batch is None:
        return item in waiting
    if not any(item is one for one in batch.items):
        return False
    return batch in lane.under_way[batch.kind] or batch in lane.parts[batch.kind]
