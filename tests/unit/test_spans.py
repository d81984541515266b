"""Vectors that are cut out of a reply's bytes: the short way gives what the whole contract gives, or is not taken."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest

from embedwire._http import reply
from embedwire._http.reply import ContractBroken, decode
from embedwire._http.spans import STEP, Cut, cut_out
from embedwire._http.steps import at_once
from tests.unit import fuzzing

ROUNDS = 4000
ROWS = np.random.default_rng(7).standard_normal((40, 24), dtype=np.float32).tolist()
AAAA, BBBB = fuzzing.packed([1.0, 2.0]), fuzzing.packed([3.0, 4.0])


def outcome(body: bytes, count: int, width: int | None, cut: Cut | None) -> object:
    """What becomes of a reply, in a form that can be compared."""
    try:
        decoded = decode(body, count, width=width, cut=cut)
    except ContractBroken as broken:
        return str(broken), broken.position, broken.cut, broken.exchanged, broken.misread, broken.cure
    matrix = decoded.matrix
    return matrix.dtype, matrix.shape, matrix.tobytes(), decoded.base64, decoded.tokens, decoded.model


def check_same(body: bytes, count: int, width: int | None = None) -> None:
    """Fail unless both ways lead to the same."""
    cut = at_once(cut_out(body))
    assert outcome(body, count, width, cut) == outcome(body, count, width, None)


def spaced(body: bytes) -> bytes:
    """A reply without spaces."""
    return json.dumps(json.loads(body), separators=(",", ":")).encode()


SEEDS = [*fuzzing.REPLIES, *map(spaced, fuzzing.REPLIES)]
SEEDS += [fuzzing.reply(ROWS[:3], as_base64=as_base64) for as_base64 in (False, True)]


class TestTheShortWay:
    """`decode` with a reply that was cut, beside `decode` without."""

    @pytest.mark.parametrize("packed", [False, True], ids=["decimal", "base64"])
    @pytest.mark.parametrize("form", [bytes, spaced], ids=["as Python writes it", "without spaces"])
    def test_is_taken(self, packed: bool, form: type[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        """A reply as servers write it is read without its vectors being parsed with the rest."""
        body = form(fuzzing.reply(ROWS, as_base64=packed))
        cut = at_once(cut_out(body))
        assert cut is not None
        assert len(cut.rest) < 100 * len(ROWS)
        seen: list[bytes] = []
        parsed = reply._parsed

        def noted(body: bytes) -> object:
            seen.append(body)
            return parsed(body)

        monkeypatch.setattr(reply, "_parsed", noted)
        decoded = decode(body, len(ROWS), width=24, cut=cut)
        assert seen == [cut.rest]
        assert decoded.matrix.tolist() == ROWS
        assert (decoded.base64, decoded.tokens, decoded.model) == (packed, 5, "m")

    @pytest.mark.parametrize("seed", range(8))
    def test_leads_where_the_long_one_does(self, seed: int) -> None:
        """Thousands of replies made wrong anywhere give the same vectors, or the same refusal, either way."""
        dice = random.Random(seed)
        for _ in range(ROUNDS // 8):
            body, count = fuzzing.mutated(dice.choice(SEEDS), dice), dice.choice((1, 2, 3))
            check_same(body, count, dice.choice((None, 3, 24)))

    @pytest.mark.parametrize(
        "body",
        [
            '{"data":[{"\\u0065mbedding":"<vector 0>","x":{"embedding":"A"}}]}',
            '{"data":[{"embedding":"<vector 0>"}],"x":{"embedding":"A"}}',
            '{"data":[{"embedding":"A","embedding":"B"}]}',
            '{"data":[{"x\\"embedding":"A"}]}',
            '{"data":[{"x":"\\"embedding\\":\\"A\\"","embedding":"B"}]}',
            '{"model":"m,"embedding":"A","data":[{"embedding":"B"}]}',
            '{"model":"<vector 0>","data":[{"embedding":"A"}]}',
            '{"error":{"embedding":"A"},"data":[{"embedding":"B"}]}',
            '{"error":{"embedding":""},"data":[{"embedding":"B"}]}',
            '{"error":{"embedding":[]},"data":[{"embedding":[0.5]}]}',
            '{"data":[{"embedding":"A" "B"}]}',
            '{"data":[{"embedding":"A\\n"}]}',
            '{"data":[{"embedding":"A\\u0041"}]}',
            '{"data":[{"embedding":"A]}',
            '{"data":[{"embedding":[0.5,"]"]}]}',
            '{"data":[{"embedding":[0.5,[1.5]]}]}',
            '{"data":[{"embedding":[[0.5,1.5]]}]}',
            '{"data":[{"embedding":[0.5,true]}]}',
            '{"data":[{"embedding":[0.5,null]}]}',
            '{"data":[{"embedding":[0.5,NaN]}]}',
            '{"data":[{"embedding":[0.5,1e999]}]}',
            '{"data":[{"embedding":[0.5,1e39]}]}',
            '{"data":[{"embedding":[1,2]}]}',
            '{"data":[{"embedding":[16777217,9007199254740993]}]}',
            '{"data":[{"embedding":[0.5,]}]}',
            '{"data":[{"embedding":[]}]}',
            '{"data":[{"embedding":[0.5}]}',
            '[{"index":0,"embedding":"A"}]',
            '\ufeff{"data":[{"embedding":"A"}]}',
            '{"data":[{"embedding":"A"}],"data":[{"embedding":"B"}]}',
            '{"data":[{"embedding":"A","index":{"embedding":"B"}}]}',
            '{"usage":{"prompt_tokens":{"embedding":"A"}},"data":[{"embedding":"B"}]}',
        ],
    )
    def test_is_led_astray_by_nothing(self, body: str) -> None:
        """What looks like a vector and is none, or is one in another place, is what the whole contract says it is."""
        body = body.replace('"A', f'"{AAAA}').replace('"B', f'"{BBBB}')
        for count, width in itertools.product((1, 2), (None, 2, 3)):
            check_same(body.encode(), count, width)
            check_same(body.replace('"embedding":', '"embedding": ').encode(), count, width)

    @pytest.mark.parametrize("packed", [False, True], ids=["decimal", "base64"])
    def test_is_gone_in_steps(self, packed: bool) -> None:
        """No step reads more than some hundred kilobytes of a reply and one vector."""
        rows = np.random.default_rng(8).standard_normal((500, 1024)).tolist()
        body = fuzzing.reply(rows, as_base64=packed)
        longest = len(body) // len(rows) + 100
        assert sum(1 for _ in cut_out(body)) >= len(body) // (STEP + longest)
