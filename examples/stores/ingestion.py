"""LlamaIndex's ingestion, run again and again: only documents that changed are embedded again.

It needs llama-index-vector-stores-chroma.

    llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
    python examples/stores/ingestion.py examples/documents ingestion

The first folder has the texts; the second one keeps what was done, for the next run.
"""

import sys
from pathlib import Path

import chromadb
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.vector_stores.chroma import ChromaVectorStore

from embedwire.llama_index import EmbedwireEmbedding

QUESTIONS = ["Who may vote in elections?", "누가 선거에서 투표할 수 있나요?"]


def ingest(documents: list[Document], embed_model: EmbedwireEmbedding, kept: Path) -> ChromaVectorStore:
    """A store of all documents; those that are as they were when they were last ingested are not embedded."""
    collection = chromadb.PersistentClient(str(kept / "chroma")).get_or_create_collection("documents")
    store = ChromaVectorStore(chroma_collection=collection)
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=256, chunk_overlap=20), embed_model],
        docstore=SimpleDocumentStore(),  # by this it knows which documents changed, and which are gone
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
        cache=IngestionCache(),  # by this it knows the vectors of the same work, done before
        vector_store=store,
    )
    if (kept / "docstore.json").exists():
        pipeline.load(str(kept))
    pipeline.run(documents=documents)
    pipeline.persist(str(kept))
    return store


def main() -> None:
    texts, kept = map(Path, sys.argv[1:])
    documents = [
        Document(id_=file.name, text=file.read_text(encoding="utf-8")) for file in sorted(texts.glob("*.txt"))
    ]
    embed_model = EmbedwireEmbedding("http://localhost:8080")
    store = ingest(documents, embed_model, kept)
    print(f"{len(documents)} documents, {embed_model.usage().texts} texts embedded")

    retriever = VectorStoreIndex.from_vector_store(store, embed_model=embed_model).as_retriever(
        similarity_top_k=1
    )
    for question in QUESTIONS:
        (answer,) = retriever.retrieve(question)
        print(f"{question}\n  {answer.text[:60]}")


if __name__ == "__main__":
    main()
