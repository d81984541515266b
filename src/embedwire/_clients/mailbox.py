"""What stands between a client and a hook: events wait in a bounded queue, for a thread of the hook's own.

So a hook that blocks or raises harms no call, and is told of everything in order. The thread is there while there is
something to tell, and a moment longer.
"""

from __future__ import annotations

import atexit
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping

from embedwire._clients import fork
from embedwire._events.audience import Ear, Tracer
from embedwire._events.log import log
from embedwire._http.native import new_lock, start_thread
from embedwire._http.threads import in_thread
from embedwire._settings.hooks import Hook, Hooks, name_of
from embedwire.events import CallStarted, Event, EventsLost, Noticed, RequestStarted

MOST = 10_000  # events that wait for one hook; newer ones are not kept
LINGER = 1.0  # seconds for which its thread waits for the next event
PATIENCE = 1.0  # seconds for which a client that is closed waits until its hooks were told
LAST = 2.0  # the same, at the end of the process


class Mailbox:
    """One hook's events. Its state is those that wait, how many were not kept, and whether its thread runs.

    Args:
        hook: It.
    """

    def __init__(self, hook: Hook) -> None:
        self._hook = hook
        self._complained = False
        self.start_anew()

    def start_anew(self) -> None:
        """In a forked child: what waits is the parent's, and so is the thread."""
        self._lock = new_lock()  # held for moments
        self._wake = new_lock()  # released for the thread that waits for it
        self._wake.acquire()
        self._waiting: deque[Event] = deque()
        self._lost = 0
        self._runs = self._idle = False

    @property
    def busy(self) -> bool:
        """Whether the hook has not been told of everything yet."""
        return bool(self._waiting) or (self._runs and not self._idle)

    def begin(self, event: CallStarted | RequestStarted) -> Mapping[str, str]:
        """Something begins; a `Tracer` is told at once, as others are in its turn."""
        headers: Mapping[str, str] = {}
        if isinstance(self._hook, Tracer):
            try:
                headers = self._hook.begins(event)
            except Exception as error:
                self._complain(error)
        self.tell(event)
        return headers

    def tell(self, event: Event) -> None:
        """Something happened. Never blocks, and never raises."""
        with self._lock:
            if len(self._waiting) >= MOST:
                self._lost += 1
                return
            if self._lost:
                self._waiting.append(EventsLost(count=self._lost))
                self._lost = 0
            self._waiting.append(event)
            if self._idle:
                self._idle = False
                self._wake.release()
            starts, self._runs = not self._runs, True
        if starts:
            try:
                start_thread(self._run, "embedwire-hook")
            except RuntimeError:  # the interpreter is ending, and starts no more threads
                self.start_anew()

    def _run(self) -> None:
        while True:
            with self._lock:
                event = self._waiting.popleft() if self._waiting else None
                self._idle = event is None
            if event is not None:
                self._hand_over(event)
            elif not self._wake.acquire(timeout=LINGER):
                with self._lock:
                    if self._idle:
                        self._runs = self._idle = False
                        return
                self._wake.acquire()  # something came in this very moment

    def _hand_over(self, event: Event) -> None:
        try:
            self._hook(event)
        except BaseException as error:  # it ends nothing but this call of the hook
            self._complain(error)

    def _complain(self, error: BaseException) -> None:
        """Says once that a hook raised; of the error only its class, as it may hold anything."""
        if not self._complained:
            self._complained = True
            name, raised = name_of(self._hook), type(error).__name__
            what = (
                f"the hook {name} of on_event= raised {raised}; it goes on being told, and this is said once"
            )
            log(Noticed(server="", level="warning", what=what))


_mailboxes: weakref.WeakValueDictionary[Hook, Mailbox] = weakref.WeakValueDictionary()
_registered: list[bool] = []


def ears_of(hooks: Hooks) -> tuple[Ear, ...]:
    """What stands before some hooks; equal hooks of several clients share it, so that each is told once."""
    if hooks and not _registered:
        _registered.append(True)
        atexit.register(_end)  # before what was registered earlier, such as the end of an exporter of traces
    return tuple(map(_ear_of, hooks))


def _ear_of(hook: Hook) -> Mailbox:
    try:
        known = _mailboxes.get(hook)
    except TypeError:  # it has no hash
        return Mailbox(hook)
    if known is None:
        known = _mailboxes[hook] = Mailbox(hook)
    return known


def drain(ears: Iterable[Ear], seconds: float = PATIENCE) -> None:
    """Waits until hooks were told of everything, or so many seconds are over."""
    end = time.monotonic() + seconds
    while any(isinstance(ear, Mailbox) and ear.busy for ear in ears) and time.monotonic() < end:
        time.sleep(0.001)


async def drained(ears: Iterable[Ear]) -> None:
    """The same, without blocking the loop."""
    if ears:
        await in_thread(drain, ears)


def _end() -> None:
    drain(list(_mailboxes.values()), LAST)


def _start_anew() -> None:
    for mailbox in list(_mailboxes.values()):
        mailbox.start_anew()


fork.in_child(_start_anew)
