"""LM Studio's local server. It sends Express's headers, and answers 200 on paths that it does not have."""

from __future__ import annotations

from embedwire._servers.kinds.base import ServerKind, Words

LM_STUDIO = ServerKind(
    name="lm-studio",
    server_header="lm studio",
    owned_by="organization_owner",
    cures=(
        (r"no models? (?:is |are )?(?:currently )?loaded", "Load the model in LM Studio, or pass model=."),
    ),
    words=Words(
        loading=r"loading model",
        # Each with a 400, while it swaps models or wakes one that was idle.
        unloaded=(
            r"model (?:was |has been |is )?unloaded|model (?:is |was )?not loaded|failed to load (?:the )?model"
            r"|no models? (?:is |are )?(?:currently )?loaded"
        ),
    ),
)
