"""LangChain's InMemoryVectorStore, which comes with langchain-core.

llama-server -m model.gguf --embeddings --port 8080     # or: embedwire serve
python examples/stores/store_in_memory.py
"""

from langchain_core.vectorstores import InMemoryVectorStore

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
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)

    for question in QUESTIONS:
        (answer,) = store.similarity_search(question, k=1)
        print(f"{question}\n  {answer.page_content}")


if __name__ == "__main__":
    main()
