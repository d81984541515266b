"""What goes out and what comes back: the bytes of a request, and how it ended. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson


class Break(enum.Enum):
    """How a request ended without a reply."""

    NAME = "the host's name cannot be looked up"
    LOOKUP = "the host's name cannot be looked up for the moment"
    REFUSED = "no connection could be made"
    CONNECT_TIMEOUT = "no connection within the connect timeout"
    TLS = "the TLS handshake failed"
    PLAIN = "the TLS handshake met something else than TLS"
    PROXY = "the proxy could not be reached, or did not reach the server"
    CLOSED = "the connection was closed before a reply"
    CUT = "the connection broke in the middle of the reply"
    READ_TIMEOUT = "silence for longer than the sock_read timeout"
    TOTAL_TIMEOUT = "no complete reply within the total timeout"
    NOT_HTTP = "what came back is not HTTP"
    TOO_LARGE = "the reply is larger than the cap"
    COMPRESSED = "the reply is compressed although that was not asked for"
    OTHER = "the HTTP client failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A request that ended without a reply.

    Attributes:
        how: The way it ended.
        reused: The connection had carried an earlier request, so it may just have been stale.
        detail: The operating system's words, which hold neither texts nor keys.
        status: HTTP status of a proxy's refusal.
    """

    how: Break
    reused: bool = False
    detail: str = ""
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server answered; names of headers in any case, as HTTP has it.

    Attributes:
        status: HTTP status.
        headers: Its headers.
        body: Its body.
        life: Of the connection: grows when connections were lost, so that the server may be another one by now.
        reused: The connection had carried an earlier request, so the reply may be to nothing that was asked.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    life: int = 0
    reused: bool = False


def encode(
    texts: Sequence[str],
    extra: str = "{}",
    *,
    model: str | None,
    encoding: str | None,
    dimensions: int | None,
) -> bytes:
    """The body of one request, with further fields (a JSON object). Texts are sent as they are; None is left out."""
    body: dict[str, Any] = {"input": texts}
    if encoding is not None:
        body["encoding_format"] = encoding
    if model is not None:
        body["model"] = model
    if dimensions is not None:
        body["dimensions"] = dimensions
    coded = orjson.dumps(body)
    return coded if extra == "{}" else coded[:-1] + b"," + extra[1:].encode()
