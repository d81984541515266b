"""A request for embeddings on OpenAI's API as it comes in: what it asks for, or why it is refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

_JSON_NAMES = {
    type(None): "null",
    bool: "a boolean",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "a string",
}


class Refusal(Exception):
    """The reply to a request that is not carried out. Its words never contain a text.

    Attributes:
        status: HTTP status.
        type: What kind of error it is, as OpenAI has it.
        param: The field of the request at fault; None where that is none's, or not known.
        code: A word for programs; None where there is none.
        headers: Of the reply.
        details: Further fields of the error.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",  # noqa: A002 - the field's name on the wire
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.type = type
        self.param = param
        self.code = code
        self.headers = headers
        self.details = details or {}


def json_object(body: bytes) -> dict[str, Any]:
    """The fields of a body.

    Raises:
        Refusal: It is no JSON object; says where it breaks off.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Refusal(f"The body is not valid JSON: {error.msg} ({place}).") from None
    if not isinstance(value, dict):
        raise Refusal(f"The body must be a JSON object, not {kind(value)}.")
    return value


def model_in(fields: Mapping[str, Any]) -> str | None:
    """The model that a request names.

    Raises:
        Refusal: It is no name.
    """
    model = fields.get("model")
    if not isinstance(model, str | None):
        raise Refusal(f"model must be a string, not {kind(model)}.", param="model")
    return model


def wants_base64(fields: Mapping[str, Any]) -> bool:
    """Whether vectors are asked for in base64.

    Raises:
        Refusal: They are asked for in another encoding.
    """
    encoding = fields.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise Refusal('encoding_format must be "float" or "base64".', param="encoding_format")
    return encoding == "base64"


def texts_in(fields: Mapping[str, Any], most: int) -> list[str]:
    """The texts of a request; a string is one text.

    Raises:
        Refusal: There are none, or more than `most`, or something else stands among them; says where.
    """
    if "input" not in fields:
        raise Refusal("input is missing: a string or a list of strings.", param="input")
    value = fields["input"]
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise Refusal(f"input must be a string or a list of strings, not {kind(value)}.", param="input")
    if not value:
        raise Refusal("input must not be empty.", param="input")
    if len(value) > most:
        raise Refusal(f"batch size {len(value)} > maximum allowed batch size {most}", param="input")
    for index, text in enumerate(value):
        if type(text) is int or isinstance(text, list):
            raise _no_text(index, f"is {kind(text)}: this server takes texts, not token ids.")
        if not isinstance(text, str):
            raise _no_text(index, f"must be a string, not {kind(text)}.")
    return value


def _no_text(index: int, what: str) -> Refusal:
    return Refusal(f"input[{index}] {what}", param=f"input[{index}]")


def kind(value: object) -> str:
    """What JSON calls a value."""
    return _JSON_NAMES[type(value)]
