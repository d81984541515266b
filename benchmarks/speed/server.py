"""A mock server that costs almost nothing, as a process of its own: ``python -m benchmarks.speed.server '{}'``.

It joins replies from bytes made beforehand, finds what it must know of a request with two searches, and tells
the CPU time that it used itself under ``/stats``, so that the results can show that it did not count. It prints
its URL when it is ready, and serves until stdin closes.

A request holds one slot for its whole time, as with a semaphore, first come first served. The end of that time is
fixed when the request arrives, from when a slot is free *by plan*: a timer that rings late delays that one reply,
and never pushes back the requests behind it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import heapq
import importlib
import json
import math
import os
import re
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, cast

from benchmarks.speed.texts import table

NUMBER = re.compile(rb"text (\d{6})")
WANDERING = 3.0  # seconds from fast over slow to fast again
PAUSE = 0.3  # seconds without a request
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What the server is like.

    Attributes:
        slots: Requests worked on at the same time; None: all.
        fixed: Seconds for a request.
        per_text: Seconds for each text in it.
        rising: Further seconds for each pair of texts in it.
        wander: The speed wanders between 1 and 1 + ``wander`` times slower, as on a server shared with others;
            in the same way after each pause.
        cap: Most texts in one request; more are refused as TEI does it.
        fails_above: Above so many texts, an unexplained 500.
        software: The ``Server`` header.
    """

    slots: int | None = None
    fixed: float = 0.0
    per_text: float = 0.0
    rising: float = 0.0
    wander: float = 0.0
    cap: int | None = None
    fails_above: int | None = None
    software: str | None = None

    def seconds(self, texts: int, at: float = 0.0) -> float:
        """The time that a request of so many texts takes when it is begun ``at`` seconds after a pause."""
        slower = 1 + self.wander * math.sin(math.pi * at / WANDERING) ** 2
        return (self.fixed + self.per_text * texts + self.rising * texts * texts) * slower

    def ideal(self, texts: int, batch: int) -> float:
        """The least time in which the slots can do so many texts in batches of this size."""
        sizes = [batch] * (texts // batch) + [texts % batch] * (texts % batch > 0)
        free = [0.0] * (self.slots or len(sizes))
        for size in sizes:
            heapq.heapreplace(free, free[0] + self.seconds(size))
        return max(free)


class Mock:
    """The state of the server."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.free = [0.0] * (behaviour.slots or 0)  # when each slot will be free: a heap
        self.begun = self.last = -math.inf  # the first request after a pause, and the last one
        self.requests = self.texts = 0
        rows = table()
        self.floats = [json.dumps(row.tolist(), separators=(",", ":")).encode() + b"}" for row in rows]
        self.base64 = [b'"' + base64.b64encode(row.tobytes()) + b'"}' for row in rows]
        self.before = [
            b'%s{"object":"embedding","index":%d,"embedding":' % (b"," * (i > 0), i) for i in range(4096)
        ]
        self.server = b"" if behaviour.software is None else b"Server: %s\r\n" % behaviour.software.encode()

    def embed(self, body: bytes) -> tuple[list[bytes], float]:
        """The pieces of the reply, and the seconds until it is due."""
        numbers = NUMBER.findall(body) or [b"0"] * len(json.loads(body)["input"])
        count, limits = len(numbers), self.behaviour
        self.requests += 1
        if limits.cap is not None and count > limits.cap:
            error = f"batch size {count} > maximum allowed batch size {limits.cap}"
            return self.reply([json.dumps({"error": error, "error_type": "Validation"}).encode()], 422), 0.0
        if limits.fails_above is not None and count > limits.fails_above:
            return self.reply([b'{"error":{"code":500,"message":"internal error"}}'], 500), self._wait(1)
        self.texts += count
        rows = self.base64 if b'"base64"' in body else self.floats
        pieces = [b'{"object":"list","model":"bench","data":[']
        for before, number in zip(self.before, numbers, strict=False):
            pieces += (before, rows[int(number) % len(rows)])
        pieces.append(b'],"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (count, count))
        return self.reply(pieces), self._wait(count)

    def tell(self, path: bytes) -> list[bytes]:
        """The reply to a question."""
        answers: dict[bytes, object] = {
            b"/health": {"status": "ok"},
            b"/props": {
                "total_slots": self.behaviour.slots or 1,
                "default_generation_settings": {"n_ctx": 512},
            },
            b"/v1/models": {"object": "list", "data": [{"id": "bench", "object": "model"}]},
            b"/stats": {"cpu": time.process_time(), "requests": self.requests, "texts": self.texts},
        }
        answer = answers.get(path, {"error": "no such path"})
        return self.reply([json.dumps(answer).encode()], 200 if path in answers else 404)

    def reply(self, pieces: list[bytes], status: int = 200) -> list[bytes]:
        """The pieces of a body, and the head before them."""
        length = sum(map(len, pieces))
        head = b"HTTP/1.1 %d -\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        return [head % (status, self.server, length), *pieces]

    def _wait(self, count: int) -> float:
        """The seconds until a slot will have done a request that arrives now."""
        now = time.monotonic()
        if now > self.last + PAUSE:
            self.begun = now
        start = max(now, self.free[0]) if self.free else now
        end = start + self.behaviour.seconds(count, start - self.begun)
        self.last = max(self.last, end)
        if self.free:
            heapq.heapreplace(self.free, end)
        return end - now


class Connection(asyncio.Protocol):
    """One connection: a request, its reply, the next request."""

    def __init__(self, mock: Mock) -> None:
        self.mock = mock
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not found or (length and len(body) < int(length[1])):
            return
        self.received = b""
        method, path, _ = head.split(b" ", 2)
        if method == b"POST":
            pieces, seconds = self.mock.embed(body)
        else:
            pieces, seconds = self.mock.tell(path), 0.0
        if seconds > 0:
            asyncio.get_running_loop().call_later(seconds, self.send, pieces)
        else:
            self.send(pieces)

    def send(self, pieces: list[bytes]) -> None:
        if not self.transport.is_closing():
            self.transport.writelines(pieces)


async def serve(behaviour: Behaviour) -> None:
    """Serve for ever."""
    mock = Mock(behaviour)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(mock), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Serve until stdin closes."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    run: Any = asyncio.run
    with contextlib.suppress(ModuleNotFoundError):  # it does without, and takes more CPU
        run = importlib.import_module("uvloop").run
    run(serve(Behaviour(**json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
