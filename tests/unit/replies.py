"""What a server replied, as the pure functions get it, and what was seen of that server before."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from embedwire._http.verdicts import Context
from embedwire._http.wire import Reply
from embedwire.testing import Answer

NEW, ALIVE, RESENT = Context(), Context(alive=True), Context(alive=True, resent=True)
SAME, LATE = Context(alive=True, same=True), Context(alive=True, timeouts=1)


def reply(status: int, body: object = b"", headers: Mapping[str, str] | None = None) -> Reply:
    """A reply; a body that is not bytes goes out as JSON."""
    return Reply(
        status=status, headers=headers or {}, body=body if isinstance(body, bytes) else orjson.dumps(body)
    )


def says(status: int, message: str, kind: str = "server_error", **fields: object) -> Reply:
    """An error in the shape of OpenAI and llama.cpp."""
    return reply(status, {"error": {"code": status, "message": message, "type": kind, **fields}})


def scripted(answer: Answer) -> Reply:
    """What the fault server would send."""
    return reply(answer.status or 200, answer.payload, {k.lower(): v for k, v in answer.headers.items()})
