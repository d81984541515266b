"""michaelfeil's infinity; observed on 0.0.78. Its ``Server`` header is uvicorn's, so it is seldom recognised."""

from __future__ import annotations

from embedwire._servers.kinds.base import ServerKind

# A text that is too long is cut without a word, so there are no words for it; a request whose client left is computed.
INFINITY = ServerKind(name="infinity", server_header="infinity", owned_by="infinity", takes_any_name=True)
