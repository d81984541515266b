"""DuckDB: a function for SQL, which gets 2,048 texts at a time.

pip install . duckdb pyarrow  # in a clone of embedwire
llama-server -m model.gguf --embeddings --port 8080
python examples/recipes/duckdb_sql.py docs.jsonl "which book is about kimchi?"
"""

import os
import sys

import duckdb
import pyarrow as pa

from embedwire import SharedEmbeddingClient

client = SharedEmbeddingClient(os.environ.get("EMBEDWIRE_URL", "http://localhost:8080"))
dimensions = client.wait_ready().dimensions
vector = f"FLOAT[{dimensions}]"


def embed(texts: pa.ChunkedArray) -> pa.Array:
    flat = pa.array(client.embed_array(texts.to_pylist()).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, dimensions)


base = duckdb.connect("vectors.duckdb")
base.create_function("embed", embed, ["VARCHAR"], vector, type="arrow")
base.execute(f"CREATE OR REPLACE TABLE docs AS SELECT *, embed(text) AS embedding FROM '{sys.argv[1]}'")
nearest = f"SELECT text FROM docs ORDER BY array_cosine_distance(embedding, ?::{vector}) LIMIT 3"
for (text,) in base.execute(nearest, [client.embed_query(sys.argv[2])]).fetchall():
    print(text)
