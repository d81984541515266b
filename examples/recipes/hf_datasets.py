"""Hugging Face datasets: a column of vectors; the same `map` a second time is a cache hit, and asks no server.

pip install . datasets  # in a clone of embedwire
llama-server -m model.gguf --embeddings --port 8080
python examples/recipes/hf_datasets.py docs.jsonl
"""

import os
import sys
from typing import Any

from datasets import load_dataset

from embedwire import SharedEmbeddingClient


def embed(batch: dict[str, Any], client: SharedEmbeddingClient) -> dict[str, Any]:
    return {"embedding": client.embed_array(batch["text"])}


# With a name, the cache knows another model's vectors from these.
client = SharedEmbeddingClient(os.environ.get("EMBEDWIRE_URL", "http://localhost:8080"), model="test-model")
docs = load_dataset("json", data_files=sys.argv[1], split="train")
docs = docs.map(embed, batched=True, batch_size=1000, fn_kwargs={"client": client})
print(docs.with_format("numpy")["embedding"][:].shape)
