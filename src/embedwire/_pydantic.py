"""What both adapters are made of: the options as pydantic fields. Both frameworks bring pydantic along."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    SkipValidation,
    ValidationError,
    field_serializer,
    field_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from embedwire._clients.shared import SharedEmbeddingClient
from embedwire._settings.discreet import discreet
from embedwire._settings.endpoint import dumped
from embedwire._settings.options import (
    SSL,
    ApiKey,
    BatchLimits,
    ByKind,
    Encoding,
    Prompts,
    RateLimit,
    RetryPolicy,
    Timeouts,
)
from embedwire._settings.settings import MAX_QUEUED

# What decides a vector; all other options only decide how it comes.
DECISIVE = ("base_url", "dimensions", "normalize", "prompts", "extra_body")


class Options(BaseModel):
    """The options of `SharedEmbeddingClient` as fields, and what both adapters do with them.

    Its errors show no input, its ``api_key`` is hidden, its copies are made anew. The settings are read once, so that a
    later change would be silently ignored: frozen. What may hold a secret is in no dump and no repr.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",
        hide_input_in_errors=True,  # a key may be in it
        protected_namespaces=(),
    )

    base_url: str = Field(frozen=True)
    api_key: SkipValidation[ApiKey | None] = Field(default=None, frozen=True, exclude=True, repr=False)
    batch_size: SkipValidation[int | BatchLimits | Literal["auto"]] = Field(default="auto", frozen=True)
    concurrency: SkipValidation[int | Literal["auto"]] = Field(default="auto", frozen=True)
    timeout: SkipValidation[float | Timeouts | None] = Field(default=Timeouts(), frozen=True)
    deadline: SkipValidation[float | None] = Field(default=None, frozen=True)
    max_retries: SkipValidation[int | RetryPolicy] = Field(default=2, frozen=True)
    dimensions: SkipValidation[int | None] = Field(default=None, frozen=True)
    normalize: SkipValidation[bool] = Field(default=False, frozen=True)
    prompts: SkipValidation[Prompts | str | None] = Field(default=None, frozen=True)
    encoding: SkipValidation[Encoding | None] = Field(default="auto", frozen=True)
    extra_body: SkipValidation[dict[str, Any] | ByKind | None] = Field(default=None, frozen=True)
    headers: SkipValidation[dict[str, str] | None] = Field(
        default=None, frozen=True, exclude=True, repr=False
    )
    ssl: SkipValidation[SSL] = Field(default=None, frozen=True, exclude=True, repr=False)
    proxy: SkipValidation[str | None] = Field(default=None, frozen=True, exclude=True, repr=False)
    trust_env: SkipValidation[bool] = Field(default=False, frozen=True)
    max_queued: SkipValidation[int] = Field(default=MAX_QUEUED, frozen=True)
    rate_limit: SkipValidation[int | RateLimit | None] = Field(default=None, frozen=True)
    max_reply_bytes: SkipValidation[int | Literal["auto"]] = Field(default="auto", frozen=True)

    _client: SharedEmbeddingClient = PrivateAttr()

    if not TYPE_CHECKING:  # type checkers see the fields

        @discreet
        def __init__(self, **fields: Any) -> None:
            """Pydantic's own errors carry what was passed in, keys among it, even where its text does not."""
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise _without_input(error) from None

    def _connect(self, model: str | None) -> None:
        """Checks the arguments; connects to nothing."""
        arguments = {name: getattr(self, name) for name in OPTIONS}
        self._client = SharedEmbeddingClient(model=model, **arguments)

    def __copy__(self) -> Self:
        """A copy with connections of its own to close."""
        return self.model_copy()

    @discreet
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy that works with the updated settings; they are checked."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(copy.deepcopy(fields) if deep else fields) | dict(update or {}))

    def close(self) -> None:
        """Gives up the connections; objects that are merely dropped do it too."""
        self._client.close()

    async def aclose(self) -> None:
        """As `close`."""
        await self._client.aclose()

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Of the URL only what is no secret."""
        for name, value in super().__repr_args__():
            yield name, dumped(value) if name == "base_url" else value

    @field_serializer("base_url")
    def _dumped_url(self, url: str) -> str:
        return dumped(url)

    @field_validator("api_key", mode="before")
    @classmethod
    def _hide(cls, key: object) -> object:
        return SecretStr(key) if isinstance(key, str) else key


OPTIONS = tuple(Options.model_fields)


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
