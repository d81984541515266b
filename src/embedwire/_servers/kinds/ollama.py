"""Ollama's OpenAI-compatible endpoint."""

from __future__ import annotations

from embedwire._servers.kinds.base import ServerKind, Words

OLLAMA = ServerKind(
    name="ollama",
    server_header="ollama",
    owned_by="library",
    cures=((r"try pulling it", "Run `ollama pull` for the model, or correct model=."),),
    drops_work=True,  # Go's request context ends with the connection, and the runner with it
    words=Words(
        # A text whose vector is not finite: 500, and the same each time.
        of_text=r"unsupported value: [+-]?(?:NaN|Inf)",
        too_long=r"input length",
        of_model=r"try pulling it",
        throttled=r"maximum pending requests",
    ),
)
