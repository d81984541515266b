"""What a reply may leave out or write otherwise, as long as it is certain whose each vector is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire._http.listing import listed
from embedwire._http.reply import ContractBroken, decode
from embedwire._http.vectors import convincing

ROWS = [[float(number), number / 8] for number in range(5)]
AS_TEXTS = st.permutations(range(5))


def written(index: int, how: str) -> dict[str, Any]:
    """An item of `data` whose index is written in one of several ways."""
    ways: dict[str, dict[str, Any]] = {
        "int": {"index": index},
        "float": {"index": float(index)},
        "string": {"index": str(index)},
        "null": {"index": None},
        "missing": {},
    }
    return {"embedding": ROWS[index], **ways[how]}


def vectors(data: Any, count: int = 5) -> Any:
    """The vectors of a reply with this `data`."""
    return decode(json.dumps({"data": data}).encode(), count).matrix.tolist()


class TestIndex:
    """An index may be missing, or of another type, where there is no doubt."""

    @given(AS_TEXTS, st.lists(st.sampled_from(["int", "float", "string"]), min_size=5, max_size=5))
    def test_any_type(self, order: list[int], how: list[str]) -> None:
        """0, 0.0 and "0" are one index, in any order."""
        assert vectors([written(index, way) for index, way in zip(order, how, strict=True)]) == ROWS

    @given(AS_TEXTS, st.integers(0, 4), st.sampled_from(["null", "missing"]))
    def test_left_out_once(self, order: list[int], silent: int, how: str) -> None:
        """The one item without an index is of the one text that no other item is of."""
        data = [written(index, how if place == silent else "int") for place, index in enumerate(order)]
        assert vectors(data) == ROWS

    @given(st.lists(st.sampled_from(["null", "missing"]), min_size=5, max_size=5))
    def test_left_out_by_all(self, how: list[str]) -> None:
        """Where no item has an index, they stand in the order of the texts."""
        assert vectors([written(index, way) for index, way in enumerate(how)]) == ROWS

    @given(AS_TEXTS, st.sets(st.integers(0, 4), min_size=2, max_size=4))
    def test_left_out_twice(self, order: list[int], silent: set[int]) -> None:
        """Where two items of several have none, nobody knows whose they are."""
        data = [written(index, "null" if place in silent else "int") for place, index in enumerate(order)]
        with pytest.raises(ContractBroken, match="without an index"):
            vectors(data)

    def test_counted_from_one(self) -> None:
        """Indexes from 1 on may be a mistake in the order too: they are refused."""
        data = [{**written(index, "int"), "index": index + 1} for index in range(5)]
        with pytest.raises(ContractBroken, match=r"index is not one of 0\.\.4"):
            vectors(data)
        with pytest.raises(ContractBroken, match=r"index is not one of 0\.\.0"):
            vectors([{"index": 1, "embedding": [1.0]}], 1)


class TestFrame:
    """What stands around the vectors may be otherwise."""

    GOOD = (b'"data":[{"index":0,"embedding":[1.0,0.5]}]', [[1.0, 0.5]])

    @pytest.mark.parametrize(
        "error", ["null", '""', "{}", "[]", "false", "0", '{"message":"","code":0}', '{"message":null}']
    )
    def test_an_error_that_is_none(self, error: str) -> None:
        """An `error` that says nothing, beside good vectors, is none."""
        body, rows = self.GOOD
        assert decode(b'{"error":%s,%s}' % (error.encode(), body), 1).matrix.tolist() == rows

    @pytest.mark.parametrize(
        "error", ["true", '"no"', "[0]", '{"code":500}', '{"message":"no"}', "1", "[[]]"]
    )
    def test_an_error_that_is_one(self, error: str) -> None:
        """An `error` that says anything is one, whatever stands beside it."""
        with pytest.raises(ContractBroken, match="an error in the reply"):
            decode(b'{"error":%s,%s}' % (error.encode(), self.GOOD[0]), 1)

    def test_a_byte_order_mark(self) -> None:
        """A reply, and a list of models, may begin with a byte order mark; cut short, they are cut short."""
        body, rows = self.GOOD
        assert decode(b"\xef\xbb\xbf{%s}" % body, 1).matrix.tolist() == rows
        assert listed(b'\xef\xbb\xbf{"data":[{"id":"m"}]}').models == ["m"]
        for cut in (b"\xef\xbb\xbf{%s" % body, b"\xef\xbb\xbf", b"\xef\xbb"):
            with pytest.raises(ContractBroken) as broken:
                decode(cut, 1)
            assert broken.value.cut == (cut != b"\xef\xbb")

    def test_a_bare_list(self) -> None:
        """llama-server's `/embeddings` gives the list alone, each vector nested once; other lists are refused."""
        reply = [{"index": 1, "embedding": [ROWS[1]]}, {"index": 0, "embedding": [ROWS[0]]}]
        assert decode(json.dumps(reply).encode(), 2).matrix.tolist() == ROWS[:2]
        for wrong in ([], ROWS, [reply[0], ROWS[0]], [reply]):
            with pytest.raises(ContractBroken, match="no JSON object but a list"):
                decode(json.dumps(wrong).encode(), 2)

    @given(st.integers(1, 5))
    def test_nested_once(self, count: int) -> None:
        """Vectors that are all nested once are vectors; one of several is none."""
        data = [{"index": index, "embedding": [ROWS[index]]} for index in range(count)]
        assert vectors(data, count) == ROWS[:count]
        if count > 1:
            with pytest.raises(ContractBroken, match="among the numbers") as broken:
                vectors([{"index": 0, "embedding": ROWS[0]}, *data[1:]], count)
            assert broken.value.position == 1


def read_as_float32(rows: Any, kind: str) -> Any:
    """Numbers of another type, as they are when they are taken for float32."""
    return np.frombuffer(np.asarray(rows).astype(kind).tobytes(), dtype="<f4").reshape(len(rows), -1)


class TestConvincing:
    """Numbers that came in base64, and that nothing is there to compare with, are vectors or are not."""

    DICE = np.random.default_rng(7)
    RANDOM = DICE.normal(size=(8, 256)).astype(np.float32)
    UNIT = RANDOM / np.linalg.norm(RANDOM, axis=1, keepdims=True)
    PEAKED = np.where(np.arange(256) == 7, 40 * RANDOM, RANDOM)
    SPARSE = np.where(DICE.random((8, 256)) < 0.9, 0, np.abs(RANDOM)).astype(np.float32)

    @pytest.mark.parametrize(
        "matrix",
        [UNIT, RANDOM, PEAKED, SPARSE, RANDOM * 50, RANDOM / 1e4, UNIT.astype("f2").astype("f4")],
        ids=["unit", "random", "one large number", "sparse", "large", "small", "rounded to float16"],
    )
    def test_vectors_are(self, matrix: Any) -> None:
        """Vectors of any length, dense, sparse or with a few large numbers, convince."""
        assert convincing(matrix.astype(np.float32))
        assert convincing(np.zeros((2, 4), dtype=np.float32))

    @pytest.mark.parametrize("kind", ["<f2", "<f8", ">f4", "<i4", "i1", "<i2", ">f8"])
    @pytest.mark.parametrize("matrix", [UNIT, RANDOM, RANDOM * 8], ids=["unit", "random", "large"])
    def test_others_are_not(self, matrix: Any, kind: str) -> None:
        """Numbers of another type or order of bytes do not, whatever they were."""
        scaled = matrix / np.abs(matrix).max() * (127 if kind == "i1" else 30_000) if "i" in kind else matrix
        with np.errstate(all="ignore"):
            misread = read_as_float32(scaled, kind)
        finite = misread[np.isfinite(misread).all(axis=1)]
        assert not len(finite) or np.abs(finite).max() > 1e6 or not convincing(finite)
