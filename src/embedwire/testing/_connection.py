"""One client's connection: bytes in, requests out; answers in, bytes out."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from embedwire.testing._answer import Answer, Ending
from embedwire.testing._http import MessageError, Request, frame, parse, render_head

__all__ = ["Connection", "Manners"]

RESET_ON_CLOSE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # struct linger: on, 0 seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How a server treats its connections; `EmbeddingServer` says what each means."""

    headers: Mapping[str, str]
    close_after: int | None
    silent_close: bool
    idle_timeout: float | None
    errors_close: bool


class Connection(asyncio.Protocol):
    """Reads one request at a time, hands it to `serve`, and cancels that when the client leaves.

    Args:
        manners: How to treat the client.
        opened: Called once with this connection; returns its number.
        serve: Starts the work on a request, which ends with `send`.
        lost: Called once, when the connection is gone.
    """

    def __init__(
        self,
        manners: Manners,
        *,
        opened: Callable[[Connection], int],
        serve: Callable[[Connection, Request], asyncio.Task[None]],
        lost: Callable[[Connection], None],
    ) -> None:
        self._manners = manners
        self._opened = opened
        self._serve = serve
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._received = 0
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self.gone = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock of an idle connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._number = self._opened(self)
        self._start_idling()

    def data_received(self, data: bytes) -> None:
        """Collect bytes until they make a request."""
        self._stop_idling()
        self._buffer += data
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the work that nobody waits for any more."""
        self._stop_idling()
        if self._task:
            self._task.cancel()
        self.gone.set_result(None)
        self._lost(self)

    def drop(self) -> None:
        """Cut the connection now."""
        self._transport.abort()

    async def send(self, request: Request, answer: Answer, answered: Callable[[], None]) -> None:
        """Send the answer, or as much of it as it tells to, and end the connection as it tells to.

        Calls `answered` just before the client can know that this is the end.
        """
        if answer.raw is not None:
            head, body, ending = b"", answer.raw[: answer.cut], answer.then or "close"
        else:
            head, body, ending = self._encode(request, answer)
        *pieces, last = _pieces(head, body, answer)
        for piece in pieces:
            self._transport.write(piece)
            await asyncio.sleep(answer.drip or 0)
        if ending == "hang":
            self._transport.write(last)
            await self._loop.create_future()
        answered()
        self._transport.write(last)
        if ending == "close":
            self._transport.close()
        elif ending == "reset":
            link: socket.socket = self._transport.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._transport.abort()

    def _encode(self, request: Request, answer: Answer) -> tuple[bytes, bytes, Ending]:
        status = answer.status or 200
        refused = status >= 400 and self._manners.errors_close
        exhausted = request.nth == self._manners.close_after
        says_close = refused or answer.framing == "close" or not request.stays
        says_close = says_close or (exhausted and not self._manners.silent_close)
        length, body = frame(answer.payload, answer.framing, answer.cut)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            **length,
            **({"Connection": "close"} if says_close else {}),
            **self._manners.headers,
            **answer.headers,
        }
        ending: Ending = "close" if says_close or exhausted or answer.cut is not None else "keep"
        return render_head(status, headers), body, answer.then or ending

    def _next(self) -> None:
        if self._task or self._transport.is_closing():
            return
        try:
            request = parse(
                self._buffer, connection=self._number, nth=self._received + 1, at=self._loop.time()
            )
        except MessageError as error:
            refusal = Answer.error(400, str(error)).payload
            self._transport.write(render_head(400, {"Content-Length": str(len(refusal))}) + refusal)
            self._transport.close()
            return
        if request:
            self._received += 1
            self._task = self._serve(self, request)
            self._task.add_done_callback(self._answered)
        elif not self._buffer:
            self._start_idling()

    def _answered(self, _: asyncio.Task[None]) -> None:
        self._task = None
        self._next()

    def _start_idling(self) -> None:
        if self._manners.idle_timeout is not None:
            self._idle = self._loop.call_later(self._manners.idle_timeout, self._transport.close)

    def _stop_idling(self) -> None:
        if self._idle:
            self._idle.cancel()
            self._idle = None


def _pieces(head: bytes, body: bytes, answer: Answer) -> list[bytes]:
    if answer.drip is None:
        return [head + body]
    return [head, *(body[start : start + answer.piece] for start in range(0, len(body), answer.piece))]
