"""Strings that nothing shows."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class SecretLike(Protocol):
    """Pydantic's SecretStr, and whatever else keeps a string out of its repr."""

    def get_secret_value(self) -> str:
        """The string itself."""
        ...


class Secret:
    """A string that no repr, str or format shows. Equal to a secret of the same value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('**********')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)
