"""What a scripted server sends instead of, or made from, the right reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import orjson

from embedwire.testing._vectors import from_base64, to_base64

if TYPE_CHECKING:
    from embedwire.testing._gate import Gate
    from embedwire.testing._http import Framing

__all__ = ["Answer", "Ending", "unchanged"]

Ending: TypeAlias = Literal["keep", "close", "reset", "hang"]


def unchanged(reply: object) -> object:
    """Return the right reply as it is."""
    return reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: what it says, and what happens to it on the wire. `Answer()` is the right reply.

    Attributes:
        status: HTTP status; None: the right one.
        headers: Added to the server's own, or in place of those with the same spelling.
        body: The body (bytes go out as they are, anything else as JSON), or a function that gets the right
            reply decoded and returns the body. Where the right reply is an error, the function is not called.
        raw: All that is sent, in place of an HTTP reply.
        delay: Seconds before the server turns to the request.
        gate: The server turns to the request only when this is open.
        framing: How the body's end is told: by `Content-Length`, by chunks, or by closing the connection.
        drip: Seconds between two pieces of the body (or of `raw`).
        piece: Bytes in such a piece.
        cut: Send only so many bytes of the body, under headers that promise all of it.
        then: Afterwards `"keep"` the connection, `"close"` or `"reset"` it, or `"hang"`: say nothing more
            until the client leaves. None: close after a `cut` or `raw` answer, else what the server would do.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = unchanged
    raw: bytes | None = None
    delay: float = 0.0
    gate: Gate | None = None
    framing: Framing = "length"
    drip: float | None = None
    piece: int = 1
    cut: int | None = None
    then: Ending | None = None

    @property
    def payload(self) -> bytes:
        """The body as bytes."""
        return self.body if isinstance(self.body, bytes) else orjson.dumps(self.body)

    # The right reply, made wrong

    @classmethod
    def mutate(cls, change: Callable[[dict[str, Any]], object]) -> Answer:
        """Send what `change` makes of the right reply, a dict with `data`, `model`, `object`, `usage`."""
        return cls(body=change)

    @classmethod
    def items(cls, change: Callable[[list[Any]], object]) -> Answer:
        """Send the right reply with what `change` makes of its `data`, such as `lambda data: data[::-1]`."""
        return cls(body=lambda reply: {**reply, "data": change(reply["data"])})

    @classmethod
    def vectors(cls, change: Callable[[list[Any]], list[Any]]) -> Answer:
        """Send the right reply with what `change` makes of its vectors, in the encoding that was asked for.

        JSON has no NaN or infinity: sent as floats, these are null.
        """

        def body(reply: dict[str, Any]) -> dict[str, Any]:
            packed = [isinstance(item["embedding"], str) for item in reply["data"]]
            rows = [
                from_base64(item["embedding"]) if pack else item["embedding"]
                for item, pack in zip(reply["data"], packed, strict=True)
            ]
            data = [
                {**item, "embedding": to_base64(row) if pack else row}
                for item, row, pack in zip(reply["data"], change(rows), packed, strict=True)
            ]
            return {**reply, "data": data}

        return cls(body=body)

    # Refusals, worded as servers word them

    @classmethod
    def error(
        cls,
        status: int,
        message: str,
        *,
        error_type: str = "server_error",
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> Answer:
        """Refuse as llama.cpp does; `fields` go beside the message."""
        error = {"code": status, "message": message, "type": error_type, **fields}
        return cls(status=status, body={"error": error}, headers=headers or {})

    @classmethod
    def loading(cls) -> Answer:
        """Refuse as llama.cpp does while it loads its model: 503."""
        return cls.error(503, "Loading model", error_type="unavailable_error")

    @classmethod
    def too_large(cls, tokens: int, limit: int) -> Answer:
        """Refuse as llama.cpp does a text over its physical batch: 500, although it will never work."""
        advice = f"increase the physical batch size (current batch size: {limit})"
        return cls.error(500, f"input ({tokens} tokens) is too large to process. {advice}")

    @classmethod
    def exceed_context(cls, tokens: int, n_ctx: int) -> Answer:
        """Refuse as llama.cpp does a text over its context: 400."""
        message = f"input ({tokens} tokens) is larger than the max context size ({n_ctx} tokens). skipping"
        return cls.error(
            400, message, error_type="exceed_context_size_error", n_prompt_tokens=tokens, n_ctx=n_ctx
        )

    @classmethod
    def throttled(cls, retry_after: float | str | None = None) -> Answer:
        """Refuse for now: 429, with `Retry-After` (seconds, or a date as text) when given."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return cls.error(429, "Too many requests", error_type="rate_limit_error", headers=headers)

    @classmethod
    def redirect(cls, location: str, status: int = 307) -> Answer:
        """Point elsewhere."""
        return cls(status=status, body=b"", headers={"Location": location})

    # No reply at all

    @classmethod
    def hang_up(cls) -> Answer:
        """Close the connection before any byte."""
        return cls(raw=b"", then="close")

    @classmethod
    def reset(cls) -> Answer:
        """Reset the connection before any byte."""
        return cls(raw=b"", then="reset")

    @classmethod
    def hang(cls) -> Answer:
        """Say nothing until the client leaves or the server stops."""
        return cls(raw=b"", then="hang")

    @classmethod
    def hold(cls, gate: Gate) -> Answer:
        """Send the right reply, once the gate is open."""
        return cls(gate=gate)
