"""What the doors to Chroma, pydantic-ai and Haystack are made of: the options, checked, and their client."""

from __future__ import annotations

from typing import Any

from pydantic import Field, PrivateAttr

from embedwire._clients.counting import SharedCountingClient
from embedwire._pydantic import OPTIONS, Options
from embedwire._settings.servers import Servers


class Door(Options):
    """The options of a client, for a framework whose classes are no pydantic models."""

    model: str | None = Field(default=None, frozen=True)
    model_name: str | None = Field(default=None, frozen=True, exclude=True, repr=False)

    _client: SharedCountingClient = PrivateAttr()

    @classmethod
    def to(cls, base_url: Servers | None, options: dict[str, Any]) -> Door:
        """The door to a server, or to the one that the environment names."""
        return cls(**options) if base_url is None else cls(base_url, **options)

    def model_post_init(self, context: Any, /) -> None:
        """Checks the arguments; connects to nothing."""
        arguments = {name: getattr(self, name) for name in OPTIONS}
        self._client = SharedCountingClient(model=self.model, **arguments)

    @property
    def client(self) -> SharedCountingClient:
        """The client that has these options."""
        return self._client

    @property
    def served(self) -> str | None:
        """The model's name: the user's, or else what the server told so far."""
        return self.model or self.server_info().model

    def config(self) -> dict[str, Any]:
        """What was passed, as JSON has it; keys, headers, ``ssl`` and ``proxy`` are left out."""
        return self.model_dump(mode="json", exclude_unset=True)
