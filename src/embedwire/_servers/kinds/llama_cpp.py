"""llama.cpp's llama-server; observed on build 11434."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedwire._servers.kinds.base import ServerKind, Told, Words, count


def _props(reply: Mapping[str, Any]) -> Told:
    settings = reply.get("default_generation_settings")
    context = settings.get("n_ctx") if isinstance(settings, dict) else None
    return Told(slots=count(reply.get("total_slots")), context=count(context))


LLAMA_CPP = ServerKind(
    name="llama.cpp",
    server_header="llama.cpp",
    owned_by="llamacpp",
    takes_any_name=True,
    tells="/props",
    read=_props,
    # Its HTTP threads are its slots and four more, and a kept connection keeps one of them: with eight requests in
    # flight, 4 of 20 fresh one-slot servers let a connection wait 5 s for a thread; with four or five, none did.
    spare_threads=4,
    # It looks for the client once a second, and only while it has no result: short requests are computed to the end.
    drops_work=False,
    token_fields=("n_prompt_tokens", "n_ctx"),
    cures=(
        (
            r"pooling type '?none",
            "Start llama-server with the model's own pooling: --pooling mean, cls or last.",
        ),
        (r"not support embeddings|--embeddings?\b", "Start llama-server with --embeddings."),
    ),
    words=Words(
        # Over the physical batch it is a 500, over a slot's context a 400; both are permanent.
        too_long=r"too large to process|exceed_context_size|exceeds? the (?:available )?context",
        tokens=r"input \((?P<tokens>\d+) tokens\).*?current batch size: (?P<limit>\d+)",
        of_request=r"pooling type|--embeddings?\b",
        loading=r"loading model",
    ),
)
