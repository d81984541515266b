"""What both adapters are made of: the options as pydantic fields. Both frameworks bring pydantic along."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    SkipValidation,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from embedwire._clients.manual import arguments_of
from embedwire._clients.shared import SharedEmbeddingClient
from embedwire._queue.usage import Usage
from embedwire._servers.known import ServerInfo
from embedwire._settings.discreet import discreet
from embedwire._settings.habits import advice
from embedwire._settings.hooks import Hooks, OnEvent, hooks_of
from embedwire._settings.options import (
    SSL,
    ApiKey,
    BatchLimits,
    ByKind,
    Encoding,
    Family,
    Prompts,
    RateLimit,
    RetryPolicy,
    Timeouts,
    TooLong,
    VectorCache,
)
from embedwire._settings.servers import Servers, dumped_servers, from_environment, loaded_servers
from embedwire._settings.settings import (
    MAX_QUEUED,
    batch_of,
    by_kind,
    cache_of,
    check_prompts,
    rate_of,
    retry_of,
    timeouts_of,
)
from embedwire.exceptions import InputError

if TYPE_CHECKING:
    SomeServers: TypeAlias = Servers
else:  # pydantic would look into what a Server is made of
    SomeServers = SkipValidation[Any]

# What decides a vector of a model that has a name; all other options only decide how it comes.
DECISIVE = ("dimensions", "normalize", "prompts", "extra_body", "too_long")
_MODEL = ("model", "model_name")
_RECORDS: dict[str, Callable[[Any], Any]] = {
    "batch_size": batch_of,
    "timeout": timeouts_of,
    "max_retries": retry_of,
    "rate_limit": rate_of,
    "prompts": check_prompts,
    "cache": cache_of,
}


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

    SERVED: ClassVar[str | None] = None  # the name that stands for the model that the server serves

    base_url: SomeServers = Field(default=None, validate_default=True, frozen=True, kw_only=False)
    api_key: SkipValidation[ApiKey | None] = Field(default=None, frozen=True, exclude=True, repr=False)
    batch_size: SkipValidation[int | BatchLimits | Literal["auto"]] = Field(default="auto", frozen=True)
    concurrency: SkipValidation[int | Literal["auto"]] = Field(default="auto", frozen=True)
    timeout: SkipValidation[float | Timeouts | None] = Field(default=Timeouts(), frozen=True)
    deadline: SkipValidation[float | None] = Field(default=None, frozen=True)
    max_retries: SkipValidation[int | RetryPolicy] = Field(default=2, frozen=True)
    dimensions: SkipValidation[int | None] = Field(default=None, frozen=True)
    normalize: SkipValidation[bool] = Field(default=False, frozen=True)
    prompts: SkipValidation[Prompts | Family | str | None] = Field(default=None, frozen=True)
    encoding: SkipValidation[Encoding | None] = Field(default="auto", frozen=True)
    extra_body: SkipValidation[dict[str, Any] | ByKind | None] = Field(default=None, frozen=True)
    too_long: SkipValidation[TooLong] = Field(default="raise", frozen=True)
    headers: SkipValidation[dict[str, str] | None] = Field(
        default=None, frozen=True, exclude=True, repr=False
    )
    ssl: SkipValidation[SSL] = Field(default=None, frozen=True, exclude=True, repr=False)
    proxy: SkipValidation[str | None] = Field(default=None, frozen=True, exclude=True, repr=False)
    trust_env: SkipValidation[bool] = Field(default=False, frozen=True)
    max_queued: SkipValidation[int] = Field(default=MAX_QUEUED, frozen=True)
    rate_limit: SkipValidation[int | RateLimit | None] = Field(default=None, frozen=True)
    max_reply_bytes: SkipValidation[int | Literal["auto"]] = Field(default="auto", frozen=True)
    same_model: SkipValidation[float | None] = Field(default=None, frozen=True)
    hedge: SkipValidation[float | str | None] = Field(default=None, frozen=True)
    cache: SkipValidation[str | os.PathLike[str] | VectorCache | None] = Field(default=None, frozen=True)
    on_event: SkipValidation[OnEvent] = Field(
        default=None, validate_default=True, frozen=True, exclude=True, repr=False
    )

    _client: SharedEmbeddingClient = PrivateAttr()

    if not TYPE_CHECKING:  # type checkers see the fields

        @discreet
        def __init__(self, base_url: Servers | None = None, **fields: Any) -> None:
            """Pydantic's own errors carry what was passed in, keys among it, even where its text does not."""
            given = fields if base_url is None else {"base_url": base_url, **fields}
            try:
                super().__init__(**given)
            except ValidationError as error:
                raise _reworded(error, type(self)) from None

        def __setattr__(self, name: str, value: object) -> None:
            """What is read once cannot be changed."""
            try:
                super().__setattr__(name, value)
            except ValidationError as error:
                raise _reworded(error, type(self)) from None

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
        changed = {*(update or ()), *(_MODEL if {*_MODEL} & {*(update or ())} else ())}
        fields = {name: getattr(self, name) for name in type(self).model_fields if name not in changed}
        return type(self)(**(copy.deepcopy(fields) if deep else fields) | dict(update or {}))

    def wait_ready(self, timeout: float = 60.0) -> ServerInfo:
        """Waits until the server embeds, and asks what it is; blocks this thread.

        Args:
            timeout: Seconds to wait in all.

        Raises:
            RequestError: The server was not ready in time, or never will be: the message says why.
        """
        return self._client.wait_ready(timeout)

    async def await_ready(self, timeout: float = 60.0) -> ServerInfo:
        """Waits until the server embeds, and asks what it is, without blocking the loop.

        Args:
            timeout: Seconds to wait in all.

        Returns:
            What the server is, as far as it tells: software, model, dimensions, slots, context.

        Raises:
            RequestError: The server was not ready in time, or never will be: the message says why.
        """
        return await self._client.await_ready(timeout)

    def usage(self) -> Usage:
        """What this object had embedded so far, and what that took."""
        return self._client.usage()

    def server_info(self) -> ServerInfo:
        """What is known about the server so far; asks nothing."""
        return self._client.server_info()

    def get_dimensions(self) -> int:
        """Numbers per vector, for stores that want them before the first text; embeds a word where nothing told yet.

        Raises:
            RequestError: It got no vector.
        """
        return self.server_info().dimensions or len(self._client.embed_query(_WORD))

    async def aget_dimensions(self) -> int:
        """Numbers per vector, without blocking the loop; embeds a word where nothing told yet.

        Raises:
            RequestError: It got no vector.
        """
        return self.server_info().dimensions or len(await self._client.aembed_query(_WORD))

    def close(self) -> None:
        """Gives up the connections; objects that are merely dropped do it too."""
        self._client.close()

    async def aclose(self) -> None:
        """Gives up the connections, without blocking the loop; objects that are merely dropped do it too."""
        await self._client.aclose()

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Of the URL only what is no secret."""
        for name, value in super().__repr_args__():
            yield name, dumped_servers(value) if name == "base_url" else value

    @field_serializer("base_url")
    def _dumped_url(self, url: Servers) -> Any:
        return dumped_servers(url)

    @model_validator(mode="before")
    @classmethod
    def _one_model(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """``model`` and ``model_name`` are one."""
        given = [value for value in map(fields.get, _MODEL) if value not in (None, cls.SERVED)]
        if not given:
            return fields
        if given[0] != given[-1]:
            raise InputError("model and model_name are two names of one argument; pass one of them")
        return fields | dict.fromkeys(_MODEL, given[0])

    @field_validator("base_url", mode="before")
    @classmethod
    def _here(cls, url: object) -> object:
        return from_environment() if url is None else loaded_servers(url)

    @field_validator(*_RECORDS, mode="before")
    @classmethod
    def _loaded(cls, value: Any, info: ValidationInfo) -> Any:
        """What a dump made of a record is one again, so that what was dumped and loaded is equal."""
        return _RECORDS[str(info.field_name)](value) if isinstance(value, Mapping) else value

    @field_validator("on_event", mode="before")
    @classmethod
    def _heard(cls, hooks: object) -> Hooks:
        """Which objects of other hooks are equal to, and copies share."""
        return hooks_of(hooks)

    @field_validator("extra_body", mode="before")
    @classmethod
    def _loaded_fields(cls, value: Any) -> Any:
        dumped = isinstance(value, Mapping) and {*value} == {"query", "document"}
        return by_kind(value) if dumped else value

    @field_validator("api_key", mode="before")
    @classmethod
    def _hide(cls, key: object) -> object:
        return SecretStr(key) if isinstance(key, str) else key


OPTIONS = tuple(Options.model_fields)
ABOUT = arguments_of(SharedEmbeddingClient)  # what is said of each option
for _name in OPTIONS:
    Options.model_fields[_name].description = ABOUT.get(_name)
Options.model_rebuild(force=True)
_WORD = "ready"  # that is embedded to see how wide a vector is


def _reworded(error: ValidationError, kind: type[Options]) -> ValidationError:
    """The same complaint with its cure, and without what was passed in: a key may be among it."""
    return ValidationError.from_exception_data(
        error.title,
        [
            InitErrorDetails(
                type=PydanticCustomError(details["type"], "{reason}", {"reason": _reason(details, kind)}),
                loc=details["loc"],
                input=None,
            )
            for details in error.errors(include_input=False, include_url=False, include_context=False)
        ],
        hide_input=True,
    )


def _reason(details: ErrorDetails, kind: type[Options]) -> str:
    name = str(details["loc"][0]) if details["loc"] else ""
    if details["type"] == "extra_forbidden":
        return advice(name, kind.model_fields)
    if details["type"] in ("frozen_field", "frozen_instance"):
        return f"it is frozen, since settings are read once; make a new object, or model_copy(update={{{name!r}: …}})"
    return details["msg"]
