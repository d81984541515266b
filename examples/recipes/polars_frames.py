"""Polars: a lazy frame of any size, embedded as it streams into a Parquet file.

pip install . polars  # in a clone of embedwire
llama-server -m model.gguf --embeddings --port 8080
python examples/recipes/polars_frames.py docs.jsonl vectors.parquet
"""

import os
import sys

import polars as pl

from embedwire import SharedEmbeddingClient

client = SharedEmbeddingClient(os.environ.get("EMBEDWIRE_URL", "http://localhost:8080"))
vector = pl.Array(pl.Float32, client.wait_ready().dimensions)


def embed(texts: pl.Series) -> pl.Series:
    return pl.Series(client.embed_array(texts.to_list()), dtype=vector)


docs = pl.scan_ndjson(sys.argv[1])
docs.with_columns(embedding=pl.col("text").map_batches(embed, return_dtype=vector)).sink_parquet(sys.argv[2])
