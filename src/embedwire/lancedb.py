"""LanceDB: `EmbedwireEmbeddings`, in its registry as "embedwire"."""

from __future__ import annotations

from typing import Any

try:
    from lancedb.embeddings import EmbeddingFunction, register
    from pydantic import Field
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        'embedwire.lancedb needs lancedb, which comes with the extra "lancedb": embedwire[lancedb]',
        name=missing.name,
    ) from None

from embedwire._pydantic import Options
from embedwire._settings.options import Kind

__all__ = ["EmbedwireEmbeddings"]


@register("embedwire")
class EmbedwireEmbeddings(Options, EmbeddingFunction):
    """LanceDB's embedding function over your own server; source texts are documents, searches are queries.

    Make it with ``create``. LanceDB keeps what was passed with the table, so that one which is opened again needs only
    ``import embedwire.lancedb``. Headers, ``ssl`` and ``proxy`` are not kept, and ``api_key`` is kept as the name of a
    variable: ``"$var:key"``, set by ``get_registry().set_var``. Without it the environment's ``EMBEDWIRE_API_KEY``
    counts. Fields as for `embedwire.SharedEmbeddingClient`; LanceDB itself repeats nothing.

    Raises:
        pydantic.ValidationError: An argument is wrong; the message names it and says the cure.

    Examples:
        ```python
        import embedwire.lancedb
        from lancedb.embeddings import get_registry

        function = get_registry().get("embedwire").create(base_url="http://localhost:8080")

        class Note(LanceModel):
            text: str = function.SourceField()
            vector: Vector(function.ndims()) = function.VectorField()
        ```
    """

    model: str | None = Field(default=None, frozen=True)
    model_name: str | None = Field(default=None, frozen=True, exclude=True, repr=False)

    def model_post_init(self, context: Any, /) -> None:
        """Checks the arguments; connects to nothing."""
        super().model_post_init(context)  # pydantic's own, which makes room for private attributes
        self._connect(self.model)

    def ndims(self) -> int:
        """Numbers per vector; embeds a word where nothing told yet."""
        return self.dimensions or self.get_dimensions()

    def compute_source_embeddings(self, texts: Any) -> list[Any]:
        """One vector per text, float32; None for a row without one."""
        return self._vectors(texts, "document")

    def compute_query_embeddings(self, query: Any) -> list[Any]:
        """One vector per query, float32."""
        return self._vectors(query, "query")

    def compute_source_embeddings_with_retry(self, texts: Any) -> list[Any]:
        """The same: what may be repeated was repeated."""
        return self.compute_source_embeddings(texts)

    def compute_query_embeddings_with_retry(self, query: Any) -> list[Any]:
        """The same: what may be repeated was repeated."""
        return self.compute_query_embeddings(query)

    def safe_model_dump(self) -> dict[str, Any]:
        """What a table keeps: what was passed, without secrets."""
        passed = super().safe_model_dump()
        variables = {name: value for name, value in passed.items() if str(value).startswith("$var:")}
        return self.model_dump(mode="json", include={*passed}) | variables

    @staticmethod
    def sensitive_keys() -> list[str]:
        """What LanceDB takes as a variable only."""
        return ["api_key", "proxy"]

    def __hash__(self) -> int:
        return hash(self._client)

    def _vectors(self, texts: Any, kind: Kind) -> list[Any]:
        texts = list(self.sanitize_input(texts))
        vectors = iter(self._client.embed_array([text for text in texts if text is not None], kind))
        return [None if text is None else next(vectors) for text in texts]
