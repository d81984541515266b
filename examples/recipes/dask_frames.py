"""Dask: a vector for each row of a dataframe; each worker process has one client, which its threads share.

pip install . "dask[dataframe]"  # in a clone of embedwire
llama-server -m model.gguf --embeddings --port 8080
python examples/recipes/dask_frames.py docs.jsonl vectors
"""

import os
import sys

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa

from embedwire import SharedEmbeddingClient

vector = pd.ArrowDtype(pa.list_(pa.float32()))


def embed(docs: pd.DataFrame, client: SharedEmbeddingClient) -> pd.DataFrame:
    vectors = list(client.embed_array(docs["text"].tolist()))
    return docs.assign(embedding=pd.Series(vectors, dtype=vector, index=docs.index))


if __name__ == "__main__":
    client = SharedEmbeddingClient(os.environ.get("EMBEDWIRE_URL", "http://localhost:8080"))
    docs = dd.read_json(sys.argv[1], lines=True, blocksize=2**24)
    docs.map_partitions(embed, client, meta={**docs.dtypes, "embedding": vector}).to_parquet(sys.argv[2])
