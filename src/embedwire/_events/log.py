"""The log, as the one hook that is always there: it is told at once, and says what it is told, each at its level.

DEBUG: each batch that is sent. INFO: new connections, a server that is waited for or taken back. WARNING: what a user
may want to do something about. No text and no key is in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from embedwire.events import (
    Event,
    Noticed,
    RequestRepeated,
    RequestStarted,
    ServerSetAside,
    ServerTakenBack,
    SessionOpened,
)

_logger = logging.getLogger("embedwire")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


def log(event: Event) -> None:
    """Says what happened, where it is for the log."""
    say = _SAYS.get(type(event))
    if say is not None:
        say(event)


def tells_of_requests() -> bool:
    """Whether each batch is logged."""
    return _logger.isEnabledFor(logging.DEBUG)


def _sent(event: RequestStarted) -> None:
    if event.attempt == 1:  # a repeat was announced
        _logger.debug("sending %d texts, %d requests in flight", event.texts, event.in_flight)


def _repeated(event: RequestRepeated) -> None:
    attempt = "" if event.attempt is None else f" (attempt {event.attempt} of {event.attempts})"
    _logger.warning("%s: %s; sending again in %.2f s%s", event.server, event.why, event.pause, attempt)


def _opened(event: SessionOpened) -> None:
    _logger.info("new session for %s", event.server)


def _aside(event: ServerSetAside) -> None:
    _logger.warning("%s is %s: %s", event.server, event.state, event.why)


def _back(event: ServerTakenBack) -> None:
    _logger.info("%s is in use again", event.server)


def _noticed(event: Noticed) -> None:
    _logger.log(_LEVELS[event.level], f"{event.server}: {event.what}" if event.server else event.what)


_SAYS: dict[type[Event], Callable[[Any], None]] = {
    RequestStarted: _sent,
    RequestRepeated: _repeated,
    SessionOpened: _opened,
    ServerSetAside: _aside,
    ServerTakenBack: _back,
    Noticed: _noticed,
}
