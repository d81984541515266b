"""LangChain: `EmbedwireEmbeddings`, for any vector store."""

from __future__ import annotations

from typing import Any

try:
    from langchain_core.embeddings import Embeddings
    from pydantic import ConfigDict, Field
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        'embedwire.langchain needs langchain-core: install embedwire with its extra "langchain"',
        name=missing.name,
    ) from None

from embedwire._pydantic import Options

__all__ = ["EmbedwireEmbeddings"]


class EmbedwireEmbeddings(Options, Embeddings):
    """Embeddings from your own server: llama.cpp, vLLM, TEI, Infinity, Ollama, or any OpenAI-compatible one.

    Setup:
        Install embedwire with its extra ``langchain``, and start a server, for instance llama.cpp's.

        ```bash
        llama-server -m model.gguf --embeddings --port 8080
        ```

    Key init args:
        - `base_url` (str | Server | list): The server, with or without ``/v1``; by position too. A list of these, or
          of `embedwire.Server`, names several with one model. None: the environment's ``EMBEDWIRE_BASE_URL``.
        - `model` (str | None): Name of the model, ``model_name`` too; None for the one that the server serves.
        - `api_key` (SecretStr | Callable[[], str] | None): None: the environment's ``EMBEDWIRE_API_KEY``.
        - `prompts` (Prompts | str | None): What the model wants before queries and documents: ``Prompts(query=…,
          document=…)``, or the name of its family, such as ``"e5"`` or ``"nomic"``.
        - `dimensions` (int | None): Numbers per vector, for models that can be cut.
        - `batch_size` (int | BatchLimits | "auto"): Most texts in one request.
        - `concurrency` (int | "auto"): Most requests in flight at the server, over all objects of this process.
        - `timeout` (float | Timeouts | None): Seconds for one request.
        - `deadline` (float | None): Seconds for one whole call.
        - `max_retries` (int | RetryPolicy): Repeats of a request that failed for a passing reason.

        All others as for `embedwire.EmbeddingClient`.

    Instantiate:
        ```python
        from embedwire.langchain import EmbedwireEmbeddings

        embeddings = EmbedwireEmbeddings("http://localhost:8080")
        ```

    Embed single text:
        ```python
        vector = embeddings.embed_query("What is the capital of Korea?")
        ```

    Embed multiple texts:
        ```python
        vectors = embeddings.embed_documents(["Seoul is the capital.", "Kimchi is a dish."])
        ```

    Async:
        ```python
        vector = await embeddings.aembed_query("What is the capital of Korea?")
        vectors = await embeddings.aembed_documents(["Seoul is the capital.", "Kimchi is a dish."])
        ```

    It works from any thread and event loop, and after a fork or a pickle. Objects of equal settings share
    connections and limits, so making one per request costs nothing. A pickle carries an explicit ``api_key``,
    never one that came from the environment.

    Raises:
        pydantic.ValidationError: An argument is wrong; the message names it and says the cure.
    """

    model_config = ConfigDict(
        frozen=True,  # the settings are read once, so a later change would be silently ignored
    )

    model: str | None = None
    model_name: str | None = Field(default=None, exclude=True, repr=False)

    @property
    def cache_namespace(self) -> str:
        """A namespace for `CacheBackedEmbeddings`, good for a file's name: another one for other vectors of documents.

        Raises:
            InputError: The model has no name, so that the vectors may be another one's tomorrow.
        """
        return self._client.cache_name("document")

    @property
    def query_cache_namespace(self) -> str:
        """As `cache_namespace`, of queries: an equal text may have another vector there."""
        return self._client.cache_name("query")

    def model_post_init(self, context: Any, /) -> None:
        """Checks the arguments; connects to nothing."""
        self._connect(self.model)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text, in their order; raises `embedwire.RequestError` if any text got none."""
        return self._client.embed(texts, "document")

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query; raises `embedwire.RequestError` if it got none."""
        return self._client.embed_query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`, without blocking the loop."""
        return await self._client.aembed(texts, "document")

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`, without blocking the loop."""
        return await self._client.aembed_query(text)
