"""What a refusal says of the fields of a request, in the words of servers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedwire._http.fields import DIMENSIONS, ENCODING, NOTHING, REFUSALS, spoken_of

E, D = {ENCODING}, {DIMENSIONS}


def fastapi(field: str, message: str, kind: str = "value_error", given: object = "float") -> dict[str, Any]:
    """FastAPI's refusal, which quotes what it was given."""
    return {"detail": [{"type": kind, "loc": ["body", field], "msg": message, "input": given}]}


def openai(message: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's refusal."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


SAID: list[tuple[Any, set[str], str | None]] = [
    ({"detail": "extra fields not permitted: ['encoding_format']"}, E, None),
    (fastapi("encoding_format", "Extra inputs are not permitted", "extra_forbidden"), E, None),
    (fastapi("dimensions", "Extra inputs are not permitted", "extra_forbidden", 4), D, None),
    (fastapi("encoding_format", "Input should be 'base64'", "literal_error"), E, "base64"),
    (fastapi("encoding_format", "Input should be 'float'", given="base64"), E, "float"),
    (fastapi("encoding_format", "Input should be 'float' or 'base64'"), E, None),
    (openai("Unsupported parameter: 'encoding_format'"), E, None),
    (openai("Unknown parameter.", "encoding_format"), E, None),
    (openai("Unrecognized request argument supplied: dimensions"), D, None),
    (openai("This model does not support specifying dimensions."), D, None),
    (openai("Unsupported parameters: encoding_format, dimensions"), E | D, None),
    (openai('Model "m" does not support matryoshka representation.'), D, None),
    (openai("encoding_format 'float' is not supported, use 'base64'"), E, "base64"),
    (openai("encoding_format: accepted values are ['base64', null], got 'float'"), E, "base64"),
    (openai("only base64 is supported"), E, "base64"),
    (openai("'base64' is not supported."), E, None),
    ({"error": 'json: unknown field "encoding_format"'}, E, None),
    (
        {"error": "UnsupportedParamsError: x does not support parameters: {'encoding_format': 'float'}"},
        E,
        None,
    ),
    ({"message": "Extra inputs are not permitted"}, E, None),
    ({"message": {"detail": "the dimensions parameter is not supported"}}, D, None),
    (openai("input (602 tokens) is too large to process"), set(), None),
    (openai("The model `m` does not exist", "model"), set(), None),
    (openai("Loading model"), set(), None),
    # What the server only quotes says nothing.
    (fastapi("input", "Field required", given={"input": "encoding_format", "dimensions": 4}), set(), None),
]


class TestSpoken:
    """Which fields are named, and which encoding is wanted."""

    @pytest.mark.parametrize(("reply", "fields", "wants"), SAID, ids=[str(row[0])[:60] for row in SAID])
    def test_words(self, reply: Any, fields: set[str], wants: str | None) -> None:
        """A refusal names the field, in its message, as its `param` or in its `loc`; what it quotes does not count."""
        spoken = spoken_of(400, orjson.dumps(reply))
        assert (spoken.fields, spoken.wants) == (fields, wants)

    def test_plain_text(self) -> None:
        """A refusal that is no JSON is read too."""
        assert spoken_of(422, b"unknown field encoding_format\n").fields == E

    @pytest.mark.parametrize("status", [None, 200, 401, 404, 408, 429, 502, 503, 504])
    def test_other_failures(self, status: int | None) -> None:
        """A failure that is no refusal of a request speaks of no field, whatever its words."""
        assert spoken_of(status, b"encoding_format") is NOTHING

    @given(st.binary(max_size=200), st.sampled_from(REFUSALS))
    def test_anything(self, body: bytes, status: int) -> None:
        """Whatever a server says, it is read without harm."""
        assert spoken_of(status, body).fields <= E | D
        assert spoken_of(status, b'{"a":' * 900 + b"1" + b"}" * 900) == NOTHING
