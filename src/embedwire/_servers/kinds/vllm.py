"""vLLM's OpenAI-compatible server. Its ``Server`` header is uvicorn's."""

from __future__ import annotations

from embedwire._servers.kinds.base import ServerKind, Words

VLLM = ServerKind(
    name="vllm",
    server_header="vllm",
    owned_by="vllm",
    drops_work=True,  # it aborts a request whose client has left
    words=Words(
        too_long=r"maximum context length",
        tokens=r"maximum context length is (?P<limit>\d+) tokens\D{1,60}(?P<tokens>\d+)",
        of_request=r"matryoshka",
    ),
)
