"""pydantic-ai: its Embedder over your own server, with usage.

llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
python examples/doors/pydantic_ai_embedder.py
"""

import asyncio

import numpy as np
from pydantic_ai import Embedder

from embedwire.pydantic_ai import EmbedwireEmbeddingModel

TEXTS = [
    "The library is open from nine to six, and closed on Mondays.",
    "Books may be kept for three weeks; each further day costs ten cents.",
    "A lost card is replaced at the front desk.",
]
QUESTIONS = ["How long can I keep a book?", "책을 얼마나 오래 빌릴 수 있나요?"]


async def main() -> None:
    embedder = Embedder(EmbedwireEmbeddingModel("http://localhost:8080", normalize=True))
    documents = await embedder.embed_documents(TEXTS)
    print(f"{documents.model_name}: {documents.usage.input_tokens} tokens")

    queries = await embedder.embed_query(QUESTIONS)
    scores = np.array(queries.embeddings) @ np.array(documents.embeddings).T
    for question, best in zip(QUESTIONS, scores.argmax(axis=1), strict=True):
        print(f"{question}\n  {TEXTS[best]}")


if __name__ == "__main__":
    asyncio.run(main())
