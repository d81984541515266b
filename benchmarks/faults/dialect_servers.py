"""Servers that speak in ways of their own, and what stands in front of them. None of them is llama.cpp's."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from benchmarks.faults.rules import right_vector
from benchmarks.faults.servers import MORE, Script, Serve, right_reply
from embedwire.testing import Answer, EmbeddingServer, Request

Change: TypeAlias = Callable[[dict[str, Any]], object]

SOME_SERVER = "uvicorn"
RETRY_WORDS = "Requests have exceeded the call rate limit of your tier. Please retry after {seconds} seconds."


def dialect(script: Script, latency: float = 0.0) -> Serve:
    """A server that does not call itself llama.cpp, with a script that needs no memory."""
    return lambda elsewhere: EmbeddingServer(script=script, server_header=SOME_SERVER, latency=latency)


def saying(change: Change) -> Serve:
    """Each right reply is changed so."""
    return dialect(lambda request: Answer.mutate(change) if request.embeds else None)


def refused(status: int, body: object) -> Answer:
    """A refusal of any shape; bytes are a web page."""
    return Answer(
        status=status, body=body, headers={"Content-Type": "text/html"} if isinstance(body, bytes) else {}
    )


def page(status: int, words: str) -> Answer:
    """The web page of something in front."""
    title = f"{status} {words}".encode()
    return refused(
        status, b"<html><head><title>%b</title></head><body><h1>%b</h1></body></html>" % (title, title)
    )


# Right shape, wrong content


def changing_model(other: list[str]) -> Serve:
    """For these texts another model answers, with vectors of the same width, and says so."""

    def script(request: Request) -> Answer | None:
        if not set(request.texts) & set(other):
            return None
        changed = Answer.vectors(lambda rows: [[-number for number in row] for row in rows])
        assert callable(changed.body)
        make = changed.body
        return Answer.mutate(lambda reply: {**make(reply), "model": "other-model"})

    return dialect(script)


def four_of(text: str) -> list[float]:
    """The first four numbers of the text's vector, at unit length."""
    row = right_vector(text)[:4]
    length = math.sqrt(sum(number * number for number in row))
    return [number / length for number in row]


def cutting(request: Request) -> Answer | None:
    """Vectors are cut to the dimensions asked for, whatever length they have then."""
    wanted = request.json.get("dimensions") if request.embeds else None
    return Answer.vectors(lambda rows: [row[:wanted] for row in rows]) if wanted else None


# Paths and fields


def only_at(path: str, query: str = "") -> Serve:
    """All other paths, and other queries, are unknown."""
    wanted = f"{path}?{query}" if query else path

    def script(request: Request) -> Answer:
        if request.method == "POST" and request.path == wanted:
            return Answer(body=right_reply(request))
        return refused(404, {"detail": "Not Found"})

    return dialect(script)


def refusing_field(wrong: Callable[[dict[str, Any]], bool], answer: Answer) -> Serve:
    """Each request whose body is wrong gets this answer."""
    return dialect(lambda request: answer if request.embeds and wrong(request.json) else None)


def compressed(encoding: str) -> Serve:
    """Replies come compressed, whatever was asked for."""
    pack: Callable[[bytes], bytes] = gzip.compress if encoding == "gzip" else zlib.compress
    answer = replace(
        Answer.mutate(lambda reply: pack(json.dumps(reply).encode())), headers={"Content-Encoding": encoding}
    )
    return dialect(lambda request: answer if request.embeds else None)


# Away for a while, busy, limited


def at_first(times: int, answer: Answer) -> Serve:
    """So many requests for embeddings get this answer, and then no more."""

    def serve(elsewhere: str) -> EmbeddingServer:
        server = EmbeddingServer(server_header=SOME_SERVER)
        server.answer(*[answer] * times)
        return server

    return serve


def for_a_while(seconds: float, say: Callable[[float], Answer], *, first: str = "") -> Serve:
    """So long all requests get an answer made from the seconds left; it begins with the first one, or one text's."""

    def serve(elsewhere: str) -> EmbeddingServer:
        begun: list[float] = []

        def script(request: Request) -> Answer | None:
            if not begun and (first in request.texts if first else request.embeds):
                begun.append(request.at)
            left = seconds - (request.at - begun[0]) if begun else 0.0
            return say(left) if left > 0 else None

        return EmbeddingServer(script=script, server_header=SOME_SERVER)

    return serve


def away(seconds: float, answer: Answer) -> Serve:
    """The server restarts when the second call comes, and something in front answers for it."""
    return for_a_while(seconds, lambda left: answer, first=MORE[0])


def asks_to_wait(status: int) -> Callable[[float], Answer]:
    """The time to wait stands in the words alone."""

    def say(left: float) -> Answer:
        words = RETRY_WORDS.format(seconds=math.ceil(left))
        return refused(status, {"error": {"code": 429, "message": words}})

    return say


def one_per_second(elsewhere: str) -> EmbeddingServer:
    """One request in each second is taken; the others are refused without a word on how long to wait."""
    taken: list[float] = []

    def script(request: Request) -> Answer | None:
        if not request.embeds:
            return None
        if taken and request.at - taken[-1] < 1:
            return refused(429, {"message": "Requests rate limit exceeded", "request_id": "1"})
        taken.append(request.at)
        return None

    return EmbeddingServer(script=script, server_header=SOME_SERVER)


def crowded(most: int, answer: Answer) -> Serve:
    """A request that comes while so many are in flight gets this answer; the others take 0.05 s."""

    def serve(elsewhere: str) -> EmbeddingServer:
        def script(request: Request) -> Answer | None:
            return answer if request.embeds and server.in_flight > most else None

        server = EmbeddingServer(script=script, server_header=SOME_SERVER, latency=0.05)
        return server

    return serve
