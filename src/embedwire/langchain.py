"""LangChain: `EmbedwireEmbeddings`, for any vector store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

try:
    from langchain_core.embeddings import Embeddings
    from pydantic import ConfigDict, Field
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        'embedwire.langchain needs langchain-core: install embedwire with its extra "langchain"',
        name=missing.name,
    ) from None

from embedwire._pydantic import ABOUT, Options

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

    model: str | None = Field(default=None, description=ABOUT.get("model"))
    model_name: str | None = Field(
        default=None, exclude=True, repr=False, description="The same as ``model``."
    )

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

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embeds documents; blocks this thread.

        Args:
            texts: Any number; equal ones travel once. They get the prompt for documents, where there is one.

        Returns:
            One vector per text, in their order, as Python floats.

        Raises:
            InputError: A text is not a str, or not valid Unicode; nothing was sent.
            RequestError: A text got no vector; ``completed`` on the error has those that did.
            Overloaded: The queue is full.
        """
        return self._client.embed(texts, "document")

    def embed_query(self, text: str) -> list[float]:
        """Embeds one query, ahead of documents that wait; blocks this thread.

        Args:
            text: It gets the prompt for queries, where there is one.

        Returns:
            Its vector, as Python floats.

        Raises:
            InputError: The text is not a str, or not valid Unicode; nothing was sent.
            RequestError: It got no vector.
            Overloaded: The queue is full.
        """
        return self._client.embed_query(text)

    async def aembed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embeds documents, without blocking the loop.

        Args:
            texts: Any number; equal ones travel once. They get the prompt for documents, where there is one.

        Returns:
            One vector per text, in their order, as Python floats.

        Raises:
            InputError: A text is not a str, or not valid Unicode; nothing was sent.
            RequestError: A text got no vector; ``completed`` on the error has those that did.
            Overloaded: The queue is full.
        """
        return await self._client.aembed(texts, "document")

    async def aembed_query(self, text: str) -> list[float]:
        """Embeds one query, ahead of documents that wait, without blocking the loop.

        Args:
            text: It gets the prompt for queries, where there is one.

        Returns:
            Its vector, as Python floats.

        Raises:
            InputError: The text is not a str, or not valid Unicode; nothing was sent.
            RequestError: It got no vector.
            Overloaded: The queue is full.
        """
        return await self._client.aembed_query(text)
