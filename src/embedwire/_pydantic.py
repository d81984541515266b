"""What both adapters need of pydantic, which both frameworks bring along."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from embedwire._discreet import discreet

C = TypeVar("C", bound="Checked")


class Checked(BaseModel):
    """A model whose errors show no input, whose ``api_key`` is hidden, and whose copies are made anew."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",
        hide_input_in_errors=True,  # a key may be in it
        protected_namespaces=(),
    )

    if not TYPE_CHECKING:  # type checkers see the fields

        @discreet
        def __init__(self, **fields: Any) -> None:
            """Pydantic's own errors carry what was passed in, keys among it, even where its text does not."""
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise _without_input(error) from None

    def __copy__(self) -> Self:
        """A copy with connections of its own to close."""
        return self.model_copy()

    @discreet
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy that works with the updated settings; they are checked."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(copy.deepcopy(fields) if deep else fields) | dict(update or {}))

    @field_validator("api_key", mode="before", check_fields=False)
    @classmethod
    def _hide(cls, key: object) -> object:
        return SecretStr(key) if isinstance(key, str) else key


def _without_input(error: ValidationError) -> ValidationError:
    """The same complaint, without what was passed in: a key may be among it."""
    return ValidationError.from_exception_data(
        error.title,
        [
            InitErrorDetails(
                type=PydanticCustomError(details["type"], "{reason}", {"reason": details["msg"]}),
                loc=details["loc"],
                input=None,
            )
            for details in error.errors(include_input=False, include_url=False, include_context=False)
        ],
        hide_input=True,
    )
