"""LangChain: a vector store and a retriever over your own embedding server.

    pip install ".[langchain]"   # in a clone of the repository
    llama-server -m model.gguf --embeddings --port 8080
    python examples/quickstart_langchain.py

EMBEDWIRE_URL names a server elsewhere.
"""

import os

from langchain_core.vectorstores import InMemoryVectorStore

from embedwire.langchain import EmbedwireEmbeddings

TEXTS = [
    "The library is open from nine to six, and closed on Mondays.",
    "Books may be kept for three weeks; each further day costs ten cents.",
    "A lost card is replaced at the front desk.",
    "The reading room on the second floor is silent; talk in the café.",
]
QUESTIONS = ["How long can I keep a book?", "Where do I get a new card?"]


def main() -> None:
    embeddings = EmbedwireEmbeddings(base_url=os.environ.get("EMBEDWIRE_URL", "http://localhost:8080"))
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    retriever = store.as_retriever(search_kwargs={"k": 1})
    for question in QUESTIONS:
        (answer,) = retriever.invoke(question)
        print(f"{question}\n  {answer.page_content}")


if __name__ == "__main__":
    main()
