"""Everything else that answers ``/v1/embeddings``: OpenAI, hosted services, gateways."""

from __future__ import annotations

from embedwire._servers.kinds.base import ServerKind, Words

OPENAI_LIKE = ServerKind(
    name="openai-like",
    words=Words(
        of_text=r"maximum context length|input is too long",
        # "should not be larger than 10" (Bailian), "must not exceed 64", "at most 96", "less than or equal to 128",
        # each in a message about the batch or the count of inputs.
        too_many=(
            r"(?:not be (?:larger|greater) than|(?:must|should|can|may)(?:not| not) exceed|at most"
            r"|(?:less|fewer|smaller) than or equal to|max(?:imum)? batch size(?: is| of)?|up to)"
            r"\D{0,12}?(?P<most>\d+)"
        ),
    ),
)
