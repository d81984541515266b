"""Whatever bytes a server sends: right vectors or the library's own error, and no text in its message.

`make fuzz` looks for more of them, by the same checks and for as long as one likes.
"""

from __future__ import annotations

import json
import random
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedwire import RequestError
from embedwire._http.reply import ContractBroken, Decoded, decode
from tests.unit import fuzzing
from tests.unit.fuzzing import STATUSES, TEXT

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

    @settings(steady, max_examples=200)
    @given(dice_of_any_fall, st.sampled_from(fuzzing.SEEDS), st.integers(1, 3), st.sampled_from(STATUSES))
    def test_near_to_right(self, dice: random.Random, seed: bytes, count: int, status: int) -> None:
        """Right replies made wrong anywhere are decoded as a second decoder decodes them, or refused with reason."""
        fuzzing.check(fuzzing.mutated(seed, dice), count=count, status=status)

    @pytest.mark.slow
    @settings(steady, max_examples=1000)
    @given(dice_of_any_fall, st.sampled_from(fuzzing.SEEDS), st.integers(1, 3), st.sampled_from(STATUSES))
    def test_near_to_right_for_long(self, dice: random.Random, seed: bytes, count: int, status: int) -> None:
        """The same, many times over: replies made wrong are decoded as a second decoder does it, or refused."""
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
            decoded = Decoded(matrix=matrix, base64=False, tokens=None, model=None, zeros=0)
            monkeypatch.setattr(fuzzing, "decode", lambda *_, decoded=decoded, **__: decoded)
            with pytest.raises(AssertionError):
                fuzzing.check_decode(body, 2)
        with pytest.raises(AssertionError, match="repeats a text"):
            fuzzing.check_message(RequestError(f"no: {TEXT[5:30]}"), [TEXT])
