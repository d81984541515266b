"""The open calls: how they begin, and each way in which they end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
from collections.abc import Callable, Collection, Iterable, Iterator

from embedwire._events.heard import Heard
from embedwire._http.messages import to_error
from embedwire._http.records import Fault, Matrix
from embedwire._queue.lane import Lane
from embedwire._queue.pool import Pool
from embedwire._queue.records import OPEN, Call, Future, Item
from embedwire._settings.options import Kind
from embedwire.exceptions import DeadlineExceeded, Overloaded, RequestError, UsageError

CROWD = 2**8  # calls that are told in one go: about 10 ms
SLICE = 2000  # texts that enter or leave the queue in one go: about 5 ms


Steps = Iterator[None]  # of something that is done a crowd at a time


class Calls:
    """The calls that are open. A call ends in one way: it finishes, it fails, or it is cancelled.

    Its state is the open calls and how many of their texts are not done. Written by this file; `dispatcher` and
    `outcomes` tell it what happened.

    Args:
        look: Called when texts entered the queue or left it later than their call.
        leave: Called with the lane of a call that is over.
    """

    def __init__(self, look: Callable[[], None], leave: Callable[[Lane], None]) -> None:
        self._look = look
        self._leave = leave
        self._open: set[Call] = set()
        self.texts: dict[Kind, int] = {"query": 0, "document": 0}

    def all(self) -> list[Call]:
        """The open calls."""
        return list(self._open)

    def check_room(
        self, kind: Kind, texts: int, max_queued: int, pool: Pool, heard: Heard | None = None
    ) -> None:
        """Raises Overloaded where so many more texts may not wait; those of a call that meets an empty queue may."""
        if self.texts[kind] and self.texts[kind] + texts > max_queued:
            full = Overloaded(
                f"{self.texts[kind]} texts wait for {pool.servers}, and {texts} more "
                f"would go over max_queued={max_queued}. Send fewer at once, or raise max_queued=."
            )
            if heard is not None:
                heard.finish(full)
            raise full

    def begin(self, call: Call) -> None:
        """A call comes; its texts enter the queue, a slice at a time, so that a million do not stop the loop."""
        self._open.add(call)
        self.texts[call.kind] += call.count
        if call.deadline is not None:
            call.timer = asyncio.get_running_loop().call_at(call.deadline, self._expire, call)
        call.lane.calls[call.kind][call] = None
        self._enter(call)

    def done(self, call: Call, texts: int) -> None:
        """So many of its texts have a vector or a fault now."""
        self.texts[call.kind] -= texts
        if call.left:
            return
        if call.faults:
            self.fail_with(call, None)
        else:
            self._remove(call)
            assert call.matrix is not None  # noqa: S101 - every row was put
            _end(call, call.matrix)

    def fail_at(self, call: Call, row: int, fault: Fault, sent: int) -> None:
        """Fails a call for what is not one text's own fault."""
        if call.open:
            self.fail_with(call, _error(call, row, fault, sent))

    def fail_with(self, call: Call, error: RequestError | None) -> None:
        """Fails a call, by default with its first text's own error; what was done goes along with it."""
        self._remove(call)
        if error is None:
            row = min(call.faults)
            error = _error(call, row, *call.faults[row])
        error.set_outcome(
            call.completed,
            lambda: {
                call.index(row): _error(call, row, *fault) for row, fault in sorted(call.faults.items())
            },
        )
        _end(call, error=error)

    def fail(self, calls: Iterable[Call], error: Exception) -> Steps:
        """Fails calls with the same error, each with its own copy of it, a crowd at a time."""
        for number, call in enumerate(list(calls), 1):
            if call.open:
                self._remove(call)
                _end(call, error=error)
                error = _another(error)
            if not number % CROWD:
                yield

    def fail_pool(self, pool: Pool, why: Fault | Exception, sent: int) -> None:
        """No server of a pool can be used: nobody waits for one."""
        calls = [call for call in self._open if call.lane.pool is pool]
        if isinstance(why, Fault):
            for call in calls:
                self.fail_at(call, call.next_open(), why, sent)
        else:
            for _ in self.fail(calls, why):
                pass

    def end(self, calls: Collection[Call], task: asyncio.Task[None]) -> None:
        """Ends calls whose batch is over and gave them nothing: where it was cancelled, the loop is ending."""
        if task.cancelled():
            for call in calls:
                self.cancel(call)
        elif calls:
            for _ in self.fail(calls, _broke(task.exception())):
                pass

    def cancel(self, call: Call) -> None:
        """The caller is gone: what only it wanted is not sent, or not waited for."""
        if call.open:
            self._remove(call)
            _end(call)

    def close_now(self) -> None:
        """Ends every call without a word: the process ends, and only daemon threads still wait."""
        for call in self.all():
            self._remove(call)

    def _expire(self, call: Call) -> None:
        row = call.next_open()
        item = call.items[row] if row < len(call.items) else None
        batch = None if item is None else item.batch
        fault = Fault(
            error=DeadlineExceeded,
            what=f"the deadline passed with {call.left} of {call.count} texts left",
            cure="Raise deadline=, or send less at once; what was done is in the error's `completed`.",
            server=batch.route.server if batch is not None and batch.member is not None else "",
        )
        self.fail_at(call, row, fault, batch.sent if batch is not None else 0)
        self._look()

    def _enter(self, call: Call) -> None:
        if not call.open:
            return
        call.lane.enter(call, SLICE)
        if len(call.items) < call.count:
            asyncio.get_running_loop().call_soon(self._enter_more, call)

    def _enter_more(self, call: Call) -> None:
        self._enter(call)
        self._look()

    def _remove(self, call: Call) -> None:
        """Takes a call out of the queue, whichever way it ended."""
        call.open = False
        self._open.discard(call)
        if call.timer is not None:
            call.timer.cancel()
        call.lane.calls[call.kind].pop(call, None)
        self.texts[call.kind] -= call.left
        if call.left or len(call.items) > SLICE:
            self._give_up(call)
        else:
            self._gone(call)

    def _gone(self, call: Call) -> None:
        call.lane.leave(call)
        self._leave(call.lane)

    def _give_up(self, call: Call) -> None:
        """A call that is over wants none of its texts any more; a slice at a time, as freeing them takes time too."""
        first = max(0, len(call.items) - SLICE)
        for row, item in enumerate(call.items[first:], first):
            if item is None:
                if call.rows[row] == OPEN:
                    call.lane.withdraw(call, row)
            elif item.wanted:
                item.wanted -= 1
                if not item.wanted:
                    _unwanted(item, call)
        del call.items[first:]
        if not call.items:
            self._gone(call)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is over
                asyncio.get_running_loop().call_soon(self._give_up, call)


def _unwanted(item: Item, call: Call) -> None:
    """Nobody wants a text: it leaves the queue at once, so that nobody ever waits for it in vain."""
    call.lane.forget(item)
    batch = item.batch
    if batch is None:
        return
    batch.wanted -= 1
    if not batch.wanted and batch.task is not None:
        before = batch.history.sent
        call.ledger.sent(batch.sent - before, 1, again=before > 0)  # who leaves last pays
        batch.task.cancel()


def _error(call: Call, row: int, fault: Fault, sent: int) -> RequestError:
    index = None if fault.of_server else call.index(row)
    return to_error(
        fault, attempts=sent, server=fault.server or call.lane.pool.servers, index=index, count=call.total
    )


def _another(error: Exception) -> Exception:
    """The same error once more: no two callers share one, as each adds its own frames to the traceback."""
    try:
        return copy.copy(error).with_traceback(None)
    except Exception:  # of a class that cannot be copied
        return UsageError(f"a function of the caller's raised {type(error).__name__}")


def _end(call: Call, matrix: Matrix | None = None, error: BaseException | None = None) -> None:
    """Ends a call's future; before that the hooks of its client are told."""
    if call.heard is not None:
        call.heard.ended(error, cancelled=matrix is None and error is None)
    _resolve(call.future, matrix, error)


def _resolve(future: Future, matrix: Matrix | None = None, error: BaseException | None = None) -> None:
    """Ends a future; one whose caller has gone in this very moment is left alone."""
    with contextlib.suppress(asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
        if error is not None:
            future.set_exception(error)
        elif matrix is not None:
            future.set_result(matrix)
        else:
            future.cancel()


def _broke(error: BaseException | None) -> Exception:
    """What broke a batch that should have ended in vectors or a refusal: no memory, a log handler that exits."""
    if isinstance(error, Exception):
        return error
    name = "nothing" if error is None else type(error).__name__
    return UsageError(
        f"{name} was raised on embedwire's event loop, by a log handler or a function passed in"
    )
