"""Chroma itself: a collection that is opened again without its embedding function.

llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
python examples/doors/chroma_collection.py
"""

import chromadb

from embedwire.chroma import EmbedwireEmbeddingFunction

TEXTS = {
    "hours": "The library is open from nine to six, and closed on Mondays.",
    "loans": "Books may be kept for three weeks; each further day costs ten cents.",
    "cards": "A lost card is replaced at the front desk.",
}
QUESTIONS = ["How long can I keep a book?", "책을 얼마나 오래 빌릴 수 있나요?"]


def main() -> None:
    function = EmbedwireEmbeddingFunction("http://localhost:8080")
    library = chromadb.PersistentClient("chroma").get_or_create_collection(
        "library", embedding_function=function
    )
    library.upsert(ids=list(TEXTS), documents=list(TEXTS.values()))

    # Later, in another process that has imported embedwire.chroma:
    library = chromadb.PersistentClient("chroma").get_collection("library")
    for question in QUESTIONS:
        found = library.query(query_texts=[question], n_results=1)
        print(f"{question}\n  {found['documents'][0][0]}")


if __name__ == "__main__":
    main()
