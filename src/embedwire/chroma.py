"""Chroma: `EmbedwireEmbeddingFunction`, for any collection; CrewAI takes it too."""

from __future__ import annotations

from typing import Any

try:
    from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
    from chromadb.utils.embedding_functions import register_embedding_function
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        'embedwire.chroma needs chromadb, which comes with the extra "chroma": embedwire[chroma]',
        name=missing.name,
    ) from None

from embedwire._doors import Door
from embedwire._settings.servers import Servers

__all__ = ["EmbedwireEmbeddingFunction"]


class EmbedwireEmbeddingFunction(EmbeddingFunction[Documents]):
    """Chroma's embedding function over your own server; texts are documents, query texts are queries.

    Chroma keeps its options with the collection, so that one which is opened again needs no embedding function, only
    ``import embedwire.chroma``. Keys, headers, ``ssl`` and ``proxy`` are not kept: a key then comes from the
    environment's ``EMBEDWIRE_API_KEY``, or the function is passed again.

    Args:
        base_url: The server, or a list of several; None: the environment's ``EMBEDWIRE_BASE_URL``.
        options: As for `embedwire.SharedEmbeddingClient`.

    Raises:
        pydantic.ValidationError: An argument is wrong; the message names it and says the cure.

    Examples:
        ```python
        from embedwire.chroma import EmbedwireEmbeddingFunction

        function = EmbedwireEmbeddingFunction("http://localhost:8080", prompts="e5")
        collection = chromadb.PersistentClient().create_collection("library", embedding_function=function)
        ```
    """

    def __init__(self, base_url: Servers | None = None, **options: Any) -> None:
        self._door = Door.to(base_url, options)

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma's name
        """One vector per document, float32; raises `embedwire.RequestError` if any got none."""
        return list(self._door.client.embed_array(input))

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma's name
        """One vector per query, float32; raises `embedwire.RequestError` if any got none."""
        return list(self._door.client.embed_array(input, "query"))

    @staticmethod
    def name() -> str:
        """The name by which a collection finds it again."""
        return "embedwire"

    def default_space(self) -> Space:
        """By angle, as not every server's vectors have unit length."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """What a collection keeps: no key, no header."""
        return self._door.config()

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> EmbedwireEmbeddingFunction:
        """What a collection has kept, in use again."""
        return EmbedwireEmbeddingFunction(**config)


register_embedding_function(EmbedwireEmbeddingFunction)
