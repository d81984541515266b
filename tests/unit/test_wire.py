"""Texts → bytes → vectors; each row of the reply contract, and whatever else may come over a wire."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedwire._http.dimensions import fit
from embedwire._http.listing import listed
from embedwire._http.reply import ContractBroken, decode, parse
from embedwire._http.vectors import near, normalized, plausible
from embedwire._http.wire import encode
from embedwire._servers.kinds import KINDS, Told
from embedwire._settings.checks import json_of

ANY_BUT_USAGE: list[Any] = [{}, None, 7, "7", [7]]
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
#: As they stand in vectors: in base64 others are taken for another packing.
USUAL = st.floats(-1e5, 1e5, width=32).filter(lambda number: not 0 < abs(number) < 1e-8)


def item(index: Any, embedding: Any) -> dict[str, Any]:
    """An item of `data`."""
    return {"object": "embedding", "index": index, "embedding": embedding}


def body(*embeddings: Any) -> bytes:
    """A reply with these embeddings, in order; `json` because it writes NaN and ints of any size."""
    items = [item(index, embedding) for index, embedding in enumerate(embeddings)]
    return json.dumps({"object": "list", "data": items}).encode()


def of_items(*items: Any) -> bytes:
    """A reply with these items."""
    return json.dumps({"data": items}).encode()


def packed(row: Any) -> str:
    """A vector as base64."""
    return base64.b64encode(np.asarray(row, dtype="<f4").tobytes()).decode()


class TestEncode:
    """A request holds what was asked for and nothing else."""

    def test_holds_input_and_encoding(self) -> None:
        """Untold, a request has neither a model nor dimensions, and no null."""
        sent = orjson.loads(encode(["a", "b"], model=None, encoding="float", dimensions=None))
        assert sent == {"input": ["a", "b"], "encoding_format": "float"}

    def test_holds_model_and_dimensions_when_asked(self) -> None:
        """A model and a number of dimensions are sent when given."""
        sent = orjson.loads(encode(["a"], model="m", encoding="base64", dimensions=4))
        assert sent == {"input": ["a"], "model": "m", "dimensions": 4, "encoding_format": "base64"}

    @pytest.mark.parametrize(
        "fields", [{}, {"task": "문서", "options": {"num_ctx": 2**70, "a": [None, 1.5]}}]
    )
    def test_holds_further_fields_and_no_encoding(self, fields: dict[str, Any]) -> None:
        """Further fields stand beside the others, as they are; without an encoding there is no field for it."""
        sent = encode(["a"], json_of("extra_body", fields), model=None, encoding=None, dimensions=None)
        assert json.loads(sent) == {"input": ["a"], **fields}

    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
    def test_texts_arrive_as_they_are(self, texts: list[str]) -> None:
        """Every text is a JSON string that says exactly what the caller said."""
        sent = json.loads(encode(texts, model=None, encoding="float", dimensions=None))
        assert sent["input"] == texts


class TestGoodReplies:
    """What is right passes, to the last bit."""

    @given(st.data(), st.integers(1, 6), st.integers(1, 6), st.booleans())
    def test_float32_comes_back_to_the_last_bit(
        self, data: st.DataObject, count: int, width: int, as_base64: bool
    ) -> None:
        """Vectors of float32 come through either encoding unchanged, in one C-ordered float32 matrix."""
        rows = data.draw(
            st.lists(
                st.lists(USUAL if as_base64 else FLOAT32, min_size=width, max_size=width),
                min_size=count,
                max_size=count,
            )
        )
        decoded = decode(body(*([packed(row) for row in rows] if as_base64 else rows)), count)
        matrix = decoded.matrix
        assert decoded.base64 == as_base64
        assert matrix.dtype == np.float32
        assert (matrix.shape, matrix.flags.c_contiguous) == ((count, width), True)
        assert matrix.tobytes() == np.array(rows, dtype=np.float32).tobytes() or (matrix == rows).all()

    @given(st.permutations(range(7)), st.sets(st.integers(0, 6)))
    def test_any_order_gives_each_text_its_own_row(self, order: list[int], in_base64: set[int]) -> None:
        """Items in any order, in either encoding, are placed by their index."""
        rows = [[float(index), index / 8] for index in range(7)]
        items = [item(index, packed(rows[index]) if index in in_base64 else rows[index]) for index in order]
        assert decode(of_items(*items), 7).matrix.tolist() == rows

    def test_reversed_items_are_placed_by_index(self) -> None:
        """A reply in reversed order gives each text its own vector."""
        assert decode(of_items(item(1, [2.0]), item(0, [1.0])), 2).matrix.tolist() == [[1.0], [2.0]]

    @pytest.mark.parametrize("row", [[1, 2], [0, -3], [1, 2.5], [2**53, 1], [10**30, 1.0], [-(2**63), 2**63]])
    def test_whole_numbers_are_numbers(self, row: list[Any]) -> None:
        """Integers of any size that float32 can hold are numbers like any other."""
        rounded = np.array([row], dtype=np.float64).astype(np.float32).tolist()
        assert decode(body(row), 1).matrix.tolist() == rounded
        assert decode(body(row, packed([1.0, 2.0])), 2).matrix[:1].tolist() == rounded

    def test_unknown_fields_are_ignored(self) -> None:
        """More fields than the contract needs, true and null among them, change nothing."""
        reply = {
            "data": [{**item(0, [1.0]), "truncated": True, "x": None}],
            "error": None,
            "usage": {"x": False},
        }
        assert decode(orjson.dumps(reply), 1).matrix.tolist() == [[1.0]]

    def test_words_of_json_in_a_name_are_no_booleans(self) -> None:
        """A model called true is no boolean among the numbers."""
        reply = orjson.dumps({"model": "true-false", "data": [item(0, [1.0, 2.0])]})
        assert decode(reply, 1).matrix.tolist() == [[1.0, 2.0]]

    @given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
    def test_numbers_of_more_digits_are_rounded(self, row: list[float]) -> None:
        """Float64 decimals become the nearest float32."""
        assert decode(body(row), 1).matrix.tolist() == [np.array(row, dtype=np.float32).tolist()]


class TestBesides:
    """What a reply says beside its vectors is kept where it is right, and harms nothing where it is not."""

    @pytest.mark.parametrize(
        ("usage", "tokens"),
        [
            ({"prompt_tokens": 7, "total_tokens": 9}, 7),
            ({"prompt_tokens": 0}, 0),
            *[({"prompt_tokens": odd}, None) for odd in (-1, 7.0, "7", True, None, [7])],
            *[(odd, None) for odd in ANY_BUT_USAGE],
        ],
    )
    def test_tokens(self, usage: Any, tokens: int | None) -> None:
        """The tokens that the server counted, where that is a whole number."""
        reply = orjson.dumps({"data": [item(0, [1.0])], "usage": usage})
        assert decode(reply, 1).tokens == tokens
        assert decode(body([1.0]), 1).tokens is None

    @pytest.mark.parametrize(
        ("model", "named"), [("m", "m"), ("", ""), (None, None), (5, None), (["m"], None)]
    )
    def test_model(self, model: Any, named: str | None) -> None:
        """The model that the server names, where that is a name."""
        assert decode(orjson.dumps({"data": [item(0, [1.0])], "model": model}), 1).model == named
        assert decode(body([1.0]), 1).model is None

    @pytest.mark.parametrize(
        ("rows", "in_base64"),
        [([packed([1.0])] * 2, True), ([[1.0], [2.0]], False), ([packed([1.0]), [2.0]], False)],
    )
    def test_encoding(self, rows: list[Any], in_base64: bool) -> None:
        """Whether all vectors came in base64."""
        assert decode(body(*rows), 2).base64 == in_base64

    def test_nothing_shows_the_numbers(self) -> None:
        """No repr of what was decoded has a vector."""
        assert "0.125" not in repr(decode(body([0.125]), 1))


BROKEN = [
    # JSON and its frame
    ("an empty reply", b"", 1, None),
    ("empty reply", b"   ", 1, None),
    ("that is no JSON", b"<html>busy</html>", 1, None),
    ("cut short", body([1.0])[:-1], 1, None),
    ("cut short", body([1.0])[:20], 1, None),
    ("that is no JSON", body([1.0]) * 2, 1, None),
    ("that is no JSON", b"\xff\xfe", 1, None),
    ("of 2 and of 1 numbers", body([1.0, 2.0], [1.0], [3.0, 4.0]), 3, 1),
    ("cut short", b'{"data":' + b"[" * 100_000, 1, None),
    ("no JSON object but a list", b"[[1.0]]", 1, None),
    ("no JSON object but a str", b'"data"', 1, None),
    ("no JSON object but a NoneType|no JSON object but null", b"null", 1, None),
    ("an error in the reply", b'{"error": {"message": "out of memory"}}', 1, None),
    ("an error in the reply", b'{"error": "out of memory", "data": []}', 0, None),
    ("an error in the reply", orjson.dumps({"error": "x", "data": [item(0, [1.0])]}), 1, None),
    # data
    ("without a list called data", b"{}", 1, None),
    ("without a list called data", b'{"data": null}', 1, None),
    ("without a list called data", b'{"data": {"0": [1.0]}}', 1, None),
    ("without a list called data", b'{"embeddings": [[1.0]]}', 1, None),
    ("0 vectors for 1 text", b'{"data": []}', 1, None),
    ("3 vectors for 4 texts", body([1.0], [2.0], [3.0]), 4, None),
    ("5 vectors for 4 texts", body([1.0], [2.0], [3.0], [4.0], [5.0]), 4, None),
    ("an item of data that is no object", of_items([1.0]), 1, None),
    ("an item of data that is no object", of_items(item(0, [1.0]), None), 2, None),
    # index
    ("two vectors for index 0", of_items(item(0, [1.0]), item(0, [2.0])), 2, None),
    ("two vectors for index 1", of_items(item(1, [1.0]), item(0, [2.0]), item(1, None)), 3, None),
    (
        "2 of 3 items of data without an index",
        of_items({"embedding": [1.0]}, item(0, [1.0]), item(None, [1.0])),
        3,
        None,
    ),
    ("two vectors for index 0", of_items(item(0, [1.0]), item(0, [1.0]), {"embedding": [1.0]}), 3, None),
    ("index is not one of 0..1", of_items(item(2, [1.0]), item(1, [1.0])), 2, None),
    ("index is not one of 0..1", of_items(item(0, [1.0]), item(2, [1.0])), 2, None),
    ("index is not one of 0..1", of_items(item(1, [1.0]), item(-1, [1.0])), 2, None),
    ("index is not one of 0..0", of_items(item(0.5, [1.0])), 1, None),
    ("index is not one of 0..0", of_items(item(1e300, [1.0])), 1, None),
    ("index is not one of 0..0", of_items(item(False, [1.0])), 1, None),
    ("index is not one of 0..1", of_items(item(True, [1.0]), item(0, [1.0])), 2, None),
    ("index is not one of 0..0", of_items(item("1", [1.0])), 1, None),
    *(
        ("index is not one of 0..0", of_items(item(odd, [1.0])), 1, None)
        for odd in ("", "-0", "²", "9" * 5000, [0], {}, math.nan)
    ),
    ("index is not one of 0..0", of_items(item(10**30, [1.0])), 1, None),
    # vectors
    ("null instead of a vector", body([1.0], None), 2, 1),
    ("null instead of a vector", of_items(item(0, [1.0]), {"index": 1}), 2, 1),
    ("a dict instead of a vector|an object instead of a vector", body({"0": 1.0}), 1, 0),
    ("instead of a vector", body([1.0], 5), 2, 1),
    ("instead of a vector", body([1.0], True), 2, 1),
    ("an empty vector", body([]), 1, 0),
    ("an empty vector", body([], []), 2, 0),
    ("an empty vector", body(""), 1, 0),
    ("of 1 and of 2 numbers in one reply", body([1.0], [1.0, 2.0]), 2, None),
    ("an empty vector", body([1.0, 2.0], []), 2, 1),
    ("of 1 and of 2 numbers in one reply", body([1.0], packed([1.0, 2.0])), 2, None),
    ("among the numbers of a vector", body([1.0, "2.0"]), 1, 0),
    ("among the numbers of a vector", body(["1.0", "2.0"]), 1, 0),
    ("among the numbers of a vector", body([1.0], [[1.0]]), 2, 1),
    ("among the numbers of a vector", body([[[1.0, 2.0]]]), 1, 0),
    ("among the numbers of a vector", body([[1.0], [2.0]]), 1, 0),
    ("among the numbers of a vector", body([[1.0]], [[1.0], [2.0]]), 2, 0),
    ("among the numbers of a vector", body([1.0], [{}]), 2, 1),
    ("a bool among the numbers of a vector", body([1.0, 2.0], [1.0, True]), 2, 1),
    ("a bool among the numbers of a vector", body([True, False]), 1, 0),
    ("a bool among the numbers of a vector", body([0, 1], [False, 1]), 2, 1),
    ("a bool among the numbers of a vector", body(packed([1.0, 2.0]), [1.0, True]), 2, 1),
    ("null", body([1.0, 2.0], [None, 1.0]), 2, 1),
    ("null", body([None, None]), 1, 0),
    ("infinity", body([1.0], [1e39]), 2, 1),
    ("infinity", body([1.0], [-1e39]), 2, 1),
    ("infinity", body([1.0, 1e308]), 1, 0),
    ("infinity", body([10**39]), 1, 0),
    ("infinity", body(packed([1.0]), packed([math.inf])), 2, 1),
    ("NaN", body(packed([1.0]), packed([math.nan])), 2, 1),
    ("broken base64", body("AAAA!A=="), 1, 0),
    ("broken base64", body(packed([1.0]), "AAAAA"), 2, 1),
    ("broken base64", body(packed([1.0, 2.0])[:-1]), 1, 0),
    ("broken base64", body(packed([1.0]) + "\n"), 1, 0),
    ("broken base64", body("é" * 8), 1, 0),
    ("of 3 bytes, no multiple of 4", body("AAAA"), 1, 0),
    ("of 6 bytes, no multiple of 4", body(packed([1.0]), base64.b64encode(b"123456").decode()), 2, 1),
]


class TestBrokenReplies:
    """What is wrong is refused whole, and said."""

    @pytest.mark.parametrize(("what", "reply", "count", "position"), BROKEN, ids=[row[0] for row in BROKEN])
    def test_breaks_the_contract(self, what: str, reply: bytes, count: int, position: int | None) -> None:
        """A reply that breaks a row of the contract is refused, and names the text where one is at fault."""
        with pytest.raises(ContractBroken, match=what) as broken:
            decode(reply, count)
        assert broken.value.position == position
        assert broken.value.cut == ("cut short" in what or "empty reply" in what)
        assert broken.value.__cause__ is None

    @pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e400", "1" * 400])
    def test_numbers_that_json_has_not_are_refused(self, literal: str) -> None:
        """A literal that is no finite number is refused, whatever Python's own parser makes of it."""
        with pytest.raises(ContractBroken):
            decode(b'{"data":[{"index":0,"embedding":[1.0,%s]}]}' % literal.encode(), 1)

    @pytest.mark.parametrize("reply", [body([1.0, 2.0]), body(packed([1.0, 2.0]))])
    def test_another_width_than_before_is_refused(self, reply: bytes) -> None:
        """Vectors of another width than this model had are refused: the model was exchanged."""
        assert decode(reply, 1, width=2).matrix.shape == (1, 2)
        with pytest.raises(ContractBroken, match="vectors of 2 numbers where earlier ones had 3"):
            decode(reply, 1, width=3)
        for width, other in ((3, True), (None, False)):
            with pytest.raises(ContractBroken) as broken:
                decode(reply if other else b"{}", 1, width=width)
            assert (broken.value.exchanged or broken.value.misread) == other
            assert broken.value.misread == (other and decode(reply, 1).base64)

    def test_zeros_are_vectors(self) -> None:
        """A vector of zeros is no breach; the client warns of it."""
        assert decode(body([0.0, 0.0], packed([0.0, -0.0])), 2).matrix.tolist() == [[0, 0], [0, 0]]

    @pytest.mark.parametrize("encoding", ["float", "base64"])
    def test_no_prefix_of_a_reply_passes(self, encoding: str) -> None:
        """Cut at any byte, a reply is refused as cut."""
        rows: list[Any] = [[0.25, -1.5], [3.0, 4.0]]
        whole = body(*(rows if encoding == "float" else map(packed, rows)))
        assert decode(whole, 2).matrix.tolist() == rows
        for end in range(len(whole)):
            with pytest.raises(ContractBroken) as broken:
                decode(whole[:end], 2)
            assert broken.value.cut

    @given(st.binary(max_size=200), st.integers(1, 3))
    @example(b"\x00", 1)
    def test_arbitrary_bytes_only_break_the_contract(self, reply: bytes, count: int) -> None:
        """Nothing that a server sends raises anything but ContractBroken."""
        for read in (lambda: decode(reply, count), lambda: parse(reply), lambda: listed(reply)):
            with contextlib.suppress(ContractBroken):
                read()
        with contextlib.suppress(ContractBroken):
            answer = parse(reply)
            assert all(isinstance(kind.read(answer), Told) for kind in KINDS)

    @given(st.data())
    def test_arbitrary_json_is_refused_or_right(self, data: st.DataObject) -> None:
        """Any JSON near a reply gives finite vectors of one width, one per text, or ContractBroken."""
        odd: st.SearchStrategy[Any] = st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.integers(-(10**400), 10**400),
            st.floats(),
            st.text(max_size=8),
            st.sampled_from(
                [packed([1.0]), packed([1.0, 2.0]), packed([math.nan]), "AAAA", 1e39, 2**63, 2**64]
            ),
        )
        number = st.one_of(FLOAT32, st.integers(-(2**70), 2**70), odd)
        nested = st.recursive(odd, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
        embedding = st.one_of(st.lists(number, min_size=2, max_size=2), st.lists(odd, max_size=3), nested)
        index = st.one_of(st.integers(0, 2), odd)
        items = st.fixed_dictionaries({"index": index, "embedding": embedding})
        reply = data.draw(
            st.one_of(
                st.fixed_dictionaries({"data": st.lists(st.one_of(items, items, odd), max_size=3)}),
                st.dictionaries(st.sampled_from(["data", "error", "object"]), nested, max_size=3),
                nested,
            )
        )
        count = data.draw(st.integers(1, 3))
        encoded = json.dumps(reply).encode("utf-8", "surrogatepass")
        try:
            matrix = decode(encoded, count).matrix
        except ContractBroken:
            return
        assert matrix.dtype == np.float32
        assert len(matrix) == count
        assert matrix.shape[1] > 0
        assert np.isfinite(matrix).all()
        items = reply if isinstance(reply, list) else reply["data"]
        indexes = [int(place["index"]) for place in items if place.get("index") is not None]
        assert len(set(indexes)) == len(indexes)
        assert len(indexes) in (0, count - 1, count)
        for place in items:
            if place.get("index") is None and indexes:
                continue
            given_row, row = (
                place["embedding"],
                matrix[int(place["index"]) if indexes else items.index(place)],
            )
            if isinstance(given_row, str):
                given_row = struct.unpack(f"<{len(row)}f", base64.b64decode(given_row))
            if isinstance(given_row[0], list):
                (given_row,) = given_row
            assert not any(isinstance(number, bool) for number in given_row)
            assert row.tolist() == [float(np.float32(float(number))) for number in given_row]


class TestFit:
    """Vectors have the number of numbers that was asked for."""

    def test_cuts_and_brings_back_to_unit_length(self) -> None:
        """A longer vector is cut, and its length is 1 again, each on its own."""
        matrix = np.array([[3, 4, 12], [0, 5, 1], [8, 6, 0]], dtype=np.float32)
        cut = fit(matrix, 2)
        assert cut.dtype == np.float32
        assert np.allclose(cut, np.array([[0.6, 0.8], [0, 1], [0.8, 0.6]]), rtol=1e-6, atol=0)
        assert matrix[0].tolist() == [3, 4, 12]

    def test_what_the_server_cut_gets_unit_length(self) -> None:
        """A vector that the server cut and left short gets unit length; the others keep their bits, zeros theirs."""
        row = normalized(np.array([[1, 2, 3]], dtype=np.float32))[0]
        matrix = np.array(
            [row, row * np.float32(0.36), row * np.float32(1.0005), [0, 0, 0]], dtype=np.float32
        )
        fitted = fit(matrix, 3)
        assert fitted[[0, 2, 3]].tobytes() == matrix[[0, 2, 3]].tobytes()
        assert np.allclose(fitted[1], row, rtol=1e-6)
        assert not np.allclose(matrix[1], row)

    def test_what_was_not_asked_for_is_left_alone(self) -> None:
        """Vectors of no asked length, or of unit length and the right one, are not touched."""
        matrix = np.array([[3, 4]], dtype=np.float32)
        assert fit(matrix, None) is matrix
        unit = normalized(matrix)
        assert fit(unit, 2) is unit

    def test_too_few_are_refused(self) -> None:
        """Shorter vectors than asked for are a broken contract."""
        with pytest.raises(
            ContractBroken, match="vectors of 2 numbers where dimensions=3 were asked for"
        ) as broken:
            fit(np.ones((1, 2), dtype=np.float32), 3)
        assert "at most 2 (dimensions=)" in broken.value.cure

    def test_zeros_stay_zeros(self) -> None:
        """A vector of zeros has no direction, and gets none."""
        assert normalized(np.zeros((2, 3), dtype=np.float32)).tolist() == [[0] * 3] * 2
        assert fit(np.array([[0, 0, 1]], dtype=np.float32), 2).tolist() == [[0, 0]]

    @given(st.lists(FLOAT32, min_size=1, max_size=8))
    def test_any_vector_gets_unit_length(self, row: list[float]) -> None:
        """Tiny and huge vectors get unit length too, and keep their direction."""
        unit = normalized(np.array([row], dtype=np.float32))[0].astype(np.float64)
        if any(row):
            assert math.isclose(math.hypot(*unit), 1, rel_tol=1e-5)
            largest = int(np.argmax(np.abs(row)))
            assert math.copysign(1, unit[largest]) == math.copysign(1, row[largest])
        else:
            assert not unit.any()


class TestBase64Check:
    """Base64 is used only where it says what decimals say."""

    VECTOR = np.array([0.6, 0.8, 0.0, 0.0], dtype=np.float32)

    def test_the_same_vector_agrees(self) -> None:
        """The same vector, or nearly, agrees."""
        for row in (self.VECTOR, self.VECTOR + np.float32(0.003)):
            matrix = decode(body(packed(row)), 1).matrix
            assert near(matrix[0], self.VECTOR)

    @pytest.mark.parametrize(
        "embedding",
        [
            base64.b64encode(struct.pack(">4f", 0.6, 0.8, 0.0, 0.0)).decode(),
            base64.b64encode(struct.pack("<4d", 0.6, 0.8, 0.0, 0.0)).decode(),
            base64.b64encode(struct.pack("<2d", 0.6, 0.8)).decode(),
            base64.b64encode(struct.pack("<4e", 0.6, 0.8, 0.0, 0.0)).decode(),
            base64.b64encode(struct.pack("<4i", 6, 8, 0, 0)).decode(),
            packed([0.8, 0.6, 0.0, 0.0]),
            packed([-0.6, -0.8, 0.0, 0.0]),
            packed([0.6, 0.8]),
            packed([0.0, 0.0, 0.0, 0.0]),
        ],
    )
    def test_another_reading_does_not(self, embedding: str) -> None:
        """Big-endian, float64, float16, integers, another vector or another width do not agree."""
        with contextlib.suppress(ContractBroken):
            assert not near(decode(body(embedding), 1).matrix[0], self.VECTOR)

    def test_decimals_are_no_base64(self) -> None:
        """A server that answers in decimal all the same is found out."""
        assert not decode(body([0.6, 0.8, 0.0, 0.0]), 1).base64

    @pytest.mark.parametrize("layout", [">f", ">d", ">i"])
    def test_the_other_byte_order_is_no_vector(self, layout: str) -> None:
        """What is read in the wrong byte order is longer by powers of ten, whatever is known of the text."""
        row = (3, 1, 4, 1) if layout[-1] == "i" else (0.61, 0.79, -0.053, 0.0017)
        text = base64.b64encode(struct.pack(f">4{layout[-1]}", *row)).decode()
        with pytest.raises(ContractBroken):
            decode(body(text), 1)

    def test_one_odd_vector_spoils_all(self) -> None:
        """A single vector that is far too long makes the whole reply implausible."""
        matrix = np.array([self.VECTOR] * 9, dtype=np.float32)
        assert plausible(matrix.max(axis=1))
        matrix[4] *= 1e9
        assert not plausible(matrix.max(axis=1))

    def test_zeros_prove_nothing(self) -> None:
        """A vector of zeros says nothing about how numbers are packed; one among others does no harm."""
        zeros = np.zeros(4, dtype=np.float32)
        assert not near(zeros, zeros)
        assert plausible(zeros)


class TestOtherReplies:
    """What a server says of itself is used where it can be read."""

    @pytest.mark.parametrize(
        ("reply", "names"),
        [
            ({"data": [{"id": "a"}, {"id": "b", "object": "model"}]}, ["a", "b"]),
            ({"data": []}, []),
            ({}, []),
            ({"data": None}, []),
            ({"data": ["a", None, {"id": 5}, {"name": "x"}, {"id": "a"}]}, ["a"]),
        ],
    )
    def test_models(self, reply: Any, names: list[str]) -> None:
        """The names in a list of models, and none where there is no list."""
        assert listed(orjson.dumps(reply)).models == names
