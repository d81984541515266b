"""PySpark: a `pandas_udf`, with one client for each Python worker.

pip install . "pyspark[sql]"  # in a clone of embedwire
llama-server -m model.gguf --embeddings --port 8080
python examples/recipes/spark_udf.py docs.jsonl vectors
"""

import os
import sys
from collections.abc import Iterator

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf

from embedwire import SharedEmbeddingClient

spark = SparkSession.builder.getOrCreate()
# Its limits hold for one Python worker: with four of them at work, 16 requests are in flight.
client = SharedEmbeddingClient(os.environ.get("EMBEDWIRE_URL", "http://localhost:8080"), concurrency=4)


@pandas_udf("array<float>")
def embed(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
    for texts in batches:
        yield pd.Series(list(client.embed_array(texts.tolist())))


docs = spark.read.json(sys.argv[1])
docs.withColumn("embedding", embed("text")).write.mode("overwrite").parquet(sys.argv[2])
