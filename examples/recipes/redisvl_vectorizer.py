"""redisvl: a vectorizer for its indexes, caches and routers; needs redisvl.

llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
python examples/recipes/redisvl_vectorizer.py
"""

import asyncio

from redisvl.utils.vectorize import CustomVectorizer

from embedwire import SharedEmbeddingClient


async def main() -> None:
    client = SharedEmbeddingClient("http://localhost:8080")

    async def aembed(text: str) -> list[float]:
        return (await client.aembed([text]))[0]

    vectorizer = CustomVectorizer(
        embed=lambda text: client.embed([text])[0],
        embed_many=client.embed,
        aembed=aembed,
        aembed_many=client.aembed,
    )
    vectors = await vectorizer.aembed_many(["Seoul is the capital of Korea.", "김치는 음식이다."])
    print(f"{len(vectors)} vectors of {vectorizer.dims} numbers")
    print(f"{len(vectorizer.embed('As Redis wants it.', as_buffer=True))} bytes")


if __name__ == "__main__":
    asyncio.run(main())
