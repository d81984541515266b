"""What both adapters need of pydantic, which both frameworks bring along."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


def without_input(error: ValidationError) -> ValidationError:
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
