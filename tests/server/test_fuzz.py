"""Whatever bytes a server sends over a socket: right vectors or the library's own error, and no text in its message."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedwire import EmbeddingClient, EmbedwireError, RequestError, RetryPolicy, Timeouts
from embedwire._servers import known
from embedwire.testing import Answer, EmbeddingServer, Request, vector
from tests.unit import fuzzing
from tests.unit.fuzzing import KEY, STATUSES, TEXT

# The same examples each time, however busy the machine.
steady = settings(derandomize=True, deadline=None, database=None)
dice_of_any_fall = st.randoms(use_true_random=False)


class Liar:
    """A server that gives some odd answers, then right ones, and remembers what it said of each text."""

    def __init__(self, dice: random.Random, odd_answers: int) -> None:
        self.dice = dice
        self.left = odd_answers
        self.said: dict[str, list[list[float]]] = {}

    def answer(self, request: Request) -> Answer | None:
        """The answer to a request; None is the right one."""
        for text in request.texts:
            self.said.setdefault(text, []).append(vector(text, 3))
        if request.path == "/health" or not self.left:
            return None
        self.left -= 1
        return self._odd_answer(request)

    def _odd_answer(self, request: Request) -> Answer:
        dice, body, status = self.dice, self._body(request), 200
        kind = dice.randrange(8)
        if kind == 0:
            return dice.choice([Answer.reset(), Answer.hang_up(), Answer(cut=dice.randrange(60))])
        if kind == 1:
            return Answer(raw=dice.randbytes(dice.randrange(40)))
        if kind == 2:
            return Answer(raw=fuzzing.change_bytes(_head(len(body)), dice) + body)
        if kind == 3:
            size = fuzzing.change_bytes(b"%x\r\n" % len(body), dice)
            return Answer(raw=_head(None) + size + body + b"\r\n0\r\n\r\n")
        if kind == 4:
            quoted = dice.choice(request.texts or [KEY])
            body, status = dice.choice(fuzzing.refusals(quoted)), dice.choice(STATUSES)
        body = fuzzing.mutated(body, dice)
        headers: dict[str, str] = {}
        if kind in (4, 5):
            name = dice.choice(["Retry-After", "Retry-After-Ms", "Content-Type", "Content-Encoding"])
            value = fuzzing.mutated(dice.choice(fuzzing.HEADERS), dice)
            headers[name] = value.decode("latin-1")
        if status < 300:
            rows = fuzzing.right(body, len(request.texts)) or []
            for text, row in zip(request.texts, rows):  # noqa: B905 - no rows, if the reply is wrong
                self.said[text].append(row)
        return Answer(status=status, headers=headers, body=body, then="close")

    def _body(self, request: Request) -> bytes:
        if not request.embeds:
            return self.dice.choice(fuzzing.OTHER_ANSWERS)
        rows = [vector(text, 3) for text in request.texts]
        return fuzzing.reply(rows, as_base64=request.json["encoding_format"] == "base64")

    def check(self, row: list[float], text: str) -> None:
        """Fail unless the vector is one that the server said is the text's."""
        assert any(
            len(said) == len(row) and all(map(fuzzing.is_rounded, row, said)) for said in self.said[text]
        ), "a vector that the server never gave to this text"


def _head(length: int | None) -> bytes:
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\n" + framing + b"\r\n\r\n"


TEXTS = [TEXT, "The house by the sea was sold in secret.", "Her number is 010-2345-6789.", "", "short"]


class TestOverASocket:
    """A call of a client, from end to end."""

    @pytest.mark.slow
    @settings(steady, max_examples=300)
    @given(
        dice_of_any_fall,
        st.integers(1, 6),
        st.permutations(TEXTS).map(lambda texts: texts[:4]),
        st.sampled_from(["auto", "float", "base64"]),
        st.booleans(),
    )
    def test_whatever_a_server_answers(
        self, dice: random.Random, odd_answers: int, texts: list[str], encoding: str, ask_first: bool
    ) -> None:
        """A call ends with vectors that the server gave to these texts, or with an error of ours that shows none."""
        asyncio.run(self.embed(Liar(dice, odd_answers), texts, encoding, ask_first))

    async def embed(self, liar: Liar, texts: list[str], encoding: str, ask_first: bool) -> None:
        """One call of one client, to one server."""
        known.forget()
        async with EmbeddingServer(script=liar.answer, dimensions=3) as server:
            client = EmbeddingClient(
                server.url,
                api_key=KEY,
                batch_size=2,
                encoding=encoding,  # type: ignore[arg-type]
                timeout=Timeouts(total=10, connect=5, sock_read=5),
                max_retries=RetryPolicy(attempts=2, base=0, throttled_base=0, retry_after_cap=0),
            )
            async with client:
                try:
                    if ask_first:
                        with contextlib.suppress(EmbedwireError):
                            await client.wait_ready(10)
                    rows = await client.embed(texts)
                except RequestError as error:
                    self.check_error(error, liar, texts, f"{server.url}/v1")
                else:
                    assert len(rows) == len(texts)
                    for row, text in zip(rows, texts, strict=True):
                        liar.check(row, text)

    def check_error(self, error: RequestError, liar: Liar, texts: list[str], url: str) -> None:
        """An error names its server and shows nothing, and what was completed is right."""
        for one in (error, *error.failures.values()):
            assert one.server == url
            assert url in str(one)
            fuzzing.check_message(one, [*texts, KEY])
        assert error.completed is not None
        for index, row in zip(error.completed.indexes, error.completed.vectors.tolist(), strict=True):
            liar.check(row, texts[index])
