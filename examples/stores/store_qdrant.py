"""Qdrant through LangChain, in the folder qdrant/ and without a server: needs langchain-qdrant.

llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
python examples/stores/store_qdrant.py
"""

from langchain_qdrant import QdrantVectorStore

from embedwire.langchain import EmbedwireEmbeddings

TEXTS = [
    "The library is open from nine to six, and closed on Mondays.",
    "Books may be kept for three weeks; each further day costs ten cents.",
    "A lost card is replaced at the front desk.",
    "The reading room on the second floor is silent; talk in the café.",
]
QUESTIONS = ["How long can I keep a book?", "책을 얼마나 오래 빌릴 수 있나요?"]


def main() -> None:
    embeddings = EmbedwireEmbeddings("http://localhost:8080")
    store = QdrantVectorStore.from_texts(TEXTS, embeddings, path="qdrant", collection_name="library")

    for question in QUESTIONS:
        (answer,) = store.similarity_search(question, k=1)
        print(f"{question}\n  {answer.page_content}")


if __name__ == "__main__":
    main()
