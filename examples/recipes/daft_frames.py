"""Daft: a batch method of a class, one object for each worker process; vectors of Daft's own type.

    pip install . daft  # in a clone of embedwire
    llama-server -m model.gguf --embeddings --port 8080
    python examples/recipes/daft_frames.py docs.jsonl vectors

With `daft.set_runner_ray()` the same runs on a Ray cluster.
"""

import os
import sys

import daft
from daft import DataType, Series, col

from embedwire import SharedEmbeddingClient

client = SharedEmbeddingClient(os.environ.get("EMBEDWIRE_URL", "http://localhost:8080"), concurrency=4)
vector = DataType.embedding(DataType.float32(), client.wait_ready().dimensions)


@daft.cls(max_concurrency=2, use_process=False)
class Embed:
    def __init__(self, client: SharedEmbeddingClient) -> None:
        self.client = client

    @daft.method.batch(return_dtype=vector, batch_size=1000)
    def __call__(self, texts: Series) -> Series:
        return Series.from_numpy(self.client.embed_array(texts.to_pylist())).cast(vector)


docs = daft.read_json(sys.argv[1])
docs.with_column("embedding", Embed(client)(col("text"))).write_parquet(sys.argv[2])
