"""The rows of the world's dialects: what servers and gateways do in ways of their own, each kind in two variants."""

from __future__ import annotations

import zlib
from dataclasses import replace

from benchmarks.faults.dialect_servers import (
    asks_to_wait,
    at_first,
    away,
    changing_model,
    compressed,
    crowded,
    cutting,
    dialect,
    for_a_while,
    four_of,
    one_per_second,
    only_at,
    page,
    refused,
    refusing_field,
    saying,
)
from benchmarks.faults.row import Row
from benchmarks.faults.rules import (
    BLAMES_NO_TEXT,
    ERROR,
    NO_REPEAT,
    RIGHT,
    RIGHT_OR_ERROR,
    RIGHT_OR_LOUD,
    at_most,
    grows_at_most,
    names,
    tells,
    within,
)
from benchmarks.faults.servers import EIGHT, FOUR, MANY, MORE, SINGLES, refusing, refusing_over
from embedwire.testing import Answer

CLOSE = 1e-6  # a number of a vector that was cut and brought to unit length, in 32 bits
CLUB = tuple([f"Text {number} of caller {caller}." for number in range(8)] for caller in range(12))
UNLOADED = (
    "Model was unloaded while the request was still in queue..",
    'Failed to load model "test-model". Error: Operation canceled.',
)
LOADING = (
    {"error": "Model test-model is currently loading", "estimated_time": 3.0},
    {"error": "Model is not ready", "error_type": "unhealthy"},
)
MATRYOSHKA = (
    "Model does not support matryoshka representation, changing output dimensions will lead to poor results."
)
VLLM = (
    "This model's maximum context length is 512 tokens. However, you requested 1084 tokens in the input for "
    "embedding generation. Please reduce the length of the input."
)
TEI = "Input validation error: `inputs` must have less than 512 tokens. Given: 1084"
EOF = 'do embedding request: Post "http://127.0.0.1:33967/embedding": EOF'


def invalid(message: str) -> Answer:
    """A 400 as OpenAI shapes it."""
    return refused(400, {"error": {"message": message, "type": "invalid_request_error", "param": None}})


DIALECTS: dict[str, list[Row]] = {
    "Right shape, wrong content": [
        Row(
            name="another model of that width answers the second call, and its reply says so",
            serve=changing_model(MORE),
            calls=(FOUR, MORE),
            rules=(RIGHT_OR_LOUD,),
            note="Vectors of two models are not comparable. Who embeds all texts in one index wants to know.",
        ),
        Row(
            name="another model answers the second of three calls, and its reply says so",
            serve=changing_model(MORE),
            calls=(FOUR, MORE, EIGHT),
            rules=(RIGHT_OR_LOUD,),
        ),
        Row(
            name="`dimensions=4` is ignored: 8 numbers a vector",
            dimensions=4,
            expected=four_of,
            off=CLOSE,
            rules=(RIGHT_OR_ERROR,),
            note="Right are 4 numbers at unit length.",
        ),
        Row(
            name="`dimensions=4` cuts the vectors, and leaves them shorter than 1 (Infinity)",
            serve=dialect(cutting),
            dimensions=4,
            expected=four_of,
            off=CLOSE,
            rules=(RIGHT_OR_ERROR,),
            note="Who ranks by cosine sees no difference; who ranks by dot product does.",
        ),
    ],
    "Paths, queries and fields": [
        Row(
            name="embeddings at `/embeddings`, not under `/v1` (Infinity)",
            serve=only_at("/embeddings"),
            prefix="",
            rules=(RIGHT, at_most(2)),
            note="Each client gets the URL without `/embeddings`.",
        ),
        Row(
            name="embeddings at `/inference/embeddings` (GitHub Models)",
            serve=only_at("/inference/embeddings"),
            prefix="/inference",
            rules=(RIGHT, at_most(2)),
        ),
        Row(
            name="`?api-version=2024-02-01` is needed (a gateway)",
            serve=only_at("/v1/embeddings", "api-version=2024-02-01"),
            query="api-version=2024-02-01",
            rules=(RIGHT, at_most(2)),
            note="openai and langchain-openai are given it as `default_query=`, the others in the URL.",
        ),
        Row(
            name="`?api-version=2024-02-01` is needed, at a path of its own (Azure)",
            serve=only_at("/openai/deployments/e/embeddings", "api-version=2024-02-01"),
            prefix="/openai/deployments/e",
            query="api-version=2024-02-01",
            rules=(RIGHT, at_most(2)),
            note="openai and LlamaIndex have classes of their own for Azure.",
        ),
        Row(
            name="400: the field `encoding_format` is refused (Jina)",
            serve=refusing_field(
                lambda body: "encoding_format" in body,
                refused(400, {"detail": "extra fields not permitted: ['encoding_format']"}),
            ),
            rules=(RIGHT, at_most(2)),
        ),
        Row(
            name="400: `encoding_format` must be `base64` (Voyage)",
            serve=refusing_field(
                lambda body: body.get("encoding_format") != "base64",
                refused(400, {"detail": "Argument 'encoding_format' must be 'base64'"}),
            ),
            rules=(RIGHT, at_most(3)),
            note="baseten-performance-client has `encoding_format=` for this.",
        ),
        Row(
            name="400: no matryoshka representation; `dimensions=4` (vLLM)",
            serve=refusing_field(lambda body: "dimensions" in body, invalid(MATRYOSHKA)),
            dimensions=4,
            expected=four_of,
            off=CLOSE,
            rules=(RIGHT_OR_ERROR, at_most(2), BLAMES_NO_TEXT),
            note="Right are 4 numbers at unit length.",
        ),
        Row(
            name="422: extra inputs are not permitted; `dimensions=4` (FastAPI)",
            serve=refusing_field(
                lambda body: "dimensions" in body,
                refused(
                    422,
                    {
                        "detail": [
                            {
                                "type": "extra_forbidden",
                                "loc": ["body", "dimensions"],
                                "msg": "Extra inputs are not permitted",
                                "input": 4,
                            }
                        ]
                    },
                ),
            ),
            dimensions=4,
            expected=four_of,
            off=CLOSE,
            rules=(RIGHT_OR_ERROR, at_most(2), BLAMES_NO_TEXT),
        ),
    ],
    "Replies that are unusual, and right": [
        Row(
            name="the first vector has no `index` (proto3 drops zeros)",
            serve=saying(
                lambda reply: {
                    **reply,
                    "data": [
                        {key: value for key, value in item.items() if key != "index" or value}
                        for item in reply["data"]
                    ],
                }
            ),
            rules=(RIGHT, at_most(1)),
        ),
        Row(
            name="no vector has an `index`",
            serve=saying(
                lambda reply: {
                    **reply,
                    "data": [
                        {key: value for key, value in item.items() if key != "index"}
                        for item in reply["data"]
                    ],
                }
            ),
            rules=(RIGHT, at_most(1)),
        ),
        Row(
            name='`"error": ""` beside good vectors',
            serve=saying(lambda reply: {**reply, "error": ""}),
            rules=(RIGHT, at_most(1)),
        ),
        Row(
            name='`"error": {}` beside good vectors',
            serve=saying(lambda reply: {**reply, "error": {}}),
            rules=(RIGHT, at_most(1)),
        ),
        Row(
            name="a gzip body, whatever was asked for",
            serve=compressed("gzip"),
            rules=(RIGHT, at_most(1)),
        ),
        Row(
            name="a deflate body, whatever was asked for",
            serve=compressed("deflate"),
            rules=(RIGHT, at_most(1)),
        ),
        Row(
            name="300 MB of white space in a deflate body of 0.3 MB",
            serve=dialect(
                lambda request: (
                    Answer(body=zlib.compress(b" " * 300_000_000, 1), headers={"Content-Encoding": "deflate"})
                    if request.embeds
                    else None
                )
            ),
            rules=(ERROR, grows_at_most(100)),
        ),
        Row(
            name="nothing for 3 s, then the reply; `timeout=6`",
            serve=dialect(lambda request: Answer(delay=3) if request.embeds else None),
            timeout=6,
            rules=(RIGHT, at_most(1)),
            note="With 65 s and `timeout=300` it is tested, in simulated time, in `tests/server`.",
        ),
        Row(
            name="the reply comes in pieces, 2 s apart; `timeout=8`",
            serve=dialect(
                lambda request: (
                    Answer(
                        body=lambda reply: reply,
                        drip=2,
                        piece=12_000,
                    )
                    if request.embeds
                    else None
                )
            ),
            calls=(MANY[0],),
            batch=64,
            timeout=8,
            rules=(RIGHT, at_most(1)),
        ),
    ],
    "Refusals that are of no text": [
        Row(
            name='400 "model not found"',
            serve=dialect(
                lambda request: invalid("model 'test-model' not found") if request.embeds else None
            ),
            rules=(ERROR, at_most(2), BLAMES_NO_TEXT),
        ),
        Row(
            name="400: a parameter is missing (NIM)",
            serve=dialect(
                lambda request: (
                    invalid("'input_type' parameter is required for asymmetric models")
                    if request.embeds
                    else None
                )
            ),
            rules=(ERROR, at_most(2), BLAMES_NO_TEXT),
        ),
        *(
            Row(
                name=f'400 "{words.split(chr(34))[0].strip(" .")}", twice (LM Studio)',
                serve=at_first(2, refused(400, {"error": words})),
                rules=(RIGHT, at_most(5), within(10)),
                note="It loads the model again by itself.",
            )
            for words in UNLOADED
        ),
        Row(
            name='403 "RPM limit exceeded", as a bare string, once (SiliconFlow)',
            serve=at_first(1, refused(403, "RPM limit exceeded. Please slow down.")),
            rules=(RIGHT, at_most(2), within(10)),
            note="A 403 that speaks of a rate passes.",
        ),
        Row(
            name="403 for 1.5 s, with a rate limit and a time to wait in its words",
            serve=for_a_while(
                1.5,
                lambda left: refused(
                    403, {"message": f"Rate limit reached. Please try again in {left:.1f}s."}
                ),
            ),
            rules=(RIGHT, at_most(3), within(10)),
        ),
    ],
    "Seen through what stands in front": [
        *(
            Row(
                name=f"a restart of 3 s behind a proxy, which answers {status} meanwhile",
                serve=away(3, page(status, words)),
                calls=(FOUR, MORE),
                rules=(RIGHT, within(15)),
            )
            for status, words in (
                (502, "Bad Gateway"),
                (503, "Service Temporarily Unavailable"),
                (504, "Gateway Time-out"),
            )
        ),
        Row(
            name="504 after 0.5 s for more than 8 texts (nginx); 64 texts, batch set to 32",
            serve=refusing_over(8, replace(page(504, "Gateway Time-out"), delay=0.5)),
            calls=(MANY[0],),
            batch=32,
            rules=(RIGHT, within(15)),
        ),
        Row(
            name="524 after 0.5 s for more than 8 texts (Cloudflare); 64 texts, batch set to 32",
            serve=refusing_over(8, replace(page(524, "A timeout occurred"), delay=0.5)),
            calls=(MANY[0],),
            batch=32,
            rules=(RIGHT, within(15)),
        ),
        Row(
            name='503 "currently loading" with `estimated_time`, for 3 s',
            serve=for_a_while(3, lambda left: refused(503, LOADING[0])),
            rules=(RIGHT, at_most(10), within(8)),
        ),
        Row(
            name='503 "Model is not ready" for 3 s (KServe)',
            serve=for_a_while(3, lambda left: refused(503, LOADING[1])),
            rules=(RIGHT, at_most(10), within(8)),
        ),
    ],
    "Limits, otherwise said": [
        Row(
            name='429 for 3 s, "Please retry after 3 seconds" in its words alone (Azure)',
            serve=for_a_while(3, asks_to_wait(429)),
            rules=(RIGHT, at_most(5), within(10)),
        ),
        Row(
            name="the same with status 200, and 429 as a code in the body",
            serve=for_a_while(3, asks_to_wait(200)),
            rules=(RIGHT, at_most(5), within(10)),
        ),
        Row(
            name="one request a second, 429 without a word on how long; six calls",
            serve=one_per_second,
            calls=(*SINGLES[:6],),
            rules=(RIGHT, within(20)),
        ),
        Row(
            name="one request a second, 429 without a word on how long; 64 texts, batch set to 16",
            serve=one_per_second,
            calls=(MANY[0],),
            batch=16,
            rules=(RIGHT, within(20)),
        ),
        Row(
            name="500 with more than 2 requests in flight (Ollama); 12 callers at once with 8 texts each",
            serve=crowded(2, refused(500, {"error": EOF})),
            way="together",
            calls=CLUB,
            batch=8,
            rules=(RIGHT, within(20)),
        ),
        Row(
            name="500 with more than 1 request in flight; one call of 64 texts, batch set to 8",
            serve=crowded(1, refused(500, {"error": {"message": "Internal Server Error", "code": 500}})),
            calls=(MANY[0],),
            batch=8,
            rules=(RIGHT, within(20)),
        ),
        Row(
            name="400 for one of 8 texts that is too long (vLLM)",
            serve=refusing(
                EIGHT[5],
                refused(400, {"object": "error", "message": VLLM, "type": "BadRequestError", "code": 400}),
            ),
            calls=(EIGHT,),
            rules=(ERROR, names(5), tells(1084, 512), NO_REPEAT),
        ),
        Row(
            name="413 for one of 8 texts that is too long (TEI)",
            serve=refusing(EIGHT[5], refused(413, {"error": TEI, "error_type": "Validation"})),
            calls=(EIGHT,),
            rules=(ERROR, names(5), tells(1084, 512), NO_REPEAT),
        ),
    ],
}
