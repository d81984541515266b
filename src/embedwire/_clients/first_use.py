"""A deadline that passes while aiohttp and numpy are loaded, which takes a second, once in a process."""

from __future__ import annotations

from embedwire._clients.lists import no_vectors
from embedwire._settings.settings import Settings
from embedwire.exceptions import Completed, DeadlineExceeded


def too_late(settings: Settings) -> DeadlineExceeded:
    """What a caller gets whose deadline passed before anything could be sent."""
    url = settings.fleet.names
    error = DeadlineExceeded(
        f"the deadline passed while embedwire was loaded for the first time: {url}, texts[0]. Raise deadline=, or "
        "call wait_ready() when the application starts."
    )
    error.server, error.index = url, 0
    error.set_outcome(lambda: Completed([], no_vectors(None)), dict)
    return error
