"""LlamaIndex: an ingestion pipeline, an index and a retriever over your own embedding server; no LLM needed.

    pip install ".[llama-index]"   # in a clone of the repository
    llama-server -m model.gguf --embeddings --port 8080
    python examples/quickstart_llama_index.py

EMBEDWIRE_URL names a server elsewhere.
"""

import os

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter

from embedwire.llama_index import EmbedwireEmbedding

DOCUMENTS = [
    Document(text="The library is open from nine to six, and closed on Mondays."),
    Document(text="Books may be kept for three weeks; each further day costs ten cents."),
    Document(text="A lost card is replaced at the front desk."),
    Document(text="The reading room on the second floor is silent; talk in the café."),
]
QUESTIONS = ["How long can I keep a book?", "Where do I get a new card?"]


def main() -> None:
    embed_model = EmbedwireEmbedding(base_url=os.environ.get("EMBEDWIRE_URL", "http://localhost:8080"))
    pipeline = IngestionPipeline(transformations=[SentenceSplitter(chunk_size=256), embed_model])
    nodes = pipeline.run(documents=DOCUMENTS)
    index = VectorStoreIndex(nodes, embed_model=embed_model)
    retriever = index.as_retriever(similarity_top_k=1)
    for question in QUESTIONS:
        (answer,) = retriever.retrieve(question)
        print(f"{question}\n  {answer.text}")


if __name__ == "__main__":
    main()
