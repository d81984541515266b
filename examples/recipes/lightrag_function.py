"""LightRAG: its embedding function over your own server; needs lightrag-hku.

llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
python examples/recipes/lightrag_function.py
"""

import asyncio

from lightrag.utils import EmbeddingFunc

from embedwire import SharedEmbeddingClient


def embedding_function(client: SharedEmbeddingClient) -> EmbeddingFunc:
    """What LightRAG(embedding_func=…) takes."""
    server = client.wait_ready()
    assert server.dimensions
    return EmbeddingFunc(
        embedding_dim=server.dimensions, max_token_size=server.context or 512, func=client.aembed_array
    )


async def main() -> None:
    client = SharedEmbeddingClient("http://localhost:8080")
    embed = await asyncio.to_thread(embedding_function, client)
    vectors = await embed(["Seoul is the capital of Korea.", "김치는 음식이다."])
    print(f"{vectors.dtype} {vectors.shape}")


if __name__ == "__main__":
    asyncio.run(main())
