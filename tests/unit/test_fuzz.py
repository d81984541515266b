"""Whatever bytes a server sends: right vectors or the library's own error, and no text in its message.

`make fuzz` looks for more of them, by the same checks and for as long as one likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedwire import EmbeddingClient, EmbedwireError, RequestError, RetryPolicy, Timeouts, _limits
from embedwire._wire import ContractBroken, decode
from embedwire.testing import Answer, EmbeddingServer, Request, vector
from tests.unit import fuzzing
from tests.unit.fuzzing import KEY, STATUSES, TEXT

# The same examples each time, however busy the machine.
steady = settings(derandomize=True, deadline=None, database=None)
dice_of_any_fall = st.randoms(use_true_random=False)

DEEP = b"[" * 1015 + b"]" * 1015
FOUND = {  # what fuzzing found, each as it was when it broke a promise
    "a type as deep as orjson reads": (b'{"error":{"type":' + DEEP + b"}}", 500),
    "a code as deep as orjson reads": (b'{"error":{"code":' + DEEP + b"}}", 429),
    "an error_type as deep as orjson reads": (b'{"error":"no","error_type":' + DEEP + b"}", 500),
    "true tokens": (b'{"error":{"type":"exceed_context_size_error","n_prompt_tokens":true}}', 400),
    "NaN after a byte order mark": (
        b'\xef\xbb\xbf{"model":"NaN","data":[{"index":0,"embedding":[0.5,1]}]}',
        200,
    ),
    "true in UTF-16, of which two letters look like NaN": (
        '{"model":"慎乎","data":[{"index":0,"embedding":[true,0.5]}]}'.encode("utf-16-le"),
        200,
    ),
    "a name that UTF-8 cannot carry": (b'{"data":[{"id":"\\ud800"}],"x":NaN}', 200),
}


class TestDecoding:
    """Bytes → vectors, answers and refusals, by pure functions."""

    @settings(steady, max_examples=3000)
    @given(dice_of_any_fall, st.sampled_from(fuzzing.SEEDS), st.integers(1, 3), st.sampled_from(STATUSES))
    def test_near_to_right(self, dice: random.Random, seed: bytes, count: int, status: int) -> None:
        """Right replies made wrong anywhere are decoded as a second decoder decodes them, or refused with reason."""
        fuzzing.check(fuzzing.mutated(seed, dice), count=count, status=status)

    @settings(steady, max_examples=500)
    @given(st.binary(max_size=300), st.sampled_from(STATUSES))
    def test_far_from_right(self, body: bytes, status: int) -> None:
        """Bytes of any kind are refused, and nothing but the contract's own exception is raised."""
        fuzzing.check(body, count=1, status=status)

    @pytest.mark.parametrize(("body", "status"), FOUND.values(), ids=FOUND)
    def test_found_before(self, body: bytes, status: int) -> None:
        """What once broke a promise keeps it."""
        fuzzing.check(body, count=1, status=status)

    @pytest.mark.parametrize("odd", ["x" * 20_000, [0.5] * 20_000, {"x": [0.5] * 20_000}, 10**4000, None])
    def test_takes_memory_by_its_size(self, odd: object) -> None:
        """A wrong thing among the numbers of a vector costs no more memory than a hundred times its bytes."""
        body = json.dumps({"data": [{"index": 0, "embedding": [odd] + [0.5] * 1000}]}).encode()
        tracemalloc.start()
        try:
            with pytest.raises(ContractBroken):
                decode(body, 1)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 100 * len(body)

    def test_the_checks_can_fail(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A decoder that ignores the index, rounds a number or takes what is wrong is found out."""
        swapped = b'{"data":[{"index":1,"embedding":[1]},{"index":0,"embedding":[2]}]}'
        wrong: dict[bytes, npt.NDArray[np.float32]] = {
            swapped: np.array([[1], [2]], dtype=np.float32),
            fuzzing.reply([[0.1], [0.2]]): np.array([[0.1], [0.25]], dtype=np.float32),
            fuzzing.reply([[1.0]]): np.array([[1]], dtype=np.float32),
        }
        for body, matrix in wrong.items():
            monkeypatch.setattr(fuzzing, "decode", lambda *_, matrix=matrix, **__: matrix)
            with pytest.raises(AssertionError):
                fuzzing.check_decode(body, 2)
        with pytest.raises(AssertionError, match="repeats a text"):
            fuzzing.check_message(RequestError(f"no: {TEXT[5:30]}"), [TEXT])


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
    """The same, from end to end."""

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
        _limits.forget()
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


class TestTheFuzzer:
    """`make fuzz` is of use to who has what it needs, and says what that is to who has not."""

    def test_says_what_it_needs(self) -> None:
        """Without atheris it ends with one sentence about the platforms, not with a traceback."""
        script = (
            "import runpy, sys; sys.modules['atheris'] = None; "
            "runpy.run_module('fuzz.fuzz_reply', run_name='__main__')"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("atheris is not installed")
        assert "Linux" in done.stderr
        assert "Traceback" not in done.stderr
