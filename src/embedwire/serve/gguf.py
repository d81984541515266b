"""What the head of a GGUF file tells of its model: a few numbers, read without the model's weights or a library.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What stands there in lists, the vocabulary above
all, is skipped.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from embedwire._web.listening import ServeError

POOLINGS = ("none", "mean", "cls", "last", "rank")  # as llama.cpp numbers them

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_TEXT, _LIST = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_DAMAGED = (
    "{path} is no whole GGUF file: it ends, or makes no sense, before its head is over. Download it anew."
)

Value = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a file says of its model.

    Attributes:
        architecture: Such as ``"bert"``, ``"nomic-bert"`` or ``"qwen3"``.
        context: The most tokens that it was made for.
        dimensions: Numbers of a vector; None where the file does not say.
        pooling: One of `POOLINGS`; None where the file does not say, as those of chat models.
    """

    architecture: str
    context: int
    dimensions: int | None
    pooling: str | None


def read_model(path: Path) -> Model:
    """The head of a file.

    Raises:
        ServeError: It cannot be read, is no GGUF file, is cut off, or holds no model that could embed.
    """
    try:
        with path.open("rb") as file:
            fields = _Head(file, path).fields()
    except IsADirectoryError:
        raise ServeError(f"{path} is a folder; name the GGUF file in it.") from None
    except OSError as error:
        raise ServeError(f"{path} cannot be read: {error.strerror}.") from None
    kind = fields.get("general.architecture")
    context = fields.get(f"{kind}.context_length")
    if not isinstance(kind, str) or not isinstance(context, int) or context < 1:
        part = " It is one part of several; name the first one." if fields.get("split.no") else ""
        what = fields.get("general.type", "file without a context length")
        raise ServeError(f"{path} holds no model that can embed ({what}).{part}")
    return Model(
        architecture=kind,
        context=context,
        dimensions=_whole(fields.get(f"{kind}.embedding_length")),
        pooling=_pooling(fields.get(f"{kind}.pooling_type")),
    )


def _whole(value: Value | None) -> int | None:
    return value if isinstance(value, int) else None


def _pooling(number: Value | None) -> str | None:
    return POOLINGS[number] if isinstance(number, int) and 0 < number < len(POOLINGS) else None


class _Head:
    """A file at its beginning. Its state is how far it was read."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._size = os.fstat(file.fileno()).st_size

    def fields(self) -> dict[str, Value]:
        """The single values, by their names."""
        if self._file.read(len(_MAGIC)) != _MAGIC:
            raise ServeError(f"{self._path} is no GGUF file: it does not begin with the letters GGUF.")
        version = self._number("I")
        if version not in _VERSIONS:
            raise ServeError(
                f"{self._path} is a GGUF file of version {version}; {_VERSIONS[0]} and {_VERSIONS[1]} can be read."
            )
        self._number("Q")  # how many tensors
        found: dict[str, Value] = {}
        for _ in range(int(self._number("Q"))):
            name, kind = self._text(), int(self._number("I"))
            value = self._value(kind)
            if value is not None:
                found[name] = value
        return found

    def _value(self, kind: int) -> Value | None:
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            self._skip_list()
            return None
        if kind not in _NUMBERS:
            raise self._damaged()
        return self._number(_NUMBERS[kind])

    def _skip_list(self) -> None:
        kind, count = int(self._number("I")), int(self._number("Q"))
        if kind in _NUMBERS:
            self._skip(count * struct.calcsize(_NUMBERS[kind]))
        elif kind == _TEXT:
            for _ in range(count):
                self._skip(int(self._number("Q")))
        else:
            raise self._damaged()  # a list of lists is in no model's head

    def _text(self) -> str:
        return self._bytes(int(self._number("Q"))).decode("utf-8", "replace")

    def _number(self, code: str) -> int | float | bool:
        value: int | float | bool = struct.unpack(f"<{code}", self._bytes(struct.calcsize(code)))[0]
        return value

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count) if count <= self._size else b""
        if len(data) < count:
            raise self._damaged()
        return data

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise self._damaged()
        self._file.seek(count, os.SEEK_CUR)

    def _damaged(self) -> ServeError:
        return ServeError(_DAMAGED.format(path=self._path))
