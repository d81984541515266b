"""The client alone, in an application that owns its event loop.

    pip install .   # in a clone of the repository
    llama-server -m model.gguf --embeddings --port 8080
    python examples/plain_async.py

EMBEDWIRE_URL names a server elsewhere.
"""

import asyncio
import os
from collections.abc import AsyncIterator

from embedwire import EmbeddingClient, RequestError


async def main() -> None:
    async with EmbeddingClient(os.environ.get("EMBEDWIRE_URL", "http://localhost:8080")) as client:
        server = await client.wait_ready(timeout=60)  # a model may take a while to load
        print(f"{server.software} serves {server.model}: {server.dimensions} dimensions")

        vectors = await client.embed(["Seoul is the capital of Korea.", "Kimchi is a dish."])
        print(f"embed        {len(vectors)} lists of {len(vectors[0])} numbers")

        query = await client.embed_query("What is the capital of Korea?")
        print(f"embed_query  one list of {len(query)} numbers")

        matrix = await client.embed_array([f"This is sentence number {n}." for n in range(20)])
        print(f"embed_array  {matrix.dtype} {matrix.shape}")

        async for start, rows in client.stream(lines()):
            print(f"stream       lines {start} to {start + len(rows) - 1}")

        try:
            await client.embed(["short", "long " * 40_000, "short too"])
        except RequestError as error:
            print(f"{type(error).__name__}: {error}")
            print(f"index        {error.index}")
            if done := error.completed:  # what was computed is not lost
                print(f"completed    {done.indexes}, {done.vectors.shape}")


async def lines() -> AsyncIterator[str]:
    """Texts that arrive one by one, say from a file or a queue."""
    for number in range(12):
        yield f"This is line number {number}."


if __name__ == "__main__":
    asyncio.run(main())
