"""Rows of the table: several servers of one model, of which some are not as they should be."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from benchmarks.faults.row import Row
from benchmarks.faults.rules import ERROR, RIGHT, RIGHT_OR_LOUD, UNSENT, within
from benchmarks.faults.servers import FOUR, MANY, Serve, always, refusing, scripted
from embedwire.testing import Answer, EmbeddingServer, Request, vector

NOWHERE = "http://127.0.0.1:9"  # nothing listens there

ROUNDS = tuple([f"Text {number} of round {call}." for number in range(8)] for call in range(6))


def fine(elsewhere: str) -> EmbeddingServer:
    """A server that does nothing wrong."""
    return EmbeddingServer()


def _answering(rows: Callable[[Request], list[Any]]) -> Serve:
    """Other vectors than the rest of the servers give."""
    return scripted(
        lambda request: Answer.vectors(lambda right: rows(request)[: len(right)]) if request.embeds else None
    )


other_model = _answering(lambda request: [vector(f"{text}, says another model", 8) for text in request.texts])
narrower = _answering(lambda request: [vector(text, 6) for text in request.texts])


def dying_after(requests: int) -> Serve:
    """A server that takes so many requests for embeddings, and then breaks off each one."""

    def serve(elsewhere: str) -> EmbeddingServer:
        met = count(1)

        def script(request: Request) -> Answer | None:
            return Answer.hang_up() if request.embeds and next(met) > requests else None

        return EmbeddingServer(script=script)

    return serve


SEVERAL: dict[str, list[Row]] = {
    "Several servers": [
        Row(name="two equal servers", beside=(fine,), calls=tuple(MANY), rules=(RIGHT,)),
        Row(
            name="one of two: nothing listens there",
            urls=(NOWHERE,),
            calls=ROUNDS,
            rules=(RIGHT, within(10)),
        ),
        Row(
            name="one of two answers 500 to everything",
            serve=always(Answer.error(500, "internal error")),
            beside=(fine,),
            calls=ROUNDS,
            rules=(RIGHT, within(10)),
        ),
        Row(
            name="one of two loads its model for ever",
            serve=always(Answer.loading()),
            beside=(fine,),
            calls=ROUNDS,
            rules=(RIGHT, within(10)),
        ),
        Row(
            name="one of two closes each connection",
            serve=always(Answer.hang_up()),
            beside=(fine,),
            calls=ROUNDS,
            rules=(RIGHT, within(10)),
        ),
        Row(
            name="one of two never answers, timeout 2 s",
            serve=always(Answer.hang()),
            beside=(fine,),
            timeout=2,
            calls=ROUNDS,
            rules=(RIGHT, within(20)),
        ),
        Row(
            name="one of two refuses the key",
            serve=always(Answer.error(401, "Invalid API Key")),
            beside=(fine,),
            calls=ROUNDS,
            rules=(RIGHT, within(10)),
        ),
        Row(
            name="one of two breaks off for good after six requests",
            serve=dying_after(6),
            beside=(fine,),
            batch=4,
            calls=tuple(MANY),
            rules=(RIGHT, within(10)),
        ),
        Row(
            name="a text is too long for one of two servers",
            serve=refusing(FOUR[2], Answer.exceed_context(900, 512)),
            beside=(fine,),
            calls=(FOUR,) * 4,
            rules=(RIGHT, within(10)),
        ),
        Row(
            name="two servers with different models of one width",
            beside=(other_model,),
            calls=ROUNDS,
            rules=(RIGHT_OR_LOUD,),
            note="Vectors of two models in one index are of no use, and nobody finds them again.",
        ),
        Row(
            name="one of three servers has another model of the same width",
            beside=(fine, other_model),
            calls=ROUNDS,
            rules=(RIGHT,),
        ),
        Row(
            name="one of three servers has a model of another width",
            beside=(fine, narrower),
            calls=ROUNDS,
            rules=(RIGHT,),
        ),
        Row(
            name="all of three answer 500 to everything",
            serve=always(Answer.error(500, "internal error")),
            beside=(always(Answer.error(500, "internal error")),) * 2,
            rules=(ERROR, within(30)),
        ),
        Row(name="the same server twice in the list", way="twice", rules=(UNSENT,)),
    ],
}
