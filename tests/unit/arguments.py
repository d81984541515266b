"""What a client keeps of its arguments."""

from __future__ import annotations

import inspect
from typing import Any

from embedwire import EmbeddingClient
from embedwire._config import Settings, settings

URL = "http://embedder.test:8080"


def kept(**arguments: Any) -> Settings:
    """Settings of these arguments, and of the clients' defaults for all others."""
    parameters = inspect.signature(EmbeddingClient).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
    return settings(**{"base_url": URL, **defaults, **arguments})
