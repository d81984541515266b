"""What came of a batch: vectors go into their callers' rows, a refusal is divided until it is known whose it is."""

from __future__ import annotations

from dataclasses import replace

from embedwire._events.audience import tell
from embedwire._events.heard import ears_of
from embedwire._http.records import Action, Fault, Matrix, Refused, Vectors
from embedwire._http.reply import EMBED_AGAIN
from embedwire._http.steps import Work
from embedwire._queue.calls import CROWD, Calls, Steps
from embedwire._queue.lane import heard_by
from embedwire._queue.learning import note_named, note_refused, note_size
from embedwire._queue.pool import Pool
from embedwire._queue.records import Batch, Call, Item, Whole
from embedwire._queue.splitting import by_caller, parts, wanted
from embedwire.events import BatchSplit
from embedwire.exceptions import BadReply, ServerRefused, TextRefused

REFUSED_IN_A_ROW = 16  # texts refused alone, one after another: then it is the server, not the texts
REFUSED_AT_FIRST = 4  # the same, before any text was accepted
HARMED_IN_A_ROW = 3  # the same, where each one crashes the server or makes it hang


def deliver(batch: Batch, vectors: Vectors, calls: Calls) -> Steps:
    """Puts the vectors of a batch into the rows of the calls that want them."""
    lane, matrix = batch.lane, vectors.matrix
    lane.successes += 1
    lane.refused, lane.trying = 0, False
    note_size(batch, vectors.seconds)
    everything = list(range(len(matrix)))
    places, total = yield from _places(batch)
    for item in batch.items:
        lane.forget(item)
    batch.owed = dict.fromkeys(places)
    for number, (call, (rows, positions)) in enumerate(places.items(), 1):
        chars = total if len(places) == 1 else sum(len(batch.items[at].text) for at in positions)
        _count(call, batch, vectors, len(rows), chars, chars / total if total else 1 / len(places))
        if call.open:
            _put(batch, call, rows, matrix if positions == everything else matrix[positions], vectors, calls)
        del batch.owed[call]
        if not number % CROWD:
            yield


def _places(batch: Batch) -> Work[tuple[dict[Call, tuple[list[int], list[int]]], int]]:
    """By call, its rows and those of the matrix; and the characters, of each text once for each that wants it."""
    places: dict[Call, tuple[list[int], list[int]]] = {}
    total, last, rows, positions = 0, None, list[int](), list[int]()
    for position, item in enumerate(batch.items):
        for number, (call, row) in enumerate(item.owners, 1):
            if call is not last:
                last, (rows, positions) = call, places.setdefault(call, ([], []))
            rows.append(row)
            positions.append(position)
            total += len(item.text)
            if not number % (16 * CROWD):
                yield
    return places, total


def _put(batch: Batch, call: Call, rows: list[int], some: Matrix, vectors: Vectors, calls: Calls) -> None:
    """Gives a call its vectors, some of those that came."""
    if fault := _of_another_model(call, vectors, batch.lane.pool):
        fault = replace(fault, server=batch.route.server)
        calls.fail_at(call, call.next_open(), fault, vectors.sent)
    else:
        call.put(rows, some)
        calls.done(call, len(rows))


def _count(call: Call, batch: Batch, vectors: Vectors, texts: int, chars: int, share: float) -> None:
    """Counts a request that went well; who left meanwhile pays a share, too, and has no vectors of it."""
    before, ledger = batch.history.sent, call.ledger
    ledger.sent(vectors.sent - before + batch.hedges, share, again=before > 0)
    texts, chars = (texts, chars) if call.open else (0, 0)
    ledger.embedded(texts, chars, vectors.tokens, vectors.seconds, share)
    if call.heard is not None:
        call.heard.embedded(texts, None if vectors.tokens is None else vectors.tokens * share, vectors.model)
    ledger.model = vectors.model or ledger.model


def refuse(batch: Batch, refused: Refused, calls: Calls) -> Steps:
    """Divides a batch that got no vectors, or fails whose it is; another server may take it first."""
    lane, fault = batch.lane, _noted(batch, refused)
    if _goes_elsewhere(batch, refused.action, fault):
        move(batch, refused)
        return
    if batch.whole is not None:
        batch.whole.parts = 0  # never all of them now: its size was not the only reason
    if refused.action is not Action.SPLIT and not _may_be_one_texts(batch, fault):
        yield from _fail_or_part(batch, fault, calls)
    elif fault.unclear and not lane.pool.accepted:
        if not _try_one(batch, fault):
            fault = _of_request(fault)
            blank = not any(item.text.strip() for item in batch.items)
            yield from _fail_all(batch, _of_blank(fault) if blank else fault, calls)
    elif len(batch.items) > 1:
        _divide(batch, fault)
    else:
        yield from _refuse_text(batch.items[0], batch, fault, calls)


def _noted(batch: Batch, refused: Refused) -> Fault:
    """What is learnt from a failure, and counted; whose it is."""
    fault = refused.fault
    _note_refused(batch, refused.history.sent - batch.history.sent + batch.hedges)
    batch.history = refused.history
    note_named(batch, fault)
    return replace(fault, server=batch.route.server)


def _goes_elsewhere(batch: Batch, action: Action, fault: Fault) -> bool:
    """Whether another server should try it: a failure of this one's own, or a text that is too long for it."""
    pool = batch.lane.pool
    if action is Action.ELSEWHERE:
        return True
    if fault.exchanged and pool.several and batch.history.failures < pool.form.retry.attempts:
        return True  # its vectors may be used once it is known what all servers have now
    if not batch.elsewhere():
        return False
    if action is Action.GIVE_UP and fault.of_one_server:
        return True
    return len(batch.items) == 1 and _is_shown_to_another(batch, action, fault)


def _is_shown_to_another(batch: Batch, action: Action, fault: Fault) -> bool:
    """Whether a text that was refused alone may fit elsewhere, or is not its caller's fault before one more refuses."""
    if fault.too_long:
        return batch.lane.pool.larger(batch.member, batch.avoid)
    return action is Action.SPLIT and fault.is_refusal and not batch.avoid


def move(batch: Batch, why: Refused | None = None) -> None:
    """Puts a batch back in front, for another server than the one where it was."""
    part = _part(batch, wanted(batch), batch.whole, bisecting=batch.history.bisecting)
    if batch.member is not None:
        part.avoids(batch.member)
        if why is not None and why.action is Action.SPLIT and not why.fault.too_long:
            part.doubted = batch.member, why.fault
    part.trial = batch.trial
    batch.lane.parts[batch.kind].appendleft(part)


def take_back(batch: Batch) -> None:
    """A batch that waits for its server in vain goes to another one."""
    _note_refused(batch, batch.sent - batch.history.sent)
    batch.history = replace(batch.history, sent=batch.sent)
    move(batch)


def _refuse_text(item: Item, batch: Batch, fault: Fault, calls: Calls) -> Steps:
    """A text was refused that stands alone."""
    if fault.too_long:
        batch.route.sizes.sizing.lengths.refused(len(item.text))
    if _refuses_everything(batch, fault, len(item.text)):
        yield from _fail_all(batch, _of_server(fault), calls)
    else:
        yield from _fail_text(item, batch, fault if item.text.strip() else _of_blank(fault), calls)


def _note_refused(batch: Batch, requests: int) -> None:
    """Counts the requests that came to nothing, for their callers."""
    chars: dict[Call, int] = {}
    for item in batch.items:
        for call, _ in item.owners:
            chars[call] = chars.get(call, 0) + len(item.text)
    total = sum(chars.values())
    for call, some in chars.items():
        call.ledger.sent(requests, some / total if total else 1 / len(chars), again=batch.history.sent > 0)


def _fail_or_part(batch: Batch, fault: Fault, calls: Calls) -> Steps:
    """Fails the callers; a bad reply to several is asked for again first, so that it fails only whose texts did it."""
    groups = by_caller(wanted(batch)) if fault.error is BadReply and not fault.exchanged else []
    if len(groups) > 1:
        _put_back(batch, groups, fault, bisecting=False)
    else:
        yield from _fail_all(batch, fault, calls)


def _fail_all(batch: Batch, fault: Fault, calls: Calls) -> Steps:
    for number, (call, row) in enumerate(batch.callers().items(), 1):
        calls.fail_at(call, row, fault, batch.history.sent)
        if not number % CROWD:
            yield


def _try_one(batch: Batch, fault: Fault) -> bool:
    """Puts one text in front to see whether the server takes any; False where it does not.

    All that was refused meanwhile waits behind that one text.
    """
    lane, items = batch.lane, wanted(batch)
    bisecting = batch.history.bisecting
    conclusive = len(batch.items) == 1 and (batch.trial or not lane.on_the_wire(batch))
    if conclusive or lane.refused >= REFUSED_AT_FIRST:
        lane.refused, lane.trying = lane.refused + 1, False
        return False
    if any(part.trial and part.wanted for part in lane.parts[batch.kind]):
        lane.parts[batch.kind].append(_part(batch, items, None, bisecting=bisecting))
        lane.parts[batch.kind][-1].trial = len(items) == 1
    elif items:
        one = min(reversed(items), key=_dubious)
        rest = [item for item in items if item is not one]
        _put_back(batch, [part for part in ([one], rest) if part], fault, bisecting=bisecting)
        lane.parts[batch.kind][0].trial = True
    lane.trying = True
    return True


def _of_blank(fault: Fault) -> Fault:
    what = f"the text is blank, and {fault.what}"
    return replace(fault, what=what, cure="Leave blank texts out, or put something in their place.")


def _dubious(item: Item) -> tuple[bool, int]:
    """How likely a server takes no such text: most of all one without a letter or digit, then a long one."""
    return not any(map(str.isalnum, item.text)), len(item.text)


def _of_request(fault: Fault) -> Fault:
    return replace(
        fault,
        error=ServerRefused,
        what=f"{fault.what}, and took no text of this kind so far",
        cure="See the server's message and log: model=, dimensions= or another field may be wrong, or a text too long.",
    )


def _may_be_one_texts(batch: Batch, fault: Fault) -> bool:
    """Whether a server that broke off until no repeats were left is searched for a text that brings it down.

    No text fails that would not have failed anyhow. Not searched is a server that embedded nothing yet, or that broke
    off at one text after another since it last did; nor one that is slow, as each try would take a whole timeout.
    """
    lane, history = batch.lane, batch.history
    return (
        fault.harmful
        and not fault.timed_out
        and history.breaks > 1
        and history.failures >= lane.pool.form.retry.attempts
        and lane.pool.accepted
        and lane.refused < HARMED_IN_A_ROW
        and len(batch.items) > 1
    )


def _divide(batch: Batch, fault: Fault) -> None:
    """Puts the parts of a batch back: by the cap that the server named, by caller, or in halves."""
    divided = parts(batch, fault, batch.history)
    whole = None
    if not fault.of_text and fault.position is None:
        note_refused(batch, fault)
        # Only what happened to all that was sent, for no reason that was named, may be due to its size.
        complete = sum(map(len, divided)) == len(batch.items)
        if fault.of_size and fault.max_texts is None and complete:
            whole = Whole(of=fault.of_size, parts=len(divided))
    if not fault.harmful:  # what harms the server is not tried out on it more often for being divided
        batch.history = replace(batch.history, failures=0)
    _put_back(batch, divided, fault, whole, bisecting=not fault.of_text)


def _put_back(
    batch: Batch, divided: list[list[Item]], fault: Fault, whole: Whole | None = None, *, bisecting: bool
) -> None:
    """In front of all else that waits: one failure is got to the bottom of before the next."""
    if batch.lane.watched and len(divided) > 1:
        sizes, server = tuple(map(len, divided)), batch.route.server
        split = BatchSplit(server=server, why=fault.what, kind=batch.kind, parts=sizes)
        tell(split, ears_of(heard_by(batch)))
    for items in reversed(divided):
        batch.lane.parts[batch.kind].appendleft(_part(batch, items, whole, bisecting=bisecting))


def _part(batch: Batch, items: list[Item], whole: Whole | None, *, bisecting: bool) -> Batch:
    history = replace(batch.history, bisecting=bisecting)
    part = Batch(batch.lane, batch.kind, history=history, since=batch.since, whole=whole)
    part.avoid, part.strict = batch.avoid, batch.strict
    for item in items:
        part.add(item)
    return part


def _fail_text(item: Item, batch: Batch, fault: Fault, calls: Calls) -> Steps:
    rows = list(item.rows())
    batch.lane.forget(item)
    for number, (call, row) in enumerate(rows, 1):
        if call.open:
            call.fail(row, fault, batch.history.sent)
            calls.done(call, 1)
        if not number % CROWD:
            yield


def _refuses_everything(batch: Batch, fault: Fault, length: int) -> bool:
    """Whether it is the server, not this text: else a wrong setting would cost a request for every text."""
    lane = batch.lane
    if fault.of_text or (fault.too_long and 0 < batch.route.sizes.sizing.lengths.longest < length):
        return False
    lane.refused += 1
    if fault.harmful:
        return lane.refused >= HARMED_IN_A_ROW
    return lane.refused >= (REFUSED_IN_A_ROW if lane.pool.accepted else REFUSED_AT_FIRST)


def _of_server(fault: Fault) -> Fault:
    return replace(
        fault,
        error=ServerRefused if fault.error is TextRefused else fault.error,
        what=f"the server refuses one text after another; last, {fault.what}",
    )


def _of_another_model(call: Call, vectors: Vectors, pool: Pool) -> Fault | None:
    """What is wrong with vectors that cannot stand beside the call's first ones; None where they can."""
    width = vectors.matrix.shape[1]
    if not call.make_room(width):
        assert call.matrix is not None  # noqa: S101 - it has a width
        return other_width(width, call.matrix.shape[1])
    if not call.of_one_model(pool.identity(vectors)):
        return _exchanged("vectors of another model than this call's first ones")
    return None


def other_width(width: int, first: int) -> Fault:
    """What is wrong with vectors that have not as many numbers as the call's first ones."""
    return _exchanged(f"vectors of {width} numbers where this call's first ones have {first}")


def _exchanged(what: str) -> Fault:
    cure = f"The model was exchanged meanwhile. {EMBED_AGAIN}"
    return Fault(error=BadReply, what=what, cure=cure, exchanged=True)
