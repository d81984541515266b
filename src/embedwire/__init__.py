"""Turns texts into vectors over HTTP, for people who run their own embedding server.

`EmbeddingClient` is for those who own their event loop, `SharedEmbeddingClient` works from any thread and
loop. Drop-in adapters: `embedwire.langchain.EmbedwireEmbeddings`, `embedwire.llama_index.EmbedwireEmbedding`.
"""

from embedwire import _starting as _starting  # first, for whoever presses Ctrl-C during the rest
from embedwire._clients.own import EmbeddingClient
from embedwire._clients.progress import Progress
from embedwire._clients.shared import SharedEmbeddingClient
from embedwire._queue.usage import Usage
from embedwire._servers.known import ServerInfo
from embedwire._settings.options import (
    BatchLimits,
    ByKind,
    Prompts,
    RateLimit,
    RetryPolicy,
    Timeouts,
    VectorCache,
)
from embedwire._settings.servers import Server
from embedwire._version import __version__
from embedwire.exceptions import (
    AuthenticationFailed,
    BadReply,
    Completed,
    ConnectionFailed,
    DeadlineExceeded,
    EmbedwireError,
    InputError,
    Overloaded,
    RequestError,
    RequestTimeout,
    ServerRefused,
    ServerUnavailable,
    TextRefused,
    UsageError,
)

__all__ = [
    "AuthenticationFailed",
    "BadReply",
    "BatchLimits",
    "ByKind",
    "Completed",
    "ConnectionFailed",
    "DeadlineExceeded",
    "EmbeddingClient",
    "EmbedwireError",
    "InputError",
    "Overloaded",
    "Progress",
    "Prompts",
    "RateLimit",
    "RequestError",
    "RequestTimeout",
    "RetryPolicy",
    "Server",
    "ServerInfo",
    "ServerRefused",
    "ServerUnavailable",
    "SharedEmbeddingClient",
    "TextRefused",
    "Timeouts",
    "Usage",
    "UsageError",
    "VectorCache",
    "__version__",
]
