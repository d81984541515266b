"""`embedwire gateway`: it repeats, waits and divides by itself, so that its word on a request is the last one."""

from __future__ import annotations

from embedwire._servers.kinds.base import ServerKind, Words

EMBEDWIRE_GATEWAY = ServerKind(
    name="embedwire-gateway",
    server_header="embedwire-gateway",
    owned_by="embedwire-gateway",
    drops_work=True,  # it takes the texts of a client that left out of its queue
    final=(500, 502, 503, 504),  # but for a 503 while it, or its servers, are not ready
    words=Words(
        of_text=r"\btext_refused\b", too_long=r"\bcontext_length_exceeded\b", loading=r"\bnot_ready\b"
    ),
)
