"""LM Studio's local server. It sends Express's headers, and answers 200 on paths that it does not have."""

from __future__ import annotations

from embedwire._servers.kinds.base import ServerKind, Words

LM_STUDIO = ServerKind(name="lm-studio", server_header="lm studio", words=Words(loading=r"loading model"))
