"""LlamaIndex: `EmbedwireEmbedding`, for indexes and ingestion pipelines."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any, ClassVar

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        'embedwire.llama_index needs llama-index-core: install embedwire with its extra "llama-index"',
        name=missing.name,
    ) from None

from embedwire._pydantic import ABOUT, DECISIVE, OPTIONS, Options
from embedwire.exceptions import InputError

__all__ = ["EmbedwireEmbedding"]


class EmbedwireEmbedding(Options, BaseEmbedding):
    """Embeddings from your own server: llama.cpp, vLLM, TEI, Infinity, Ollama, or any OpenAI-compatible one.

    It works from any thread and event loop, and after a fork or a pickle (``IngestionPipeline`` does both with
    ``num_workers``). Objects of equal settings share connections and limits. A pickle carries an explicit
    ``api_key``, never one that came from the environment; ``to_dict`` and ``to_json`` carry none. They carry
    ``base_url`` only where the model has no name, so that an ``IngestionCache`` survives a server that moves:
    ``from_dict(dump, base_url=…)``. Events and callbacks are LlamaIndex's own.

    An error's ``index`` counts within the texts that LlamaIndex passed at once, ``embed_batch_size`` at most.

    Args:
        base_url: The server, with or without ``/v1``; by position too. A list of these, or of `embedwire.Server`,
            names several with one model. Default: the environment's ``EMBEDWIRE_BASE_URL``.
        model_name: Name of the model, ``model`` too. Default: the one that the server serves.
        embed_batch_size: Texts that LlamaIndex hands over at once, 1 to 2048; they are split below to
            ``batch_size``. Default: 256, so that a sync caller gets concurrent requests too.
        api_key: None: the environment's ``EMBEDWIRE_API_KEY``.
        batch_size: Most texts in one request, `embedwire.BatchLimits`, or ``"auto"``.

    All others as for `embedwire.EmbeddingClient` and LlamaIndex's ``BaseEmbedding``.

    Raises:
        pydantic.ValidationError: An argument is wrong; the message names it and says the cure.

    Examples:
        ```python
        from embedwire.llama_index import EmbedwireEmbedding

        embed_model = EmbedwireEmbedding("http://localhost:8080")
        vector = embed_model.get_text_embedding("Seoul is the capital of Korea.")
        ```
    """

    SERVED: ClassVar[str | None] = "unknown"  # LlamaIndex's own default name

    model_name: str = Field(default="unknown", frozen=True, description=ABOUT.get("model"))
    model: str | None = Field(
        default=None, frozen=True, exclude=True, repr=False, description="The same as ``model_name``."
    )
    embed_batch_size: int = Field(
        default=256, gt=0, le=2048, exclude=True, description="Texts that LlamaIndex hands over at once."
    )
    num_workers: int | None = Field(
        default=None,
        exclude=True,
        description="Batches that LlamaIndex hands over side by side, where it is async.",
    )

    def model_post_init(self, context: Any, /) -> None:
        """Checks the arguments; connects to nothing."""
        if not self.model_name:
            raise InputError(
                "model_name must not be empty; leave it out for the model that the server serves"
            )
        self._connect(None if self.model_name == self.SERVED else self.model_name)
        if self.embeddings_cache is not None and self._client.tells_kinds_apart():
            raise InputError(
                "embeddings_cache knows a vector by its bare text, so with prompts= or ByKind a query would get a "
                "document's vector; leave one of the two out"
            )

    @model_serializer(mode="wrap")
    def custom_model_dump(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """What decides a vector, as it is part of an IngestionCache's key; nothing that does not.

        So a model that has a name is the same one wherever it is served, and the URL is no part of it.
        """
        dump = super().custom_model_dump(handler, info)
        kept = DECISIVE if self.model_name != self.SERVED else (*DECISIVE, "base_url")
        return {name: value for name, value in dump.items() if name in kept or name not in OPTIONS}

    @classmethod
    def class_name(cls) -> str:
        """The name in dumps."""
        return "EmbedwireEmbedding"

    def __getstate__(self) -> dict[str, Any]:
        """The base class would silently drop what cannot be pickled, a key among it."""
        try:
            pickle.dumps((self.base_url, self.api_key, self.ssl, self.on_event))
        except InputError:  # it says what it is
            raise
        except Exception:  # each type fails in its own way
            raise InputError(
                "api_key or ssl cannot be pickled as it is; pass a str, a function of a module, or a path"
            ) from None
        return super().__getstate__()

    async def aget_text_embedding_batch(
        self,
        texts: list[str],
        show_progress: bool = False,
        **kwargs: Any,
    ) -> list[list[float]]:
        """As the base class's, which tells of all batches at the end; here each is told of when it comes.

        Each event checks each number of its vectors: for 60,000 texts at once that would stop the loop for seconds.
        """
        whole, size = super().aget_text_embedding_batch, self.embed_batch_size
        if show_progress or self.num_workers or len(texts) <= size:
            return await whole(texts, show_progress, **kwargs)
        batches = [texts[at : at + size] for at in range(0, len(texts), size)]
        done = await asyncio.gather(*(whole(batch, **kwargs) for batch in batches))
        return [vector for vectors in done for vector in vectors]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._client.embed_query(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await self._client.aembed_query(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._client.embed([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._client.aembed([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._client.embed(texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._client.aembed(texts)
