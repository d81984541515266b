"""Ollama's OpenAI-compatible endpoint."""

from __future__ import annotations

from embedwire._servers.kinds.base import ServerKind, Words

OLLAMA = ServerKind(
    name="ollama",
    server_header="ollama",
    drops_work=True,  # Go's request context ends with the connection, and the runner with it
    words=Words(
        # A text whose vector is not finite: 500, and the same each time.
        of_text=r"unsupported value: [+-]?(?:NaN|Inf)|input length",
    ),
)
