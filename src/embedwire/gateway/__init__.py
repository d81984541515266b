"""`embedwire gateway`: an OpenAI-compatible server in front of embedding servers, made of this package's client.

So every tool that speaks OpenAI's API, and all processes of a machine together, get what `EmbeddingClient` does:
batches, a queue in which queries go first, no more requests in flight than the servers take, repeats and restarts.
Nothing is shared between two gateways.
"""

from __future__ import annotations

from embedwire._web.listening import ServeError
from embedwire.gateway.app import Gateway, create_app
from embedwire.gateway.command import run
from embedwire.gateway.limits import Limits
from embedwire.gateway.upstream import To

__all__ = ["Gateway", "Limits", "ServeError", "To", "create_app", "run"]
