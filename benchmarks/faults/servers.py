"""The servers of the table: what each does wrong, and the texts that they are sent."""

from __future__ import annotations

import base64
import gzip
import json
import math
import struct
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from benchmarks.faults.rules import right_vector
from benchmarks.faults.worker import AnyCase, Loner
from embedwire.testing import Answer, EmbeddingServer, Request, vector

Serve: TypeAlias = "Callable[[str], EmbeddingServer]"  # the URL of another server → the server of a cell
Script: TypeAlias = "Callable[[Request], Answer | None]"

FOUR = [f"A short text, number {number}." for number in range(4)]
MORE = [f"Another text, number {number}." for number in range(4)]
EIGHT = [f"One of eight texts, number {number}." for number in range(8)]
MANY = [[f"Text {number} of call {call}." for number in range(64)] for call in range(3)]
SINGLES = [[f"A single text, number {number}."] for number in range(81)]
CASES = [AnyCase(text) for text in ("Apple", "APPLE", "apple")]
LONERS = [Loner(text) for text in ("Apple", "Pear", "Apple", "Plum")]
QUERIES = [[f"Query {number} of one of twelve callers"] for number in range(12)]
CROWDS = [[f"Text {number} of crowd {call}." for number in range((200, 136)[call])] for call in range(2)]
TITLES = [f"Title {number}" for number in range(300)]
PAGES = [f"Page {number}: ".ljust(2000, "x") for number in range(40)]
LONG = " ".join(f"word{number}" for number in range(200_000))  # 2 MB
BAD = 2  # the place of the text that a server has trouble with

NGINX = Answer(
    status=413, body=b"<html>413 Request Entity Too Large</html>", headers={"Content-Type": "text/html"}
)


def always(answer: Answer) -> Serve:
    """Each request for embeddings gets this answer."""
    return scripted(lambda request: answer if request.embeds else None)


def once(answer: Answer) -> Serve:
    """The first request for embeddings gets this answer."""

    def serve(elsewhere: str) -> EmbeddingServer:
        server = EmbeddingServer()
        server.answer(answer)
        return server

    return serve


def scripted(script: Script) -> Serve:
    """A script that needs no memory."""
    return lambda elsewhere: EmbeddingServer(script=script)


def refusing(text: str, answer: Answer) -> Serve:
    """Each request with this text gets this answer."""
    return scripted(lambda request: answer if text in request.texts else None)


def refusing_over(most: int, answer: Answer) -> Serve:
    """Each request with more texts gets this answer."""
    return scripted(lambda request: answer if len(request.texts) > most else None)


def spoiling(wrong: list[Any] | None) -> Serve:
    """The vector of the bad text is always this one, in the encoding that was asked for."""

    def script(request: Request) -> Answer | None:
        if FOUR[BAD] not in request.texts:
            return None
        place = request.texts.index(FOUR[BAD])

        def spoil(reply: dict[str, Any]) -> bytes:
            item = reply["data"][place]
            packed = isinstance(item["embedding"], str)
            item["embedding"] = _base64(wrong) if packed and wrong is not None else wrong
            return json.dumps(reply).encode()  # writes NaN, as Python servers do

        return Answer.mutate(spoil)

    return scripted(script)


def _base64(row: list[Any]) -> str:
    numbers = [math.nan if number is None else number for number in row]
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def narrower_later(elsewhere: str) -> EmbeddingServer:
    """The texts of the second call get vectors with fewer numbers."""

    def script(request: Request) -> Answer | None:
        if not set(request.texts) & set(MORE):
            return None
        return Answer.vectors(lambda rows: [vector(text, 6) for text in request.texts])

    return EmbeddingServer(script=script)


def loading(seconds: float) -> Serve:
    """The model is loaded so many seconds after the first request."""

    def serve(elsewhere: str) -> EmbeddingServer:
        first: list[float] = []

        def script(request: Request) -> Answer | None:
            first.append(request.at)
            return Answer.loading() if request.at - first[0] < seconds else None

        return EmbeddingServer(script=script)

    return serve


def dying_connection(elsewhere: str) -> EmbeddingServer:
    """The first request on a connection that was used before is met by its end."""
    met: list[Request] = []

    def script(request: Request) -> Answer | None:
        if not request.embeds or request.nth == 1 or met:
            return None
        met.append(request)
        return Answer.hang_up()

    return EmbeddingServer(script=script)


def trickling(reply: dict[str, Any]) -> bytes:
    """A reply of 5000 bytes, most of them white space."""
    return json.dumps(reply).encode().ljust(5000)


@cache
def bomb() -> bytes:
    """300 MB of white space, compressed."""
    return gzip.compress(b" " * 300_000_000, compresslevel=1)


def written(body: dict[str, Any], status: str = "200 OK") -> bytes:
    """A reply as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def right_reply(request: Request, pack: Callable[[list[float]], str] | None = None) -> dict[str, Any]:
    """The right vectors, in the encoding that was asked for."""
    pack = pack or _base64
    packed = request.json.get("encoding_format") == "base64"
    given = request.json["input"]
    rows = [right_vector(text) for text in ([given] if isinstance(given, str) else given)]
    data = [
        {"object": "embedding", "index": index, "embedding": pack(row) if packed else row}
        for index, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": len(rows), "total_tokens": len(rows)}
    return {"object": "list", "model": request.json["model"], "data": data, "usage": usage}


def leaving(left: bytes | None, after: float) -> Serve:
    """Each right reply is followed by something that nobody asked for; None: the reply once more."""

    def script(request: Request) -> Answer | None:
        if not request.embeds:
            return None
        reply = written(right_reply(request))
        more = reply if left is None else left
        if not after:
            return Answer(raw=reply + more, then="keep")
        return Answer(raw=reply + more, drip=after, piece=len(reply), then="hang" if left else "keep")

    return scripted(script)


HAPROXY_408 = (
    b"HTTP/1.1 408 Request Time-out\r\nContent-Length: 0\r\nCache-Control: no-cache\r\n"
    b"Connection: close\r\n\r\n"
)


def packing(code: str, tenant: str | None = None, *, scale: int = 1) -> Serve:
    """Vectors in base64 are packed in another way, for all or for one tenant."""

    def script(request: Request) -> Answer | None:
        if not request.embeds or (tenant and request.headers.get("x-tenant") != tenant):
            return None
        return Answer(body=right_reply(request, packer(code, scale)))

    return scripted(script)


def always_packing(code: str, *, scale: int = 1) -> Serve:
    """Vectors as wide as a model's are packed in another way, also where decimal was asked for."""
    pack = packer(code, scale)

    def packed(item: dict[str, Any], text: str) -> dict[str, Any]:
        return {**item, "embedding": pack(wide_vector(text))}

    def script(request: Request) -> Answer | None:
        if not request.embeds:
            return None
        reply = right_reply(request)
        data = [packed(item, text) for item, text in zip(reply["data"], request.texts, strict=True)]
        return Answer(body={**reply, "data": data})

    return scripted(script)


def packer(code: str, scale: int) -> Callable[[list[float]], str]:
    """Packs numbers as `struct` names the type; as whole numbers where there is a scale."""

    def pack(row: list[float]) -> str:
        numbers = row if scale == 1 else [round(number * scale) for number in row]
        return base64.b64encode(struct.pack(f"{code[0]}{len(row)}{code[1]}", *numbers)).decode()

    return pack


def wide_vector(text: str) -> list[float]:
    """The text's vector, as wide as a small model's."""
    return vector(text, 384)


def crashing(text: str, answer: Answer) -> Serve:
    """One text is answered so, whatever travels with it; all others take a tenth of a second."""
    return lambda elsewhere: EmbeddingServer(
        latency=0.1, script=lambda request: answer if text in request.texts else None
    )


def one_by_one(seconds: Callable[[Request], float]) -> Serve:
    """Computes one request after the other, also those that nobody waits for any more."""

    def serve(elsewhere: str) -> EmbeddingServer:
        free = [0.0]

        def script(request: Request) -> Answer | None:
            if not request.embeds:
                return None
            free[0] = max(free[0], request.at) + seconds(request)
            return Answer(delay=free[0] - request.at)

        return EmbeddingServer(script=script)

    return serve


def quoting(request: Request) -> Answer | None:
    """A text of over 100,000 characters is refused, and quoted."""
    long = [text for text in request.texts if len(text) > 100_000]
    return Answer.error(400, f"cannot embed: {long[0][500_000:500_200]}") if long else None


def pausing(model: str, answer: Answer) -> Serve:
    """Requests of one model always get this answer."""
    return scripted(lambda request: answer if request.embeds and request.json["model"] == model else None)


def restarted(before: int, after: int, first: str) -> Serve:
    """A llama-server that comes back with another number of slots before this text is sent.

    It closes what is idle for 0.3 s, so that no connection is left by then; the requests in flight are counted anew.
    """

    def serve(elsewhere: str) -> EmbeddingServer:
        slots = [before]

        def script(request: Request) -> Answer | None:
            if first in request.texts:
                slots[0], server.peak_in_flight = after, server.in_flight
            if request.place != "/props":
                return None
            told = {"total_slots": slots[0], "default_generation_settings": {"n_ctx": 512}}
            return Answer(body=told)

        server = EmbeddingServer(script=script, latency=0.05, idle_timeout=0.3)
        return server

    return serve
