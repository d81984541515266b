"""Haystack: an indexing pipeline and a query pipeline.

llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
python examples/doors/haystack_pipeline.py
"""

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from embedwire.haystack import EmbedwireDocumentEmbedder, EmbedwireTextEmbedder

DOCUMENTS = [
    Document(content="It is open from nine to six, and closed on Mondays.", meta={"title": "The library"}),
    Document(
        content="They may be kept for three weeks; each further day costs ten cents.", meta={"title": "Books"}
    ),
    Document(content="It is replaced at the front desk.", meta={"title": "A lost card"}),
]
QUESTIONS = ["How long can I keep a book?", "책을 얼마나 오래 빌릴 수 있나요?"]


def main() -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component(
        "embedder", EmbedwireDocumentEmbedder("http://localhost:8080", meta_fields_to_embed=["title"])
    )
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    indexing.run({"embedder": {"documents": DOCUMENTS}})

    asking = Pipeline()
    asking.add_component("embedder", EmbedwireTextEmbedder("http://localhost:8080"))
    asking.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    asking.connect("embedder.embedding", "retriever.query_embedding")

    for question in QUESTIONS:
        (found,) = asking.run({"embedder": {"text": question}})["retriever"]["documents"]
        print(f"{question}\n  {found.meta['title']}: {found.content}")


if __name__ == "__main__":
    main()
