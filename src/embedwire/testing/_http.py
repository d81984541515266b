"""HTTP/1.1 as bytes: a request out of a buffer, a reply into what is sent. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Framing", "MessageError", "Request", "frame", "parse", "render_head"]

Framing: TypeAlias = Literal["length", "chunked", "close"]


class MessageError(ValueError):
    """The client sent something that this server does not read as HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """A request that the server received.

    Attributes:
        method: As sent, such as `"POST"`.
        path: As sent, query included.
        version: `"HTTP/1.1"` or `"HTTP/1.0"`.
        headers: Names in lower case; of a repeated header the last.
        body: The bytes as sent.
        connection: Number of the connection it came on, from 1.
        nth: Its place on that connection, from 1: above 1, the connection was reused.
        at: Time of arrival on the clock of the server's event loop, in seconds.
    """

    method: str
    path: str
    version: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    nth: int
    at: float

    @property
    def json(self) -> Any:
        """The body decoded; raises `ValueError` when it is not JSON."""
        return orjson.loads(self.body)

    @property
    def place(self) -> str:
        """The path without its query."""
        return self.path.partition("?")[0]

    @property
    def embeds(self) -> bool:
        """Whether this asks for embeddings."""
        return self.method == "POST" and self.place == "/v1/embeddings"

    @property
    def texts(self) -> list[str]:
        """The texts to embed; none when this does not ask for embeddings or is malformed."""
        try:
            given = self.json["input"] if self.embeds else []
        except (ValueError, TypeError, KeyError):
            return []
        texts = [given] if isinstance(given, str) else given
        return texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else []

    @property
    def stays(self) -> bool:
        """Whether the client wants the connection kept."""
        return self.version == "HTTP/1.1" and self.headers.get("connection", "").lower() != "close"


def parse(buffer: bytearray, *, connection: int, nth: int, at: float) -> Request | None:
    """Take one whole request out of the buffer; None while it is not all there.

    Raises:
        MessageError: What came is not a request, or comes without a length.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    try:
        start, *lines = buffer[:end].decode("latin-1").split("\r\n")
        method, path, version = start.split(" ")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        stop = end + 4 + int(headers.get("content-length", "0"))
    except ValueError:
        raise MessageError("not an HTTP request") from None
    if "transfer-encoding" in headers:
        raise MessageError("a request needs a Content-Length")
    if len(buffer) < stop:
        return None
    body = bytes(buffer[end + 4 : stop])
    del buffer[:stop]
    return Request(
        method=method,
        path=path,
        version=version,
        headers=headers,
        body=body,
        connection=connection,
        nth=nth,
        at=at,
    )


def render_head(status: int, headers: Mapping[str, str]) -> bytes:
    """Write a status line and headers, up to and including the empty line."""
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


def frame(body: bytes, framing: Framing, cut: int | None) -> tuple[dict[str, str], bytes]:
    """Return the headers that tell where the body ends, and what to send of it: all, or `cut` bytes."""
    if framing == "chunked":
        size = b"%x\r\n" % len(body)
        whole = size + body + b"\r\n0\r\n\r\n" if body else b"0\r\n\r\n"
        return {"Transfer-Encoding": "chunked"}, whole if cut is None else whole[: len(size) + cut]
    told = {"Content-Length": str(len(body))} if framing == "length" else {}
    return told, body[:cut]
