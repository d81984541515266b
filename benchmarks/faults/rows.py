"""The table: what a server does wrong, how the client is used meanwhile, and what would be right.

What servers and gateways do in their own ways stands in `dialects`.
"""

from __future__ import annotations

import json
import math

from benchmarks.faults.dialects import DIALECTS
from benchmarks.faults.row import BOUNDED, ONE_REPEAT, Row
from benchmarks.faults.rules import (
    BOTH_GO_ON,
    ERROR,
    HIDDEN,
    HIDDEN_IN_ERROR,
    HIDDEN_IN_LOG,
    KEY,
    LAST_RIGHT,
    NO_PASSWORD,
    NO_REPEAT,
    RIGHT,
    RIGHT_OR_ERROR,
    RIGHT_OR_LOUD,
    SPARES,
    STAYS,
    UNREACHED,
    WARNED,
    answered_at_least,
    at_most,
    grows_at_most,
    hides_text,
    in_flight,
    last_at_most,
    last_within,
    met_at_most,
    names,
    piles_up_at_most,
    remembers,
    right_vector,
    tells,
    waits,
    within,
)
from benchmarks.faults.servers import (
    BAD,
    CASES,
    CROWDS,
    EIGHT,
    FOUR,
    HAPROXY_408,
    LONERS,
    LONG,
    MANY,
    MORE,
    NGINX,
    PAGES,
    QUERIES,
    SINGLES,
    TITLES,
    always,
    always_packing,
    bomb,
    crashing,
    dying_connection,
    leaving,
    loading,
    narrower_later,
    once,
    one_by_one,
    packing,
    pausing,
    quoting,
    refusing,
    refusing_over,
    restarted,
    scripted,
    spoiling,
    trickling,
    wide_vector,
)
from embedwire.testing import Answer, EmbeddingServer

NARROW = (
    "Narrow vectors (below some 200 numbers) in 16-bit floats may pass for half as many 32-bit ones, "
    "with embedwire, too."
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
        Row(
            name="big-endian numbers in base64, two calls of 64 texts",
            serve=packing(">f"),
            calls=(*MANY[:2],),
            rules=(RIGHT_OR_LOUD,),
        ),
        Row(
            name="64-bit numbers in base64, two calls of 64 texts",
            serve=packing("<d"),
            calls=(*MANY[:2],),
            rules=(RIGHT_OR_LOUD,),
        ),
        Row(
            name="16-bit floats in base64, two calls of 64 texts",
            serve=packing("<e"),
            calls=(*MANY[:2],),
            rules=(RIGHT_OR_LOUD,),
        ),
        Row(
            name="8-bit numbers in base64, two calls of 64 texts",
            serve=packing("<b", scale=127),
            calls=(*MANY[:2],),
            rules=(RIGHT_OR_LOUD,),
        ),
        *(
            Row(
                name=f"{what} in base64, also where decimal was asked for; 384 of them a vector",
                serve=always_packing(code, scale=scale),
                expected=wide_vector,
                rules=(RIGHT_OR_LOUD,),
                note=note,
            )
            for what, code, scale, note in (
                ("64-bit numbers", "<d", 1, ""),
                ("16-bit floats", "<e", 1, NARROW),
                ("8-bit numbers", "<b", 127, ""),
            )
        ),
        Row(
            name="big-endian numbers in base64 on one of two routes that a header chooses, an object for each",
            serve=packing(">f", tenant="b"),
            calls=(*MANY[:2],),
            each=({"header": "a"}, {"header": "b"}),
            rules=(RIGHT_OR_LOUD,),
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
        Row(
            name="each reply sent twice, the copy 20 ms later; six calls",
            serve=leaving(None, 0.02),
            calls=(*SINGLES[:6],),
            pause=0.1,
            rules=(RIGHT,),
        ),
        Row(
            name="each reply sent twice, in one go; six calls",
            serve=leaving(None, 0),
            calls=(*SINGLES[:6],),
            pause=0.1,
            rules=(RIGHT,),
        ),
        Row(
            name="408 on the idle connection, which stays open (HAProxy); repeats switched off",
            serve=leaving(HAPROXY_408, 0.05),
            calls=(FOUR, MORE),
            pause=0.3,
            retries=0,
            rules=(RIGHT, within(5)),
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
            name="429 with `Retry-After: 1`, for ever; `timeout=10`",
            serve=always(Answer.throttled(retry_after=1)),
            timeout=10,
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
        Row(
            name="429 with `Retry-After: 4` for one model, always; a query of another meanwhile, by its own object",
            serve=pausing("busy", Answer.throttled(retry_after=4)),
            way="together",
            calls=(MANY[0], ["A query."]),
            each=({"model": "busy"}, {"model": "other"}),
            pause=0.5,
            timeout=10,
            rules=(LAST_RIGHT, last_within(1)),
        ),
        Row(
            name='503 "Loading model" for one model, always; a query of another meanwhile, by its own object',
            serve=pausing("busy", Answer.loading()),
            way="together",
            calls=(MANY[0], ["A query."]),
            each=({"model": "busy"}, {"model": "other"}),
            pause=0.5,
            timeout=3,
            rules=(LAST_RIGHT, last_within(1)),
        ),
        Row(
            name="llama-server with 8 slots, restarted with 1 between two calls of 200 texts, batch set to 8",
            serve=restarted(8, 1, MANY[1][0]),
            way="together",
            calls=(CROWDS[0], [*MANY[1], *CROWDS[1]]),
            pause=2,
            batch=8,
            rules=(RIGHT, in_flight(5)),
            note="It has 5 HTTP threads then. Requests in flight are those after the restart.",
        ),
        Row(
            name="llama-server with 4 slots, restarted with 2 between two calls of 200 texts, batch set to 8",
            serve=restarted(4, 2, MANY[1][0]),
            way="together",
            calls=(CROWDS[0], [*MANY[1], *CROWDS[1]]),
            pause=2,
            batch=8,
            rules=(RIGHT, in_flight(6)),
            note="It has 6 HTTP threads then. Requests in flight are those after the restart.",
        ),
        Row(
            name="one request at a time, 0.1 s for 1000 characters; 300 titles, then 40 pages, and a query meanwhile",
            serve=one_by_one(lambda request: sum(map(len, request.texts)) / 10_000),
            way="together",
            calls=([*TITLES, *PAGES], ["A query."]),
            pause=2,
            rules=(RIGHT, last_within(3)),
        ),
        Row(
            name="one request at a time, 0.4 s each, also for those who left; 24 queries, 4 at once, `timeout=0.5`",
            serve=one_by_one(lambda request: 0.4),
            way="together",
            calls=(*SINGLES[:24],),
            workers=4,
            timeout=0.5,
            rules=(piles_up_at_most(8, 0.4), answered_at_least(12)),
        ),
        Row(
            name="the same with 0.3 s each, repeats switched off",
            serve=one_by_one(lambda request: 0.3),
            way="together",
            calls=(*SINGLES[:24],),
            workers=4,
            timeout=0.5,
            retries=0,
            rules=(piles_up_at_most(8, 0.3), answered_at_least(8)),
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
            calls=(*MANY[:2],),
            batch=64,
            rules=(RIGHT, remembers(32)),
        ),
        Row(
            name="413 over 32 texts a request, without a number (nginx), three calls, batch set to 64",
            serve=refusing_over(32, NGINX),
            calls=(*MANY,),
            batch=64,
            rules=(RIGHT, remembers(32)),
            note="A refusal without a number may have had another reason, so a client may try twice.",
        ),
        Row(
            name="400 once, out of nowhere; two calls, batch set to 64",
            serve=once(Answer.error(400, "upstream connect error")),
            calls=(FOUR, MANY[0]),
            batch=64,
            rules=(LAST_RIGHT, last_at_most(1)),
        ),
        Row(
            name="connection reset at one of 8 texts, always",
            serve=refusing(EIGHT[6], Answer.reset()),
            calls=(EIGHT,),
            rules=(ERROR, names(6), *BOUNDED),
        ),
        Row(
            name="connection reset at one query, always; 12 callers at once",
            serve=crashing(*QUERIES[-1], Answer.reset()),
            way="together",
            calls=(*QUERIES,),
            rules=(SPARES, met_at_most(*QUERIES[-1], 6), within(10)),
        ),
        Row(
            name="says nothing for ever at one query; 12 callers at once, `timeout=1`",
            serve=crashing(*QUERIES[-1], Answer.hang()),
            way="together",
            calls=(*QUERIES,),
            timeout=1,
            rules=(SPARES, met_at_most(*QUERIES[-1], 6), within(10)),
        ),
        Row(
            name="401",
            serve=lambda elsewhere: EmbeddingServer(api_key="another key"),
            rules=(ERROR, at_most(1)),
        ),
        Row(
            name="404",
            serve=always(Answer.error(404, "File Not Found")),
            rules=(ERROR, at_most(2)),
            note="embedwire asks at `/embeddings`, too.",
        ),
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
        Row(
            name="30 objects that differ in a header, `concurrency=1`, one query each at once",
            serve=lambda elsewhere: EmbeddingServer(latency=0.05),
            way="together",
            calls=(*SINGLES[:30],),
            each=tuple({"header": str(number)} for number in range(30)),
            concurrency=1,
            rules=(RIGHT, in_flight(1)),
            note="Only for clients that have such an option.",
        ),
        Row(
            name="30 equal objects, `concurrency=1`, one query each at once",
            serve=lambda elsewhere: EmbeddingServer(latency=0.05),
            way="together",
            calls=(*SINGLES[:30],),
            each=({},) * 30,
            concurrency=1,
            rules=(RIGHT, in_flight(1)),
            note="Only for clients that have such an option.",
        ),
        Row(name="texts of a str subclass whose `==` ignores case", calls=(CASES,), rules=(RIGHT,)),
        Row(
            name="texts of a str subclass that is equal to none, not even to itself",
            calls=(LONERS,),
            rules=(RIGHT,),
        ),
        Row(
            name="a log handler raises SystemExit in the second of three calls",
            way="log",
            calls=(*SINGLES[:3],),
            debug=True,
            rules=(LAST_RIGHT, within(10)),
        ),
        Row(name="an `atexit` handler embeds", way="atexit", calls=(FOUR, MORE), rules=(RIGHT,)),
    ],
    "Where keys and texts show": [
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
        Row(name="the key passed as `timeout=`", way="misplaced", rules=(UNREACHED, HIDDEN_IN_ERROR)),
        Row(
            name="400 that quotes 200 characters of a text of 2 MB",
            serve=scripted(quoting),
            calls=([LONG],),
            rules=(ERROR, hides_text(LONG), within(5)),
        ),
        Row(
            name="a password for the server in `~/.netrc`",
            netrc=True,
            rules=(RIGHT, NO_PASSWORD),
            note="embedwire has `trust_env=True`, which others have by default.",
        ),
    ],
    **DIALECTS,
}
