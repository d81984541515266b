"""What a server logs: where something failed, and never a text."""

from __future__ import annotations

import logging
import traceback


def log_without_texts(logger: logging.Logger, what: str, error: Exception) -> None:
    """Log where an exception came from, and not its message, which may contain a text."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s with %s:\n%s", what, type(error).__name__, where)


def wire_logger(logger: logging.Logger) -> logging.Logger:
    """A logger for aiohttp that names the fault in a request and shows nothing of it: it may be a text."""
    wire = logger.getChild("wire")
    wire.addFilter(_name_the_fault_only)
    return wire


def _name_the_fault_only(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[0]:
        record.msg = f"{record.msg} ({record.exc_info[0].__name__})"
    record.exc_info = None
    return True
