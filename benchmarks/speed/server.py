"""A mock server that costs almost nothing, as a process of its own: ``python -m benchmarks.speed.server '{}'``.

It joins replies from bytes made beforehand, finds what it must know of a request with one search, and tells the CPU
time that it used itself under ``/stats``, so that the results can show that it did not count. It prints its URL when
it is ready, and serves until stdin closes.

When a request is answered is decided by a model (`benchmarks/speed/models.py`), which reckons from the moments at
which things happen *by plan*: a timer that rings late delays that one reply, and pushes back nothing behind it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib
import itertools
import json
import os
import re
import sys
import threading
import time
from typing import Any, cast

import orjson

from benchmarks.speed.models import Behaviour, Server
from benchmarks.speed.texts import table

NUMBER = re.compile(rb"text (\d{6})")
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Mock:
    """The server: a model, and the requests that wait for it."""

    def __init__(self, model: Server) -> None:
        self.model = model
        self.names = itertools.count()
        self.open: dict[int, tuple[Connection, list[bytes]]] = {}  # with the replies that they will get
        self.timer: asyncio.TimerHandle | None = None
        self.due: float | None = None  # when it rings
        self.requests = self.texts = 0
        rows = table()
        self.floats = [orjson.dumps(row.tolist()) + b"}" for row in rows]
        self.base64 = [b'"' + base64.b64encode(row.tobytes()) + b'"}' for row in rows]
        self.before = [
            b'%s{"object":"embedding","index":%d,"embedding":' % (b"," * (i > 0), i) for i in range(4096)
        ]
        self.server = b"" if model.software is None else b"Server: %s\r\n" % model.software.encode()

    def embed(self, connection: Connection, body: bytes) -> None:
        """Takes a request, which will be answered when the model is done with it."""
        numbers, lengths = _read(body)
        count, name = len(numbers), next(self.names)
        self.requests += 1
        status = self.model.arrive(time.monotonic(), name, lengths)
        if status != 200:
            connection.send(self.refusal(status, count))
            return
        self.texts += count
        rows = self.base64 if b'"base64"' in body else self.floats
        pieces = [b'{"object":"list","model":"bench","data":[']
        for before, number in zip(self.before, numbers, strict=False):
            pieces += (before, rows[number % len(rows)])
        pieces.append(b'],"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (count, count))
        self.open[name] = connection, self.reply(pieces)
        self.look()

    def look(self) -> None:
        """Answers what is done, and looks again when more will be."""
        now = time.monotonic()
        for name in self.model.advance(now):
            connection, pieces = self.open.pop(name)
            connection.send(pieces)
        due = self.model.next_event()
        if due == self.due and self.timer is not None:
            return
        if self.timer is not None:
            self.timer.cancel()
        self.due, self.timer = due, None
        if due is not None:
            self.timer = asyncio.get_running_loop().call_later(max(0.0, due - now), self.ring)

    def ring(self) -> None:
        """The timer's moment has come."""
        self.timer = None
        self.look()

    def refusal(self, status: int, count: int) -> list[bytes]:
        """TEI's words for too many texts, or words that explain nothing."""
        said: dict[str, Any] = {"error": {"code": 500, "message": "internal error"}}
        if status == 422:
            words = f"batch size {count} > maximum allowed batch size {self.model.cap}"
            said = {"error": words, "error_type": "Validation"}
        return self.reply([json.dumps(said).encode()], status)

    def tell(self, path: bytes) -> list[bytes]:
        """The reply to a question."""
        model: dict[str, object] = {"id": "bench", "object": "model"}
        if self.model.owned_by is not None:
            model["owned_by"] = self.model.owned_by
        answers: dict[bytes, object] = {
            b"/health": {"status": "ok"},
            b"/v1/models": {"object": "list", "data": [model]},
            b"/stats": {"cpu": time.process_time(), "requests": self.requests, "texts": self.texts},
        }
        if self.model.total_slots is not None:
            settings = {"n_ctx": 512}
            props = {"total_slots": self.model.total_slots, "default_generation_settings": settings}
            answers[b"/props"] = props
        answer = answers.get(path, {"error": "no such path"})
        return self.reply([json.dumps(answer).encode()], 200 if path in answers else 404)

    def reply(self, pieces: list[bytes], status: int = 200) -> list[bytes]:
        """The pieces of a body, and the head before them."""
        length = sum(map(len, pieces))
        head = b"HTTP/1.1 %d -\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        return [head % (status, self.server, length), *pieces]


def _read(body: bytes) -> tuple[list[int], list[int]]:
    """The numbers of the texts in a request, and about how many bytes each has."""
    found = list(NUMBER.finditer(body))
    if len(found) <= body.count(
        b'","', body.find(b"["), body.find(b"]")
    ):  # somebody else's texts, among them
        told = json.loads(body)["input"]
        told = [told] if isinstance(told, str) else told
        matches = [NUMBER.search(one.encode()) for one in told]
        return [int(match[1]) if match else 0 for match in matches], [len(one) for one in told]
    starts = [match.start() for match in found] + [len(body)]
    return [int(match[1]) for match in found], [end - start for start, end in itertools.pairwise(starts)]


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
            self.mock.embed(self, body)
        else:
            self.send(self.mock.tell(path))

    def send(self, pieces: list[bytes]) -> None:
        if not self.transport.is_closing():
            self.transport.writelines(pieces)


async def serve(behaviour: Behaviour) -> None:
    """Serve for ever."""
    mock = Mock(behaviour.made())
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
