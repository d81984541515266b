"""What a client keeps of its arguments."""

from __future__ import annotations

from typing import Any

from embedwire import EmbeddingClient
from embedwire._settings.settings import Form, Settings

URL = "http://embedder.test:8080"


def kept(**arguments: Any) -> Settings:
    """Settings of a client with these arguments, and with its defaults for all others."""
    return EmbeddingClient(**{"base_url": URL, **arguments}).__getstate__()


def form(**arguments: Any) -> Form:
    """What its requests look like."""
    return kept(**arguments).form
