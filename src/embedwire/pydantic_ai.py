"""pydantic-ai: `EmbedwireEmbeddingModel`, for its `Embedder`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

try:
    from pydantic_ai.embeddings import EmbeddingModel, EmbeddingResult, EmbeddingSettings
    from pydantic_ai.embeddings.result import EmbedInputType
    from pydantic_ai.usage import RequestUsage
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        'embedwire.pydantic_ai needs pydantic-ai, which comes with the extra "pydantic-ai": embedwire[pydantic-ai]',
        name=missing.name,
    ) from None

from embedwire._doors import Door
from embedwire._settings.servers import Servers

__all__ = ["EmbedwireEmbeddingModel"]

MOST = 16  # settings of calls whose clients are kept


class EmbedwireEmbeddingModel(EmbeddingModel):
    """pydantic-ai's embedding model over your own server.

    A result's ``usage`` is what the server counted for this call alone. Settings may change each call: ``dimensions``,
    ``truncate``, ``extra_headers`` and ``extra_body``.

    Args:
        base_url: The server, or a list of several; None: the environment's ``EMBEDWIRE_BASE_URL``.
        settings: What holds for calls that say nothing else.
        options: As for `embedwire.SharedEmbeddingClient`.

    Raises:
        pydantic.ValidationError: An argument is wrong; the message names it and says the cure.

    Examples:
        ```python
        from pydantic_ai import Embedder

        from embedwire.pydantic_ai import EmbedwireEmbeddingModel

        embedder = Embedder(EmbedwireEmbeddingModel("http://localhost:8080"))
        result = await embedder.embed_query("What is the capital of Korea?")
        ```
    """

    def __init__(
        self, base_url: Servers | None = None, *, settings: EmbeddingSettings | None = None, **options: Any
    ) -> None:
        super().__init__(settings=settings)
        self._door = Door.to(base_url, options)
        self._doors: dict[str, Door] = {}  # of calls with settings of their own

    @property
    def model_name(self) -> str:
        """The model's name; "unknown" until the server told it."""
        return self._door.served or "unknown"

    @property
    def system(self) -> str:
        """What spans call the provider."""
        return "embedwire"

    @property
    def base_url(self) -> str:
        """The server's, of several the first one's in use."""
        return self._door.server_info().url

    async def embed(
        self,
        inputs: str | Sequence[str],
        *,
        input_type: EmbedInputType,
        settings: EmbeddingSettings | None = None,
    ) -> EmbeddingResult:
        """One vector per text; raises `embedwire.RequestError` if any got none."""
        texts, settings = self.prepare_embed(inputs, settings)
        vectors, usage = await self._with(settings).client.aembed_counted(texts, input_type)
        return EmbeddingResult(
            vectors,
            inputs=texts,
            input_type=input_type,
            usage=RequestUsage(input_tokens=usage.tokens or 0),
            model_name=self.model_name,
            provider_name=self.system,
        )

    async def max_input_tokens(self) -> int | None:
        """Tokens that one text may have; asks the server where it has not told yet. None: it does not tell."""
        return self._door.server_info().context or (await self._door.await_ready()).context

    def _with(self, settings: EmbeddingSettings) -> Door:
        """The client for a call's settings; the last ones are kept, and their connections with them."""
        changed: dict[str, Any] = {}
        if settings.get("dimensions"):
            changed["dimensions"] = settings["dimensions"]
        if settings.get("truncate"):
            changed["too_long"] = "truncate"
        if settings.get("extra_headers"):
            changed["headers"] = {**(self._door.headers or {}), **settings["extra_headers"]}
        if settings.get("extra_body"):
            changed["extra_body"] = settings["extra_body"]
        if not changed:
            return self._door
        key = json.dumps(changed, sort_keys=True)
        if key not in self._doors:
            if len(self._doors) >= MOST:
                del self._doors[next(iter(self._doors))]
            self._doors[key] = self._door.model_copy(update=changed)
        return self._doors[key]
