"""The table: what a server does wrong, how the client is used meanwhile, and what would be right."""

from __future__ import annotations

import base64
import gzip
import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from benchmarks.faults.rules import (
    BOTH_GO_ON,
    ERROR,
    HIDDEN,
    HIDDEN_IN_ERROR,
    HIDDEN_IN_LOG,
    KEY,
    NO_REPEAT,
    RIGHT,
    RIGHT_OR_ERROR,
    STAYS,
    UNREACHED,
    WARNED,
    Rule,
    at_most,
    grows_at_most,
    names,
    remembers,
    right_vector,
    tells,
    waits,
    within,
)
from benchmarks.faults.worker import Way
from embedwire.testing import Answer, EmbeddingServer, Request, vector

Serve: TypeAlias = "Callable[[str], EmbeddingServer]"  # the URL of another server → the server of a cell
Script: TypeAlias = "Callable[[Request], Answer | None]"

FOUR = [f"A short text, number {number}." for number in range(4)]
MORE = [f"Another text, number {number}." for number in range(4)]
EIGHT = [f"One of eight texts, number {number}." for number in range(8)]
MANY = [[f"Text {number} of call {call}." for number in range(64)] for call in range(2)]
SINGLES = [[f"A single text, number {number}."] for number in range(81)]
BAD = 2  # the place of the text that a server has trouble with

BOUNDED = (at_most(10), within(30))
ONE_REPEAT = (at_most(2), within(5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault.

    Attributes:
        name: What the server does.
        rules: What must hold.
        note: What else a reader should know.
        serve: Makes the server.
        calls: The texts of each call.
        way: How the client is used; see `worker.Job`.
        pause: Seconds between two calls.
        timeout, retries, batch: What the client is made with; None: its default.
        gone: Whether nothing listens when the client comes.
        key_from_environment: Whether the client finds the key there.
        debug: Whether to take DEBUG logs.
        expected: The vector that a text should get.
    """

    name: str
    rules: tuple[Rule, ...]
    note: str = ""
    serve: Serve = lambda elsewhere: EmbeddingServer()
    calls: tuple[list[str], ...] = (FOUR,)
    way: Way = "calls"
    pause: float = 0.0
    timeout: float | None = None
    retries: int | None = None
    batch: int | None = None
    gone: bool = False
    key_from_environment: bool = False
    debug: bool = False
    expected: Callable[[str], list[float]] = right_vector


# Servers


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


TEI = "batch size 64 > maximum allowed batch size 32, in TEI's words"
NGINX = Answer(
    status=413, body=b"<html>413 Request Entity Too Large</html>", headers={"Content-Type": "text/html"}
)

TABLE: dict[str, list[Row]] = {
    "For comparison": [
        Row(name="nothing is wrong", rules=(RIGHT, at_most(1))),
    ],
    "Replies that are wrong": [
        Row(
            name="3 vectors for 4 texts",
            serve=always(Answer.items(lambda data: data[:-1])),
            rules=(ERROR,),
        ),
        Row(
            name="vectors in reverse order, with the right `index`",
            serve=always(Answer.items(lambda data: data[::-1])),
            rules=(RIGHT,),
            note="openai hands out `index` too; who sorts by it is right.",
        ),
        Row(
            name="a vector twice with its `index`, in place of the next one",
            serve=always(Answer.items(lambda data: [*data[:BAD], data[BAD - 1], *data[BAD + 1 :]])),
            rules=(ERROR, names(BAD - 1, BAD)),
        ),
        Row(
            name="a vector one number short",
            serve=spoiling(right_vector(FOUR[BAD])[:-1]),
            rules=(ERROR, names(BAD)),
        ),
        Row(name="an empty vector", serve=spoiling([]), rules=(ERROR, names(BAD))),
        Row(
            name="a vector of zeros",
            serve=spoiling([0.0] * 8),
            expected=lambda text: [0.0] * 8 if text == FOUR[BAD] else right_vector(text),
            rules=(RIGHT, WARNED),
        ),
        Row(name="a vector that is null", serve=spoiling(None), rules=(ERROR, names(BAD))),
        Row(name="a vector of nulls", serve=spoiling([None] * 8), rules=(ERROR, names(BAD))),
        Row(
            name="a NaN in a vector",
            serve=spoiling([math.nan, *right_vector(FOUR[BAD])[1:]]),
            rules=(ERROR, names(BAD)),
        ),
        Row(
            name="8 numbers a vector, 6 in the next call",
            serve=narrower_later,
            calls=(FOUR, MORE),
            rules=(ERROR,),
        ),
        Row(
            name="an HTML page with status 200",
            serve=always(
                Answer(body=b"<!doctype html><title>Sign in</title>", headers={"Content-Type": "text/html"})
            ),
            rules=(ERROR, *BOUNDED),
        ),
        Row(
            name="an error object with status 200",
            serve=always(
                Answer(body={"error": {"code": 500, "message": "out of memory", "type": "server_error"}})
            ),
            rules=(ERROR, *BOUNDED),
        ),
        Row(
            name="JSON cut in the middle, of that very length",
            serve=always(Answer.mutate(lambda reply: json.dumps(reply).encode()[:200])),
            rules=(ERROR, *BOUNDED),
        ),
    ],
    "Connections that break": [
        Row(
            name="body cut, fewer bytes than promised, always",
            serve=always(Answer(cut=200)),
            rules=(ERROR, *BOUNDED),
        ),
        Row(
            name="chunked body cut, always",
            serve=always(Answer(cut=200, framing="chunked")),
            rules=(ERROR, *BOUNDED),
        ),
        Row(
            name="closed in the middle of the body, once",
            serve=once(Answer(cut=200)),
            rules=(RIGHT, *ONE_REPEAT),
        ),
        Row(name="reset before any byte, once", serve=once(Answer.reset()), rules=(RIGHT, *ONE_REPEAT)),
        Row(
            name="idle connection closed without a word; repeats switched off",
            serve=lambda elsewhere: EmbeddingServer(close_after=1, silent_close=True),
            calls=(FOUR, MORE),
            pause=0.3,
            retries=0,
            rules=(RIGHT,),
        ),
        Row(
            name="idle connection closed just as the next request comes; repeats switched off",
            serve=dying_connection,
            calls=(FOUR, MORE),
            retries=0,
            rules=(RIGHT,),
        ),
        Row(name="nobody listens", gone=True, rules=(UNREACHED, within(10))),
        Row(name="not HTTP", serve=always(Answer(raw=b"SSH-2.0-OpenSSH_9.6\r\n")), rules=(ERROR, *BOUNDED)),
        Row(
            name="300 MB of white space in a gzip body of 0.3 MB",
            serve=lambda elsewhere: EmbeddingServer(
                script=lambda request: (
                    Answer(body=bomb(), headers={"Content-Encoding": "gzip"}) if request.embeds else None
                )
            ),
            rules=(ERROR, grows_at_most(100)),
        ),
    ],
    "Servers that are late or busy": [
        Row(
            name="body trickles for 5 s; `timeout=1`, repeats switched off",
            serve=always(Answer(body=trickling, drip=0.1, piece=100)),
            timeout=1,
            retries=0,
            rules=(ERROR, within(1.5)),
            note="With repeats, `timeout` bounds each request, not the call.",
        ),
        Row(
            name="says nothing for ever; `timeout=2`",
            serve=always(Answer.hang()),
            timeout=2,
            rules=(ERROR, within(10)),
        ),
        Row(
            name='503 "Loading model" for 3 s',
            serve=loading(3),
            rules=(RIGHT, at_most(2), within(6)),
        ),
        Row(
            name="429 with `Retry-After: 1`, once",
            serve=once(Answer.throttled(retry_after=1)),
            rules=(RIGHT, at_most(2), waits(1)),
        ),
        Row(
            name="429 with `Retry-After: 1`, for ever",
            serve=always(Answer.throttled(retry_after=1)),
            rules=(ERROR, *BOUNDED),
        ),
        Row(
            name="500, once",
            serve=once(Answer.error(500, "Internal Server Error")),
            rules=(RIGHT, *ONE_REPEAT),
        ),
        Row(
            name="500, for ever",
            serve=always(Answer.error(500, "Internal Server Error")),
            rules=(ERROR, *BOUNDED),
        ),
        Row(
            name="502 of a proxy, once",
            serve=once(
                Answer(
                    status=502, body=b"<html>502 Bad Gateway</html>", headers={"Content-Type": "text/html"}
                )
            ),
            rules=(RIGHT, *ONE_REPEAT),
        ),
    ],
    "Servers that refuse": [
        Row(
            name='500 "input is too large to process" for one of 4 texts (llama.cpp)',
            serve=refusing(FOUR[BAD], Answer.too_large(tokens=600, limit=512)),
            rules=(ERROR, names(BAD), tells(600, 512), NO_REPEAT),
        ),
        Row(
            name='400 "exceed_context_size_error" for one of 8 texts (llama.cpp)',
            serve=refusing(EIGHT[5], Answer.exceed_context(tokens=600, n_ctx=512)),
            calls=(EIGHT,),
            rules=(ERROR, names(5), tells(600, 512), NO_REPEAT),
        ),
        Row(
            name="422 over 32 texts a request (TEI), 64 texts, default batch",
            serve=lambda elsewhere: EmbeddingServer(max_batch=32),
            calls=(MANY[0],),
            rules=(RIGHT,),
        ),
        Row(
            name="422 over 32 texts a request (TEI), two calls, batch set to 64",
            serve=lambda elsewhere: EmbeddingServer(max_batch=32),
            calls=(*MANY,),
            batch=64,
            rules=(RIGHT, remembers(32)),
        ),
        Row(
            name="413 over 32 texts a request, without a number (nginx), two calls, batch set to 64",
            serve=refusing_over(32, NGINX),
            calls=(*MANY,),
            batch=64,
            rules=(RIGHT, remembers(32)),
        ),
        Row(
            name="401",
            serve=lambda elsewhere: EmbeddingServer(api_key="another key"),
            rules=(ERROR, at_most(1)),
        ),
        Row(name="404", serve=always(Answer.error(404, "File Not Found")), rules=(ERROR, at_most(1))),
        Row(
            name="307 to another origin",
            serve=lambda elsewhere: EmbeddingServer(
                script=lambda request: Answer.redirect(elsewhere + request.path) if request.embeds else None
            ),
            rules=(RIGHT_OR_ERROR, STAYS),
        ),
    ],
    "One object in several places": [
        Row(name="async, in two `asyncio.run`", way="loops", calls=(FOUR, MORE), rules=(RIGHT,)),
        Row(
            name="used, then forked: both go on",
            serve=lambda elsewhere: EmbeddingServer(latency=0.02),
            way="fork",
            calls=(*SINGLES,),
            rules=(BOTH_GO_ON,),
            note="Parent and child begin in the same moment; which calls go wrong differs from run to run.",
        ),
        Row(
            name="used, then pickled, key set by hand",
            serve=lambda elsewhere: EmbeddingServer(api_key=KEY),
            way="pickle",
            calls=(FOUR, MORE),
            rules=(RIGHT,),
        ),
        Row(
            name="used, then pickled, key from the environment",
            serve=lambda elsewhere: EmbeddingServer(api_key=KEY),
            way="pickle",
            calls=(FOUR, MORE),
            key_from_environment=True,
            rules=(RIGHT, HIDDEN),
            note="Where a client looks for no key in the environment, it is set by hand.",
        ),
    ],
    "Where the key shows": [
        Row(name="`repr`", way="repr", rules=(HIDDEN,)),
        Row(name="dump: `model_dump`, `model_dump_json`, `to_dict`, `to_json`", way="dump", rules=(HIDDEN,)),
        Row(
            name="exception after a 401 that repeats the key",
            serve=always(Answer.error(401, f"Incorrect API key provided: {KEY}")),
            rules=(ERROR, HIDDEN_IN_ERROR),
        ),
        Row(
            name="DEBUG logs of all Python loggers",
            serve=lambda elsewhere: EmbeddingServer(api_key=KEY),
            debug=True,
            rules=(RIGHT, HIDDEN_IN_LOG),
        ),
    ],
}
