"""Ray Data: a pool of actors, each with one client; 16 requests are in flight in all.

pip install ".[ray]"  # in a clone of embedwire
llama-server -m model.gguf --embeddings --port 8080
python examples/recipes/ray_data.py docs.jsonl vectors
"""

import os
import sys

import ray

from embedwire import SharedEmbeddingClient
from embedwire.ray import EmbedBatch, Tally

client = SharedEmbeddingClient(os.environ.get("EMBEDWIRE_URL", "http://localhost:8080"), concurrency=16)
ray.init()
tally = Tally()
docs = ray.data.read_json(sys.argv[1], lines=True)
docs.map_batches(
    EmbedBatch,
    fn_constructor_kwargs={"client": client, "actors": 2, "on_error": "column", "tally": tally},
    concurrency=2,
    num_cpus=0,  # they wait for the server
    batch_size=1000,
).write_parquet(sys.argv[2])
print(tally.usage())
