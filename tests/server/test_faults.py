"""The table of failures, row by row, through four doors, on a fresh connection and on one that was used before.

All of it runs on real sockets. The loop thread's time is simulated, so pauses and deadlines cost nothing and
can be asserted to the hundredth of a second.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from embedwire import (
    AuthenticationFailed,
    BadReply,
    ConnectionFailed,
    DeadlineExceeded,
    EmbeddingClient,
    RequestError,
    RequestTimeout,
    ServerRefused,
    ServerUnavailable,
    SharedEmbeddingClient,
    TextRefused,
    Timeouts,
)
from embedwire.langchain import EmbedwireEmbeddings
from embedwire.llama_index import EmbedwireEmbedding
from embedwire.testing import Answer, Request
from tests.helpers import numbered, right
from tests.server.world import World

TEXTS = numbered(6)  # in batches of two, one request at a time

Vectors = list[list[float]]
Door = Callable[..., Vectors]


def own_loop(world: World, **options: Any) -> Vectors:
    """`EmbeddingClient`."""

    async def embed() -> Vectors:
        async with EmbeddingClient(world.server.url, model="m", **options) as client:
            return await client.embed(TEXTS)

    vectors: Vectors = world.do(embed())
    return vectors


def shared(world: World, **options: Any) -> Vectors:
    """`SharedEmbeddingClient`, from a thread without a loop."""
    with SharedEmbeddingClient(world.server.url, model="m", **options) as client:
        return client.embed(TEXTS)


def langchain(world: World, **options: Any) -> Vectors:
    """The LangChain adapter."""
    embeddings = EmbedwireEmbeddings(base_url=world.server.url, model="m", **options)
    try:
        return embeddings.embed_documents(TEXTS)
    finally:
        embeddings.close()


def llama_index(world: World, **options: Any) -> Vectors:
    """The LlamaIndex adapter."""
    model = EmbedwireEmbedding(base_url=world.server.url, model_name="m", **options)
    try:
        return model.get_text_embedding_batch(TEXTS)
    finally:
        model.close()


doors = pytest.mark.parametrize("door", [own_loop, shared, langchain, llama_index])
states = pytest.mark.parametrize("at", [pytest.param(0, id="fresh"), pytest.param(2, id="reused")])


@dataclass(frozen=True)
class Row:
    """A failure of each request that holds one text, and what comes of it.

    Attributes:
        name: What happens.
        answers: What the server says, in turn; the last one for ever, None: the right reply.
        error: What is raised; None: nothing, all vectors are right.
        requests: Requests sent with that text in them: on a fresh connection, on a reused one.
        words: What the message says.
        alone: The others have got their vectors.
        searched: So they have where the server had embedded something before.
        options: Of the client.
        pause: Simulated seconds that it takes at least.
    """

    name: str
    answers: list[Answer | None]
    error: type[RequestError] | None = None
    requests: tuple[int, int] = (1, 1)
    words: str = ""
    alone: bool = False
    searched: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    pause: float = 0.0


def item(change: Callable[[dict[str, Any]], object]) -> Answer:
    """The right reply with its last item changed."""
    return Answer.items(lambda data: [*data[:-1], change(data[-1])])


SECONDS = {"timeout": Timeouts(total=2)}
DEEP = b"[" * 100_000 + b"]" * 100_000
ROWS = [
    # The connection.
    Row("closed once", [Answer.hang_up(), None], requests=(2, 2)),
    Row(
        "closed always", [Answer.hang_up()], ConnectionFailed, (3, 5), "closed before a reply", searched=True
    ),
    Row("reset once", [Answer.reset(), None], requests=(2, 2)),
    Row("reset always", [Answer.reset()], ConnectionFailed, (3, 5), "closed before a reply", searched=True),
    Row("cut once", [Answer(cut=30), None], requests=(2, 2)),
    Row("cut always", [Answer(cut=30)], ConnectionFailed, (3, 4), "middle of the reply", searched=True),
    Row(
        "reset in the reply",
        [Answer(cut=30, then="reset")],
        ConnectionFailed,
        (3, 4),
        "middle of the reply",
        searched=True,
    ),
    Row(
        "cut in a chunk",
        [Answer(cut=30, framing="chunked")],
        ConnectionFailed,
        (3, 4),
        "middle",
        searched=True,
    ),
    Row("cut without a length", [Answer(cut=30, framing="close")], BadReply, (3, 3), "cut"),
    Row("cut without a length once", [Answer(cut=30, framing="close"), None], requests=(2, 2)),
    Row("silence", [Answer.hang()], RequestTimeout, (2, 2), "total timeout", options=SECONDS, pause=4),
    Row("silence once", [Answer.hang(), None], requests=(2, 2), options=SECONDS, pause=2),
    Row("drip", [Answer(drip=0.1)], RequestTimeout, (2, 2), "total timeout", options=SECONDS, pause=4),
    Row(
        "long silence",
        [Answer(drip=2)],
        RequestTimeout,
        (2, 2),
        "sock_read",
        options={"timeout": Timeouts(sock_read=1)},
        pause=2,
    ),
    # On a kept connection it may have been left over.
    Row("not HTTP", [Answer(raw=b"SSH-2.0-OpenSSH_9.6\r\n")], BadReply, (1, 2), "not HTTP"),
    # Too much to do.
    Row("429 once", [Answer.throttled(), None], requests=(2, 2)),
    Row("429 with Retry-After", [Answer.throttled(7), None], requests=(2, 2), pause=7),
    # For as long as a request may take: after 1, 2, 4, 8, 16 and then 20 s.
    Row("429 always", [Answer.throttled()], ServerUnavailable, (5, 5), "429", options={"timeout": 14}),
    Row("429 for an hour", [Answer.throttled(3600)], ServerUnavailable, (1, 1), "429"),
    Row(
        "429 for a quota",
        [Answer.error(429, "You exceeded your current quota", error_type="insufficient_quota")],
        ServerRefused,
        words="quota",
    ),
    Row(
        "503 always",
        [Answer.error(503, "overloaded")],
        ServerUnavailable,
        (5, 5),
        "503",
        options={"timeout": 14},
    ),
    Row("503 once", [Answer.error(503, "overloaded"), None], requests=(2, 2)),
    # Loading is no failure: the text is sent again when /health says yes.
    Row("loading", [Answer.loading(), Answer.loading(), None], requests=(3, 3)),
    # Failures that may pass.
    Row("500 once", [Answer.error(500, "no"), None], requests=(2, 2)),
    Row("502 always", [Answer.error(502, "no")], ServerUnavailable, (3, 4), "502", alone=True),
    Row("504 always", [Answer.error(504, "no")], ServerUnavailable, (3, 4), "504", alone=True),
    Row("424 always", [Answer.error(424, "backend failed")], ServerUnavailable, (3, 4), "424", searched=True),
    Row(
        "408 always", [Answer.error(408, "no")], ServerUnavailable, (3, 6), "408", alone=True
    ),  # twice it is free
    # Failures that will not.
    Row("401", [Answer.error(401, "no")], AuthenticationFailed, words="api_key="),
    Row("403", [Answer.error(403, "no")], AuthenticationFailed, words="forbids"),
    Row("404", [Answer.error(404, "no")], ServerRefused, words="base_url"),
    Row(
        "plain HTTP to a TLS port",  # as nginx says it
        [Answer(status=400, body=b"<h1>400</h1>The plain HTTP request was sent to HTTPS port")],
        ServerRefused,
        words="https://",
    ),
    Row("405", [Answer.error(405, "no")], ServerRefused, words="base_url"),
    Row("501", [Answer.error(501, "Start it with `--embeddings`")], ServerRefused, words="--embeddings"),
    Row("redirect", [Answer.redirect("http://127.0.0.1:9/")], ServerRefused, words="not followed"),
    # A text that the server cannot take: halved until it stands alone, and not repeated.
    Row("500 always", [Answer.error(500, "no")], ServerUnavailable, (3, 3), "500", alone=True),
    Row("too large", [Answer.too_large(900, 512)], TextRefused, (2, 2), "900 tokens", alone=True),
    Row("over the context", [Answer.exceed_context(900, 512)], TextRefused, (2, 2), "takes 512", alone=True),
    Row(
        "NaN in JSON",
        [Answer.error(500, "failed to encode response: json: unsupported value: NaN")],
        TextRefused,
        (2, 2),
        alone=True,
    ),
    Row("400", [Answer.error(400, "no")], TextRefused, (2, 2), "400", alone=True),
    Row("413", [Answer.error(413, "no")], TextRefused, (2, 2), "413", alone=True),
    Row("422", [Answer.error(422, "no")], TextRefused, (2, 2), "422", alone=True),
    # The reply contract.
    Row("another order", [Answer.items(lambda data: data[::-1])]),
    Row("one vector too few", [Answer.items(lambda data: data[:-1])], BadReply),
    Row("one vector too many", [Answer.items(lambda data: [*data, data[-1]])], BadReply),
    Row("an index twice", [Answer.items(lambda data: [data[0]] * len(data))], BadReply, (1, 1)),
    Row("an index too high", [item(lambda last: {**last, "index": 9})], BadReply),
    Row("an index that is no number", [item(lambda last: {**last, "index": "x"})], BadReply),
    Row("no vectors", [Answer.mutate(lambda reply: {**reply, "data": None})], BadReply),
    Row("an error in a success", [Answer(body={"error": {"message": "no"}})], BadReply),
    Row("HTML", [Answer(body=b"<html>It works!</html>")], BadReply),
    Row("nothing", [Answer(body=b"")], BadReply, (3, 3)),
    Row("deep JSON", [Answer(body=DEEP)], BadReply),
    Row(
        "a larger reply",
        [Answer.mutate(lambda reply: {**reply, "model": "m" * 10_000})],
        BadReply,
        (1, 1),
        "max_reply_bytes",
        options={"max_reply_bytes": 10_000},
    ),
    Row("an endless reply", [Answer(body=b" " * 9_000_000, framing="chunked")], BadReply, words="bytes"),
    Row(
        "brotli", [Answer(headers={"Content-Encoding": "br"}, body=b"\x0b\x02")], BadReply, words="compressed"
    ),
]
ROWS.append(
    Row(
        "a vector too short",
        [Answer.items(lambda data: [{**data[0], "embedding": data[0]["embedding"][:-1]}, *data[1:]])],
        BadReply,
        (1, 1),
        "numbers in one reply",  # of two, nobody can say whose
    )
)
#: Rows of replies whose fault is one vector: that text fails alone.
ONE_VECTOR: dict[str, object] = {
    "null": None,
    "empty": [],
    "of strings": ["1", "2"],
    "with null": [0.5, None] * 4,
    "nested twice": [[[0.5] * 8]],
    "of huge numbers": [1e39] * 8,
}
ROWS += [
    Row(
        f"a vector {what}",
        [
            Answer.items(
                lambda data, wrong=wrong: [{**data[0], "embedding": wrong}, *data[1:]]  # type: ignore[misc]
            )
        ],
        BadReply,
        (2, 2),
        alone=True,
    )
    for what, wrong in ONE_VECTOR.items()
]


def script(answers: list[Answer | None], text: str) -> Callable[[Request], Answer | None]:
    """Answers requests that hold a text with each answer in turn, and then with the last one for ever."""
    turns = itertools.chain(answers, itertools.repeat(answers[-1]))
    return lambda request: next(turns) if text in request.texts else None


@pytest.mark.slow
@doors
@states
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, at: int, door: Door, world: World) -> None:
    """Each failure ends in right vectors or in its own error: which text, how often sent, what was done."""
    text = TEXTS[at]
    world.server.script = script(row.answers, text)
    begin = world.time()
    options = {"batch_size": 2, "concurrency": 1, **row.options}
    if row.error is None:
        assert right(door(world, **options), TEXTS)
    else:
        with pytest.raises(row.error) as caught:
            door(world, **options)
        error = caught.value
        assert type(error) is row.error
        assert row.words in str(error)
        assert error.server == f"{world.server.url}/v1"
        assert error.server in str(error)
        assert error.index == at
        assert f"texts[{at}]" in str(error)
        assert error.completed is not None
        alone = row.alone or (row.searched and at > 0)
        done = [index for index in range(6) if index != at] if alone else list(range(at))
        assert error.completed.indexes == done
        assert right(error.completed.vectors.tolist(), [TEXTS[index] for index in done])
        assert (list(error.failures) == [at]) is alone
    fresh, reused = row.requests
    assert sum(text in batch for batch in world.server.batches) == (reused if at else fresh)
    assert world.ended - begin >= row.pause


#: What may keep a call waiting for longer than its deadline.
TROUBLES: dict[str, list[Answer | None]] = {
    "silence": [Answer.hang()],
    "drip": [Answer(drip=1)],
    "loading": [Answer.loading()],
    "429": [Answer.throttled(2)],
    "503": [Answer.error(503, "overloaded")],
    "502": [Answer.error(502, "no")],
    "resets": [Answer.reset()],
    "slow": [Answer(delay=60)],
}


@pytest.mark.slow
@doors
@states
@pytest.mark.parametrize("trouble", TROUBLES)
def test_deadline(trouble: str, at: int, door: Door, world: World) -> None:
    """Whatever the trouble, a call ends within 0.25 s of its deadline, with what was done until then."""
    world.server.script = script(TROUBLES[trouble], TEXTS[at])
    if trouble == "loading":
        answer = world.server.script
        world.server.script = lambda request: (
            Answer.loading() if request.path == "/health" else answer(request)
        )
    begin = world.time()
    with pytest.raises(RequestError) as caught:
        door(world, batch_size=2, concurrency=1, deadline=5, max_retries=1000)
    assert world.ended - begin <= 5.25
    if trouble in ("silence", "drip", "slow", "loading"):
        assert isinstance(caught.value, DeadlineExceeded)
    assert caught.value.completed is not None
    assert caught.value.completed.indexes == list(range(at))
    assert right(caught.value.completed.vectors.tolist(), TEXTS[:at])


@doors
@pytest.mark.parametrize("restarts", [False, True])
def test_nobody_listens(restarts: bool, door: Door, world: World) -> None:
    """A server that was never there fails after three attempts; one that restarts in the middle is waited for."""
    if not restarts:
        world.do(world.server.astop())
        with pytest.raises(ConnectionFailed, match=r"texts\[0\] of 6, after 3 requests") as caught:
            door(world, batch_size=2, concurrency=1)
        assert caught.value.attempts == 3
        world.do(world.server.astart())
        return

    async def restart() -> None:
        await world.server.astop()
        await asyncio.sleep(3)
        await world.server.astart()

    tasks: list[asyncio.Task[None]] = []

    def watch(request: Request) -> Answer | None:
        if TEXTS[2] in request.texts and not tasks:
            tasks.append(world.thread.loop.create_task(restart()))
            return Answer.hang()
        return None

    world.server.script = watch
    assert right(door(world, batch_size=2, concurrency=1), TEXTS)


@doors
def test_another_width(door: Door, world: World) -> None:
    """A server whose vectors change their width in the middle of a call has another model: that is an error."""
    wider = Answer.vectors(lambda rows: [[*row, 0.5] for row in rows])
    world.server.script = script([wider], TEXTS[2])
    with pytest.raises(BadReply, match="9 numbers") as caught:
        door(world, batch_size=2, concurrency=1)
    assert caught.value.completed is not None
    assert caught.value.completed.indexes == [0, 1]


def test_rows_have_names_of_their_own() -> None:
    """No row hides another."""
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert json.dumps([row.name for row in ROWS])
