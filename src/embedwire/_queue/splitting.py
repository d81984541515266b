"""How a batch that failed is divided before it is sent again. Pure."""

from __future__ import annotations

from embedwire._http.records import Fault, History
from embedwire._queue.records import Batch, Item

FEW = 4  # one in so many texts


def wanted(batch: Batch) -> list[Item]:
    """The texts of a batch that somebody still wants."""
    return [item for item in batch.items if any(True for _ in item.rows())]


def parts(batch: Batch, fault: Fault, history: History) -> list[list[Item]]:
    """The parts to send next, in order: what may be at fault apart from what is not.

    Args:
        batch: What failed.
        fault: How.
        history: What happened to its texts so far, this failure included.
    """
    items = wanted(batch)
    suspect = None if fault.position is None else batch.items[fault.position]
    if suspect in items:
        return [part for part in ([item for item in items if item is not suspect], [suspect]) if part]
    if fault.too_long:
        return by_length(items, first=history.sent == 1)
    # What harms the server is not tried out on it more often than it must be: by caller, then in ever more parts.
    harms = history.timeouts + history.breaks if fault.harmful else 1
    if harms > 1 and len(groups := by_caller(items)) > 1:
        return groups
    pieces = 2 ** max(1, harms)
    size = max(1, min(fault.max_texts or len(items), (len(items) + pieces - 1) // pieces))
    return [items[at : at + size] for at in range(0, len(items), size)]


def by_length(items: list[Item], *, first: bool) -> list[list[Item]]:
    """The shorter half of some texts, and the longer one.

    Args:
        items: They.
        first: They were not divided before. Then a few that are far longer than the rest are set aside instead, each
            alone: this may be wrong, but costs no more than a quarter of the texts once.
    """
    items = sorted(items, key=lambda item: len(item.text))
    long = sum(2 * len(item.text) > len(items[-1].text) for item in items)
    if first and 0 < long <= len(items) / FEW:
        return [items[:-long], *([item] for item in items[-long:])]
    half = (len(items) + 1) // 2
    return [part for part in (items[:half], items[half:]) if part]


def by_caller(items: list[Item]) -> list[list[Item]]:
    """The texts, by the first open call that wants each."""
    groups: dict[object, list[Item]] = {}
    for item in items:
        call, _ = next(item.rows())
        groups.setdefault(call, []).append(item)
    return list(groups.values())
