"""Haystack: `EmbedwireTextEmbedder` for queries, `EmbedwireDocumentEmbedder` for documents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

try:
    from haystack import Document, component, default_to_dict
    from haystack.core.serialization import allow_deserialization_module
    from haystack.utils import Secret
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        'embedwire.haystack needs haystack-ai, which comes with the extra "haystack": embedwire[haystack]',
        name=missing.name,
    ) from None

from embedwire._doors import Door
from embedwire._queue.usage import Usage
from embedwire._settings.servers import Servers
from embedwire.exceptions import InputError

__all__ = ["EmbedwireDocumentEmbedder", "EmbedwireTextEmbedder"]

allow_deserialization_module(__name__)  # so that YAML with these embedders is loaded where they were imported
KEY = Secret.from_env_var("EMBEDWIRE_API_KEY", strict=False)


class _Embedder:
    """What both embedders are: a client, made when it is warmed up. Its state is the client."""

    def __init__(
        self, base_url: Servers | None = None, *, api_key: Secret | None = KEY, **options: Any
    ) -> None:
        if api_key is not None and not isinstance(api_key, Secret):
            raise InputError(
                "api_key must be a haystack.utils.Secret, so that it is in no YAML: Secret.from_env_var('NAME')"
            )
        self.api_key = api_key
        self._door = Door.to(base_url, options)
        self._warm = False

    def warm_up(self) -> None:
        """Looks up the key; connects to nothing. What needs it does it."""
        if not self._warm:
            key = self.api_key and self.api_key.resolve_value()
            self._door = self._door.model_copy(update={"api_key": key or None})
            self._warm = True

    def close(self) -> None:
        """Gives up the connections; the next run makes new ones."""
        self._door.close()
        self._door = self._door.model_copy()

    def to_dict(self) -> dict[str, Any]:
        """What a pipeline's YAML has: no key but its name in the environment, no headers, ``ssl`` or ``proxy``."""
        dump: dict[str, Any] = default_to_dict(self, api_key=self.api_key, **self._door.config())
        return dump

    def _embed(self, texts: list[str], kind: Any) -> tuple[list[list[float]], dict[str, Any]]:
        self.warm_up()
        vectors, usage = self._door.client.embed_counted(texts, kind)
        return vectors, self._meta(usage)

    async def _aembed(self, texts: list[str], kind: Any) -> tuple[list[list[float]], dict[str, Any]]:
        self.warm_up()
        vectors, usage = await self._door.client.aembed_counted(texts, kind)
        return vectors, self._meta(usage)

    def _meta(self, usage: Usage) -> dict[str, Any]:
        tokens = usage.tokens or 0
        return {"model": self._door.served, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


@component
class EmbedwireTextEmbedder(_Embedder):
    """Embeds a query over your own server.

    Args:
        base_url: The server, or a list of several; None: the environment's ``EMBEDWIRE_BASE_URL``.
        api_key: A Secret. Default: the environment's ``EMBEDWIRE_API_KEY``, where it is set.
        options: As for `embedwire.SharedEmbeddingClient`; ``prompts=`` is what other embedders call ``prefix``.

    Raises:
        pydantic.ValidationError: An argument is wrong; the message names it and says the cure.
    """

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """The vector of a query, and in ``meta`` the model and what was counted."""
        (vector,), meta = self._embed([_text(text)], "query")
        return {"embedding": vector, "meta": meta}

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """As `run`, without blocking the loop."""
        (vector,), meta = await self._aembed([_text(text)], "query")
        return {"embedding": vector, "meta": meta}


@component
class EmbedwireDocumentEmbedder(_Embedder):
    """Embeds documents over your own server.

    Args:
        base_url: The server, or a list of several; None: the environment's ``EMBEDWIRE_BASE_URL``.
        api_key: A Secret. Default: the environment's ``EMBEDWIRE_API_KEY``, where it is set.
        meta_fields_to_embed: Fields of each document's ``meta`` that go before its content.
        embedding_separator: What stands between them.
        options: As for `embedwire.SharedEmbeddingClient`; ``prompts=`` is what other embedders call ``prefix``.

    Raises:
        pydantic.ValidationError: An argument is wrong; the message names it and says the cure.
    """

    def __init__(
        self,
        base_url: Servers | None = None,
        *,
        api_key: Secret | None = KEY,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        **options: Any,
    ) -> None:
        _Embedder.__init__(self, base_url, api_key=api_key, **options)
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator

    def to_dict(self) -> dict[str, Any]:
        """As `EmbedwireTextEmbedder.to_dict`, and what is embedded of a document."""
        dump = _Embedder.to_dict(self)
        own = {
            "meta_fields_to_embed": self.meta_fields_to_embed,
            "embedding_separator": self.embedding_separator,
        }
        return {**dump, "init_parameters": {**dump["init_parameters"], **own}}

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """The documents with their vectors, and in ``meta`` the model and what was counted."""
        vectors, meta = self._embed(self._texts(documents), "document")
        return {"documents": _with_vectors(documents, vectors), "meta": meta}

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """As `run`, without blocking the loop."""
        vectors, meta = await self._aembed(self._texts(documents), "document")
        return {"documents": _with_vectors(documents, vectors), "meta": meta}

    def _texts(self, documents: list[Document]) -> list[str]:
        if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
            raise TypeError("documents must be a list of Document; for a str there is EmbedwireTextEmbedder")
        return [self.embedding_separator.join(self._parts(document)) for document in documents]

    def _parts(self, document: Document) -> list[str]:
        fields = [document.meta.get(field) for field in self.meta_fields_to_embed]
        return [*(str(field) for field in fields if field is not None), document.content or ""]


def _text(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError("text must be a str; for documents there is EmbedwireDocumentEmbedder")
    return text


def _with_vectors(documents: list[Document], vectors: list[list[float]]) -> list[Document]:
    pairs = zip(documents, vectors, strict=True)
    return [replace(document, embedding=vector) for document, vector in pairs]
